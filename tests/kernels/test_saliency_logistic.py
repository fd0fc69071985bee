"""The logistic between Otsu classes."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from figureground.kernels import saliency_logistic
from figureground.kernels.saliency_logistic import class_middle, decay, sharpen_field, sharpen_maps


def _reference(field):
    """One map: OpenCV's Otsu threshold, NumPy's exp."""
    grey = (field + 0.5).astype(np.uint8)
    level, _ = cv2.threshold(grey, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    middle = (grey[grey <= level].mean() + grey[grey > level].mean()) / 510
    soft = 1 / (1 + np.exp(-12 * (field.astype(float) / 255 - middle)))
    return 255 * np.clip((soft - 0.05) / 0.9, 0, 1)


def test_by_hand():
    # Middle .5: 1 / (1 + exp(6)) = .0025 and .9975, which are the ends; at q = .3 and m = .5 it is .0832, 9.4 of 255.
    assert sharpen_maps(np.array([[[0, 0, 255]]], np.uint8)).tolist() == [[[0, 0, 255]]]
    levels = np.array([[[51] * 8 + [77] + [204] * 8 + [178]]], np.uint8)  # .2 and .8 but for one of .302, one of .698
    assert sharpen_maps(levels)[0, 0, [0, 8, 9, 17]].tolist() == [0, 10, 255, 245]
    assert sharpen_maps(np.full((1, 2, 2), 200, np.uint8)).max() == 0


def test_decay_equals_exp():
    x = np.concatenate([np.linspace(0, 20, 5001), [0, 1e-7]]).astype(np.float32)
    got = np.array([decay(v) for v in x])
    np.testing.assert_allclose(got, np.exp(-x.astype(float)), rtol=3e-4, atol=1e-7)
    assert decay(np.float32(1e30)) < 1e-13


@pytest.mark.parametrize("seed", range(4))
def test_equals_opencv(seed):
    rng = np.random.default_rng(seed)
    field = np.where(rng.random((1, 40, 30)) < 0.3, rng.normal(180, 25, (1, 40, 30)), rng.normal(60, 30, (1, 40, 30)))
    field = field.clip(0, 255).astype(np.float32)
    assert np.abs(sharpen_field(field)[0] - _reference(field[0])).max() < 0.6


def test_middle_of_two_levels():
    counts = np.zeros(256, np.int64)
    counts[[10, 100]] = 3, 1
    assert class_middle(counts, 4) == np.float32(110 / 510)


@pytest.mark.parametrize("shape", [(3, 16, 16), (1, 1, 1), (2, 37, 53)])
def test_cuda_source_equals_cpu(host_orders, shape):
    field = (np.random.default_rng(5).random(shape) ** 2 * 255).astype(np.float32)
    field[0] = np.minimum(np.round(field[0] / 128) * 128, 255)
    with host_orders() as device:
        got = device.numpy(saliency_logistic._cuda(device.array(field)))
    np.testing.assert_array_equal(got, saliency_logistic._cpu(field))


def test_order_is_kept():
    field = np.sort(np.random.default_rng(6).random((1, 1, 500)).astype(np.float32) * 255)
    assert (np.diff(sharpen_field(field)[0, 0].astype(int)) >= 0).all()
