"""The plan: pure, and distributed as torchvision's transforms are."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from figureground.pipeline import recipes
from figureground.pipeline.plan import BACKGROUND_MODES, PLAN_DTYPE, draw_plan, draws_masks

DRAWS = 20_000
RECIPE = recipes.moco_v2().with_background("swap", p=0.2)


def _plan(recipe=RECIPE, view=0, samples=None, size=(375, 500), seed=0, epoch=0, donor_size=(300, 400)):
    samples = np.arange(DRAWS) if samples is None else np.asarray(samples)
    return draw_plan(
        recipe,
        view,
        seed=seed,
        epoch=epoch,
        samples=samples,
        sizes=np.tile(size, (len(samples), 1)),
        donors=samples + 1,
        donor_sizes=np.tile(donor_size, (len(samples), 1)),
    )


def _published_crop(rng, height, width, scale, ratio):
    """RandomResizedCrop as torchvision publishes it, in plain Python."""
    area = height * width
    for _ in range(10):
        target = area * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(target * aspect)), round(math.sqrt(target / aspect))
        if 0 < w <= width and 0 < h <= height:
            return rng.integers(0, width - w + 1), rng.integers(0, height - h + 1), w, h
    if width / height < min(ratio):
        w, h = width, round(width / min(ratio))
    elif width / height > max(ratio):
        w, h = round(height * max(ratio)), height
    else:
        w, h = width, height
    return (width - w) // 2, (height - h) // 2, w, h


@pytest.mark.parametrize("size", [(375, 500), (500, 333), (64, 400)])
@pytest.mark.parametrize("scale", [(0.2, 1.0), (0.08, 1.0)])
def test_crops_are_distributed_as_published(size, scale):
    recipe = replace(RECIPE, views=(replace(RECIPE.views[0], crop=recipes.Crop(224, scale)),))
    got = _plan(recipe, size=size)["crop"]
    rng = np.random.default_rng(0)
    want = np.array([_published_crop(rng, *size, scale, (3 / 4, 4 / 3)) for _ in range(DRAWS)])
    for column in range(4):
        assert stats.ks_2samp(got[:, column], want[:, column]).pvalue > 1e-3
    assert stats.ks_2samp(got[:, 2] / got[:, 3], want[:, 2] / want[:, 3]).pvalue > 1e-3
    assert (got[:, 0] + got[:, 2] <= size[1]).all()
    assert (got[:, 1] + got[:, 3] <= size[0]).all()
    assert got.min() >= 0


@pytest.mark.parametrize(("size", "box"), [((10, 1000), (493, 0, 13, 10)), ((1000, 10), (0, 493, 10, 13))])
def test_fallback_is_the_centre(size, box):
    recipe = replace(RECIPE, views=(replace(RECIPE.views[0], crop=recipes.Crop(224, (0.9, 1.0))),))
    assert _plan(recipe, samples=[3], size=size)["crop"][0].tolist() == list(box)


def test_one_pixel_images_have_one_pixel_crops():
    assert _plan(samples=np.arange(50), size=(1, 1))["crop"].tolist() == [[0, 0, 1, 1]] * 50


def test_eval_crop_is_the_centre_of_the_resized_image():
    recipe = replace(RECIPE, views=(recipes.View(recipes.Crop(224, resize=256), flip_p=0.0),))
    rows = _plan(recipe, samples=[0], size=(512, 1024))
    assert rows["crop"][0].tolist() == [288, 32, 448, 448]
    assert rows["crop_clip"][0] == 0


def test_flags_have_their_probabilities():
    rows = _plan()
    for field, p in (("flip", 0.5), ("jitter", 0.8), ("grayscale", 0.2), ("blur", 0.5), ("background_drawn", 0.2)):
        assert stats.binomtest(int(rows[field].sum()), DRAWS, p).pvalue > 1e-3, field
    assert not rows["solarize"].any()
    assert set(np.unique(rows["background"])) == {0, BACKGROUND_MODES.index("swap")}


def test_jitter_is_torchvisions():
    rows = _plan()
    for k, (low, high) in enumerate([(0.6, 1.4)] * 3 + [(-0.1, 0.1)]):
        assert stats.kstest(rows["jitter_factors"][:, k], stats.uniform(low, high - low).cdf).pvalue > 1e-3
    orders, counts = np.unique(rows["jitter_order"], axis=0, return_counts=True)
    assert len(orders) == 24
    assert stats.chisquare(counts).pvalue > 1e-3
    strong = _plan(recipes.simclr(strength=2.0))["jitter_factors"]
    assert strong[:, 0].min() >= 0.0  # max(0, 1 - 1.6)
    assert strong[:, 0].max() > 2.5


def test_sigma_is_uniform():
    assert stats.kstest(_plan()["blur_sigma"], stats.uniform(0.1, 1.9).cdf).pvalue > 1e-3


def test_draws_are_independent():
    rows = _plan()
    columns = np.stack(
        [rows["crop"][:, 2], rows["crop"][:, 0], rows["flip"], rows["jitter"], *rows["jitter_factors"].T, rows["grayscale"],
         rows["blur"], rows["blur_sigma"], rows["background_drawn"], rows["donor_crop"][:, 2], rows["donor_flip"]]
    ).astype(float)  # fmt: skip
    correlation = np.corrcoef(columns) - np.eye(len(columns))
    correlation[0, 1] = correlation[1, 0] = 0  # a wide crop has little room to move
    assert np.abs(correlation).max() < 0.035
    other = _plan(view=1)
    assert abs(np.corrcoef(rows["blur_sigma"], other["blur_sigma"])[0, 1]) < 0.035


def test_rows_are_pure():
    whole = _plan(samples=np.arange(100))
    some = _plan(samples=np.array([42, 7]))
    np.testing.assert_array_equal(some, whole[[42, 7]])
    for change in ({"seed": 1}, {"epoch": 1}, {"view": 1}):
        assert (_plan(samples=np.arange(100), **change)["blur_sigma"] != whole["blur_sigma"]).mean() > 0.95, change


def test_a_changed_probability_moves_no_other_number():
    changed = replace(RECIPE, views=tuple(replace(v, flip_p=1.0, grayscale_p=0.0) for v in RECIPE.views))
    before, after = _plan(samples=np.arange(200)), _plan(changed, samples=np.arange(200))
    for name in PLAN_DTYPE.names:
        if name not in ("flip", "grayscale", "donor_flip"):
            np.testing.assert_array_equal(before[name], after[name])


def test_draws_masks_agrees_with_the_plan():
    samples = np.arange(500)
    drawn = _plan(view=1, samples=samples, seed=5, epoch=3)["background_drawn"] == 1
    masks, donors = draws_masks(RECIPE, 1, seed=5, epoch=3, samples=samples)
    np.testing.assert_array_equal(masks, drawn)
    np.testing.assert_array_equal(donors, drawn)
    remove = recipes.moco_v2().with_background("remove")
    masks, donors = draws_masks(remove, 0, seed=0, epoch=0, samples=samples)
    assert masks.any()
    assert not donors.any()
    shuffle = recipes.moco_v2().with_patch_shuffle(4, p=0.5, region="figure")
    masks, donors = draws_masks(shuffle, 0, seed=0, epoch=0, samples=samples)
    assert 200 < masks.sum() < 300
    assert not donors.any()
    assert not draws_masks(recipes.moco_v2(), 0, seed=0, epoch=0, samples=samples)[0].any()


def test_fill_of_each_kind():
    grey = _plan(recipes.moco_v2().with_background("remove", fill="grey", p=1.0))
    assert (grey["fill"][:, 0] == grey["fill"][:, 1]).all()
    assert stats.kstest(grey["fill"][:, 0] / 256, stats.uniform().cdf).statistic < 0.02
    constant = _plan(recipes.moco_v2().with_background("remove", fill="constant", color=(1, 2, 3), p=1.0))
    assert (constant["fill"] == [1, 2, 3]).all()
    assert (constant["background"] == BACKGROUND_MODES.index("constant")).all()
