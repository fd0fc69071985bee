"""Composite of views by soft masks."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from figureground.kernels import background


def _random(shape, seed):
    rng = np.random.default_rng(seed)
    figures, grounds = rng.integers(0, 256, (2, *shape), dtype=np.uint8)
    masks = rng.integers(0, 256, (shape[0], *shape[2:]), dtype=np.uint8)
    masks[rng.random(masks.shape) < 0.3] = 255
    return figures, grounds, masks


def test_by_hand():
    figure, ground = np.full((1, 3, 1, 2), 10, np.uint8), np.full((1, 3, 1, 2), 250, np.uint8)
    got = background.composite_views(figure, ground, np.array([[[255, 0]]], np.uint8))
    assert got[0, :, 0].tolist() == [[10, 250]] * 3


@pytest.mark.parametrize("shape", [(2, 3, 7, 5), (1, 3, 1, 1), (3, 3, 16, 16)])
def test_equals_pillow(shape):
    figures, grounds, masks = _random(shape, 1)
    got = background.composite_views(figures, grounds, masks)
    for n in range(shape[0]):
        images = [Image.fromarray(np.ascontiguousarray(a[n].transpose(1, 2, 0))) for a in (figures, grounds)]
        want = np.asarray(Image.composite(*images, Image.fromarray(masks[n])))
        np.testing.assert_array_equal(got[n].transpose(1, 2, 0), want)


def test_all_products_equal_pillow():
    figures = np.repeat(np.arange(256, dtype=np.uint8), 256).reshape(1, 1, 256, 256).repeat(3, 1)
    masks = np.tile(np.arange(256, dtype=np.uint8), 256).reshape(1, 256, 256)
    got = background.composite_views(figures, 255 - figures, masks)
    want = Image.composite(
        Image.fromarray(figures[0, 0]), Image.fromarray(255 - figures[0, 0]), Image.fromarray(masks[0])
    )
    np.testing.assert_array_equal(got[0, 2], np.asarray(want))


@pytest.mark.parametrize("shape", [(2, 3, 7, 5), (1, 3, 1, 1), (3, 3, 16, 16), (2, 3, 4, 100)])
def test_cuda_source_equals_cpu(host_cuda, shape):
    figures, grounds, masks = _random(shape, 2)
    with host_cuda() as device:
        got = device.array(np.zeros_like(figures))
        background._cuda(device.array(figures), device.array(grounds), device.array(masks), got)
        got = device.numpy(got)
    np.testing.assert_array_equal(got, background.composite_views(figures, grounds, masks))


def test_in_place_and_empty():
    figures, grounds, masks = _random((2, 3, 5, 4), 3)
    want = background.composite_views(figures, grounds, masks)
    assert background.composite_views(figures, grounds, masks, out=figures) is figures
    np.testing.assert_array_equal(figures, want)
    empty = np.empty((0, 3, 4, 4), np.uint8)
    assert background.composite_views(empty, empty, np.empty((0, 4, 4), np.uint8)).shape == (0, 3, 4, 4)


def test_messages():
    figures, grounds, masks = _random((2, 3, 5, 4), 4)
    with pytest.raises(ValueError, match=r"masks must be \(2, 5, 4\) uint8, got \(2, 4, 5\)"):
        background.composite_views(figures, grounds, masks.transpose(0, 2, 1))
    with pytest.raises(ValueError, match="figures must be \\(N, 3, H, W\\)"):
        background.composite_views(figures[0], grounds, masks)
    with pytest.raises(TypeError, match="must be a NumPy or CUDA array, got list"):
        background.composite_views(figures, grounds, [1])
