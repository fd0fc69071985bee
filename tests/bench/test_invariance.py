"""The invariance measure on encoders whose invariance is arithmetic, and the sets of transformed images."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
from pipeline_shards import write_shards, write_tar

from figureground.bench import invariance as bench
from figureground.bench import invariance_sets
from figureground.bench.invariance import chance, invariance
from figureground.bench.invariance_sets import KINDS, make_sets, read_objects, read_sets, sets_of_keys
from figureground.shards.index import write_index

CLASSES, SETS, SIZE = 20, 3, 4  # 20 classes of 3 objects of 4 images: the rate is 5 %, 12 of 240 images
OBJECTS = np.arange(CLASSES * SETS).repeat(SIZE)
LABELS = OBJECTS // SETS
PLACE = np.arange(len(OBJECTS)) % SIZE


def _top(features, k=10):
    return invariance(features, OBJECTS, LABELS, top=[k])["top"][k]


def _detectors(fires) -> np.ndarray:
    """Ten neurons for each class; `fires(neuron)` chooses images of the class."""
    columns = [np.where((c == LABELS) & fires(m), 1.0, 0.0) for c in range(CLASSES) for m in range(10)]
    return np.stack(columns, 1)


def test_perfect():
    assert _top(_detectors(lambda m: PLACE >= 0)) == {"score": pytest.approx(20), "invariance": pytest.approx(1)}


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("scale", [1e-3, 50.0])
def test_both_signs_and_any_scale(sign, scale):
    assert _top(sign * scale * _detectors(lambda m: PLACE >= 0))["invariance"] == pytest.approx(1)


@pytest.mark.parametrize("classes", [25, 40])
@pytest.mark.parametrize("place", [1, 2, 4])
def test_sparse_neurons(classes, place):
    """A neuron a class among so many that it fires on less than 5 % of the images, and is zero on the others, as behind a ReLU.

    The zeros are tied at the threshold; if they fired, a perfect encoder would score as a constant one does."""
    objects = np.arange(classes * SETS).repeat(SIZE)
    labels = objects // SETS
    x = np.eye(classes)[labels].repeat(10, 1) * (np.arange(len(objects)) % SIZE < place)[:, None]
    assert invariance(x, objects, labels, top=[10])["top"][10]["invariance"] == pytest.approx(place / SIZE)


def test_half():
    """Each neuron fires on two of the four images of an object, and on two classes, so that it reaches its rate."""
    columns = [
        np.where((c == LABELS // 2) & ((PLACE + m) % SIZE < 2), 1.0, 0.0)
        for c in range(CLASSES // 2)
        for m in range(10)
    ]
    assert _top(np.stack(columns, 1)) == {"score": pytest.approx(10), "invariance": pytest.approx(0.5)}


def test_not_at_all():
    """Each neuron fires on one of the four images of each object of four classes: a quarter is the least there is."""
    columns = [
        np.where((c == LABELS // 4) & (m % SIZE == PLACE), 1.0, 0.0) for c in range(CLASSES // 4) for m in range(10)
    ]
    found = invariance(np.stack(columns, 1), OBJECTS, LABELS, top=[10])
    assert found["top"][10]["invariance"] == pytest.approx(0.25)
    assert found["floor"] == pytest.approx(0.25)


def test_dead_and_constant_neurons_score_the_rate():
    found = invariance(np.zeros((len(OBJECTS), 25)), OBJECTS, LABELS)
    for k in (10, 25):
        assert found["top"][k] == {"score": pytest.approx(1), "invariance": pytest.approx(0.05)}


def test_top_counts_the_best():
    """One perfect neuron a class among constant ones: (20 + 9 * 1) / 10 for the ten best."""
    features = np.concatenate([np.eye(CLASSES)[LABELS], np.zeros((len(OBJECTS), 20))], 1)
    assert _top(features, 1)["score"] == pytest.approx(20)
    # The other classes' detectors, turned round, fire on 95 % of the images: 1 / 0.95.
    assert _top(features, 10)["score"] == pytest.approx((20 + 9 / 0.95) / 10)


def test_sets_in_which_a_neuron_is_silent_do_not_count():
    """A neuron for each object: the class's other two sets do not lower its score; twenty images fire less than 5 %."""
    features = np.eye(CLASSES * SETS)[OBJECTS] + np.eye(CLASSES)[LABELS].repeat(SETS, 1) * 0
    features = features + np.eye(CLASSES * SETS)[(OBJECTS + SETS) % (CLASSES * SETS)]
    features = features + np.eye(CLASSES * SETS)[(OBJECTS + 2 * SETS) % (CLASSES * SETS)]
    assert _top(features, 1)["invariance"] == pytest.approx(1)


def test_the_oracle():
    """The definition, written with loops, on random features, shuffled rows and sets of unequal size."""
    rng = np.random.default_rng(0)
    sets = rng.integers(0, 40, 300)
    labels = sets % 7
    x = rng.normal(size=(300, 6)).round(1)  # with ties
    found = invariance(x, sets + 1000, labels, top=[2, 6])
    keep = np.array([(sets == s).sum() >= 3 for s in sets])
    x, sets, labels = x[keep], sets[keep], labels[keep]
    k = round(len(x) / 7)
    for c in range(7):
        scores = []
        for j in range(6):
            best = 0.0
            for sign in (1, -1):
                v = sign * x[:, j]
                threshold = sorted(v)[-k]
                fires = min(
                    (some for some in (v >= threshold, v > threshold) if some.any()),
                    key=lambda f: abs(f.mean() - 1 / 7),
                )
                local = [fires[sets == s].mean() for s in np.unique(sets[labels == c]) if fires[sets == s].any()]
                best = max(best, float(np.mean(local)) / max(fires.mean(), 1 / 7) if local else 0.0)
            scores.append(best)
        for top in (2, 6):
            assert found["per_class"][top][c] == pytest.approx(np.mean(sorted(scores)[-top:]))
    assert (found["rate"], found["classes"], found["sets"]) == (1 / 7, 7, len(np.unique(sets)))


def test_chance_destroys_sets_and_keeps_classes():
    objects = np.eye(CLASSES * SETS)[OBJECTS] + 0.001 * np.arange(len(OBJECTS))[:, None] % 0.0007
    perfect = _detectors(lambda m: PLACE >= 0)
    assert chance(perfect, OBJECTS, LABELS, [10])["top"][10]["invariance"] == pytest.approx(1)  # class says it all
    known = invariance(objects, OBJECTS, LABELS, [1])["top"][1]["invariance"]
    dealt = chance(objects, OBJECTS, LABELS, [1])["top"][1]["invariance"]
    assert dealt < 0.8 * known


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"features": np.zeros(240)}, r"features must be \(n, d\), got \(240,\)"),
        ({"set_ids": OBJECTS[:9]}, r"set_ids must be \(240,\), got \(9,\)"),
        ({"features": np.full((240, 3), np.nan)}, "features must be finite, got nan"),
        ({"top": (4,)}, r"top must be 1..3 \(neurons\), got 4"),
        ({"set_ids": np.arange(240)}, "must have a set of 3 images, got 1 at most"),
        ({"classes": PLACE}, "must be the same within a set, got two in set 0"),
        ({"classes": OBJECTS * 0}, "classes must be at least two, got 1"),
    ],
)
def test_messages(change, says):
    given = {"features": np.zeros((240, 3)), "set_ids": OBJECTS, "classes": LABELS, "top": (1,)} | change
    with pytest.raises(ValueError, match=f"invariance: .*{says}"):
        invariance(**given)


@pytest.fixture(scope="module")
def discs(tmp_path_factory) -> str:
    return write_shards(tmp_path_factory.mktemp("discs"), 24, per_shard=12)


@pytest.mark.parametrize("kind", KINDS)
def test_sets(discs, kind):
    objects = read_objects(discs, size=48, limit=10)
    assert len(objects.keys) == 10
    sets = make_sets(objects.views, objects.masks, kind, count=4, seed=3)
    assert sets.shape == (10, 4, 3, 48, 48)
    np.testing.assert_array_equal(sets, make_sets(objects.views, objects.masks, kind, count=4, seed=3))
    assert (sets != make_sets(objects.views, objects.masks, kind, count=4, seed=4)).any()
    figure, ground = objects.masks == 255, objects.masks == 0
    same = (sets == objects.views[:, None]).all(2)
    if kind == "background":
        assert same.transpose(0, 2, 3, 1)[figure].all()
        assert same.transpose(0, 2, 3, 1)[ground].mean() < 0.2
    if kind == "patches":
        np.testing.assert_array_equal(
            np.sort(sets.reshape(10, 4, -1)), np.sort(np.stack([objects.views.reshape(10, -1)] * 4, 1))
        )
    if kind == "illumination":
        assert (sets[:, :, :, 24, 24] > 0).all()  # nothing is put out
        assert 0.5 < sets.mean() / objects.views.mean() < 1.6
    if kind == "occlusion":
        covered = np.array([(~same[n])[:, objects.masks[n] >= 51].mean(1) for n in range(10)]).mean(0)
        assert (np.diff(covered) > 0).all()
        assert covered[-1] == pytest.approx(0.5, abs=0.2)
        assert same.transpose(0, 2, 3, 1)[ground & (np.arange(48) < 4)].mean() > 0.9  # blocks lie on the figure


def test_light_comes_from_all_sides():
    """On a flat grey the values are 255 * 0.5 ** gamma times the ramp; the four images of a set are lit from four quarters."""
    flat = np.full((30, 3, 21, 21), 128, np.uint8)
    sets = make_sets(flat, flat[:, 0], "illumination", count=4)[:, :, 0].astype(float)
    middle = 255 * (128 / 255) ** (2 ** np.array([0.5, -0.5]))
    assert middle[0] - 1 <= sets[..., 10, 10].min() < sets[..., 10, 10].max() <= middle[1] + 1
    assert np.ptp(sets[:, 0, 10, 10]) > 20  # the gammas differ
    ratio = sets.max((2, 3)) / sets.min((2, 3))
    assert (ratio <= 1.6 / 0.4 + 0.2).all()
    assert (ratio > 3.2).all()  # corner pixels' centres are inside the corners; clipping at 255 is rare
    right, down = sets[..., 10, 20] - sets[..., 10, 0], sets[..., 20, 10] - sets[..., 0, 10]
    middles = (np.arange(4) + 0.5) * np.pi / 2
    off = (np.arctan2(down, right) - middles + np.pi) % (2 * np.pi) - np.pi
    assert np.abs(off).max() < np.pi / 4 + 0.02  # values are rounded
    assert np.abs(off).max() > np.pi / 8


def test_encoders_under_changing_light():
    """Objects of 20 classes are flat grey with one black cell. Black stays black: a neuron that sees it is invariant; one that
    compares sides fires for one or two of eight lights."""
    views = np.full((60, 3, 20, 20), 110, np.uint8)
    labels = np.arange(60) // 3
    for n, label in enumerate(labels):
        views[n, :, 4 * (label // 5) : 4 * (label // 5) + 4, 4 * (label % 5) : 4 * (label % 5) + 4] = 0
    sets = make_sets(views, views[:, 0], "illumination", count=8).reshape(480, 3, 20, 20)
    cells = sets[:, 0].reshape(480, 5, 4, 5, 4).mean((2, 4)).reshape(480, 25)[:, :20]
    objects, classes = np.arange(60).repeat(8), labels.repeat(8)
    seeing = invariance(np.where(cells == 0, 1.0, 0.0), objects, classes, top=[1])["top"][1]["invariance"]
    means = sets[:, 0].astype(float)
    sides = np.stack([means[:, :, 10:].mean((1, 2)) - means[:, :, :10].mean((1, 2)),
                      means[:, 10:].mean((1, 2)) - means[:, :10].mean((1, 2))], 1)  # fmt: skip
    measuring = invariance(sides, objects, classes, top=[1])["top"][1]["invariance"]
    assert seeing == pytest.approx(1)
    assert measuring < 0.35


def test_keys():
    assert sets_of_keys(["a/x-1", "a/y-1", "a/x-2"], "/([a-z])-").tolist() == [0, 1, 0]
    for pattern, says in (
        ("(", "must be a regular expression"),
        ("x", "must have a group"),
        ("(x)", "must match every key"),
    ):
        with pytest.raises(ValueError, match=f"sets_of_keys: pattern {says}"):
            sets_of_keys(["x", "y"], pattern)


def _write_clips(folder, clips=30, frames=8):
    """Clips of five classes; every frame of a clip has the clip's colour."""
    members = []
    for clip in range(clips):
        for frame in range(frames):
            image = np.full((24, 24, 3), 8 * clip, np.uint8)
            png = cv2.imencode(".png", image)[1].tobytes()
            members += [(f"clip{clip:02d}-{frame}.png", png), (f"clip{clip:02d}-{frame}.cls", b"%d" % (clip % 5))]
    folder.mkdir()
    write_tar(folder / "a.tar", members)
    write_index(folder / "a.tar")
    return str(folder / "a.tar")


def test_sets_by_keys_are_whole(tmp_path, capsys):
    """Ten of thirty clips, not some frames of each: sets of fewer than three images would not count."""
    clips = _write_clips(tmp_path / "clips")
    objects, sets = read_sets(clips, "(clip[0-9]+)-", size=16, limit=10)
    np.testing.assert_array_equal(np.bincount(sets), [8] * 10)
    assert (objects.views == (8 * np.array([int(key[4:6]) for key in objects.keys]))[:, None, None, None]).all()
    _, sets = read_sets(clips, "(clip[0-9]+)-", size=16, limit=99, count=3)
    np.testing.assert_array_equal(np.bincount(sets), [3] * 30)
    (tmp_path / "m.py").write_text("def make():\n    return lambda x: x.flatten(1)[:, :30]\n")
    arguments = ["--sets", clips, "--model", f"{tmp_path / 'm.py'}:make", "--size", "16", "--keys", "(clip[0-9]+)-"]
    assert bench.main([*arguments, "--images", "20"]) == 0
    assert capsys.readouterr().out.splitlines()[0].startswith("20 sets, 5 classes")
    for options, says in (
        ({"limit": 0}, "limit must be at least 1, got 0"),
        ({"count": 0}, "count must be at least 1"),
    ):
        with pytest.raises(ValueError, match=f"read_sets: {says}"):
            read_sets(clips, "(clip)", **options)


def test_images_are_decoded_a_few_at_a_time(discs, monkeypatch):
    """Whole photographs are large; only the squares are kept."""
    want = read_objects(discs, size=16)
    asked, read = [], invariance_sets.SquareReader.read
    monkeypatch.setattr(invariance_sets, "_CHUNK", 7)
    monkeypatch.setattr(
        invariance_sets.SquareReader, "read", lambda self, samples: asked.append(len(samples)) or read(self, samples)
    )
    got = read_objects(discs, size=16)
    assert asked == [7, 7, 7, 3]
    assert got.keys == want.keys
    np.testing.assert_array_equal(got.views, want.views)
    np.testing.assert_array_equal(got.masks, want.masks)


def test_set_messages(discs, tmp_path):
    views, masks = np.zeros((1, 3, 8, 8), np.uint8), np.zeros((1, 8, 8), np.uint8)
    for options, says in (
        ({"kind": "blur"}, "kind must be one of crop, color"),
        ({"kind": "crop", "count": 0}, "count must be at least 1, got 0"),
        ({"kind": "background"}, "views must be at least 2 for new backgrounds, got 1"),
    ):
        with pytest.raises(ValueError, match=f"make_sets: {says}"):
            make_sets(views, masks, **options)
    with pytest.raises(ValueError, match="samples with a class and a mask, got none of 24"):
        read_objects(discs, masks_dir=tmp_path)
    assert len(read_objects(discs, masks_dir=tmp_path, need_masks=False, size=8).keys) == 24


def test_command(discs, tmp_path, capsys):
    (tmp_path / "m.py").write_text("import torch\ndef make():\n    return lambda x: x.flatten(1)[:, ::97]\n")
    arguments = ["--sets", discs, "--model", f"{tmp_path / 'm.py'}:make", "--size", "32", "--count", "4"]
    assert bench.main([*arguments, "--kinds", "crop,occlusion", "--json", str(tmp_path / "r.json")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["24", "crop", "occlusion"]
    kinds = json.loads((tmp_path / "r.json").read_text())["invariance"]["kinds"]
    assert kinds["crop"]["rate"] == 0.2
    assert bench.main(["--shards", *arguments[1:], "--kinds", "crop"]) == 0
    assert bench.main([*arguments, "--kinds", "fog"]) == 2
    assert "--kinds must be of crop" in capsys.readouterr().err
    assert bench.main([*arguments, "--keys", "000([0-9])"]) == 2  # sets of mixed classes
    assert "must be the same within a set" in capsys.readouterr().err
