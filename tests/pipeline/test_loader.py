"""The loader: determinism, formats, resume, ranks, bad samples, shutdown."""

from __future__ import annotations

import gc
import hashlib
import json
import subprocess
import sys
import threading
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from pipeline_shards import disc_image, write_shards, write_tar

from figureground.pipeline import Loader, recipes
from figureground.pipeline.assemble import ErrorBudgetExceeded
from figureground.pipeline.plan import BACKGROUND_MODES, PLAN_DTYPE
from figureground.shards.errors import ShardError
from figureground.shards.index import write_index

RECIPE = recipes.moco_v2(32).with_background("swap", p=0.5)


def make(shards, recipe=RECIPE, **options):
    options = {"batch_size": 8, "device": "cpu", "threads": 2, **options}
    return Loader(shards, recipe, **options)


def collect(loader):
    """Everything by sample id: views, masks and the negative of a whole epoch."""
    samples = {}
    for batch in loader:
        for i, index in enumerate(batch["index"].tolist()):
            parts = [tensor[i].numpy() for tensor in (*batch["views"], *batch["masks"])]
            samples[index] = [*parts, batch["negatives"][i].numpy(), *[rows[i] for rows in batch["params"]]]
    return samples


def assert_same(left, right):
    assert left.keys() == right.keys()
    for index, parts in left.items():
        for a, b in zip(parts, right[index], strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.fixture(scope="module")
def whole(shards):
    with make(shards) as loader:
        return collect(loader)


@pytest.mark.parametrize(
    "options",
    [{"batch_size": 32, "drop_last": False}, {"threads": 1}, {"batch_size": 7, "drop_last": False}, {"prefetch": 5}],
)
def test_content_depends_on_no_setting_of_the_machine(shards, whole, options):
    with make(shards, **options) as loader:
        assert_same(collect(loader), whole)


@pytest.mark.parametrize("world_size", [2, 3])
def test_content_does_not_depend_on_ranks(shards, whole, world_size):
    got = {}
    for rank in range(world_size):
        with make(shards, rank=rank, world_size=world_size, batch_size=4) as loader:
            mine = collect(loader)
        assert not got.keys() & mine.keys()
        got.update(mine)
    assert_same(got, whole)


def test_content_is_the_same_in_another_process(shards, whole):
    code = (
        "import sys, hashlib, numpy as np\n"
        "from figureground.pipeline import Loader, recipes\n"
        "recipe = recipes.moco_v2(32).with_background('swap', p=0.5)\n"
        "with Loader(sys.argv[1], recipe, batch_size=8, device='cpu') as loader:\n"
        "    batch = next(iter(loader))\n"
        "print(int(batch['index'][0]), hashlib.sha256(batch['views'][1][0].numpy().tobytes()).hexdigest())\n"
    )
    out = subprocess.run(
        [sys.executable, "-c", code, shards], capture_output=True, text=True, check=True, timeout=120
    ).stdout
    index, digest = out.split()
    assert hashlib.sha256(whole[int(index)][1].tobytes()).hexdigest() == digest


def test_seed_epoch_and_view_change_the_content(shards, whole):
    with make(shards, seed=1) as loader:
        other_seed = collect(loader)
    with make(shards) as loader:
        loader.set_epoch(1)
        other_epoch = collect(loader)
    for index, parts in whole.items():
        assert not np.array_equal(parts[0], parts[1])
        assert not np.array_equal(parts[0], other_seed[index][0])
        assert not np.array_equal(parts[0], other_epoch[index][0])


def test_dict_holds_everything(shards):
    with make(shards) as loader:
        batch = next(iter(loader))
    assert [tuple(v.shape) for v in batch["views"]] == [(8, 3, 32, 32)] * 2
    assert [(tuple(m.shape), m.dtype) for m in batch["masks"]] == [((8, 32, 32), torch.float32)] * 2
    assert 0 <= batch["masks"][0].min() <= batch["masks"][0].max() <= 1
    assert batch["mask_valid"].dtype == torch.bool
    assert batch["mask_valid"].all()
    assert batch["target"].dtype == batch["index"].dtype == torch.int64
    assert batch["target"].tolist() == [i % 5 for i in batch["index"].tolist()]
    assert batch["key"] == [f"{i:05d}" for i in batch["index"].tolist()]
    assert [rows.dtype for rows in batch["params"]] == [PLAN_DTYPE] * 2
    assert tuple(batch["negatives"].shape) == (8, 1, 3, 32, 32)


def test_without_swap_there_are_no_negatives(shards):
    with make(shards, recipes.moco_v2(32).with_background("random")) as loader:
        assert next(iter(loader))["negatives"] is None


@pytest.mark.parametrize("kind", ["patch", "texture"])
def test_extra_negatives_are_fresh_and_pure(shards, kind):
    recipe = RECIPE.with_negatives(kind, count=2, side=(4, 12))
    found = []
    for options in ({"batch_size": 8}, {"batch_size": 24, "channels_last": True}):
        with make(shards, recipe, **options) as loader:
            found.append({int(i): n.clone() for b in loader for i, n in zip(b["index"], b["negatives"], strict=True)})
    assert found[0][5].shape == (3, 3, 32, 32)  # the swap negative, then two of this kind
    for index, negatives in found[0].items():
        torch.testing.assert_close(negatives, found[1][index], rtol=0, atol=0)
        assert not torch.equal(negatives[1], negatives[2])
    with make(shards, recipe) as loader:
        loader.set_epoch(1)
        batch = next(iter(loader))
    assert not torch.equal(batch["negatives"][0], found[0][int(batch["index"][0])])


def test_patch_negatives_hold_only_pixels_of_their_query(shards):
    with make(shards, recipes.moco_v2(32).with_negatives("patch", side=(3, 9))) as loader:
        batch = next(iter(loader))
    for query, (negative,) in zip(batch["views"][0], batch["negatives"], strict=True):
        colours = {tuple(c) for c in query.flatten(1).T.tolist()}
        assert {tuple(c) for c in negative.flatten(1).T.tolist()} <= colours


def test_shuffled_patches_are_a_permutation(shards):
    plain = recipes.moco_v2(32)
    with make(shards, plain) as a, make(shards, plain.with_patch_shuffle(4, p=0.5)) as b:
        left, right = next(iter(a)), next(iter(b))
    applied = right["params"][0]["patch_shuffle"].astype(bool)
    assert 0 < applied.sum() < 8
    for i in range(8):
        x, y = left["views"][0][i], right["views"][0][i]
        assert torch.equal(x, y) != applied[i]
        assert torch.equal(x.flatten().sort().values, y.flatten().sort().values)


def test_ground_only_shuffles_keep_the_figure(shards):
    plain = recipes.moco_v2(32)
    with make(shards, plain) as a, make(shards, plain.with_patch_shuffle(8, p=1.0, region="ground")) as b:
        left, right = next(iter(a)), next(iter(b))
    cells = torch.nn.functional.avg_pool2d(left["masks"][0][:, None], 4)
    figure = torch.nn.functional.interpolate((cells > 0.51).float(), scale_factor=4) > 0
    same = (left["views"][0] == right["views"][0]).all(1, keepdim=True)
    assert same[figure].all()
    assert not same[~figure].all()


def test_formats_unpack_as_public_code_does(shards):
    with make(shards, format="moco") as loader:
        for images, _ in loader:
            images[0] = images[0].contiguous()  # main_moco.py assigns into the list
            q, k = images
            assert q.shape == k.shape == (8, 3, 32, 32)
        for (_q, _k), target in loader:
            assert target.shape == (8,)
    with make(shards, format="solo") as loader:
        index, views, target = next(iter(loader))
        assert len(views) == 2
        assert index.shape == target.shape
    with make(shards, format="lightly") as loader:
        views, target, keys = next(iter(loader))
        assert isinstance(keys[0], str)


def test_multi_crop_formats_unpack_as_public_code_does(shards):
    with make(shards, recipes.swav(32, 16, 2), format="swav") as loader:
        schedule = np.zeros(2 * len(loader))  # main_swav.py builds its schedule before training
        for it, inputs in enumerate(loader):
            schedule[it] = inputs[0].size(0)
            assert [tuple(crop.shape[2:]) for crop in inputs] == [(32, 32)] * 2 + [(16, 16)] * 2
    with make(shards, recipes.dino(32, 16, 3), format="dino") as loader:
        images, _ = next(iter(loader))
        assert len(images) == 5
        assert torch.cat(images[:2]).shape == (16, 3, 32, 32)
        assert torch.cat(images[2:]).shape == (24, 3, 16, 16)
    with make(shards, recipes.dinov2(56, 28, 2), format="dinov2", batch_size=40) as loader:
        batch = next(iter(loader))
        assert batch["collated_global_crops"].shape == (80, 3, 56, 56)
        assert batch["collated_local_crops"].shape == (80, 3, 28, 28)
        masks = batch["collated_masks"]
        assert masks.shape == (80, 16)
        assert masks.dtype == torch.bool
        assert 20 < (masks.sum(1) > 0).sum() < 60
        assert masks.sum(1).max() <= 8
        assert torch.equal(batch["mask_indices_list"], masks.flatten().nonzero().flatten())
        assert len(batch["masks_weight"]) == int(batch["n_masked_patches"]) <= batch["upperbound"]
        assert batch["masks_weight"].sum() == pytest.approx(float((masks.sum(1) > 0).sum()))
    with (
        make(shards, recipes.dinov2(32, 16, 2), format="dinov2") as loader,
        pytest.raises(ValueError, match="multiple of 14 px"),
    ):
        next(iter(loader))
    with make(shards, format="lightly-train") as loader:
        batch = next(iter(loader))
        assert [m.shape[1:] for m in batch["masks"]] == [v.shape[2:] for v in batch["views"]]
        assert len(batch["filename"]) == 8
    with make(shards, recipes.swav(32, 16, 2), format="vissl") as loader:
        batch = next(iter(loader))
        assert len(batch["data"][0]) == 4
        assert batch["label"][0].shape == batch["data_idx"][0].shape == batch["data_valid"][0].shape == (8,)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_dtypes_round_the_float32_views(shards, dtype):
    with make(shards) as a, make(shards, dtype=dtype) as b:
        want, got = next(iter(a))["views"][0], next(iter(b))["views"][0]
    assert got.dtype == dtype
    torch.testing.assert_close(got, want.to(dtype), rtol=0, atol=0)


def test_channels_last_is_a_memory_format(shards):
    with make(shards) as a, make(shards, channels_last=True) as b:
        want, got = next(iter(a)), next(iter(b))
    assert got["views"][0].is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(got["views"][0], want["views"][0], rtol=0, atol=0)
    torch.testing.assert_close(got["negatives"], want["negatives"], rtol=0, atol=0)


def test_batches_belong_to_the_caller(shards):
    with make(shards) as loader:
        held = [batch["views"][0] for batch in loader]
        sums = [float(view.sum()) for view in held]
        for _ in loader:
            pass
        assert [float(view.sum()) for view in held] == sums


def test_len_epochs_and_attributes(shards):
    with make(shards, batch_size=16) as loader:
        assert len(loader) == 7
        assert len(loader.dataset) == 120
        assert loader.batch_size == 16
        first = [batch["index"].tolist() for batch in loader]
        assert len(first) == len(loader) == 7
        second = [batch["index"].tolist() for batch in loader]
        assert first != second
        loader.sampler.set_epoch(0)
        assert [batch["index"].tolist() for batch in loader] == first
    with make(shards, batch_size=16, drop_last=False) as loader:
        sizes = [len(batch["key"]) for batch in loader]
        assert sizes == [16] * 7 + [8]
        assert len(loader) == 8


def test_resume_in_the_middle_elastic(shards, whole):
    with make(shards, batch_size=8) as loader:
        done = {}
        for number, batch in enumerate(loader):
            done |= dict.fromkeys(batch["index"].tolist())
            if number == 4:
                state = json.loads(json.dumps(loader.state_dict()))
                break
    rest = {}
    for rank in range(2):
        with make(shards, batch_size=4, rank=rank, world_size=2) as loader:
            loader.load_state_dict(state)
            loader.set_epoch(state["epoch"])
            rest |= collect(loader)
            assert loader.state_dict()["epoch"] == 1
    assert not rest.keys() & done.keys()
    assert_same(rest, {i: parts for i, parts in whole.items() if i not in done})


def test_resume_of_a_resume(shards):
    with make(shards, batch_size=8) as loader:
        want = [batch["index"].tolist() for batch in loader]
    got, state = [], None
    for _ in range(3):
        with make(shards, batch_size=8) as loader:
            if state:
                loader.load_state_dict(state)
            for taken, batch in enumerate(loader, 1):
                got.append(batch["index"].tolist())
                if taken == 5:
                    break
            state = loader.state_dict()
    assert got == want


def test_state_after_the_last_batch_has_nothing_left(shards):
    with make(shards) as loader:
        iterator = iter(loader)
        for _ in range(len(loader)):
            next(iterator)
        state = loader.state_dict()
        assert state["epoch"] == 0
    with make(shards) as loader:
        loader.load_state_dict(state)
        assert list(loader) == []
        assert len(list(loader)) == len(loader)


def test_a_foreign_state_is_refused(shards, tmp_path):
    with make(shards) as loader:
        state = loader.state_dict()
    with make(shards, recipes.moco_v2(32)) as loader, pytest.raises(ValueError, match=r"these differ: recipe \(saved"):
        loader.load_state_dict(state)
    with (
        make(write_shards(tmp_path, 24)) as loader,
        pytest.raises(ValueError, match=r"samples \(saved 120, here 24\); shards"),
    ):
        loader.load_state_dict(state)
    with make(shards, seed=3) as loader, pytest.raises(ValueError, match=r"seed \(saved 0, here 3\)"):
        loader.load_state_dict(state)
    with make(shards) as loader, pytest.raises(ValueError, match="got one without epoch"):
        loader.load_state_dict({k: v for k, v in state.items() if k != "epoch"})


def test_replay_makes_the_same_views(shards, whole):
    with make(shards) as loader:
        batch = loader.replay([5, 99, 40], epoch=0)
    for i, index in enumerate([5, 99, 40]):
        np.testing.assert_array_equal(batch["views"][0][i].numpy(), whole[index][0])
        np.testing.assert_array_equal(batch["negatives"][i].numpy(), whole[index][4])


@pytest.fixture
def spoiled(tmp_path):
    """40 samples, of which 3, 17 and 30 are no images."""
    rng = np.random.default_rng(1)
    members = []
    for i in range(40):
        jpeg = cv2.imencode(".jpg", disc_image(rng, 64, 80)[0])[1].tobytes()
        data = {3: b"", 17: b"<html>not found</html>", 30: jpeg[: len(jpeg) // 2]}.get(i, jpeg)
        members.append((f"{i:03d}.jpg", data))
    write_tar(tmp_path / "bad.tar", members)
    write_index(tmp_path / "bad.tar")
    return str(tmp_path / "bad.tar")


def test_bad_samples_are_replaced_alike_on_any_layout(spoiled, tmp_path):
    seen = []
    for world_size, batch_size in ((1, 8), (2, 4), (1, 20)):
        ids = []
        for rank in range(world_size):
            quarantine = tmp_path / f"{world_size}-{batch_size}-{rank}.jsonl"
            with make(
                spoiled,
                batch_size=batch_size,
                rank=rank,
                world_size=world_size,
                error_budget=0.2,
                quarantine=quarantine,
                masks=None,
            ) as loader:
                batches = [batch["index"].tolist() for batch in loader]
                assert all(len(b) == batch_size for b in batches)
                assert len(batches) == len(loader)
                ids += [i for b in batches for i in b]
                rows = [json.loads(line) for line in quarantine.read_text().splitlines()]
                assert {row["index"] for row in rows} <= {3, 17, 30}
                assert all(row["reason"] and row["key"] == f"{row['index']:03d}" for row in rows)
        assert not {3, 17, 30} & set(ids)
        assert len(ids) == 40
        seen.append(sorted(ids))
    assert seen[0] == seen[1] == seen[2]


def test_past_the_error_budget_it_stops(spoiled):
    with (
        make(spoiled, error_budget=0.0, masks=None) as loader,
        pytest.raises(ErrorBudgetExceeded, match=r"error_budget = 0\.0 of 40"),
    ):
        list(loader)
    with (
        make(spoiled, error_budget=0.05, masks=None) as loader,
        pytest.raises(ErrorBudgetExceeded, match="3 samples could not"),
    ):
        list(loader)


def test_background_is_applied_where_the_plan_says(shards):
    recipe = replace(
        recipes.moco_v2(64).with_background("remove", p=0.5, fill="constant", color=(255, 0, 0)),
        mean=(0.0,) * 3,
        std=(1.0,) * 3,
    )
    recipe = replace(recipe, views=tuple(replace(v, jitter=None, grayscale_p=0.0, blur=None) for v in recipe.views))
    with make(shards, recipe, batch_size=40) as loader:
        batch = next(iter(loader))
    applied = batch["params"][0]["background"] == BACKGROUND_MODES.index("constant")
    assert 5 < applied.sum() < 35
    views, masks = batch["views"][0].numpy(), batch["masks"][0].numpy()
    for i in range(40):
        ground = masks[i] == 0
        if ground.any():
            assert (views[i, 0][ground] == 1.0).all() == applied[i]
        figure = masks[i] == 1
        if figure.any():
            assert views[i].transpose(1, 2, 0)[figure].max(axis=1).min() > 0.5


@pytest.mark.parametrize("change", [lambda r: r, lambda r: r.with_patch_shuffle(4, p=0.5, region="ground")])
@pytest.mark.parametrize("mode", ["remove", "swap"])
def test_formats_without_masks_give_the_same_views(shards, change, mode):
    """They decode only the masks that a view looks at."""
    recipe = change(recipes.moco_v2(32).with_background(mode, p=0.4))
    with make(shards, recipe, format="moco") as a, make(shards, recipe) as b:
        for (views, _), batch in zip(a, b, strict=True):
            for left, right in zip(views, batch["views"], strict=True):
                torch.testing.assert_close(left, right, rtol=0, atol=0)


def test_donors_of_another_class(shards):
    shares = []
    for other_class in (False, True):
        recipe = recipes.moco_v2(32).with_background("swap", p=1.0, other_class=other_class)
        with make(shards, recipe) as loader:
            rows = np.concatenate([np.concatenate(batch["params"]) for batch in loader])
        assert (rows["donor"] != rows["sample"]).all()
        shares.append((rows["donor"] % 5 == rows["sample"] % 5).mean())  # the class of sample i is i % 5
    assert shares[0] > 0.1
    assert shares[1] < 0.02


def test_area_limits_leave_the_image_alone(shards):
    recipe = recipes.moco_v2(32).with_background("swap", p=1.0, min_area=0.9)
    with make(shards, recipe) as loader:
        batch = next(iter(loader))
    assert (batch["params"][0]["background"] == 0).all()
    assert (batch["params"][0]["background_drawn"] == 1).all()


def test_kernel_masks_find_the_disc(tmp_path):
    shards = write_shards(tmp_path, 16, masks=False)
    flat = recipes.Recipe("whole", (recipes.View(recipes.Crop(96, (1.0, 1.0), (1.0, 1.0)), flip_p=0.0),))
    with make(shards, flat, masks="sidecar") as loader:
        batch = next(iter(loader))
        assert not batch["mask_valid"].any()
        assert not batch["masks"][0].any()
    with make(shards, flat, masks="auto") as loader:
        batch = next(iter(loader))
    assert batch["mask_valid"].all()
    area = batch["masks"][0].mean((1, 2))
    assert ((area > 0.08) & (area < 0.45)).all()


def test_masks_none_leaves_all_alone(shards):
    with make(shards, masks=None) as loader:
        batch = next(iter(loader))
    assert not batch["mask_valid"].any()
    assert (batch["params"][0]["background"] == 0).all()


def _threads():
    return [t for t in threading.enumerate() if t.name.startswith("figureground")]


def test_leaving_early_stops_the_thread(shards):
    loader = make(shards)
    for _ in loader:
        break
    gc.collect()
    assert not [t for t in _threads() if t.name == "figureground-loader"]
    assert len(list(loader)) == len(loader)
    loader.close()
    with pytest.raises(RuntimeError, match="was closed"):
        iter(loader)
    assert not _threads()


def test_a_dropped_loader_leaves_nothing(shards):
    for _ in make(shards):
        break
    gc.collect()
    assert not _threads()


def test_an_exception_of_the_trainer_ends_cleanly(shards):
    def trainer():
        for _ in make(shards):
            raise KeyError("trainer")

    with pytest.raises(KeyError, match="trainer"):
        trainer()
    gc.collect()
    assert not _threads()


@pytest.mark.parametrize("ending", ["pass", "sys.exit(0)", "raise SystemExit", "os.kill(os.getpid(), signal.SIGINT)"])
def test_the_process_ends_without_noise(shards, ending):
    code = (
        "import os, signal, sys\n"
        "from figureground.pipeline import Loader, recipes\n"
        "loader = Loader(sys.argv[1], recipes.moco_v2(32), batch_size=8, device='cpu')\n"
        "iterator = iter(loader)\n"
        "next(iterator)\n" + ending
    )
    done = subprocess.run([sys.executable, "-c", code, shards], capture_output=True, text=True, timeout=120)
    if "SIGINT" in ending:
        assert "KeyboardInterrupt" in done.stderr
    else:
        assert (done.returncode, done.stderr) == (0, "")
    assert "figureground-loader" not in done.stderr


def test_two_loaders_at_once(shards, whole):
    with make(shards) as a, make(shards, seed=1) as b:
        for left, _ in zip(a, b, strict=True):
            np.testing.assert_array_equal(left["views"][0][0].numpy(), whole[int(left["index"][0])][0])


def test_stats_count_and_explain(shards):
    with make(shards) as loader:
        list(loader)
        stats = loader.stats()
    assert stats["batches"] == 15
    assert stats["samples"] == 120
    assert stats["replaced"] == 0
    assert {"read", "plan", "augment"} <= set(stats["seconds"])
    assert stats["bottleneck"].startswith("the ")


def test_stages_run_at_their_points(shards):
    seen = []

    def note(point):
        def stage(views, rows):
            seen.append((point, views.dtype, views.shape[1:], rows.dtype == PLAN_DTYPE))
            return views

        return stage

    recipe = RECIPE
    for point in ("composite", "color", "normalize"):
        recipe = recipe.with_stage(note(point), after=point)
    with make(shards, recipe, threads=1) as loader, make(shards) as plain:
        got, want = next(iter(loader)), next(iter(plain))
    torch.testing.assert_close(got["views"][0], want["views"][0], rtol=0, atol=0)
    assert {point for point, *_ in seen} == {"composite", "color", "normalize"}
    assert all(shape == (3, 32, 32) and is_plan for _, _, shape, is_plan in seen)
    inverted = RECIPE.with_stage(lambda views, rows: 255 - views, after="color")
    with make(shards, inverted) as loader:
        got = next(iter(loader))["views"][0]
    mean = torch.tensor(RECIPE.mean).view(3, 1, 1)
    std = torch.tensor(RECIPE.std).view(3, 1, 1)
    torch.testing.assert_close(got * std + mean, 1 - (want["views"][0] * std + mean), rtol=0, atol=1e-5)
    with (
        make(shards, RECIPE.with_stage(lambda v, r: v[:, :1])) as loader,
        pytest.raises(ValueError, match="the function must return"),
    ):
        next(iter(loader))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"format": "tuple"}, ValueError, "format must be one of dict, moco"),
        ({"dtype": torch.float64}, ValueError, "dtype must be torch.float32"),
        ({"prefetch": 0}, ValueError, "prefetch must be at least 1"),
        ({"threads": 0}, ValueError, "threads must be at least 1"),
        ({"device": "tpu"}, ValueError, "device must be 'cpu', 'cuda' or 'cuda:N'"),
        ({"masks": "best"}, ValueError, "masks must be 'auto', 'sidecar', 'kernel' or None"),
        ({"method": "magic"}, ValueError, "method must be one of"),
        ({"batch_size": 121}, ValueError, "drop_last=True needs at least"),
        ({"rank": 1}, ValueError, "must be given together"),
        ({"error_budget": 2}, ValueError, r"error_budget must be in \[0, 1\]"),
    ],
)
def test_messages(shards, options, error, message):
    with pytest.raises(error, match=message):
        make(shards, **options)


def test_no_silent_fallback_to_the_cpu(shards):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(RuntimeError, match="needs a CUDA GPU"):
        make(shards, device="cuda")


def test_missing_shards_are_named(tmp_path):
    with pytest.raises(ShardError, match="none"):
        make(str(tmp_path / "none-*.tar"))
