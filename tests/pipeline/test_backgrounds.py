"""The user's own backgrounds: which one, read how, what happens to bad ones."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
from loader_tools import assert_same, collect, make
from pipeline_shards import disc_image, write_tar

from figureground.pipeline import recipes
from figureground.pipeline.backgrounds import Backgrounds
from figureground.pipeline.quarantine import ErrorBudgetExceeded
from figureground.shards.errors import ShardError
from figureground.shards.index import write_index
from figureground.shards.masks import MaskWriter

RECIPE = recipes.moco_v2(32).with_background("swap", p=0.5)
BARE = recipes.Recipe(
    "bare", (recipes.View(recipes.Crop(32, (0.3, 1.0))),) * 2, mean=(0.0,) * 3, std=(1.0,) * 3
).with_background("random", p=0.7)


def _color(number):
    return [40 * number % 251, 255 - 13 * number, 7 * number % 200]


def _png(number, height=40, width=56):
    return cv2.imencode(".png", np.full((height, width, 3), _color(number)[::-1], np.uint8))[1].tobytes()


def _folder(path, count, bad=()):
    """Plain coloured images, two folders deep; those of `bad` are spoiled."""
    for i in range(count):
        file = path / f"kind {i % 2}" / f"ground.{i:03d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"<html>" if i in bad else _png(i))
    return path


def _number_of(row, samples=120):
    return int(row["donor"]) - samples


def test_grounds_show_the_background_that_the_plan_names(shards, tmp_path):
    folder = _folder(tmp_path, 9)
    ours = Backgrounds(folder, 120)
    colors = [_color(int(ours.key(i).rsplit(".", 2)[1])) for i in range(9)]
    assert [ours.key(i) for i in (0, 5)] == ["kind 0/ground.000.png", "kind 1/ground.001.png"]
    seen = set()
    with make(shards, BARE, backgrounds=folder) as loader:
        for batch in loader:
            for view, masks, rows in zip(batch["views"], batch["masks"], batch["params"], strict=True):
                for picture, mask, row in zip(view.numpy(), masks.numpy(), rows, strict=True):
                    if not row["background_drawn"]:
                        assert row["donor"] == -1
                        continue
                    assert row["background"] > 0
                    number = _number_of(row)
                    seen.add(number)
                    ground = np.unique(np.rint(picture[:, mask == 0].T * 255).astype(int), axis=0)
                    assert ground.tolist() in ([], [colors[number]])
    assert seen == set(range(9))


def test_the_views_of_a_sample_differ_in_their_grounds(shards, tmp_path):
    recipe = RECIPE.with_background("swap", p=1.0)
    with make(shards, recipe, backgrounds=_folder(tmp_path, 3)) as loader:
        for batch in loader:
            first, second = (rows["donor"] for rows in batch["params"])
            assert (first != second).all()


@pytest.mark.parametrize("count", [1, 2, 9])
def test_views_depend_on_no_layout(shards, tmp_path, count):
    options = {"backgrounds": str(_folder(tmp_path, count))}
    with make(shards, RECIPE, **options) as loader:
        whole = collect(loader)
    for layout in ({"batch_size": 7, "drop_last": False}, {"batch_size": 40, "threads": 1}):
        with make(shards, RECIPE, **options, **layout) as loader:
            assert_same(collect(loader), whole)
    got = {}
    for rank in range(2):
        with make(shards, RECIPE, rank=rank, world_size=2, batch_size=4, **options) as loader:
            got |= collect(loader)
    assert_same(got, whole)
    with make(shards, RECIPE, **options) as loader:
        batch = loader.replay([5, 99, 40], epoch=0)
    for i, index in enumerate([5, 99, 40]):
        np.testing.assert_array_equal(batch["views"][1][i].numpy(), whole[index][1])


def test_the_swap_negative_still_shows_another_sample(shards, tmp_path):
    with make(shards, RECIPE) as plain, make(shards, RECIPE, backgrounds=_folder(tmp_path, 4)) as loader:
        want, got = collect(plain), collect(loader)
    undrawn = [i for i, parts in want.items() if not parts[5]["background_drawn"]]
    assert len(undrawn) > 20
    for index in undrawn:
        np.testing.assert_array_equal(got[index][4], want[index][4])


def test_only_donors_change(shards, tmp_path):
    """Every other number is drawn as without a set."""
    with make(shards, RECIPE) as plain, make(shards, RECIPE, backgrounds=_folder(tmp_path, 4)) as loader:
        want, got = collect(plain), collect(loader)
    for index, parts in want.items():
        for row, other in zip(parts[5:], got[index][5:], strict=True):
            for name in row.dtype.names:
                if not name.startswith("donor"):
                    np.testing.assert_array_equal(row[name], other[name])


def test_bad_backgrounds_are_replaced_alike_on_any_layout(shards, tmp_path):
    folder, seen = _folder(tmp_path / "set", 8, bad=(2, 5)), []
    for world_size, batch_size in ((1, 8), (2, 4), (1, 20)):
        got = {}
        for rank in range(world_size):
            log = tmp_path / f"{world_size}-{batch_size}-{rank}.jsonl"
            options = {"rank": rank, "world_size": world_size, "batch_size": batch_size, "quarantine": log}
            with make(shards, RECIPE, backgrounds=folder, error_budget=0.25, **options) as loader:
                got |= collect(loader)
                stats = loader.stats()
            assert (stats["replaced"], stats["replaced_backgrounds"]) == (0, 2)
            rows = [json.loads(line) for line in log.read_text().splitlines()]
            assert {row["key"] for row in rows} == {"kind 0/ground.002.png", "kind 1/ground.005.png"}
            assert {row["index"] for row in rows} == {121, 126}
            assert {row["shard"] for row in rows} == {str(folder)}
            assert all(row["reason"] for row in rows)
        numbers = {_number_of(row) for parts in got.values() for row in parts[5:] if row["donor"] >= 0}
        assert numbers == {0, 2, 3, 4, 5, 7}
        seen.append(got)
    assert_same(seen[0], seen[1])
    assert_same(seen[0], seen[2])


def test_backgrounds_have_a_budget_of_their_own(shards, tmp_path):
    folder = _folder(tmp_path / "set", 8, bad=(2, 5))
    for budget, words in ((0.1, "2 backgrounds could not be decoded"), (0.0, "1 backgrounds could not be decoded")):
        with (
            make(shards, RECIPE, backgrounds=folder, error_budget=budget) as loader,
            pytest.raises(ErrorBudgetExceeded, match=rf"{words}, more than error_budget = {budget} of 8 allows"),
        ):
            list(loader)
    for count, bad in ((1, (0,)), (3, (0, 1, 2))):
        folder = _folder(tmp_path / f"all bad {count}", count, bad=bad)
        with (
            make(shards, RECIPE, backgrounds=folder, error_budget=1.0) as loader,
            pytest.raises(ErrorBudgetExceeded, match=rf"none of the {count} backgrounds can be decoded \(last: kind"),
        ):
            list(loader)


def test_a_file_that_vanished_is_a_bad_background(shards, tmp_path, caplog):
    folder = _folder(tmp_path, 4)
    with make(shards, RECIPE, backgrounds=folder, error_budget=0.25) as loader:
        (folder / "kind 1" / "ground.001.png").unlink()
        rows = [row for parts in collect(loader).values() for row in parts[5:] if row["donor"] >= 0]
        assert loader.stats()["replaced_backgrounds"] == 1
    assert {_number_of(row) for row in rows} == {0, 1, 3}
    assert "a background cannot be read" in caplog.text
    assert "ground.001.png" in caplog.text


def test_odd_files_are_backgrounds_like_others(shards, shared_data):
    with make(
        shards, RECIPE.with_background("random", p=1.0), backgrounds=shared_data / "odd", error_budget=1.0
    ) as loader:
        assert sum(len(batch["key"]) for batch in loader) == 120
        assert loader.stats()["replaced_backgrounds"] > 5


def test_resume_refuses_another_set(shards, tmp_path):
    first, second = _folder(tmp_path / "a", 5), _folder(tmp_path / "b", 6)
    with make(shards, RECIPE, backgrounds=first) as loader:
        whole, state = collect(loader), None
        loader.set_epoch(0)
        for number, _ in enumerate(loader):
            if number == 6:
                state = json.loads(json.dumps(loader.state_dict()))
                break
    first.rename(tmp_path / "moved")
    with make(shards, RECIPE, backgrounds=tmp_path / "moved", batch_size=4) as loader:
        loader.load_state_dict(state)
        rest = collect(loader)
    assert len(rest) == 120 - 56
    assert_same(rest, {index: whole[index] for index in rest})
    with (
        make(shards, RECIPE, backgrounds=second) as loader,
        pytest.raises(ValueError, match=r"differ: backgrounds \(saved"),
    ):
        loader.load_state_dict(state)
    with make(shards, RECIPE) as loader:
        with pytest.raises(ValueError, match=r"backgrounds \(saved [0-9a-f]{64}, here None\)"):
            loader.load_state_dict(state)
        older = loader.state_dict()
        loader.load_state_dict(older)
    with make(shards, RECIPE, backgrounds=second) as loader, pytest.raises(ValueError, match=r"saved None, here"):
        loader.load_state_dict(older)


def test_a_changed_file_changes_the_fingerprint(tmp_path):
    folder = _folder(tmp_path, 3)
    before = Backgrounds(folder, 0).fingerprint
    assert Backgrounds(folder, 77).fingerprint == before
    (folder / "kind 0" / "ground.002.png").write_bytes(_png(2, 41))
    resized = Backgrounds(folder, 0).fingerprint
    (folder / "kind 0" / "ground.002.png").rename(folder / "kind 0" / "other.png")
    assert len({before, resized, Backgrounds(folder, 0).fingerprint}) == 3


def _shards_of_grounds(folder, count, figure=None):
    folder.mkdir()
    for shard in range(2):
        keys = [f"{i:03d}" for i in range(shard, count, 2)]
        write_tar(folder / f"set-{shard}.tar", [(f"{key}.png", _png(int(key))) for key in keys])
        write_index(folder / f"set-{shard}.tar")
        if figure is not None:
            with MaskWriter(folder / f"set-{shard}.tar", method="truth") as writer:
                for key in keys:
                    writer.add(key, figure)
    return folder


def test_a_set_may_lie_in_shards(shards, tmp_path):
    folder = _shards_of_grounds(tmp_path / "set", 6)
    files = [tmp_path / f"{i:03d}.png" for i in (0, 2, 4, 1, 3, 5)]
    plain = tmp_path / "plain"
    plain.mkdir()
    for place, file in enumerate(files):
        (plain / f"{place}.png").write_bytes(_png(int(file.stem)))
    with make(shards, RECIPE, backgrounds=plain) as loader:
        want = collect(loader)
    for named in (folder, str(folder / "set-{0..1}.tar"), [folder / "set-1.tar", folder / "set-0.tar"]):
        with make(shards, RECIPE, backgrounds=named) as loader:
            assert_same(collect(loader), want)
    ours = Backgrounds(folder, 10)
    assert (len(ours), ours.key(3), ours.shard(3)) == (6, "001", str(folder / "set-1.tar"))
    ours.close()


@pytest.mark.parametrize("masks", ["sidecar", "auto", "kernel"])
def test_masks_of_a_set(shards, tmp_path, masks):
    """Figures of backgrounds are inpainted by their sidecars, or by the kernel's masks, or not without a mask."""
    rng = np.random.default_rng(0)
    pictures, figures = zip(*[disc_image(rng, 90, 90) for _ in range(4)], strict=True)
    bare, masked = tmp_path / "folder", tmp_path / "shards"
    bare.mkdir()
    masked.mkdir()
    encoded = [cv2.imencode(".png", picture)[1].tobytes() for picture in pictures]
    for i, data in enumerate(encoded):
        (bare / f"{i}.png").write_bytes(data)
    write_tar(masked / "set.tar", [(f"{i}.png", data) for i, data in enumerate(encoded)])
    write_index(masked / "set.tar")
    with MaskWriter(masked / "set.tar", method="truth") as writer:
        for i, figure in enumerate(figures):
            writer.add(f"{i}", cv2.resize(figure, (112, 112), interpolation=cv2.INTER_AREA))
    recipe = BARE.with_background("random", p=1.0, source="inpainted")
    bright = {}
    for name, backgrounds in (("folder", bare), ("shards", masked)):
        with make(shards, recipe, backgrounds=backgrounds, masks=masks) as loader:
            batch = next(iter(loader))
        grounds = [view.numpy()[i][:, mask < 0.05].T for view, masks_ in zip(batch["views"], batch["masks"], strict=True)
                   for i, mask in enumerate(masks_.numpy())]  # fmt: skip
        bright[name] = (np.concatenate(grounds).max(axis=1) > 0.6).mean()
    assert bright["shards"] < 0.02
    assert (bright["folder"] > 0.1) == (masks == "sidecar")


def test_messages(shards, tmp_path):
    with pytest.raises(ShardError, match=r"backgrounds must be a folder of images or local shards; .*no shard matches"):
        make(shards, RECIPE, backgrounds=tmp_path / "missing")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ShardError, match=r"backgrounds must be a folder .* holds no image file"):
        make(shards, RECIPE, backgrounds=empty)
    (empty / "notes.txt").write_text("no image")
    with pytest.raises(ShardError, match="holds no image file"):
        make(shards, RECIPE, backgrounds=str(empty))
    both = _shards_of_grounds(tmp_path / "both", 2)
    (both / "one.png").write_bytes(_png(0))
    with pytest.raises(ValueError, match=r"a folder of images or of shards, got .* with tars and 1 images"):
        make(shards, RECIPE, backgrounds=both)
    with pytest.raises(ValueError, match=r"backgrounds must be local, .* got s3://bucket/x.tar; fetch them"):
        make(shards, RECIPE, backgrounds="s3://bucket/x.tar")
    folder = _folder(tmp_path / "good", 2)
    with pytest.raises(
        ValueError, match=r"must be one folder of images, or shards, got 2 paths, of which .*good is a folder"
    ):
        make(shards, RECIPE, backgrounds=[folder, folder / "kind 0"])
    assert len(Backgrounds([folder], 5)) == len(Backgrounds(f"{folder}/", 5)) == 2
    for recipe in (recipes.moco_v2(32), recipes.moco_v2(32).with_background("remove")):
        with pytest.raises(ValueError, match="backgrounds must be None for a recipe whose views take no donors"):
            make(shards, recipe, backgrounds=folder)
    for options in ({"donors": "past"}, {"donors": "store"}, {"other_class": True}):
        with pytest.raises(ValueError, match=r"with backgrounds=... all donors are of that set, got a view with"):
            make(shards, RECIPE.with_background("swap", **options), backgrounds=folder)
    with pytest.raises(ValueError, match="source must be 'whole', 'inpainted' or 'strip', got 'tiled'"):
        RECIPE.with_background("swap", source="tiled")


@pytest.mark.gpu
def test_a_gpu_takes_the_same_backgrounds(shards, tmp_path):
    options = {"backgrounds": _folder(tmp_path, 5), "masks": "sidecar"}
    for recipe in (BARE, BARE.with_background("swap", p=0.7, source="strip")):
        with make(shards, recipe, **options) as host, make(shards, recipe, device="cuda", **options) as device:
            for left, right in zip(host, device, strict=True):
                for rows, other in zip(left["params"], right["params"], strict=True):
                    np.testing.assert_array_equal(rows, other)
                for view, other in zip(left["views"], right["views"], strict=True):
                    assert (view - other.cpu()).abs().mean() < 0.01  # nvJPEG's pixels differ a little
