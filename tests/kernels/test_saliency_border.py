"""Color distance to the border strips."""

from __future__ import annotations

import numpy as np
import pytest

from figureground.kernels import saliency_border


def _reference(planes):
    """Mahalanobis distances in NumPy, float64."""
    cues = []
    for plane in planes:
        colors = plane.reshape(3, -1).T.astype(float)
        height, width = plane.shape[1:]
        tall, wide = max(1, (height + 5) // 10), max(1, (width + 5) // 10)
        maps = []
        for strip in (plane[:, :tall], plane[:, -tall:], plane[:, :, :wide], plane[:, :, -wide:]):
            strip = strip.reshape(3, -1).T.astype(float)
            inverse = np.linalg.inv(np.cov(strip.T, bias=True) + saliency_border.REGULAR * np.eye(3))
            off = colors - strip.mean(axis=0)
            distance = np.sqrt(np.einsum("ni,ij,nj->n", off, inverse, off))
            maps.append((distance - distance.min()) / max(np.ptp(distance), 1e-3))
        total = np.sum(maps, axis=0) - np.max(maps, axis=0)
        cues.append(((total - total.min()) / max(np.ptp(total), 1e-3)).reshape(height, width))
    return np.array(cues) * saliency_border.FULL


def _planes(shape, seed):
    rng = np.random.default_rng(seed)
    base = rng.integers(0, 200, (*shape[:2], 1, 1))
    return (base + rng.integers(0, 56, shape)).astype(np.uint8)


def test_by_hand():
    planes = np.full((1, 3, 20, 20), 100, np.uint8)
    planes[:, 0, 5:15, 5:15] = 120
    planes[:, 0, 8:12, 8:12] = 140  # twice as far from the border's color
    cue = saliency_border.border_contrast(planes)[0]
    assert cue[0, 0] == 0
    assert cue[10, 10] == saliency_border.FULL
    assert abs(int(cue[6, 6]) - saliency_border.FULL // 2) <= 1


@pytest.mark.parametrize("shape", [(2, 3, 16, 16), (1, 3, 37, 53), (3, 3, 64, 20)])
def test_equals_numpy(shape):
    planes = _planes(shape, 0)
    got = saliency_border.border_contrast(planes)
    assert np.abs(got - _reference(planes)).max() < 1.0  # float32 against float64, then rounded


@pytest.mark.parametrize("shape", [(2, 3, 16, 16), (1, 3, 37, 53), (1, 3, 1, 1)])
def test_cuda_source_equals_cpu(host_orders, shape):
    planes = _planes(shape, 1)
    with host_orders() as device:
        got = device.numpy(saliency_border._cuda(device.array(planes)))
    np.testing.assert_array_equal(got, saliency_border._cpu(planes))


def test_flat_is_zero_and_empty_is_legal():
    assert saliency_border.border_contrast(np.full((1, 3, 16, 16), 7, np.uint8)).max() == 0
    assert saliency_border.border_contrast(np.zeros((0, 3, 16, 16), np.uint8)).shape == (0, 16, 16)
