"""Tables of clips, classes and groups; which partner is drawn; the sidecars that name groups."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pipeline_shards import write_tar

from figureground.pipeline import recipes
from figureground.pipeline.pairs import Partners
from figureground.pipeline.sample_groups import group_clips, group_members, read_groups
from figureground.shards import Store
from figureground.shards.index import write_index

PLAIN = recipes.View(recipes.Crop(16, (1.0, 1.0), (1.0, 1.0)), flip_p=0.0)
LEVELS = recipes.Recipe("levels", (PLAIN, PLAIN), mean=(0, 0, 0), std=(1, 1, 1))
"""Views are the image's grey level."""


def table_of(keys: list[str]):
    encoded = [key.encode() for key in keys]
    return group_clips(np.frombuffer(b"".join(encoded), np.uint8), np.cumsum([0, *map(len, encoded)]))


def draw(table, *, gap=None, p=1.0, kind="clip", samples=None, seed=0, epoch=0):
    recipe = LEVELS.with_pairs(kind, gap=gap, p=p)
    samples = np.arange(len(table.place)) if samples is None else samples
    return Partners(recipe, {kind: table}, seed).draw(epoch, samples)[1]


# ---- tables -----------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(-1, 6), max_size=60))
def test_tables_equal_dictionaries(labels):
    table = group_members(np.array(labels, np.int64))
    want: dict[int, list[int]] = {}
    for sample, label in enumerate(labels):
        if label >= 0:
            want.setdefault(label, []).append(sample)
    got = [table.members[a:b].tolist() for a, b in zip(table.starts[:-1], table.starts[1:])]
    assert got == [want[label] for label in sorted(want)]
    assert table.largest == max(map(len, want.values()), default=0)
    for sample, label in enumerate(labels):
        assert table.place[sample] == -1 if label < 0 else table.members[table.place[sample]] == sample


@given(st.lists(st.tuples(st.sampled_from(["a", "b", "a/b", "long-name", ""]), st.integers(0, 2000)), unique=True))
@settings(deadline=None)
def test_clips_are_folders_sorted_in_time(frames):
    keys = [f"{clip}/{number}" if clip else str(number) for clip, number in frames]
    table = table_of(keys)
    got = {tuple(table.members[a:b].tolist()) for a, b in zip(table.starts[:-1], table.starts[1:])}
    want = {
        tuple(sorted((i for i, frame in enumerate(frames) if frame[0] == clip), key=lambda i: frames[i][1]))
        for clip in {frame[0] for frame in frames} - {""}
    }
    assert got == want
    for place, sample in enumerate(table.members.tolist()):
        assert table.place[sample] == place
    assert all(table.place[i] == -1 for i, frame in enumerate(frames) if not frame[0])


def test_clips_of_a_tar_made_with_a_leading_dot():
    assert table_of(["./1", "./2", "./a/1", "./a/2"]).members.tolist() == [2, 3]


def test_long_clips_in_random_order():
    order = np.random.default_rng(0).permutation(5000)
    table = table_of([f"clip/{n:06d}" for n in order])
    np.testing.assert_array_equal(order[table.members], np.arange(5000))


# ---- partners ---------------------------------------------------------------------------------------------------------


def test_partners_by_hand():
    table = table_of(["a/0", "a/1", "a/2", "b/0", "c"])
    for epoch in range(30):
        shown = draw(table, gap=(2, 5), epoch=epoch)
        assert shown.tolist() == [2, 1, 0, 3, 4]  # two frames away there is one frame, or none
    assert {tuple(draw(table, gap=(1, 1), epoch=e).tolist()) for e in range(30)} == {(1, 0, 1, 3, 4), (1, 2, 1, 3, 4)}


@pytest.mark.parametrize("gap", [None, (1, 1), (2, 4), (0, 2), (3, 30), (40, 50)])
def test_partners_are_uniform_over_the_frames_in_the_gap(gap):
    table = table_of([f"x/{n:03d}" for n in range(3)] + [f"clip/{n:03d}" for n in range(12)] + ["y"])
    low, high = gap or (1, 99)
    for t in (0, 5, 11):
        allowed = [u for u in range(12) if low <= abs(u - t) <= high] or [t]
        drawn = np.array([int(draw(table, gap=gap, samples=np.array([3 + t]), epoch=e)[0]) - 3 for e in range(1500)])
        counts = np.bincount(drawn, minlength=12)
        assert set(np.flatnonzero(counts)) == set(allowed)
        expected = len(drawn) / len(allowed)
        chi = ((counts[allowed] - expected) ** 2 / expected).sum()
        assert chi < 12 + 4 * len(allowed)


def test_class_partners_are_others_of_the_class():
    labels = np.random.default_rng(0).integers(-1, 7, 300)
    labels[17] = 99  # alone
    table = group_members(labels)
    counts = np.zeros((300, 300), int)
    for epoch in range(1500):
        shown = draw(table, kind="class", epoch=epoch)
        counts[np.arange(300), shown] += 1
    for sample, label in enumerate(labels.tolist()):
        others = np.flatnonzero((labels == label) & (np.arange(300) != sample))
        if label < 0 or label == 99:
            assert counts[sample, sample] == 1500
        else:
            assert set(np.flatnonzero(counts[sample])) == set(others)


def test_probability_seed_epoch_and_view():
    table = group_members(np.zeros(4000, np.int64))
    base = draw(table, kind="class", p=0.3)
    paired = base != np.arange(4000)
    assert 0.27 < paired.mean() < 0.33
    np.testing.assert_array_equal(draw(table, kind="class", p=0.3), base)
    np.testing.assert_array_equal(draw(table, kind="class")[paired], base[paired])  # p moves no partner
    np.testing.assert_array_equal(draw(table, kind="class", p=0.0), np.arange(4000))
    for other in ({"seed": 1}, {"epoch": 1}):
        assert (draw(table, kind="class", **other) == draw(table, kind="class")).mean() < 0.01
    recipe = LEVELS.with_pairs("class", views=(0, 1))
    both = Partners(recipe, {"class": table}, 0).draw(0, np.arange(4000))
    assert (both[0] == both[1]).mean() < 0.01
    some = np.array([77, 5, 5, 3999])
    np.testing.assert_array_equal(draw(table, kind="class", samples=some), draw(table, kind="class")[some])


# ---- sidecars ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def named(tmp_path_factory):
    """Five samples a, b, ... in two shards."""
    folder = tmp_path_factory.mktemp("named")
    for shard, keys in (("0.tar", "abc"), ("1.tar", "de")):
        write_tar(folder / shard, [(f"{key}.jpg", b"x") for key in keys])
        write_index(folder / shard)
    with Store(str(folder)) as store:
        yield store


@pytest.mark.parametrize(
    "given",
    [
        {"d": 3, "b": 8, "e": 3, "other": 1, "c": None},
        {"d": "x", "b": "y", "e": "x", "c": "", "a": -5},
        np.array([-1, 8, -3, 3, 3]),
        np.array([-1, 0, -1, 1, 1], np.int8),
        'json:{"d": 3, "b": 8, "e": 3, "other": 1}',
        "csv:key,id\nd,3\nb,8\ne,3\nc,\n",
        'csv:"d",dog\nb,cat\n\ne,dog\nc,-1\n',
        "csv:\ufeffd,3\r\nb,8\r\ne,3\r\n",
    ],
)
def test_sidecars_of_each_form(named, tmp_path, given):
    if isinstance(given, str):
        kind, _, text = given.partition(":")
        path = tmp_path / f"groups.{kind}"
        path.write_text(text)
        given = path
    assert read_groups(given, named, "groups").tolist() == [-1, 0, -1, 1, 1]


def test_npy_sidecar(named, tmp_path):
    np.save(tmp_path / "g.npy", np.array([4, 4, -1, 0, 0]))
    assert read_groups(str(tmp_path / "g.npy"), named, "groups").tolist() == [0, 0, -1, 1, 1]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("g.txt:a,1", "groups must be a .json, .csv or .npy file, a dict or an array, got"),
        ("g.json:[1]", "groups cannot be read from .*: an object of keys and ids is wanted, there is a list"),
        ("g.json:{", "groups cannot be read from .*g.json: Expecting"),
        ("g.csv:a,1,2", "'key,id' is wanted in each line, there is 'a,1,2'"),
        ("g.csv:a,1\na,2", "key 'a' has two ids, 1 and 2"),
        ({"A": 1}, "groups must name keys of the shards, such as 'a', got none of them in 1 keys, such as 'A'"),
        ({"a": 1.5}, "groups must give whole numbers or texts, got 1.5 for key 'a'"),
        (np.zeros(4, np.int64), r"groups must be \(5,\) integers, one for each sample, got \(4,\) int64"),
        (np.zeros(5), r"groups must be \(5,\) integers, one for each sample, got \(5,\) float64"),
        ("missing.npy:", None),
    ],
)
def test_sidecar_messages(named, tmp_path, given, message):
    if isinstance(given, str):
        name, _, text = given.partition(":")
        given = tmp_path / name
        if message is not None:
            given.write_text(text)
    with pytest.raises(ValueError, match=message or "groups cannot be read from .*No such file"):
        read_groups(given, named, "groups")
