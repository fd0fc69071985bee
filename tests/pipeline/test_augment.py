"""Masks stay on their figures, and figures on their grounds, whatever the plan."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from figureground.kernels.arrays import Ragged
from figureground.pipeline import recipes
from figureground.pipeline.augment import Augmenter, estimate_masks
from figureground.pipeline.plan import BACKGROUND_MODES, draw_plan
from figureground.pipeline.tables import Slots, settle_backgrounds

PLAIN = recipes.View(recipes.Crop(224, (0.2, 1.0)), flip_p=0.5)


def _figures(count, seed=0):
    """White polygons on black, of photographs' sizes, and their masks."""
    rng = np.random.default_rng(seed)
    images, masks = [], []
    for _ in range(count):
        height, width = rng.integers(240, 520, 2)
        mask = np.zeros((height, width), np.uint8)
        angles = np.sort(rng.uniform(0, 2 * np.pi, 7))
        radius = rng.uniform(0.25, 0.45, 7)[:, None] * (width, height)
        points = np.array([width / 2, height / 2]) + np.stack([np.cos(angles), np.sin(angles)], 1) * radius
        cv2.fillPoly(mask, [points.astype(np.int32)], 255)
        images.append(np.repeat(mask[..., None], 3, 2))
        masks.append(mask)
    return images, masks


def _empty(shape, kind):
    return np.empty(shape, np.float32 if kind == "view" else np.uint8)


def _augment(recipe, images, masks, *, donors=None, area=None, valid=None, threads=1, seed=0):
    """Run a recipe on decoded arrays; donor of each is the next one."""
    count = len(images)
    batch = Ragged.from_arrays(images)
    donors = np.roll(np.arange(count), -1) if donors is None else donors
    slots = Slots(
        np.arange(count, dtype=np.int32),
        np.tile(donors.astype(np.int32), (len(recipe.views) + 1, 1)),
        np.ones(count, bool) if valid is None else valid,
        np.full(count, 0.3) if area is None else area,
    )
    plans = [
        draw_plan(
            recipe, v, seed=seed, epoch=0, samples=np.arange(count), sizes=batch.sizes, donors=donors,
            donor_sizes=batch.sizes[donors],
        )
        for v in range(len(recipe.views) + recipe.swaps)
    ]  # fmt: skip
    settle_backgrounds(recipe, plans, slots)
    augmenter = Augmenter(recipe, masks=True, threads=threads)
    views, view_masks, negatives = augmenter.augment(batch, Ragged.from_arrays(masks), plans, slots, _empty)
    augmenter.close()
    return views, view_masks, negatives, plans


IDENTITY = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


@pytest.mark.parametrize(
    ("mask_px", "tolerance_px"), [(None, 1), (112, 4)]
)  # a pixel of a 112 px mask is 2 to 5 px wide in a view
def test_mask_edges_lie_on_figure_edges(mask_px, tolerance_px):
    images, masks = _figures(48)
    if mask_px:
        masks = [cv2.resize(mask, (mask_px, mask_px), interpolation=cv2.INTER_AREA) for mask in masks]
    recipe = recipes.Recipe("plain", (PLAIN, PLAIN), **IDENTITY)
    views, view_masks, _, plans = _augment(recipe, images, masks)
    assert plans[0]["flip"].any()
    assert not plans[0]["flip"].all()
    kernel = np.ones((2 * tolerance_px + 1,) * 2, np.uint8)
    for view, mask in zip(views, view_masks, strict=True):
        for i in range(len(images)):
            figure = (view[i, 0] > 0.5).astype(np.uint8)
            there = (mask[i] > 127).astype(np.uint8)
            assert not (there & ~cv2.dilate(figure, kernel)).any()
            assert not (cv2.erode(figure, kernel) & ~there & 1).any()


def test_the_figure_stays_and_the_ground_goes():
    images, masks = _figures(24)
    view = replace(PLAIN, background=recipes.Background("remove", p=1.0, fill="constant", color=(0, 255, 0)))
    recipe = recipes.Recipe("remove", (view,), **IDENTITY)
    (got,), (mask,), _, plans = _augment(recipe, images, masks)
    assert (plans[0]["background"] == BACKGROUND_MODES.index("constant")).all()
    assert (got.transpose(0, 2, 3, 1)[mask == 255] == 1.0).all()
    np.testing.assert_array_equal(np.unique(got.transpose(0, 2, 3, 1)[mask == 0], axis=0), [[0, 1, 0]])
    edge = (mask > 0) & (mask < 255)
    assert edge.any()  # edges are soft


@pytest.mark.parametrize("source", ["whole", "inpainted"])
def test_images_donors_and_swap_negatives_take_the_views_filter(source):
    """All of noise, whose bicubic views have more contrast; masks are the same for both filters."""
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (100, 120, 3), dtype=np.uint8) for _ in range(8)]
    masks = [np.zeros((100, 120), np.uint8) for _ in images]
    for mask in masks:
        mask[30:70, 40:80] = 255
    found = {}
    for how in ("bilinear", "bicubic"):
        crop = recipes.Crop(64, (0.2, 0.6), interpolation=how)
        view = recipes.View(crop, background=recipes.Background("swap", p=1.0, source=source))
        found[how] = _augment(recipes.Recipe("noise", (view, view), **IDENTITY), images, masks)
    (views, view_masks, negatives, plans), (sharp, sharp_masks, sharp_negatives, sharp_plans) = found.values()
    for v in range(2):
        np.testing.assert_array_equal(plans[v], sharp_plans[v])
        np.testing.assert_array_equal(view_masks[v], sharp_masks[v])
    where = np.stack([view_masks[0] == 255, view_masks[0] == 0], 1)  # figure, ground
    for before, after in ((views[0], sharp[0]), (negatives[:, 0], sharp_negatives[:, 0])):
        for i in range(len(images)):
            for k, part in enumerate(where[i]):
                if k == 1 and source == "inpainted" and after is sharp[0]:
                    continue  # partly filled in smoothly
                if part.sum() > 100:
                    assert after[i][:, part].std() > 1.02 * before[i][:, part].std()


def test_a_donor_fills_the_ground_with_its_own_crop():
    images, masks = _figures(6)
    donors_image = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    images.append(donors_image)
    masks.append(np.zeros((300, 400), np.uint8))
    view = replace(PLAIN, background=recipes.Background("random", p=1.0))
    recipe = recipes.Recipe("random", (view,), **IDENTITY)
    (got,), (mask,), _, plans = _augment(recipe, images, masks, donors=np.full(7, 6))
    for i in range(6):
        row = plans[0][i]
        x, y, w, h = row["donor_crop"].astype(int)
        want = cv2.resize(donors_image[y : y + h, x : x + w], (224, 224), interpolation=cv2.INTER_LINEAR)
        want = want[:, ::-1] if row["donor_flip"] else want
        ground = mask[i] == 0
        correlation = np.corrcoef((got[i].transpose(1, 2, 0)[ground] * 255).ravel(), want[ground].ravel())[0, 1]
        assert correlation > 0.8


def test_an_inpainted_donor_brings_no_figure():
    _, masks = _figures(12)
    red = [np.where(mask[..., None] > 0, [255, 0, 0], [40, 40, 200]).astype(np.uint8) for mask in masks]
    found = {}
    for source in ("whole", "inpainted"):
        view = replace(PLAIN, background=recipes.Background("random", p=1.0, source=source))
        (got,), (mask,), _, plans = _augment(recipes.Recipe("random", (view,), **IDENTITY), red, masks)
        ground = got.transpose(0, 2, 3, 1)[mask == 0]
        found[source] = (ground[:, 0] > 0.7).mean()
        figure = got.transpose(0, 2, 3, 1)[mask == 255]
        assert (figure[:, 0] > 0.9).all()
        assert (plans[0]["background"] > 0).all()
    assert found["whole"] > 0.1
    assert found["inpainted"] < 0.01


def test_swap_negative_shares_the_querys_ground_and_hides_its_figure():
    images, masks = _figures(8)
    grey = [np.full_like(image, 60 + 20 * i) for i, image in enumerate(images)]
    pictures = [
        np.where(mask[..., None] > 0, 250, ground).astype(np.uint8) for mask, ground in zip(masks, grey, strict=True)
    ]
    view = replace(PLAIN, background=recipes.Background("swap", p=0.0))
    recipe = recipes.Recipe("swap", (view, view), **IDENTITY)
    views, view_masks, negatives, _ = _augment(recipe, pictures, masks)
    for i in range(8):
        ground, figure = view_masks[0][i] == 0, view_masks[0][i] == 255
        np.testing.assert_array_equal(negatives[i, 0][:, ground], views[0][i][:, ground])
        if figure.sum() > 500:
            assert (views[0][i][0][figure] > 0.95).all()
            assert (negatives[i, 0][0][figure] != views[0][i][0][figure]).mean() > 0.05


def test_a_crop_without_figure_has_another_image_for_a_swap_negative():
    """Not the query itself, which would be its own negative."""
    pictures = [np.full((80, 90, 3), 40 * i + 10, np.uint8) for i in range(4)]
    masks = [np.zeros((80, 90), np.uint8) for _ in range(4)]
    masks[1][20:60, 20:70] = 255
    masks[2][0, 0] = 255  # one pixel is no figure either
    view = replace(PLAIN, background=recipes.Background("swap", p=0.0))
    recipe = recipes.Recipe("swap", (view, view), **IDENTITY)
    views, view_masks, negatives, _ = _augment(recipe, pictures, masks, valid=np.array([True, True, True, False]))
    for i in (0, 2, 3):
        np.testing.assert_allclose(negatives[i, 0], (40 * ((i + 1) % 4) + 10) / 255, atol=1e-6)
    assert (view_masks[0][1] == 255).any()
    ground = view_masks[0][1] == 0
    np.testing.assert_array_equal(negatives[1, 0][:, ground], views[0][1][:, ground])


def test_missing_masks_and_areas_leave_the_image_alone():
    images, masks = _figures(4)
    view = replace(PLAIN, background=recipes.Background("remove", p=1.0, fill="noise", min_area=0.1, max_area=0.8))
    recipe = recipes.Recipe("limits", (view,), **IDENTITY)
    plain = recipes.Recipe("limits", (PLAIN,), **IDENTITY)
    valid, area = np.array([True, False, True, True]), np.array([0.3, 0.3, 0.05, 0.9])
    (got,), _, _, plans = _augment(recipe, images, masks, valid=valid, area=area)
    (want,), _, _, _ = _augment(plain, images, masks, valid=valid)
    assert plans[0]["background"].astype(bool).tolist() == [True, False, False, False]
    np.testing.assert_array_equal(got[1:], want[1:])
    assert not np.array_equal(got[0], want[0])


def test_threads_change_nothing():
    images, masks = _figures(19)
    recipe = recipes.moco_v2(64).with_background("swap", p=0.5)
    one, two = (_augment(recipe, images, masks, threads=threads) for threads in (1, 3))
    for a, b in zip((*one[0], *one[1], one[2]), (*two[0], *two[1], two[2]), strict=True):
        np.testing.assert_array_equal(a, b)


def test_an_error_in_a_thread_reaches_the_caller():
    images, masks = _figures(20)

    def fail(views, rows):
        raise KeyError("stage")

    with pytest.raises(KeyError, match="stage"):
        _augment(recipes.moco_v2(32).with_stage(fail), images, masks, threads=2)


def test_estimate_masks_finds_figures_of_any_size():
    images, masks = _figures(6)
    got = estimate_masks(Ragged.from_arrays(images))
    assert got.shape == (6, 112, 112)
    for estimate, mask in zip(got, masks, strict=True):
        truth = cv2.resize(mask, (112, 112), interpolation=cv2.INTER_AREA) > 127
        assert ((estimate > 127) & truth).sum() / ((estimate > 127) | truth).sum() > 0.8
