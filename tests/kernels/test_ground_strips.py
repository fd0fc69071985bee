"""The largest strip of ground, tiled over the figure's box."""

from __future__ import annotations

import numpy as np
import pytest

from figureground.kernels import ground_strips

SHAPES = [(3, 3, 7, 5), (2, 3, 1, 1), (3, 3, 16, 24), (4, 3, 40, 36)]


def _random(shape, seed):
    rng = np.random.default_rng(seed)
    views = rng.integers(0, 256, shape, dtype=np.uint8)
    masks = rng.integers(0, 51, (shape[0], *shape[2:]), dtype=np.uint8)
    for mask in masks:
        (y0, y1), (x0, x1) = (np.sort(rng.integers(0, size, 2)) for size in mask.shape)
        mask[y0, x0], mask[y1, x1] = 51, 255
    return views, masks


def _oracle(views, masks, threshold=ground_strips.THRESHOLD):
    """Strips as slices, tiles by numpy.tile, the box by where."""
    grounds, valid = views.copy(), []
    height, width = masks.shape[1:]
    for n, mask in enumerate(masks):
        ys, xs = np.nonzero(mask >= threshold)
        if len(ys) == 0:
            valid.append(False)
            continue
        y0, x0, y1, x1 = ys.min(), xs.min(), ys.max() + 1, xs.max() + 1
        strips = [views[n, :, :y0], views[n, :, :, :x0], views[n, :, :, x1:], views[n, :, y1:]]
        strip = max(strips, key=lambda s: s.size)  # the first of equal ones
        valid.append(strip.size > 0)
        if strip.size:
            tiled = np.tile(strip, (1, -(-height // strip.shape[1]), -(-width // strip.shape[2])))
            grounds[n, :, y0:y1, x0:x1] = tiled[:, y0:y1, x0:x1]
    return grounds, np.array(valid)


def test_by_hand():
    views = np.arange(12, dtype=np.uint8).reshape(1, 1, 4, 3).repeat(3, 1)
    masks = np.zeros((1, 4, 3), np.uint8)
    masks[0, 1, 1] = 255  # two rows below are the largest strip: rows 2 and 3
    grounds, valid = ground_strips.tile_ground(views, masks)
    assert grounds[0, 2].tolist() == [[0, 1, 2], [3, 10, 5], [6, 7, 8], [9, 10, 11]]
    assert valid.tolist() == [True]


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_oracle(shape, seed):
    views, masks = _random(shape, seed)
    for got, want in zip(ground_strips.tile_ground(views, masks), _oracle(views, masks), strict=True):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(
    ("side", "box"),
    [
        ("top", np.s_[12:19, 3:27]),
        ("left", np.s_[4:17, 20:28]),
        ("right", np.s_[4:17, 2:10]),
        ("bottom", np.s_[1:8, 3:27]),
    ],
)
def test_every_side(side, box):
    views, masks = _random((1, 3, 20, 30), 0)
    masks[:] = 0
    masks[0][box] = 255
    grounds, _ = ground_strips.tile_ground(views, masks)
    np.testing.assert_array_equal(grounds, _oracle(views, masks)[0])
    source = {"top": np.s_[:12], "left": np.s_[:, :20], "right": np.s_[:, 10:], "bottom": np.s_[8:]}[side]
    assert np.isin(grounds[0, 0][box], views[0, 0][source]).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_cuda_source_equals_cpu(host_orders, shape):
    for seed in range(3):
        views, masks = _random(shape, seed)
        masks[-1] = 20
        with host_orders() as device:
            got, valid = device.array(np.zeros_like(views)), device.array(np.zeros(len(views), bool))
            ground_strips._cuda(device.array(views), device.array(masks), 51, got, valid)
            got, valid = device.numpy(got), device.numpy(valid)
        want = ground_strips.tile_ground(views, masks)
        np.testing.assert_array_equal(got, want[0])
        np.testing.assert_array_equal(valid, want[1])


def test_no_ground_no_figure_in_place_and_empty():
    views, masks = _random((3, 3, 9, 8), 1)
    masks[0], masks[1] = 255, 50
    want, valid = ground_strips.tile_ground(views, masks)
    assert valid.tolist() == [False, False, True]
    np.testing.assert_array_equal(want[:2], views[:2])
    assert ground_strips.tile_ground(views, masks, out=views)[0] is views
    np.testing.assert_array_equal(views, want)
    grounds, valid = ground_strips.tile_ground(np.empty((0, 3, 4, 4), np.uint8), np.empty((0, 4, 4), np.uint8))
    assert grounds.shape == (0, 3, 4, 4)
    assert valid.shape == (0,)


def test_messages():
    views, masks = _random((2, 3, 6, 4), 2)
    with pytest.raises(ValueError, match=r"tile_ground: masks must be \(2, 6, 4\) uint8, got \(1, 6, 4\)"):
        ground_strips.tile_ground(views, masks[:1])
    with pytest.raises(ValueError, match=r"threshold must be in 1\.\.255, got 0"):
        ground_strips.tile_ground(views, masks, threshold=0)
    with pytest.raises(ValueError, match="views must be C-contiguous"):
        ground_strips.tile_ground(views[:, :, :, ::-1], masks)
