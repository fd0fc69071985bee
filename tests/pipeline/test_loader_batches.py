"""What is in a batch: formats, dtypes, negatives, shuffled patches, backgrounds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from loader_tools import RECIPE, make
from pipeline_shards import write_shards

from figureground.kernels.fourier import randomize_phase
from figureground.pipeline import masking, recipes
from figureground.pipeline.plan import BACKGROUND_MODES, PLAN_DTYPE


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


def _hole(views, rows):
    views[:, :, :, 10:14] = 7
    return views


def test_patch_negatives_are_made_of_the_query_as_it_is_handed_out(shards):
    """After a shuffle, solarize and a stage of the user's own: each cell of a negative is a patch of that very view."""
    plain = recipes.moco_v2(32)
    recipe = replace(plain, views=(replace(plain.views[0], solarize_p=1.0), plain.views[1]))
    recipe = recipe.with_patch_shuffle(4, p=1.0).with_stage(_hole, after="color").with_background("swap", p=1.0)
    with make(shards, recipe.with_negatives("patch", side=(6, 6))) as loader:
        batch = next(iter(loader))
    assert batch["negatives"].shape == (8, 2, 3, 32, 32)
    hole = batch["views"][0][:, :, :, 10:14]
    assert (hole == hole[:1, :, :1, :1]).all()
    torch.testing.assert_close(batch["negatives"][:, 0, :, :, 10:14], hole)  # the swap negative goes through the stage
    for query, negative in zip(batch["views"][0], batch["negatives"][:, 1], strict=True):
        patches = query.unfold(1, 6, 1).unfold(2, 6, 1).permute(1, 2, 0, 3, 4).reshape(-1, 3 * 36)
        cells = negative[:, :30, :30].unfold(1, 6, 6).unfold(2, 6, 6).permute(1, 2, 0, 3, 4).reshape(-1, 3 * 36)
        assert torch.cdist(cells, patches, compute_mode="donot_use_mm_for_euclid_dist").amin(1).max() == 0


def test_a_format_without_negatives_says_so(shards, caplog):
    with make(shards, recipes.moco_v2(32).with_negatives("patch"), format="moco") as loader:
        (q, k), _ = next(iter(loader))
    assert q.shape == k.shape
    assert "format='moco' hands out no negatives" in caplog.text


def test_textures_have_the_spectrum_of_the_solarized_query(shards):
    plain = recipes.moco_v2(32)
    solarized = replace(plain.views[0], solarize_p=0.5)
    recipe = replace(plain, views=(solarized, plain.views[1]), mean=(0.0,) * 3, std=(1.0,) * 3)
    with make(shards, recipe.with_negatives("texture")) as loader:
        batch = next(iter(loader))
    query, negative = (
        (255 * part).round().numpy().astype(np.uint8) for part in (batch["views"][0], batch["negatives"])
    )
    rows = batch["params"][0]
    assert 0 < rows["solarize"].sum() < 8
    want = randomize_phase(query, seeds=rows["seed"] + np.uint64(0x9E3779B97F4A7C15))
    np.testing.assert_array_equal(negative[:, 0], want)


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
        assert (masks.any(1).reshape(2, 40).sum(0) == 1).all()  # one crop of each sample: half of all, as in DINOv2
        assert masks.sum(1).max() <= 8
        assert torch.equal(batch["mask_indices_list"], masks.flatten().nonzero().flatten())
        assert len(batch["masks_weight"]) == int(batch["n_masked_patches"]) <= batch["upperbound"]
        assert batch["masks_weight"].sum() == pytest.approx(float((masks.sum(1) > 0).sum()))
    with pytest.raises(ValueError, match="multiple of 14 px, or of 16 px, got 100"):
        make(shards, recipes.dinov2(100, 28, 2), format="dinov2")
    with make(shards, recipes.dinov2(112, 48, 2), format="dinov2") as loader:
        assert next(iter(loader))["collated_masks"].shape == (16, 49)  # patches of 16 px
    with make(shards, format="lightly-train") as loader:
        batch = next(iter(loader))
        assert [m.shape[1:] for m in batch["masks"]] == [v.shape[2:] for v in batch["views"]]
        assert len(batch["filename"]) == 8
    with make(shards, recipes.swav(32, 16, 2), format="vissl") as loader:
        batch = next(iter(loader))
        assert len(batch["data"][0]) == 4
        assert batch["label"][0].shape == batch["data_idx"][0].shape == batch["data_valid"][0].shape == (32,)


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


def test_only_masks_that_somebody_looks_at_are_estimated(tmp_path, monkeypatch):
    shards = write_shards(tmp_path / "no masks", 24, masks=False)
    estimated = []
    whole = masking.estimate_masks

    def counted(images, **options):
        estimated.append(len(images))
        return whole(images, **options)

    monkeypatch.setattr(masking, "estimate_masks", counted)
    recipe = recipes.moco_v2(32).with_background("swap", p=0.3, min_area=0.0, max_area=1.0)
    views, counts = {}, {}
    for form in ("dict", "moco"):
        estimated.clear()
        with make(shards, recipe, batch_size=24, masks="auto", format=form) as loader:
            (batch,) = loader
        views[form], counts[form] = batch["views"] if form == "dict" else batch[0], sum(estimated)
    assert counts["dict"] == 24  # each query has a swap negative
    assert 0 < counts["moco"] < 24  # none is handed out
    for one, other in zip(views["dict"], views["moco"], strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
