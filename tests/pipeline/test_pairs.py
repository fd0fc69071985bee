"""Views that show another frame of the clip, or another image of the class or group."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from loader_tools import assert_same, collect, make
from pipeline_shards import disc_image, write_shards, write_tar

from figureground.pipeline import recipes
from figureground.pipeline.pairs import Partners
from figureground.pipeline.sample_groups import group_clips, group_members, read_groups
from figureground.shards import Store
from figureground.shards.index import write_index
from figureground.shards.masks import MaskWriter
from figureground.shards.writer import pack

CLIP_PAIRS = recipes.moco_v2(32).with_background("swap", p=0.5).with_pairs("clip", gap=(1, 3))
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


# ---- the loader -------------------------------------------------------------------------------------------------------


def write_clips(
    folder: Path,
    clips: int = 6,
    frames: int = 10,
    *,
    bad: tuple[int, ...] = (),
    per_shard: int = 25,
    mask_step: int = 1,
) -> str:
    """Shards of frames `clip/frame`: a white disc on grey of level 4 x (sample id + 1); masks are the discs."""
    rng = np.random.default_rng(3)
    folder.mkdir(parents=True, exist_ok=True)
    members, masks = [], []
    for i in range(clips * frames):
        key = f"{i // frames:02d}/{i % frames:05d}"
        image, mask = disc_image(rng, 40 + i, 100 - i)
        image[mask > 0], image[mask == 0] = 255, 4 * (i % 60 + 1)
        jpeg = cv2.imencode(".jpg", image)[1].tobytes()
        members.append([(f"{key}.jpg", b"broken" if i in bad else jpeg), (f"{key}.cls", b"%d" % (i // frames % 3))])
        masks.append((key, cv2.resize(mask, (112, 112), interpolation=cv2.INTER_AREA)))
    for shard, first in enumerate(range(0, len(members), per_shard)):
        path = folder / f"part-{shard}.tar"
        write_tar(path, [member for sample in members[first : first + per_shard] for member in sample])
        write_index(path)
        with MaskWriter(path, method="truth") as writer:
            for number in range(first, min(first + per_shard, len(masks))):
                if number % mask_step == 0:
                    writer.add(*masks[number])
    return str(folder / "part-*.tar")


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Six clips of ten frames."""
    return write_clips(tmp_path_factory.mktemp("clips"))


def corner_level(views):
    """The grey level of the corners of whole-image views (N, 3, S, S), as a sample id."""
    return np.rint(views[:, :, 0, 0].mean(axis=1) * 255 / 4).astype(int) - 1


def test_the_view_shows_the_source_and_its_mask(clips):
    recipe = LEVELS.with_pairs("clip", gap=(1, 2))
    with make(clips, recipe, batch_size=12, masks="sidecar") as loader:
        for batch in loader:
            for view, rows, masks in zip(batch["views"], batch["params"], batch["masks"], strict=True):
                ids, source = batch["index"].numpy(), rows["source"]
                np.testing.assert_array_equal(rows["sample"], ids)
                np.testing.assert_array_equal(corner_level(view.numpy()), source)
                # The image of sample i is 40 + i by 100 - i px.
                np.testing.assert_array_equal(rows["size"], np.stack([40 + source, 100 - source], 1))
                # The disc and its mask move together.
                pixels = view.numpy().mean(axis=1)
                bright = pixels > (1 + pixels[:, :1, :1]) / 2
                assert ((masks.numpy() > 0.5) == bright).mean() > 0.95
                assert 0.1 < bright.mean() < 0.5
            first, second = (rows["source"] for rows in batch["params"])
            np.testing.assert_array_equal(first, ids)
            assert (second // 10 == ids // 10).all()
            assert np.isin(np.abs(second - ids), (1, 2)).all()
            assert batch["mask_valid"].all()
            assert batch["target"].tolist() == (ids // 10 % 3).tolist()


@pytest.mark.parametrize("masks", ["sidecar", "kernel", None])
@pytest.mark.parametrize("mode", ["remove", "random", "swap"])
def test_backgrounds_of_pairs(clips, mode, masks):
    recipe = LEVELS.with_background(mode, p=1.0).with_pairs("class", views=(0, 1))
    with make(clips, recipe, batch_size=16, masks=masks) as loader:
        batch = next(iter(loader))
    for rows in batch["params"]:
        assert (rows["source"] % 30 // 10 == batch["index"].numpy() % 30 // 10).all()
        assert (rows["source"] != batch["index"].numpy()).all()
        if masks == "sidecar":
            assert (rows["background"] > 0).all()
        if masks is None:
            assert not rows["background"].any()
        if mode != "remove":
            assert (rows["donor"] != rows["source"]).all()
    if masks is None:
        np.testing.assert_array_equal(corner_level(batch["views"][1].numpy()), batch["params"][1]["source"])


@pytest.mark.parametrize("masks", ["sidecar", "kernel", "auto"])
def test_masks_are_made_for_what_is_shown(clips, masks):
    """Also where only the views that change their background need masks."""
    recipe = replace(LEVELS, views=(PLAIN,) * 2).with_background("remove", p=0.5, fill="constant", color=(0, 255, 0))
    recipe = recipe.with_pairs("class", views=(0, 1))
    with (
        make(clips, recipe, batch_size=16, masks=masks) as loader,
        make(clips, recipe, batch_size=16, masks=masks, format="moco") as lean,
    ):
        batch, (views, _) = next(iter(loader)), next(iter(lean))
    assert batch["mask_valid"].all()
    for view, same, rows, mask in zip(batch["views"], views, batch["params"], batch["masks"], strict=True):
        np.testing.assert_array_equal(view.numpy(), same.numpy())
        np.testing.assert_array_equal(rows["background"] > 0, rows["background_drawn"] > 0)
        assert 0 < rows["background"].astype(bool).sum() < 16
        assert (mask.numpy()[:, 8, 8] > 0.5).all()  # the disc is in the middle
        green = (view.numpy()[:, 1, 0, 0] > 0.9) & (view.numpy()[:, 0, 0, 0] < 0.1)
        np.testing.assert_array_equal(green, rows["background"] > 0)


@pytest.fixture(scope="module")
def whole(clips):
    with make(clips, CLIP_PAIRS, batch_size=4) as loader:
        return collect(loader)


@pytest.mark.parametrize("options", [{"batch_size": 20}, {"threads": 1}, {"batch_size": 7, "drop_last": False}])
def test_content_depends_on_no_setting_of_the_machine(clips, whole, options):
    with make(clips, CLIP_PAIRS, **{"batch_size": 4, **options}) as loader:
        assert_same(collect(loader), whole)


def test_content_does_not_depend_on_ranks(clips, whole):
    got = {}
    for rank in range(3):
        with make(clips, CLIP_PAIRS, rank=rank, world_size=3, batch_size=4) as loader:
            got |= collect(loader)
    assert_same(got, whole)


def test_replay_and_resume(clips, whole):
    with make(clips, CLIP_PAIRS, batch_size=4) as loader:
        ids = [59, 0, 23]
        batch = loader.replay(ids, epoch=0)
        for i, index in enumerate(ids):
            np.testing.assert_array_equal(batch["views"][1][i].numpy(), whole[index][1])
            np.testing.assert_array_equal(batch["masks"][1][i].numpy(), whole[index][3])
            np.testing.assert_array_equal(batch["params"][1][i], whole[index][6])
        loader.set_epoch(0)
        taken = []
        for batch in loader:
            taken += batch["index"].tolist()
            if len(taken) == 20:
                break
        state = json.loads(json.dumps(loader.state_dict()))
    with make(clips, CLIP_PAIRS, batch_size=10, rank=0, world_size=1) as loader:
        loader.load_state_dict(state)
        rest = collect(loader)
    assert not rest.keys() & set(taken)
    assert_same(rest, {i: whole[i] for i in whole.keys() - set(taken)})


def test_recipes_without_pairs_are_as_before(clips):
    plain = recipes.moco_v2(32).with_background("swap", p=0.5)
    never = CLIP_PAIRS.with_pairs("clip", p=0.0)
    with make(clips, plain, batch_size=4) as left, make(clips, never, batch_size=4) as right:
        assert left._engine.assembler._partners is None
        assert_same(collect(left), collect(right))


def test_a_partner_that_cannot_be_decoded(tmp_path):
    shards = write_clips(tmp_path, bad=(11, 12, 37))
    recipe = LEVELS.with_background("remove", p=0.5).with_pairs("clip", gap=(1, 1))
    runs = []
    for options in ({"batch_size": 4}, {"batch_size": 15}, {"batch_size": 4, "world_size": 2, "rank": 1}):
        with make(shards, recipe, masks="sidecar", error_budget=0.5, **options) as loader:
            rows = {}
            for batch in loader:
                ids, source = batch["index"].numpy(), batch["params"][1]["source"]
                plain = batch["params"][1]["background"] == 0
                np.testing.assert_array_equal(corner_level(batch["views"][1].numpy())[plain], source[plain])
                assert not np.isin([ids, source], (11, 12, 37)).any()
                own = source == ids
                assert np.isin(ids[own], (10, 13, 36, 38)).all()
                assert (np.abs(source - ids)[~own] == 1).all()
                rows |= {i: [batch["views"][1][n].numpy(), *[r[n] for r in batch["params"]]] for n, i in enumerate(ids)}
            again = loader.replay(sorted(rows)[:4], epoch=0)
            assert set(loader._quarantine.bad) <= {11, 12, 37}
        runs.append(rows)
        if options == {"batch_size": 4}:
            assert {13} & {i for i in rows if rows[i][2]["source"] == i}  # both of its neighbours' sides: 12 is broken
            for n, index in enumerate(sorted(rows)[:4]):
                if index in again["index"].tolist():
                    np.testing.assert_array_equal(again["params"][1][n], rows[index][2])
    assert_same(runs[0], runs[1])
    assert_same(runs[2], {i: runs[0][i] for i in runs[2]})


def test_a_replaced_sample_is_the_same_at_first_and_later(tmp_path):
    """What a batch with a bad sample becomes does not depend on whether the sample was known to be bad."""
    shards = write_clips(tmp_path, bad=(3, 20, 41))
    recipe = recipes.moco_v2(32).with_background("random", p=0.5).with_pairs("clip")
    with make(shards, recipe, masks="sidecar", error_budget=0.5, batch_size=20) as loader:
        runs = []
        for _ in range(2):
            loader.set_epoch(0)
            runs.append([(b["index"], *b["views"], *b["masks"]) for b in loader])
    for first, later in zip(*runs, strict=True):
        for a, b in zip(first, later, strict=True):
            np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_the_own_image_stands_in_with_its_mask(tmp_path):
    """Only the view of the partner needs masks: the sample's own is read once the partner turns out to be broken."""
    shards = write_clips(tmp_path, bad=(3, 20, 41))
    recipe = LEVELS.with_background("remove", p=1.0, fill="constant", views=(1,)).with_pairs("clip", gap=(1, 2))
    runs = []
    with make(shards, recipe, masks="sidecar", error_budget=0.5, format="moco") as loader:
        for _ in range(2):
            loader.set_epoch(0)
            runs.append(np.concatenate([views[1].numpy() for views, _ in loader]))
    np.testing.assert_array_equal(*runs)
    assert (np.abs(runs[0][:, :, 0, 0] * 255 - (124, 116, 104)) < 1).all()


def test_negatives_of_pairs_with_and_without_masks(tmp_path):
    shards = write_clips(tmp_path, mask_step=2)
    recipe = LEVELS.with_background("swap", p=0.0).with_pairs("class", views=(0,))
    with make(shards, recipe, batch_size=20, masks="sidecar") as loader:
        batch = next(iter(loader))
    source = batch["params"][0]["source"]
    assert 0 < (source % 2).sum() < 20
    assert ((source % 2) != (batch["index"].numpy() % 2)).any()
    same = corner_level(batch["negatives"][:, 0].numpy()) == source
    np.testing.assert_array_equal(same, source % 2 == 0)  # the query's ground, else the other image alone


def test_many_partners_fit_the_decoder(shards):
    recipe = replace(LEVELS, views=(PLAIN,) * 4).with_pairs("class", views=(0, 1, 2, 3))
    with make(shards, recipe, batch_size=30, masks=None) as loader:
        batch = next(iter(loader))
    assert len(np.unique([batch["index"].numpy(), *(rows["source"] for rows in batch["params"])])) > 30 + 48


def test_groups(shards, tmp_path):
    with Store(shards) as store:
        keys = [store.key(i) for i in range(len(store))]
    path = tmp_path / "groups.json"
    path.write_text(json.dumps({key: i // 10 for i, key in enumerate(keys) if i < 100}))
    recipe = recipes.moco_v2(32).with_pairs("group")
    with make(shards, recipe, groups=path) as loader:
        for batch in loader:
            ids, source = batch["index"].numpy(), batch["params"][1]["source"]
            assert (source // 10 == ids // 10)[ids < 100].all()
            assert (source != ids)[ids < 100].all()
            np.testing.assert_array_equal(source[ids >= 100], ids[ids >= 100])
        state = loader.state_dict()
    as_array = np.arange(120) // 10
    as_array[100:] = -1
    with make(shards, recipe, groups=as_array) as loader:
        assert loader.state_dict()["groups"] == state["groups"]
        loader.load_state_dict(state)
    with (
        make(shards, recipe, groups=np.arange(120) // 20) as loader,
        pytest.raises(ValueError, match=r"groups \(saved"),
    ):
        loader.load_state_dict(state)
    with make(shards) as loader:
        plain = loader.state_dict()
        with pytest.raises(ValueError, match=r"recipe .*; groups \(saved .*, here None\)"):
            loader.load_state_dict(state)
    with make(shards, recipe, groups=as_array) as loader, pytest.raises(ValueError, match=r"groups \(saved None, here"):
        loader.load_state_dict(plain)


def test_messages(shards, clips, tmp_path):
    for recipe, options, message in (
        (LEVELS.with_pairs("group"), {}, "groups must be given to a recipe with with_pairs"),
        (LEVELS, {"groups": {"00000": 1}}, "groups is of no use to this recipe"),
        (LEVELS.with_pairs("group"), {"groups": {"00000": 1}}, r"with_pairs\('group'\) needs at least two samples"),
        (LEVELS.with_pairs("clip"), {}, r"with_pairs\('clip'\) needs keys 'clip/frame' with at least two frames"),
    ):
        with pytest.raises(ValueError, match=message):
            make(shards, recipe, **options)
    for arguments, message in (
        (("object",), "kind must be 'clip', 'class' or 'group', got 'object'"),
        (("clip", (3, 2)), r"gap must be \(low, high\) frames with 0 <= low <= high"),
        (("clip", (0, 0)), "high at least 1, got"),
        (("class", (1, 2)), "gap must be None for kind 'class'"),
        (("clip", None, 1.5), r"p must be in \[0, 1\], got 1.5"),
    ):
        with pytest.raises(ValueError, match=message):
            recipes.Pair(*arguments)
    with pytest.raises(ValueError, match=r"with_pairs: views must be in 0\.\.1, got 2"):
        LEVELS.with_pairs("clip", views=(2,))


def test_fetched_shards_are_refused(tmp_path):
    pytest.importorskip("aiohttp")
    from loopback import web_server

    from figureground.shards.cache import ShardCache

    write_shards(tmp_path / "shards", 24, per_shard=12)
    with web_server() as site:
        for path in (tmp_path / "shards").iterdir():
            site.files[path.name] = path.read_bytes()
        cache = ShardCache(tmp_path / "cache", 1 << 30)
        with pytest.raises(ValueError, match="recipes with pairs need local shards, got URLs"):
            make(site.url + "part-{000000..000001}.tar", LEVELS.with_pairs("class"), cache=cache)


def test_pairs_of_many_views(clips):
    recipe = recipes.dino(local_crops=2) if "local_crops" in recipes.dino.__annotations__ else recipes.dino()
    recipe = replace(recipe.with_size(32), views=recipe.with_size(32).views[:4]).with_pairs("clip", views=(1, 3))
    with make(clips, recipe, batch_size=20, masks=None) as loader:
        batch = next(iter(loader))
    sources = np.array([rows["source"] for rows in batch["params"]])
    np.testing.assert_array_equal(sources[[0, 2]], np.tile(batch["index"].numpy(), (2, 1)))
    assert (sources[[1, 3]] != batch["index"].numpy()).all()
    assert (sources[1] != sources[3]).any()


def test_davis(shared_data, tmp_path):
    pack(shared_data / "davis_3seq", tmp_path / "out", progress=False)
    recipe = recipes.moco_v2(64).with_background("remove", p=1.0).with_pairs("clip", gap=(1, 5))
    with make(str(tmp_path / "out"), recipe, masks="kernel") as loader:
        batch = next(iter(loader))
        with Store(str(tmp_path / "out")) as store:
            for own, shown in zip(batch["index"].tolist(), batch["params"][1]["source"].tolist(), strict=True):
                clip, frame = store.key(own).split("/")
                other_clip, other_frame = store.key(shown).split("/")
                assert clip == other_clip
                assert 1 <= abs(int(frame) - int(other_frame)) <= 5
