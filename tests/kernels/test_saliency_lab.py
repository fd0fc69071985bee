"""Lab planes and their median."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from scipy import ndimage

from figureground.kernels import saliency_lab


def test_by_hand():
    colors = np.array([[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8)
    raw, _ = saliency_lab.lab_planes(colors.T.reshape(1, 3, 1, 5))
    # L * 2.55, a + 128, b + 128 of the sRGB corners: (53.2, 80.1, 67.2), (87.7, -86.2, 83.2), (32.3, 79.2, -107.9).
    want = [[0, 128, 128], [255, 128, 128], [136, 208, 195], [224, 42, 211], [82, 207, 20]]
    assert np.abs(raw[0, :, 0].T.astype(int) - want).max() <= 1


def test_close_to_opencv():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, 3, 64, 64), dtype=np.uint8)
    raw, _ = saliency_lab.lab_planes(images)
    want = np.stack([cv2.cvtColor(i.transpose(1, 2, 0).copy(), cv2.COLOR_RGB2LAB).transpose(2, 0, 1) for i in images])
    off = np.abs(raw.astype(int) - want)
    assert off.max() <= 3  # OpenCV interpolates tables of its own
    assert off.mean() < 0.3


@pytest.mark.parametrize("shape", [(2, 3, 16, 16), (1, 3, 1, 1), (1, 3, 7, 5), (3, 3, 2, 40)])
def test_median_equals_scipy(shape):
    images = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    raw, smooth = saliency_lab.lab_planes(images)
    want = ndimage.median_filter(raw, size=(1, 1, 3, 3), mode="nearest")
    np.testing.assert_array_equal(smooth, want)


@pytest.mark.parametrize("shape", [(2, 3, 16, 16), (1, 3, 1, 1), (1, 3, 37, 53)])
def test_cuda_source_equals_cpu(host_cuda, shape):
    images = np.random.default_rng(2).integers(0, 256, shape, dtype=np.uint8)
    with host_cuda() as device:
        got = [device.numpy(planes) for planes in saliency_lab._cuda(device.array(images))]
    for ours, theirs in zip(got, saliency_lab._cpu(images)):
        np.testing.assert_array_equal(ours, theirs)
