"""Guided filter."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from figureground.kernels import saliency_refine
from figureground.kernels.saliency_logistic import sharpen_field
from figureground.kernels.saliency_refine import refine_maps


def _guided(image, values):
    """He et al.'s color guided filter in float64, edges repeated."""

    def box(a):
        return ndimage.uniform_filter(a, 7, mode="nearest", axes=(0, 1))

    guide, values = image.transpose(1, 2, 0) / 255.0, values / 255.0
    mean, mean_value = box(guide), box(values)
    covariance = box(guide * values[..., None]) - mean * mean_value[..., None]
    variance = box(guide[..., :, None] * guide[..., None, :]) - mean[..., :, None] * mean[..., None, :]
    slope = np.linalg.solve(variance + saliency_refine.REGULAR * np.eye(3), covariance[..., None])[..., 0]
    offset = mean_value - (slope * mean).sum(axis=-1)
    return ((box(slope) * guide).sum(axis=-1) + box(offset)).clip(0, 1) * 255


def _scene(shape, seed):
    rng = np.random.default_rng(seed)
    count, height, width = shape
    images = rng.integers(0, 256, (count, 3, -(-height // 6), -(-width // 6))).repeat(6, 2).repeat(6, 3)
    images = (images[..., :height, :width] * 0.8 + rng.integers(0, 50, (count, 3, height, width))).astype(np.uint8)
    maps = rng.integers(0, 256, (count, -(-height // 4), -(-width // 4))).repeat(4, 1).repeat(4, 2)
    return images, maps[:, :height, :width].astype(np.uint8)


@pytest.mark.parametrize("shape", [(2, 32, 32), (1, 37, 53), (1, 20, 100)])
def test_equals_definition(shape):
    images, maps = _scene(shape, 0)
    want = np.array([_guided(image, values) for image, values in zip(images, maps)], np.float32)
    off = np.abs(refine_maps(images, maps).astype(int) - sharpen_field(want))
    assert off.max() <= 1  # float32 against float64


def test_takes_the_edge_of_its_image():
    images = np.full((1, 3, 32, 32), 30, np.uint8)
    images[:, :, :, 17:] = 220
    maps = np.zeros((1, 32, 32), np.uint8)
    maps[:, :, 16:] = 255  # one pixel off
    mask = refine_maps(images, maps)[0, 16]
    assert mask[16] < 64
    assert mask[17] > 191


@pytest.mark.parametrize("shape", [(2, 16, 16), (1, 37, 53), (1, 1, 1), (1, 5, 70)])
def test_cuda_source_equals_cpu(host_cuda, shape):
    images, maps = _scene(shape, 1)
    with host_cuda() as device:
        got = device.numpy(saliency_refine._cuda(device.array(images), device.array(maps)))
    np.testing.assert_array_equal(got, saliency_refine._cpu(images, maps))


def test_one_level_is_zero():
    images, _ = _scene((1, 24, 24), 2)
    assert refine_maps(images, np.full((1, 24, 24), 90, np.uint8)).max() == 0
    assert refine_maps(images[:0], np.zeros((0, 24, 24), np.uint8)).shape == (0, 24, 24)
