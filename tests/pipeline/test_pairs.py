"""Views that show another frame of the clip, or another image of the class or group."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from loader_tools import assert_same, collect, make
from pipeline_shards import disc_image, write_shards, write_tar

from figureground.pipeline import recipes
from figureground.pipeline.pairs import Partners
from figureground.pipeline.sample_groups import group_members
from figureground.shards import Store
from figureground.shards.index import write_index
from figureground.shards.masks import MaskWriter
from figureground.shards.writer import pack

CLIP_PAIRS = recipes.moco_v2(32).with_background("swap", p=0.5).with_pairs("clip", gap=(1, 3))
PLAIN = recipes.View(recipes.Crop(16, (1.0, 1.0), (1.0, 1.0)), flip_p=0.0)
LEVELS = recipes.Recipe("levels", (PLAIN, PLAIN), mean=(0, 0, 0), std=(1, 1, 1))
"""Views are the image's grey level."""


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


def test_donors_are_of_other_clips(clips):
    """Six clips: a block of eight shuffled frames has another clip for both views, and for the negative."""
    recipe = CLIP_PAIRS.with_background("swap", p=1.0)
    with make(clips, recipe, batch_size=8) as loader, make(clips, recipe, batch_size=20) as other:
        rows, again = ([np.concatenate([b["params"][v] for b in of]) for v in range(2)] for of in (loader, other))
    same = np.concatenate([of["donor"] // 10 == of["sample"] // 10 for of in rows])
    assert not same.any()
    for left, right in zip(rows, again, strict=True):
        ours, theirs = (dict(zip(of["sample"].tolist(), of["donor"].tolist(), strict=True)) for of in (left, right))
        assert all(ours[sample] == theirs[sample] for sample in ours.keys() & theirs.keys())


def test_groups_of_samples():
    table = group_members(np.array([5, -1, 2, 5]))
    assert table.group_of(np.array([[0, 1], [2, 3]])).tolist() == [[1, -1], [0, 1]]
    partners = Partners(recipes.moco_v2().with_pairs("group"), {"group": table}, seed=0)
    assert partners.related(np.array([0, 1]), np.array([[3, 2, 1], [1, 0, 2]])).tolist() == [
        [True, False, False],
        [False, False, False],
    ]


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
