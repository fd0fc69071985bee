"""Targets and inputs of augmentation-aware methods, made from plan rows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from figureground.pipeline import recipes
from figureground.pipeline.plan import BACKGROUND_MODES, PLAN_DTYPE, draw_plan
from figureground.pipeline.targets import VECTOR_FIELDS, augmentation_vector, augself_targets


def _rows(recipe, view, count=200, seed=3):
    sizes = np.random.default_rng(0).integers(60, 500, (count, 2))
    return draw_plan(recipe, view, seed=seed, epoch=1, samples=np.arange(count), sizes=sizes)


def _row(**fields):
    row = np.zeros(1, PLAN_DTYPE)
    row["size"], row["crop"], row["solarize_threshold"] = (100, 200), (0, 0, 200, 100), 128
    row["jitter_factors"], row["jitter_order"] = (1, 1, 1, 0), (0, 1, 2, 3)
    for name, value in fields.items():
        row[name] = value
    return row


def test_targets_by_hand():
    first = _row(
        crop=(20, 10, 100, 50), flip=1, jitter=1, jitter_factors=(1.4, 0.8, 1.0, -0.05), blur=1, blur_sigma=1.5,
        solarize=1, grayscale=1,
    )  # fmt: skip
    second = _row(crop=(80, 40, 60, 20), jitter=0, jitter_factors=(0.6, 1, 1, 0.1), blur_sigma=0.7)
    targets = augself_targets(first, second, recipes.moco_v2())
    # Centres: (35, 70) and (50, 110) of 100 x 200; mirrored as the first view is.
    np.testing.assert_allclose(targets["crop"], [[-0.15, 0.2, 0.3, 0.2]], atol=1e-6)
    assert targets["flip"].tolist() == [[0]]
    np.testing.assert_allclose(targets["color"], [[0.5, -0.25, 0, -0.25]], atol=1e-6)  # ranges 0.8, 0.8, 0.8, 0.2
    assert targets["blur"].tolist() == [[1.5]]
    assert targets["solarize"].tolist() == [[-0.5]]  # 128 / 256 minus 1
    assert targets["grayscale"].tolist() == [[1]]


def _source_targets(first, second, recipe):
    """The source's arithmetic, one sample at a time in plain Python."""
    made = []
    for a, b in zip(first, second):
        sides = []
        for row in (a, b):
            (x, y, w, h), (height, width) = row["crop"].tolist(), row["size"].tolist()
            center = [(y + h / 2) / height, (x + w / 2) / width]
            if a["flip"]:
                center[1] = 1 - center[1]
            jitter, color = recipe.views[row["view"]].jitter, [0.0] * 4
            if row["jitter"]:
                for k, strength in enumerate((jitter.brightness, jitter.contrast, jitter.saturation)):
                    color[k] = (row["jitter_factors"][k] - 1) / ((1 + strength) - max(0, 1 - strength))
                color[3] = row["jitter_factors"][3] / (2 * jitter.hue)
            sigma = row["blur_sigma"] if row["blur"] else 0
            solarize = row["solarize_threshold"] / 256 if row["solarize"] else 1
            sides.append([*center, h / height, w / width, *color, sigma, solarize, row["grayscale"]])
        made.append([*np.subtract(*np.array(sides, np.float64)).tolist(), float(a["flip"] == b["flip"])])
    return np.array(made)


@pytest.mark.parametrize("name", ["simclr", "byol", "dino"])
def test_targets_equal_the_sources(name):
    recipe = recipes.PRESETS[name]()
    first, second = _rows(recipe, 0), _rows(recipe, 1)
    targets = augself_targets(first, second, recipe)
    got = np.concatenate([targets[k] for k in ("crop", "color", "blur", "solarize", "grayscale", "flip")], 1)
    np.testing.assert_allclose(got, _source_targets(first, second, recipe), atol=2e-6)
    assert all(target.dtype == np.float32 for target in targets.values())
    assert np.abs(targets["color"]).max() <= 1


def test_views_with_ranges_of_their_own():
    strong = recipes.moco_v2()
    weak = replace(strong.views[1], jitter=recipes.Jitter(0.1, 0, 2, 0))
    recipe = replace(strong, views=(strong.views[0], weak))
    first, second = _row(jitter=1), _row(jitter=1, view=1, jitter_factors=(1.1, 1, 2, 0))
    targets = augself_targets(first, second, recipe)
    np.testing.assert_allclose(targets["color"], [[-0.5, 0, -1 / 3, 0]], atol=1e-6)  # saturation: 0 .. 3


def test_the_same_view_twice_and_both_ways():
    recipe = recipes.byol()
    first, second = _rows(recipe, 0), _rows(recipe, 1)
    same = augself_targets(first, first, recipe)
    assert (same.pop("flip") == 1).all()
    assert all((target == 0).all() for target in same.values())
    there, back = augself_targets(first, second, recipe), augself_targets(second, first, recipe)
    alike = there["flip"][:, 0] == 1
    for name in ("crop", "color", "blur", "solarize", "grayscale"):
        np.testing.assert_array_equal(there[name][alike], -back[name][alike])


def test_vector_by_hand():
    row = _row(
        crop=(20, 10, 100, 50), flip=1, jitter=1, jitter_order=(2, 0, 3, 1), jitter_factors=(1.25, 0.5, 1.5, -0.1),
        grayscale=1, blur=1, blur_sigma=0.5, solarize=1, solarize_threshold=64, background=BACKGROUND_MODES.index("swap"),
    )  # fmt: skip
    vector = dict(zip(VECTOR_FIELDS, augmentation_vector(row)[0].tolist(), strict=True))
    want = {
        "center_y": 0.35, "center_x": 0.65, "height": 0.5, "width": 0.5, "flip": 1, "jitter": 1, "brightness": 0.25,
        "contrast": -0.5, "saturation": 0.5, "hue": -0.1, "brightness_turn": 0.5, "contrast_turn": 1, "saturation_turn": 0.25,
        "hue_turn": 0.75, "grayscale": 1, "blur": 1, "blur_sigma": 0.5, "solarize": 1, "solarize_share": 0.75,
        "background_swap": 1,
    }  # fmt: skip
    assert {name: value for name, value in vector.items() if value} == pytest.approx(want)


def test_vector_of_what_was_not_applied():
    row = _row(jitter_factors=(1.3, 0.7, 1.1, 0.2), blur_sigma=1.2)
    assert augmentation_vector(row)[0].tolist() == [0.5, 0.5, 1, 1] + [0] * (len(VECTOR_FIELDS) - 4)


def test_vectors_of_drawn_plans():
    vectors = augmentation_vector(_rows(recipes.simclr().with_background("remove", p=0.5), 0))
    assert vectors.shape == (200, len(VECTOR_FIELDS))
    assert vectors.dtype == np.float32
    assert np.isfinite(vectors).all()
    assert np.abs(vectors).max() <= 2
    assert vectors[:, VECTOR_FIELDS.index("background_grey")].sum() > 50


def test_empty():
    rows = np.zeros(0, PLAN_DTYPE)
    assert augmentation_vector(rows).shape == (0, len(VECTOR_FIELDS))
    assert augself_targets(rows, rows, recipes.moco_v2())["color"].shape == (0, 4)


def test_messages():
    recipe = recipes.moco_v2()
    first, second = _rows(recipe, 0, 4), _rows(recipe, 1, 4)
    with pytest.raises(ValueError, match="first and second must be rows of the same samples, got"):
        augself_targets(first, second[::-1], recipe)
    with pytest.raises(ValueError, match=r"second must be \(N,\) PLAN_DTYPE rows of a plan, got \(4,\) float32"):
        augself_targets(first, np.zeros(4, np.float32), recipe)
    with pytest.raises(ValueError, match="rows must be \\(N,\\) PLAN_DTYPE rows of a plan, got list"):
        augmentation_vector([1])
    paired = second.copy()
    paired["source"][1] = 0
    with pytest.raises(ValueError, match="first and second must show the same images, got 1 of 4 rows whose 'source'"):
        augself_targets(first, paired, recipe)
    same = first["source"] == paired["source"]
    np.testing.assert_array_equal(
        augself_targets(first[same], paired[same], recipe)["crop"],
        augself_targets(first, second, recipe)["crop"][same],
    )
    second["view"] = 2
    with pytest.raises(ValueError, match=r"rows must be of the recipe's views 0\.\.1, got view 2"):
        augself_targets(first, second, recipe)
