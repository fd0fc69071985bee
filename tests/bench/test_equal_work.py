"""The check of equal work: it passes what is equal, and names what is not."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from figureground.bench.equal_work import BOUNDS, check, describe, describe_pairs, differences
from figureground.bench.photos import write_photos
from figureground.pipeline import Loader, recipes
from figureground.shards.writer import pack

MEAN, STD = (np.array(x, np.float32)[:, None, None] for x in (recipes.IMAGENET_MEAN, recipes.IMAGENET_STD))


def views_of(levels):
    """(N, 3, H, W) grey levels as normalised views."""
    return ((levels.astype(np.float32) / 255 - MEAN) / STD).astype(np.float32)


@pytest.fixture
def levels():
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (64, 8, 8, 3), np.uint8)
    images = np.stack([cv2.resize(c, (32, 32), interpolation=cv2.INTER_CUBIC) for c in coarse]).transpose(0, 3, 1, 2)
    images[:16] = images[:16].mean(1, keepdims=True).astype(np.uint8)  # a quarter is grey
    return np.ascontiguousarray(images)


def test_summary_by_hand():
    levels = np.zeros((2, 3, 2, 2), np.uint8)
    levels[0] = [[[0, 255], [0, 255]]] * 3
    levels[1, 0] = 255
    summary = describe(views_of(levels))
    # Red: half of the first view and all of the second are 1, the rest 0.
    red = np.array([0, 1, 0, 1, 1, 1, 1, 1], np.float64)
    assert summary["mean"][0] == pytest.approx((red.mean() - 0.485) / 0.229, abs=1e-3)
    assert summary["std"][0] == pytest.approx(red.std() / 0.229, abs=1e-3)
    assert summary["gray"] == 0.5
    # The first view steps by 1 / std in each channel, the second never.
    assert summary["step"] == pytest.approx(np.mean([1 / s for s in recipes.IMAGENET_STD]) / 2, abs=1e-3)


def test_the_same_work_passes(levels):
    views = views_of(levels)
    ours = check([views], 32, np.float32, None)
    assert ours["equal"]
    assert ours["why"] == ""
    assert ours["views"] == 64
    assert ours["gray"] == 0.25
    assert check([views[::-1, :, :, ::-1]], 32, np.float32, ours)["equal"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda x: np.minimum(x * 1.4, 255), "mean differs by"),
        (lambda x: 128 + (x - 128) * 0.7, "std differs by"),
        (lambda x: np.repeat(x.mean(1, keepdims=True), 3, axis=1), "gray differs by"),
        (lambda x: np.stack([cv2.blur(c.transpose(1, 2, 0), (7, 7)).transpose(2, 0, 1) for c in x]), "step differs by"),
        (lambda x: x[:, ::-1], "std|mean"),
    ],
    ids=["brighter", "flatter", "grey", "blurred", "BGR"],
)
def test_other_work_is_named(levels, change, says):
    levels[:, 0] //= 2  # so that a channel order shows
    ours = check([views_of(levels)], 32, np.float32, None)
    found = check([views_of(change(levels.astype(np.float32)))], 32, np.float32, ours)
    assert not found["equal"]
    assert any(word in found["why"] for word in says.split("|"))
    assert "at most" in found["why"]


def test_other_shapes_are_named(levels):
    views = views_of(levels)
    found = check([views.astype(np.float64)], 32, np.float32, None)
    assert found == {"equal": False, "why": "gives (64, 3, 32, 32) float64 instead of (B, 3, 32, 32) float32"}
    assert "instead of" in check([views, views[:, :, :16]], 32, np.float32, None)["why"]


def test_bounds_and_differences_have_the_same_names(levels):
    ours = check([views_of(levels)] * 2, 32, np.float32, None)
    assert differences(ours, ours).keys() == BOUNDS.keys()


def test_pairs_by_hand():
    one, other = np.full((2, 3, 4, 4), 100, np.uint8), np.full((2, 3, 4, 4), 100, np.uint8)
    other[0] = 200  # the first pair: twice as bright, both grey
    one[1, 0] = other[1, 2] = 200  # the second one: red and blue, a third of a turn apart, equally bright
    one[:, :, :, :2] += 10  # to the left
    found = describe_pairs(views_of(one), views_of(other))
    assert found["brightness"] == pytest.approx((np.log(200 / 105) + np.log(400 / 3 / (400 / 3 + 5))) / 2, abs=0.04)
    assert found["hue"] == pytest.approx(2 * np.pi / 3, abs=1e-3)
    assert found["one_gray"] == 0.0
    assert found["lean"] == pytest.approx(10 / 255 / np.mean(recipes.IMAGENET_STD) / 2, abs=1e-3)
    other[1] = 100
    assert describe_pairs(views_of(one), views_of(other))["one_gray"] == 0.5


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Two MoCo-v2 views of 96 photographs, and the same without one step each."""
    folder = tmp_path_factory.mktemp("drawn")
    write_photos(folder / "photos", count=96, long_side=120)
    pack(folder / "photos", folder / "shards", progress=False)
    base = recipes.moco_v2(64)
    view = base.views[0]
    changes = {
        "jitter": {"jitter": None}, "hue": {"jitter": replace(view.jitter, hue=0.0)},
        "brightness": {"jitter": replace(view.jitter, brightness=0.0)}, "blur": {"blur": None}, "gray": {"grayscale_p": 0.0},
    }  # fmt: skip
    found = {}
    for name, change in {"all": {}, **changes}.items():
        recipe = replace(base, views=tuple(replace(v, **change) for v in base.views))
        with Loader(
            folder / "shards" / "*.tar", recipe, batch_size=96, device="cpu", format="moco", masks=None
        ) as loader:
            parts = [views for epoch in range(3) for views, _ in _epoch(loader, epoch)]
        found[name] = [np.concatenate([part[v].numpy() for part in parts]) for v in range(2)]
    return found


def _epoch(loader, number):
    loader.set_epoch(number)
    return list(loader)


@pytest.mark.parametrize(
    ("left_out", "shows"),
    [("jitter", "brightness"), ("hue", "hue"), ("brightness", "brightness"), ("blur", "step"), ("gray", "one_gray")],
)
def test_a_step_that_is_left_out_shows(drawn, left_out, shows):
    ours = check(drawn["all"], 64, np.float32, None)
    found = check(drawn[left_out], 64, np.float32, ours)
    assert not found["equal"]
    assert f"{shows} differs by" in found["why"]


def test_pairs_of_few_views_are_judged_less_strictly(levels):
    ours = check([views_of(levels)] * 2, 32, np.float32, None)
    dim = [views_of(levels), views_of(levels * 0.87)]  # one view of each pair a little darker: |log 0.87| = 0.14
    assert "brightness differs by" in check([np.tile(view, (8, 1, 1, 1)) for view in dim], 32, np.float32, ours)["why"]
    assert "brightness" not in check(dim, 32, np.float32, ours)["why"]
