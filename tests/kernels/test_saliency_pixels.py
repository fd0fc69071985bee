"""MBD and MB+ maps."""

from __future__ import annotations

import numpy as np
import pytest

from figureground.kernels import saliency_pixels
from figureground.kernels.saliency_pixels import pixel_saliency


def _inputs(shape, seed):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 200, (shape[0], 3, *shape[1:]), dtype=np.uint8), rng.integers(
        0, 4096, shape, dtype=np.uint16
    )


def test_by_hand():
    cost = np.zeros((1, 3, 1, 3), np.uint8)
    cost[0, :, 0] = [[0, 10, 20], [0, 0, 30], [0, 0, 50]]
    assert pixel_saliency(cost)[0, 0].tolist() == [0, 25, 255]  # 10 of 100


@pytest.mark.parametrize("shape", [(2, 16, 16), (1, 7, 30)])
def test_equals_numpy(shape):
    cost, contrast = _inputs(shape, 0)
    total = cost.astype(float).sum(axis=1)
    y, x = np.mgrid[: shape[1], : shape[2]]
    away = np.hypot((y + 0.5) / shape[1] - 0.5, (x + 0.5) / shape[2] - 0.5)
    for n in range(shape[0]):
        plain = (total[n] - total[n].min()) / np.ptp(total[n])
        assert np.abs(pixel_saliency(cost)[n] - plain * 255).max() <= 1
        plus = (plain + contrast[n] / 4095) * (1 - away / np.sqrt(0.5))
        want = (plus - plus.min()) / np.ptp(plus) * 255
        assert np.abs(pixel_saliency(cost, contrast)[n] - want).max() <= 2.5  # the center map has 8 bits


@pytest.mark.parametrize("shape", [(2, 16, 16), (1, 37, 53), (1, 1, 1)])
def test_cuda_source_equals_cpu(host_cuda, shape):
    cost, contrast = _inputs(shape, 1)
    with host_cuda() as device:
        plain = device.numpy(saliency_pixels._cuda(device.array(cost), None))
        plus = device.numpy(saliency_pixels._cuda(device.array(cost), device.array(contrast)))
    np.testing.assert_array_equal(plain, saliency_pixels._cpu(cost, None))
    np.testing.assert_array_equal(plus, saliency_pixels._cpu(cost, contrast))


def test_flat_is_zero():
    assert pixel_saliency(np.full((1, 3, 4, 4), 3, np.uint8)).max() == 0
