"""Gaussian blur of views."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import correlate1d, gaussian_filter

from figureground.kernels import blur
from figureground.kernels.blur import gaussian_blur

SHAPES = [(5, 3, 33, 47), (5, 3, 1, 1), (5, 3, 2, 3), (1, 3, 70, 128), (5, 3, 40, 68), (2, 3, 1, 5000)]
SIGMAS = [0.0, 0.1, 0.7, 1.9, 8.0]


def random_views(shape, seed=0):
    rng = np.random.default_rng(seed)
    views = rng.integers(0, 256, shape, dtype=np.uint8)
    views[rng.random(shape) < 0.4] = 255
    return views


def sigmas(count):
    return np.array((SIGMAS[2:] + SIGMAS[:2])[:count], np.float32)


def oracle(views, sigma_px):
    """SciPy in float64, plane by plane."""
    return np.array(
        [
            [gaussian_filter(p.astype(np.float64), float(s), mode="mirror", truncate=4.0) for p in v]
            for v, s in zip(views, sigma_px)
        ]
    )


def test_by_hand():
    view = np.zeros((1, 3, 3, 3), np.uint8)
    view[:, :, 1, 1] = 255
    got = gaussian_blur(view, np.array([0.3], np.float32))  # radius 1: weights 1 and exp(-1 / 0.18) = 0.003866
    middle = 1 / (1 + 2 * 0.003866)
    side = 0.003866 * middle
    # Reflection without the edge: an edge pixel sees the middle on both sides.
    cross, corner = round(255 * middle * 2 * side), round(255 * 4 * side * side)
    assert got[0, 0].tolist() == [
        [corner, cross, corner],
        [cross, round(255 * middle**2), cross],
        [corner, cross, corner],
    ]


@pytest.mark.parametrize("shape", SHAPES)
def test_near_scipy(shape):
    views, sigma_px = random_views(shape), sigmas(shape[0])
    error = np.abs(gaussian_blur(views, sigma_px) - oracle(views, sigma_px))
    # Half a level for the rounding to bytes; the rest is 16-bit weights and 8.8 intermediate values.
    assert error.max() < 0.5 + 0.06


@pytest.mark.parametrize("taps", [1, 3, 9, 23, 65])
def test_taps_are_torchvisions_kernel_size(taps):
    """Its weights as it defines them, for sigmas whose bell is longer and shorter than the taps."""
    views, sigma_px = random_views((5, 3, 33, 47)), sigmas(5)
    x, got = np.arange(taps) - taps // 2, gaussian_blur(views, sigma_px, taps=taps)
    for view, sigma, made in zip(views, sigma_px, got, strict=True):
        bell = np.exp(-0.5 * (x / max(sigma, 1e-3)) ** 2)
        want = view.astype(np.float64)
        for axis in (1, 2):
            want = correlate1d(want, bell / bell.sum(), axis, mode="mirror")
        assert np.abs(made - want).max() < 0.5 + 0.06


def test_rarely_a_level_from_scipy():
    views = random_views((4, 3, 224, 224))
    sigma_px = np.array([0.5, 1, 2, 6], np.float32)
    differ = gaussian_blur(views, sigma_px) != np.rint(oracle(views, sigma_px))
    assert differ.mean() < 0.003


@pytest.mark.parametrize("sigma", [0.1, 0.125, 0.5, 1, 2, 5.3, 8])
def test_weights(sigma):
    radii, weights = blur._weights(1, np.array([sigma], np.float32))
    assert radii[0] == int(4 * np.float64(np.float32(sigma)) + 0.5)
    assert weights.shape == (1, radii[0] + 1)
    assert weights[0, 0] + 2 * weights[0, 1:].sum() == 65536
    assert (np.diff(weights[0].astype(int)) <= 0).all()


def test_constants_and_extremes_stay():
    views = np.array([0, 1, 128, 255], np.uint8).reshape(4, 1, 1, 1) * np.ones((4, 3, 9, 40), np.uint8)
    for sigma in (0.0, 0.2, 3.0, 8.0):
        np.testing.assert_array_equal(gaussian_blur(views, np.full(4, sigma, np.float32)), views)


def test_flips_with_its_view():
    views, sigma_px = random_views((3, 3, 21, 30)), np.array([0.5, 1, 4], np.float32)
    got = gaussian_blur(views, sigma_px)
    flipped = gaussian_blur(views[:, :, ::-1, ::-1].copy(), sigma_px)
    np.testing.assert_array_equal(flipped[:, :, ::-1, ::-1], got)


@pytest.mark.parametrize("taps", [None, 9])
@pytest.mark.parametrize("shape", SHAPES)
def test_cuda_source_equals_cpu(host_orders, shape, taps):
    views, sigma_px = random_views(shape, 1), sigmas(shape[0])
    want = gaussian_blur(views, sigma_px, taps=taps)
    radii, weights = blur._weights(shape[0], sigma_px, taps)
    with host_orders():
        got = blur._cuda(views, radii, weights, np.zeros_like(views))
        same = views.copy()
        blur._cuda(same, radii, weights, same)
    np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(same, want)


def test_in_place_and_empty():
    views, sigma_px = random_views((5, 3, 30, 41)), sigmas(5)
    want = gaussian_blur(views, sigma_px)
    for n in range(5):
        np.testing.assert_array_equal(gaussian_blur(views[n : n + 1], sigma_px[n : n + 1])[0], want[n])
    assert gaussian_blur(views, sigma_px, out=views) is views
    np.testing.assert_array_equal(views, want)
    assert gaussian_blur(views[:0], sigma_px[:0]).shape == (0, 3, 30, 41)


@pytest.mark.parametrize(
    ("views", "sigma_px", "options", "message"),
    [
        (np.zeros((2, 4, 4, 3), np.uint8), sigmas(2), {}, r"views must be \(N, 3, H, W\) uint8, got \(2, 4, 4, 3\)"),
        (np.zeros((2, 3, 4, 8), np.uint8)[..., ::2], sigmas(2), {}, "views must be C-contiguous"),
        (np.zeros((2, 3, 4, 4), np.uint8), sigmas(3), {}, r"sigma_px must be \(2,\) float32, got \(3,\) float32"),
        (np.zeros((2, 3, 4, 4), np.uint8), [1.0, 2.0], {}, r"sigma_px must be \(2,\) float32, got \(2,\) float64"),
        (np.zeros((1, 3, 4, 4), np.uint8), np.float32([8.5]), {}, r"sigma_px must be in \[0, 8\], got 8.5 in row 0"),
        (np.zeros((1, 3, 4, 4), np.uint8), np.float32([-1]), {}, "got -1.0 in row 0"),
        (np.zeros((1, 3, 4, 4), np.uint8), np.float32([np.nan]), {}, "got nan in row 0"),
        (np.zeros((1, 3, 4, 4), np.uint8), sigmas(1), {"out": np.zeros((1, 3, 4, 5), np.uint8)}, "out must be"),
        (np.zeros((1, 3, 4, 4), np.uint8), sigmas(1), {"taps": 8}, "taps must be an odd number of at least 1, got 8"),
    ],
)
def test_errors(views, sigma_px, options, message):
    with pytest.raises(ValueError, match="gaussian_blur: .*" + message):
        gaussian_blur(views, sigma_px, **options)
