"""Label augmentation: turned views, their masks and negatives, and the joint labels."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from loader_tools import assert_same, collect, make
from scipy import stats

from figureground.pipeline import recipes
from figureground.pipeline.label_targets import expand_labels, joint_targets, transform_numbers
from figureground.pipeline.plan import PLAN_DTYPE, draw_plan
from figureground.pipeline.targets import VECTOR_FIELDS, augmentation_vector, augself_targets

PLAIN = recipes.moco_v2(32).with_background("swap", p=0.5)
SAME = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
ORDERS = list(itertools.permutations(range(3)))


def _rows(recipe, view=0, count=6000, **options):
    where = {"seed": 0, "epoch": 0, "samples": np.arange(count), "sizes": np.full((count, 2), 300)}
    return draw_plan(recipe, view, **(where | options))


def _turned(tensor, row):
    """The definition, for one view (3, S, S) or mask (S, S)."""
    turned = torch.rot90(tensor, int(row["rotation"]), (-2, -1))
    return turned[list(ORDERS[row["channel_order"]])] if tensor.ndim == 3 else turned


def test_views_masks_and_negatives_are_turned_after_colour(shards):
    """The same loader without the stage, turned by hand, is the loader with it: exactly."""
    plain = replace(PLAIN, **SAME)
    with make(shards, plain) as a, make(shards, plain.with_label_augmentation()) as b:
        left, right = next(iter(a)), next(iter(b))
    seen = set()
    for v in (0, 1):
        for i, row in enumerate(right["params"][v]):
            seen.add(int(row["rotation"]))
            assert torch.equal(right["views"][v][i], _turned(left["views"][v][i], row))
            assert torch.equal(right["masks"][v][i], _turned(left["masks"][v][i], row))
            if v == 0:
                assert torch.equal(right["negatives"][i, 0], _turned(left["negatives"][i, 0], row))
    assert len(seen) > 2


def test_patches_are_of_the_turned_view(shards):
    """Patch negatives hold colours of the turned query; a shuffle by region follows the turned mask."""
    recipe = replace(recipes.moco_v2(32), **SAME).with_label_augmentation().with_negatives("patch", side=(3, 9))
    with make(shards, recipe) as loader:
        batch = next(iter(loader))
    assert batch["params"][0]["channel_order"].any()
    for query, (negative,) in zip(batch["views"][0], batch["negatives"], strict=True):
        assert {tuple(c) for c in negative.flatten(1).T.tolist()} <= {tuple(c) for c in query.flatten(1).T.tolist()}
    turned = recipes.moco_v2(32).with_label_augmentation()
    with make(shards, turned) as a, make(shards, turned.with_patch_shuffle(8, p=1.0, region="ground")) as b:
        left, right = next(iter(a)), next(iter(b))
    cells = torch.nn.functional.avg_pool2d(left["masks"][0][:, None], 4)
    figure = torch.nn.functional.interpolate((cells > 0.51).float(), scale_factor=4) > 0
    same = (left["views"][0] == right["views"][0]).all(1, keepdim=True)
    assert same[figure].all()
    assert not same[~figure].all()


@pytest.mark.parametrize(("rotation", "colors", "count"), [(True, False, 4), (False, True, 6), (True, True, 24)])
def test_draws_are_uniform_and_independent(rotation, colors, count):
    recipe = recipes.moco_v2().with_label_augmentation(rotation=rotation, colors=colors)
    rows = _rows(recipe)
    numbers = transform_numbers(rows, recipe)
    assert recipe.views[0].label_augmentation.transforms == count
    assert stats.chisquare(np.bincount(numbers, minlength=count)).pvalue > 1e-3
    assert numbers.max() == count - 1
    other = transform_numbers(_rows(recipe, 1), recipe)
    assert stats.chi2_contingency(np.histogram2d(numbers, other, count)[0]).pvalue > 1e-3
    for name in PLAN_DTYPE.names:
        if name not in ("rotation", "channel_order"):
            np.testing.assert_array_equal(rows[name], _rows(recipes.moco_v2())[name])


def test_batch_size_threads_replay_and_resume(shards):
    recipe = PLAIN.with_label_augmentation()
    with make(shards, recipe) as one, make(shards, recipe, batch_size=24, threads=1) as two:
        whole = collect(one)
        assert_same(whole, collect(two))
        again = one.replay([17, 4], epoch=0)
        for i, index in enumerate((17, 4)):
            np.testing.assert_array_equal(again["views"][1][i], whole[index][1])
            np.testing.assert_array_equal(again["masks"][0][i], whole[index][2])
        assert (again["params"][0]["rotation"] == [whole[i][5]["rotation"] for i in (17, 4)]).all()
        state = None
        two.set_epoch(0)
        for _ in two:
            state = two.state_dict()
            break
        two.load_state_dict(state)
        rest = collect(two)
    assert_same({i: whole[i] for i in rest}, rest)
    assert len(rest) == 120 - 24


def test_only_the_chosen_views():
    recipe = recipes.swav().with_label_augmentation()
    assert [v.label_augmentation is not None for v in recipe.views] == [True] * 2 + [False] * 6
    local = recipes.swav().with_label_augmentation(views=(3,))
    assert _rows(local, 3)["rotation"].any()
    assert not _rows(local, 0)["rotation"].any()
    assert recipe.fingerprint != recipes.swav().fingerprint


def _row(count=1, **fields):
    rows = np.zeros(count, PLAN_DTYPE)
    rows["size"], rows["crop"] = (10, 10), (0, 0, 10, 10)
    for name, value in fields.items():
        rows[name] = value
    return rows


def test_joint_labels_by_hand():
    rows = _row(3, rotation=(0, 1, 3), channel_order=(0, 2, 5))
    both = recipes.moco_v2().with_label_augmentation()
    targets = np.array([0, 2, 9])
    assert joint_targets(targets, rows, both).tolist() == [0, 2 * 24 + 8, 9 * 24 + 23]
    got = joint_targets(torch.tensor([0, -1, 9]), rows, both)
    assert (got.tolist(), got.dtype) == ([0, -1, 239], torch.int64)
    turns = recipes.moco_v2().with_label_augmentation(colors=False)
    assert joint_targets(targets, _row(3, rotation=(0, 1, 3)), turns).tolist() == [0, 9, 39]
    orders = recipes.moco_v2().with_label_augmentation(rotation=False)
    assert joint_targets(targets, _row(3, channel_order=(0, 1, 5)), orders).tolist() == [0, 13, 59]


@pytest.mark.parametrize(("rotation", "colors"), [(True, False), (False, True), (True, True)])
def test_expanded_batches_hold_what_the_stage_draws(shards, rotation, colors):
    """One of the expanded views of each sample is the drawn one, with the same joint label; all of them differ."""
    plain = replace(recipes.moco_v2(32), **SAME)
    recipe = plain.with_label_augmentation(rotation=rotation, colors=colors)
    with make(shards, plain) as a, make(shards, recipe) as b:
        left, right = next(iter(a)), next(iter(b))
    views, targets = expand_labels(left["views"][0], left["target"], rotation=rotation, colors=colors)
    count = recipe.views[0].label_augmentation.transforms
    assert views.shape == (8 * count, 3, 32, 32)
    rows = right["params"][0]
    places = np.arange(8) * count + transform_numbers(rows, recipe)
    assert torch.equal(views[places], right["views"][0])
    assert torch.equal(targets[places], joint_targets(right["target"], rows, recipe))
    grey = rows["grayscale"] == 1
    for sample in views.reshape(8, count, -1)[~torch.from_numpy(grey)]:
        assert len(torch.unique(sample, dim=0)) == count
    assert targets.tolist() == [t * count + k for t in left["target"].tolist() for k in range(count)]


def test_expanded_without_a_class():
    views, targets = expand_labels(torch.rand(1, 3, 2, 2, dtype=torch.float16), torch.tensor([-1]))
    assert targets.tolist() == [-1] * 24
    assert views.dtype == torch.float16


def test_augmentation_aware_targets_know_turns():
    first, second = _row(rotation=1), _row(rotation=3, channel_order=5)
    assert augself_targets(first, second, recipes.moco_v2())["rotation"].tolist() == [[2]]
    assert augself_targets(_row(), first, recipes.moco_v2())["rotation"].tolist() == [[3]]
    vector = dict(zip(VECTOR_FIELDS, augmentation_vector(second)[0].tolist(), strict=True))
    assert {n: v for n, v in vector.items() if n.startswith(("rotation", "channels")) and v} == {
        "rotation_270": 1,
        "channels_bgr": 1,
    }


def test_messages():
    recipe, rows = recipes.moco_v2().with_label_augmentation(), _row(2)
    with pytest.raises(ValueError, match="LabelAugmentation: rotation or colors must be True, got False for both"):
        recipes.moco_v2().with_label_augmentation(rotation=False, colors=False)
    with pytest.raises(ValueError, match=r"with_label_augmentation: views must be in 0\.\.1, got 2"):
        recipes.moco_v2().with_label_augmentation(views=(2,))
    with pytest.raises(ValueError, match=r"joint_targets: targets must be \(2,\) as the rows, got \(3,\)"):
        joint_targets(np.zeros(3, int), rows, recipe)
    with pytest.raises(
        ValueError, match="transform_numbers: recipe must have a label augmentation on view 0, got none"
    ):
        joint_targets(np.zeros(2, int), rows, recipes.moco_v2())
    with pytest.raises(ValueError, match=r"rows must be of one of the recipe's views 0\.\.1, got views \[0, 1\]"):
        transform_numbers(_row(2, view=(0, 1)), recipe)
    with pytest.raises(ValueError, match=r"rows must be \(N,\) PLAN_DTYPE rows of a plan, got list"):
        transform_numbers([1], recipe)
    with pytest.raises(ValueError, match=r"expand_labels: views must be \(B, 3, S, S\), got \(2, 3, 4, 5\)"):
        expand_labels(torch.zeros(2, 3, 4, 5), torch.zeros(2))
    with pytest.raises(ValueError, match=r"expand_labels: targets must be \(2,\), got \(3,\)"):
        expand_labels(torch.zeros(2, 3, 4, 4), torch.zeros(3))
