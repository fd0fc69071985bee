"""Colour jitter, grayscale and solarize of views: Pillow, bit for bit."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from figureground.kernels import color

NONE = [255] * 4
ORDERS = list(itertools.permutations(range(4)))


def pillow_jitter(view, factors, order, gray):
    """What torchvision does to a PIL image; the oracle."""
    image = Image.fromarray(np.ascontiguousarray(view.transpose(1, 2, 0)))
    for step in order:
        factor = float(factors[step]) if step < 4 else 1.0
        if step == 0:
            image = ImageEnhance.Brightness(image).enhance(factor)
        elif step == 1:
            image = ImageEnhance.Contrast(image).enhance(factor)
        elif step == 2:
            image = ImageEnhance.Color(image).enhance(factor)
        elif step == 3:
            h, s, v = image.convert("HSV").split()
            h = Image.fromarray(np.asarray(h) + np.array(factor * 255).astype(np.int32).astype(np.uint8))
            image = Image.merge("HSV", (h, s, v)).convert("RGB")
    if gray:
        image = image.convert("L").convert("RGB")
    return np.asarray(image).transpose(2, 0, 1)


def random_views(shape, seed):
    rng = np.random.default_rng(seed)
    views = rng.integers(0, 256, shape, dtype=np.uint8)
    views[rng.random(shape) < 0.1] = 255
    views[rng.random(shape) < 0.1] = 0
    return views


def random_parameters(count, seed):
    rng = np.random.default_rng(seed)
    factors = np.empty((count, 4), np.float32)
    factors[:, :3] = rng.uniform(0, 2, (count, 3))
    factors[:, 3] = rng.uniform(-0.5, 0.5, count)
    factors[rng.random((count, 4)) < 0.1] = 0
    order = rng.permuted(np.tile(np.arange(4, dtype=np.uint8), (count, 1)), axis=1)
    order[rng.random((count, 4)) < 0.2] = 255
    return {"factors": factors, "order": order, "grayscale": rng.random(count) < 0.3}


def all_colors(step):
    """Every `step`-th of the 2^24 colours and all grays, as one view of one row."""
    codes = np.concatenate([np.arange(0, 1 << 24, step), np.arange(256) * 0x010101])
    return np.stack([codes >> 16, codes >> 8, codes]).astype(np.uint8)[None, :, None]


def jitter_one(view, factors, order, **options):
    factors, order = np.array([factors], np.float32), np.array([order], np.uint8)
    return color.jitter_color(view, factors=factors, order=order, **options)


def test_by_hand():
    view = np.array([[100, 200], [50, 0], [0, 0]], np.uint8).reshape(1, 3, 1, 2)
    # Gray levels 59 and 60, so the mean 59.5 is rounded to 60.
    assert jitter_one(view, [1.5, 1, 1, 0], [0, *NONE[1:]])[0, :, 0].tolist() == [[150, 255], [75, 0], [0, 0]]
    assert jitter_one(view, [1, 0, 1, 0], [1, *NONE[1:]])[0, :, 0].tolist() == [[60, 60]] * 3
    assert jitter_one(view, [1, 1, 0, 0], [2, *NONE[1:]])[0, :, 0].tolist() == [[59, 60]] * 3
    assert jitter_one(view, [1, 1, 1, 0], NONE, grayscale=np.array([True]))[0, :, 0].tolist() == [[59, 60]] * 3
    # A third of a turn takes red to green.
    assert jitter_one(view[..., 1:].copy(), [1, 1, 1, 1 / 3], [3, *NONE[1:]])[0, :, 0].tolist() == [[0], [200], [0]]
    np.testing.assert_array_equal(jitter_one(view, [9, 9, 9, 0.5], NONE), view)


@pytest.mark.parametrize("shape", [(24, 3, 33, 47), (8, 3, 1, 1), (5, 3, 64, 48), (2, 3, 5, 1024)])
@pytest.mark.parametrize("seed", [0, 1])
def test_equals_pillow(shape, seed):
    views, parameters = random_views(shape, seed), random_parameters(shape[0], seed + 10)
    got = color.jitter_color(views, **parameters)
    for view, result, *row in zip(views, got, *parameters.values()):
        np.testing.assert_array_equal(result, pillow_jitter(view, *row), err_msg=str(row))


def test_equals_pillow_in_every_order():
    views = random_views((len(ORDERS), 3, 20, 60), 3)
    factors = random_parameters(len(ORDERS), 4)["factors"]
    got = color.jitter_color(views, factors=factors, order=np.array(ORDERS, np.uint8))
    for view, result, row, order in zip(views, got, factors, ORDERS):
        np.testing.assert_array_equal(result, pillow_jitter(view, row, order, False))


@pytest.mark.parametrize("hue", [0.0, 0.1, -0.1, 0.5, -0.5, 1 / 255])
def test_hue_of_many_colors_equals_pillow(hue):
    view, factors = all_colors(97), np.array([1, 1, 1, hue], np.float32)
    got = jitter_one(view, factors, [3, *NONE[1:]])
    np.testing.assert_array_equal(got[0], pillow_jitter(view[0], factors, [3], False))


@pytest.mark.slow
def test_hue_of_all_colors_equals_pillow():
    view, factors = all_colors(1), np.array([1, 1, 1, 0.07], np.float32)
    got = jitter_one(view, factors, [3, *NONE[1:]])
    np.testing.assert_array_equal(got[0], pillow_jitter(view[0], factors, [3], False))


@pytest.mark.parametrize("step", [0, 1, 2])
@pytest.mark.parametrize("factor", [0.0, 1e-3, 0.6, 1.0, 1.4, 3.7, -0.5])
def test_blends_of_many_colors_equal_pillow(step, factor):
    view, factors = all_colors(9973), np.full(4, factor, np.float32)
    factors[3] = 0
    got = jitter_one(view, factors, [step, *NONE[1:]])
    np.testing.assert_array_equal(got[0], pillow_jitter(view[0], factors, [step], False))


@pytest.mark.parametrize("threshold", [-3, 0, 1, 128, 255, 256, 1000])
def test_solarize_equals_pillow(threshold):
    view = all_colors(65537)
    got = color.solarize(view, np.array([threshold]))
    want = ImageOps.solarize(Image.fromarray(view[0, :, 0]), threshold)
    np.testing.assert_array_equal(got[0, :, 0], np.asarray(want))


@pytest.mark.parametrize("shape", [(9, 3, 16, 80), (5, 3, 7, 5), (3, 3, 1, 1), (1, 3, 40, 52), (2, 3, 3, 2000)])
def test_cuda_source_equals_cpu(host_orders, shape):
    views, parameters = random_views(shape, 5), random_parameters(shape[0], 6)
    table = color._table(shape[0], *parameters.values())
    want = color.jitter_color(views, **parameters)
    with host_orders():
        got = color._cuda(views, table, np.zeros_like(views))
        same = views.copy()
        color._cuda(same, table, same)
    np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(same, want)


def test_cuda_source_in_every_order(host_cuda):
    views, factors = random_views((len(ORDERS), 3, 4, 24), 3), random_parameters(len(ORDERS), 4)["factors"]
    table = color._table(len(ORDERS), factors, np.array(ORDERS, np.uint8), None)
    with host_cuda():
        got = color._cuda(views, table, np.zeros_like(views))
    np.testing.assert_array_equal(got, color.jitter_color(views, factors=factors, order=np.array(ORDERS, np.uint8)))


@pytest.mark.parametrize("shape", [(4, 3, 16, 17), (4, 3, 7, 5), (1, 3, 1, 1)])
def test_cuda_solarize_equals_cpu(host_cuda, shape):
    views, limits = random_views(shape, 7), np.array([0, 100, 128, 256], np.int32)[: shape[0]]
    with host_cuda():
        got = color._cuda_solarize(views, limits, np.zeros_like(views))
    np.testing.assert_array_equal(got, color.solarize(views, limits))


def test_in_place_and_rows_apart():
    views, parameters = random_views((6, 3, 30, 41), 8), random_parameters(6, 9)
    want = color.jitter_color(views, **parameters)
    for n in range(6):
        one = {name: values[n : n + 1] for name, values in parameters.items()}
        np.testing.assert_array_equal(color.jitter_color(views[n : n + 1], **one)[0], want[n])
    copy = views.copy()
    assert color.jitter_color(copy, **parameters, out=copy) is copy
    np.testing.assert_array_equal(copy, want)
    thresholds = np.arange(0, 300, 50)
    want = color.solarize(views, thresholds)
    assert color.solarize(views, thresholds, out=views) is views
    np.testing.assert_array_equal(views, want)


def test_empty():
    views = np.empty((0, 3, 8, 8), np.uint8)
    assert color.jitter_color(views, **random_parameters(0, 0)).shape == views.shape
    assert color.solarize(views, np.empty(0, int)).shape == views.shape
    views = np.empty((2, 3, 0, 8), np.uint8)
    assert color.jitter_color(views, **random_parameters(2, 0)).shape == views.shape


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"views": np.zeros((2, 4, 4, 3), np.uint8)}, r"views must be \(N, 3, H, W\) uint8, got \(2, 4, 4, 3\)"),
        ({"views": np.zeros((2, 3, 4, 4), np.float32)}, "views must be .* float32"),
        ({"views": np.zeros((2, 3, 4, 8), np.uint8)[..., ::2]}, "views must be C-contiguous"),
        ({"out": np.zeros((1, 3, 4, 4), np.uint8)}, r"out must be \(2, 3, 4, 4\) uint8"),
        ({"factors": np.zeros((2, 4))}, r"factors must be \(2, 4\) float32, got \(2, 4\) float64"),
        ({"factors": np.array([[1, 1, 1, 0], [1, np.nan, 1, 0]], np.float32)}, "factors must be finite .* in row 1"),
        ({"factors": np.full((2, 4), 0.6, np.float32)}, r"hue in \[-0.5, 0.5\], got \[0.6.* in row 0"),
        ({"order": np.zeros((2, 4), np.int64)}, r"order must be \(2, 4\) uint8"),
        ({"order": np.array([NONE, [0, 1, 1, 255]], np.uint8)}, r"order .* at most once .* \[0, 1, 1, 255\] in row 1"),
        ({"order": np.array([NONE, [0, 1, 4, 255]], np.uint8)}, r"got \[0, 1, 4, 255\] in row 1"),
        ({"grayscale": np.zeros(3, bool)}, r"grayscale must be \(2,\) bool, got \(3,\)"),
    ],
)
def test_errors(change, message):
    arguments = {"views": np.zeros((2, 3, 4, 4), np.uint8), **random_parameters(2, 0), **change}
    with pytest.raises(ValueError, match="jitter_color: .*" + message):
        color.jitter_color(arguments.pop("views"), **arguments)


def test_errors_of_solarize():
    views = np.zeros((2, 3, 4, 4), np.uint8)
    with pytest.raises(ValueError, match=r"solarize: thresholds must be \(2,\) integers, got \(2,\) float64"):
        color.solarize(views, np.zeros(2))
    with pytest.raises(TypeError, match="solarize: views must be a NumPy or CUDA array, got list"):
        color.solarize([1], np.zeros(1, int))
