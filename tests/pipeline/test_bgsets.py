"""The eight sets: what each shows, whose background it is, which samples are left out, and that nothing depends on luck."""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from pipeline_shards import write_tar

from figureground.pipeline.bgsets import VARIANTS, _boxes, add_bgsets, make_bgsets, run_bgsets
from figureground.pipeline.bgsets_donors import MIXED, choose_donors
from figureground.pipeline.squares import SquareReader, center_rows
from figureground.shards import MaskStore, ShardError, Store
from figureground.shards.index import write_index
from figureground.shards.masks import MaskWriter

SIDE = 64


def _photo(n: int, label: int) -> tuple[np.ndarray, np.ndarray]:
    """A square of one colour on a ground of another: red tells the sample's figure, green its ground."""
    image = np.zeros((SIDE, SIDE, 3), np.uint8)
    image[..., 1], image[..., 2] = 60 + 8 * n, 40 * label
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[24:40, 20:44] = 255
    image[mask > 0] = 100 + 8 * n, 0, 0
    return image, mask


def _png(image: np.ndarray) -> bytes:
    return cv2.imencode(".png", image[..., ::-1] if image.ndim == 3 else image)[1].tobytes()


def _write(folder: Path, samples, *, masks=True, key="{:04d}", name="part-000000.tar") -> str:
    folder.mkdir(exist_ok=True)
    members = []
    for n, (image, _, label) in enumerate(samples):
        members.append((key.format(n) + ".png", image if isinstance(image, bytes) else _png(image)))
        if label is not None:
            members.append((key.format(n) + ".cls", str(label).encode()))
    path = folder / name
    write_tar(path, members)
    write_index(path)
    if masks:
        with MaskWriter(path, method="truth") as writer:
            for n, (_, mask, _) in enumerate(samples):
                if mask is not None:
                    writer.add(key.format(n), mask)
    return str(folder / "*.tar")


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> str:
    """Twelve photos of three classes 0, 2, 5 and five that no set can hold."""
    samples = [(*_photo(n, (0, 2, 5)[n % 3]), (0, 2, 5)[n % 3]) for n in range(12)]
    image, mask = _photo(0, 0)
    speck, whole = np.zeros_like(mask), np.full_like(mask, 255)
    speck[30:32, 30:32] = 255
    samples += [(image, speck, 0), (image, whole, 0), (image, None, 0), (image, mask, None), (image, mask, 9)]
    samples += [(b"\x89PNG broken", mask, 0)]
    return _write(tmp_path_factory.mktemp("photos") / "s", samples)


@pytest.fixture(scope="module")
def sets(photos, tmp_path_factory):
    out = tmp_path_factory.mktemp("sets") / "out"
    report = make_bgsets(photos, out, size=56)
    return out, report


def _read(out: Path, variant: str) -> tuple[Store, np.ndarray, list[dict]]:
    store = Store(str(out / variant / "*.tar"))
    images = np.stack([cv2.imdecode(store.image(i), cv2.IMREAD_COLOR)[..., ::-1] for i in range(len(store))])
    return store, images, [json.loads(store.component(i, "json").tobytes()) for i in range(len(store))]


def test_boxes_by_hand():
    masks = np.zeros((2, 3, 4), np.uint8)
    masks[0, 0, 1], masks[0, 1, 2] = 51, 255
    masks[0, 2, 0] = 50
    want = np.zeros_like(masks)
    want[0, :2, 1:3] = 255
    np.testing.assert_array_equal(_boxes(masks), want)


def test_report(sets):
    _, report = sets
    assert report.samples == 12
    assert report.classes == {0: 4, 2: 4, 5: 4}
    assert report.dropped == {
        "alone in their class": 1, "figure too large": 1, "figure too small": 1, "not decoded": 1,
        "without class": 1, "without mask": 1,
    }  # fmt: skip
    assert "8 sets of 12 samples of 3 classes" in str(report)


def test_what_each_set_shows(sets, photos):
    """Colours tell whose figure and whose ground a picture shows: size 56 of 64 px is a cut without resampling."""
    out, _ = sets
    inside, corner = (slice(None), 28, 28), (slice(None), 2, 2)
    rim = (slice(None), slice(20, 36), slice(16, 40))  # the figure's box in the square
    found = {name: _read(out, name) for name in VARIANTS}
    numbers = np.array([int(found["Original"][0].key(i)) for i in range(12)])
    figure, ground = 100 + 8 * numbers, 60 + 8 * numbers
    for name in VARIANTS:
        store, images, notes = found[name]
        assert [int(store.key(i)) for i in range(len(store))] == numbers.tolist()
        assert store.targets.tolist() == [n["label"] for n in notes] == [(0, 2, 5)[n % 3] for n in numbers]
        assert {n["variant"] for n in notes} == {name}
        red, green = images[inside][:, 0], images[corner][:, 1]
        if name in ("Only-BG-B", "No-FG"):
            assert not images[rim].any()
            np.testing.assert_array_equal(green, ground)
        elif name == "Only-BG-T":
            np.testing.assert_array_equal(images[inside][:, 1], ground)
            assert (images[rim][..., 1] == ground[:, None, None]).all()
        elif name == "Only-FG":
            np.testing.assert_array_equal(red, figure)
            assert not green.any()
            assert {n["background_key"] for n in notes} == {None}
        else:
            np.testing.assert_array_equal(red, figure)
            donor = np.array([int(n["background_key"]) for n in notes])
            np.testing.assert_array_equal(green, 60 + 8 * donor)
            assert [n["background_class"] for n in notes] == [(0, 2, 5)[n % 3] for n in donor]
            assert (donor == numbers).all() if name == "Original" else (donor != numbers).all()
    assert [n["figure_area"] for n in found["Original"][2]] == [round(16 * 24 / 56**2, 4)] * 12


def test_classes_of_donors(sets):
    out, _ = sets
    own = np.array([n["label"] for n in _read(out, "Original")[2]])
    ground = {name: np.array([n["background_class"] for n in _read(out, name)[2]]) for name in MIXED}
    np.testing.assert_array_equal(ground["Mixed-Same"], own)
    np.testing.assert_array_equal(ground["Mixed-Next"], [{0: 2, 2: 5, 5: 0}[c] for c in own.tolist()])
    assert len(set(ground["Mixed-Rand"].tolist())) == 3


def test_draws_are_uniform_and_belong_to_the_sample():
    classes = np.arange(3000) % 3
    donors = choose_donors(np.arange(3000), classes, seed=4)
    assert all((donors[name] != np.arange(3000)).all() for name in MIXED)
    counts = np.bincount(classes[donors["Mixed-Rand"]], minlength=3)
    assert (abs(counts - 1000) < 5 * np.sqrt(3000 * 2 / 9)).all()  # five standard deviations
    # Every image of a class is drawn about once: Poisson(1) leaves exp(-1) of them out.
    assert abs(len(np.unique(donors["Mixed-Same"])) / 3000 - (1 - np.exp(-1))) < 0.05
    assert (choose_donors(np.arange(3000), classes, seed=5)["Mixed-Same"] != donors["Mixed-Same"]).mean() > 0.9


def _digest(out: Path) -> dict[str, str]:
    return {str(p.relative_to(out)): hashlib.sha256(p.read_bytes()).hexdigest()
            for p in sorted(out.rglob("*")) if p.suffix in (".tar", ".png", ".json")}  # fmt: skip


def test_same_bytes_for_any_batch_and_threads(photos, sets, tmp_path, monkeypatch):
    out, _ = sets
    monkeypatch.setattr("figureground.pipeline.bgsets._BATCH", 5)
    make_bgsets(photos, tmp_path / "again", size=56, threads=1)
    assert _digest(tmp_path / "again") == _digest(out)
    assert len(_digest(out)) == len(VARIANTS) + 2
    make_bgsets(photos, tmp_path / "other", size=56, seed=1)
    changed = {name for name, digest in _digest(tmp_path / "other").items() if digest != _digest(out)[name]}
    assert changed >= {f"{name}/part-000000.tar" for name in ("Mixed-Same", "Mixed-Rand", "Mixed-Next")}
    assert not any(name.startswith(("Original", "No-FG", "Only")) for name in changed)


def test_sheet_and_manifest(sets):
    out, _ = sets
    assert cv2.imread(str(out / "contact_sheet.png")).shape[1] > 8 * 132
    assert json.loads((out / "bgsets.json").read_text())["parameters"]["seed"] == 0


def test_inpainted_donors_and_jpeg(photos, tmp_path):
    make_bgsets(photos, tmp_path, size=56, donor_ground="inpaint", image_ext="jpg", limit=15)
    store, images, notes = _read(tmp_path, "Mixed-Next")
    donor = np.array([int(n["background_key"]) for n in notes])
    assert abs(images[:, 2, 2, 1].astype(int) - (60 + 8 * donor)).max() <= 3  # JPEG
    assert store.exts == ("cls", "jpg", "json")


def test_keys_of_several_shards_and_labels(tmp_path):
    samples = [(*_photo(n, n % 2), n % 2) for n in range(4)]
    for k in range(2):
        where = _write(tmp_path / "s", samples, name=f"part-{k}.tar")
    (tmp_path / "s" / "labels.json").write_text('["cat", "dog"]')
    make_bgsets(where, tmp_path / "out", size=32)
    keys = [key for store in [_read(tmp_path / "out", "No-FG")[0]] for key in map(store.key, range(len(store)))]
    assert keys == [f"part-{k}_{n:04d}" for k in range(2) for n in range(4)]
    assert (tmp_path / "out" / "No-FG" / "labels.json").read_text() == '["cat", "dog"]'


def test_several_shards_stay_aligned(photos, tmp_path, monkeypatch):
    monkeypatch.setattr("figureground.pipeline.bgsets_write.PER_SHARD", 5)
    make_bgsets(photos, tmp_path, size=32)
    stores = [Store(str(tmp_path / name / "*.tar")) for name in VARIANTS]
    assert {tuple(store.starts.tolist()) for store in stores} == {(0, 5, 10, 12)}


def test_squares(shards):
    rows = center_rows(np.array([[64, 128]]))
    np.testing.assert_array_equal(rows["box"], [[36, 4, 56, 56]])
    with Store(shards) as store, MaskStore(store) as masks, SquareReader(store, masks, size=40) as reader:
        all_of_them, one = reader.read(range(6)), reader.read([4])
    np.testing.assert_array_equal(all_of_them.views[4:5], one.views)
    np.testing.assert_array_equal(all_of_them.masks[4:5], one.masks)
    assert one.views.shape == (1, 3, 40, 40)


def test_command(photos, tmp_path, capsys):
    parser = argparse.ArgumentParser()
    add_bgsets(parser)
    arguments = [photos, "--out", str(tmp_path / "o"), "--size", "32", "--device", "cpu", "--json"]
    assert run_bgsets(parser.parse_args(arguments)) == 0
    assert json.loads(capsys.readouterr().out)["samples"] == 12
    assert run_bgsets(parser.parse_args(arguments)) == 2
    assert "has shards already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"size": 0}, "size must be at least 1, got 0"),
        ({"limit": 0}, "limit must be at least 1, got 0"),
        ({"min_area": 0.5, "max_area": 0.4}, "areas must be 0 <= min_area < max_area <= 1, got 0.5 and 0.4"),
        ({"max_box": 1.0}, r"max_box must be in \(0, 1\), got 1.0"),
        ({"donor_ground": "grey"}, "donor_ground must be 'tile' or 'inpaint', got 'grey'"),
        ({"image_ext": "gif"}, "image_ext must be 'png' or 'jpg', got 'gif'"),
        ({"min_area": 0.7}, "must hold two classes of two usable samples, got 0.*see --min-area"),
    ],
)
def test_messages(photos, tmp_path, options, says):
    with pytest.raises(ValueError, match=f"make_bgsets: .*{says}"):
        make_bgsets(photos, tmp_path, **options)
    assert not list(tmp_path.iterdir())


def test_message_without_masks(photos, tmp_path):
    (tmp_path / "masks").mkdir()
    with pytest.raises(ValueError, match=r"got 0.*'without mask': .*; make them with 'figureground masks' .* --masks"):
        make_bgsets(photos, tmp_path / "out", masks_dir=tmp_path / "masks")


def test_one_class_and_no_class(tmp_path):
    for name, label, says in (
        ("one", 3, "got 1; of 4 samples were left out: {}$"),
        ("none", None, "got 0.* takes sub-folders as"),
    ):
        where = _write(tmp_path / name, [(*_photo(n, 3), label) for n in range(4)])
        with pytest.raises(ValueError, match=f"must hold two classes of two usable samples, {says}"):
            make_bgsets(where, tmp_path / "out", size=32)


def test_donor_messages():
    with pytest.raises(ValueError, match="classes must be at least two, got 1"):
        choose_donors(np.arange(2), np.zeros(2, int))
    with pytest.raises(ValueError, match="two images or more, got one of class 7"):
        choose_donors(np.arange(3), np.array([1, 1, 7]))


def test_a_failed_run_leaves_no_shards(photos, tmp_path, monkeypatch):
    monkeypatch.setattr("figureground.pipeline.bgsets._encode", lambda picture, ext: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        make_bgsets(photos, tmp_path, size=32)
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]
    monkeypatch.undo()
    make_bgsets(photos, tmp_path, size=32)
    with pytest.raises(ShardError, match="has shards already"):
        make_bgsets(photos, tmp_path, size=32)
