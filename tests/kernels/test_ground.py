"""Push-pull inpainting of figures."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from figureground.kernels import ground

SHAPES = [(2, 3, 7, 5), (1, 3, 1, 1), (2, 3, 1, 9), (2, 3, 16, 24), (1, 3, 33, 150), (1, 3, 131, 68)]


def _random(shape, seed, share=0.5):
    rng = np.random.default_rng(seed)
    views = rng.integers(0, 256, shape, dtype=np.uint8)
    masks = np.where(rng.random((shape[0], *shape[2:])) < share / 20, 200, rng.integers(0, 9, (shape[0], *shape[2:])))
    return views, masks.astype(np.uint8)


def _down(colors, known):
    """The mean of the known cells among each 2 x 2, in eighths of a grey level; and whether there is one."""
    pad = [(0, known.shape[0] % 2), (0, known.shape[1] % 2)]
    cells = [np.pad(a, pad) for a in (np.where(known, colors, 0), known.astype(int))]
    total, number = (a.reshape(a.shape[0] // 2, 2, a.shape[1] // 2, 2).sum((1, 3)) for a in cells)
    return (2 * total + number) // np.maximum(2 * number, 1), number > 0


def _up(coarse, height, width):
    """Bilinear interpolation at the centres of the finer cells, borders repeated."""
    padded = np.pad(coarse, 1, mode="edge")
    y, x = np.mgrid[:height, :width]
    near, far = (y // 2 + 1, x // 2 + 1), (y // 2 + 1 + (2 * (y % 2) - 1), x // 2 + 1 + (2 * (x % 2) - 1))
    total = 9 * padded[near] + 3 * padded[near[0], far[1]] + 3 * padded[far[0], near[1]] + padded[far]
    return (total + 8) // 16


def _fill_plane(colors, known):
    if known.size == 1:
        return colors if known.all() else np.array([[8 * ground.GREY]])
    coarse = _fill_plane(*_down(colors, known))
    return np.where(known, colors, _up(coarse, *known.shape))


def _oracle(views, masks, threshold=ground.THRESHOLD, margin=ground.MARGIN_PX):
    """Recursion over the levels, each written out whole."""
    out = np.empty_like(views)
    for n, mask in enumerate(masks):
        unknown = ndimage.grey_dilation(mask, size=2 * margin + 1, mode="constant", cval=0) > threshold
        for c in range(3):
            colors = 8 * views[n, c].astype(int)
            if unknown.size == 1:  # the smallest pyramid still has a level above the view
                filled = np.where(unknown, 8 * ground.GREY, colors)
            else:
                filled = _fill_plane(colors, ~unknown)
            out[n, c] = np.where(unknown, (filled + 4) // 8, views[n, c])
    return out


def test_by_hand():
    views = np.full((1, 3, 2, 4), 40, np.uint8)
    views[..., 2:] = 80
    views[0, :, 0, 1] = 250  # the figure: its cell is the mean of three, 40; its neighbour cell is 80
    masks = np.zeros((1, 2, 4), np.uint8)
    masks[0, 0, 1] = 9
    got = ground.inpaint_figures(views, masks, margin_px=0)
    assert got[0, 1].tolist() == [[40, 50, 80, 80], [40, 40, 80, 80]]  # 3/4 * 40 + 1/4 * 80
    masks[0, 0, 1] = 8
    np.testing.assert_array_equal(ground.inpaint_figures(views, masks, margin_px=0), views)


@pytest.mark.parametrize("margin", [0, 1, 2, 8])
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_oracle(shape, margin):
    views, masks = _random(shape, 1)
    got = ground.inpaint_figures(views, masks, margin_px=margin)
    np.testing.assert_array_equal(got, _oracle(views, masks, margin=margin))


def test_a_smooth_ground_comes_back():
    y, x = np.mgrid[:128, :160]
    plane = 30 + x + y // 2
    views = np.stack([plane, plane, 255 - plane])[None].clip(0, 255).astype(np.uint8)
    figure = (x - 80) ** 2 + (y - 64) ** 2 < 30**2
    spoiled = np.where(figure, 0, views).astype(np.uint8)
    error = np.abs(ground.inpaint_figures(spoiled, figure[None] * np.uint8(255)).astype(int) - views)[0, :2, figure]
    assert error.mean() < 5
    assert error.max() < 25


def test_no_figure_color_is_left():
    views, masks = np.full((1, 3, 60, 60), 30, np.uint8), np.zeros((1, 60, 60), np.uint8)
    masks[0, 20:40, 15:45] = 255
    soft = ndimage.gaussian_filter(masks[0].astype(float), 2.5)
    views[0, :, soft > 4] = 255  # a figure whose rim is wider than the mask's hard part
    np.testing.assert_array_equal(ground.inpaint_figures(views, soft.astype(np.uint8)[None]), 30)


@pytest.mark.parametrize("shape", SHAPES)
def test_cuda_source_equals_cpu(host_orders, shape):
    views, masks = _random(shape, 2, share=2)
    masks[0] = 0 if shape[0] > 1 else 255
    for margin in (0, 3):
        with host_orders() as device:
            got = device.array(np.zeros_like(views))
            ground._cuda(device.array(views), device.array(masks), ground.THRESHOLD, margin, got)
            got = device.numpy(got)
        np.testing.assert_array_equal(got, ground.inpaint_figures(views, masks, margin_px=margin))


def test_properties():
    views, masks = _random((3, 3, 37, 50), 3)
    nothing, everything = np.zeros_like(masks), np.full_like(masks, 255)
    np.testing.assert_array_equal(ground.inpaint_figures(views, nothing), views)
    assert (ground.inpaint_figures(views, everything) == 128).all()
    want = ground.inpaint_figures(views, masks)
    order = np.array([2, 0, 1])
    np.testing.assert_array_equal(ground.inpaint_figures(views[order], masks[order]), want[order])
    assert ground.inpaint_figures(views, masks, out=views) is views
    np.testing.assert_array_equal(views, want)


def test_a_mirrored_view_is_filled_alike():
    views, masks = _random((2, 3, 32, 64), 4)
    want = ground.inpaint_figures(views, masks)
    got = ground.inpaint_figures(*(np.ascontiguousarray(a[..., ::-1]) for a in (views, masks)))
    np.testing.assert_array_equal(got[..., ::-1], want)


def test_empty_batch():
    empty = np.empty((0, 3, 8, 8), np.uint8)
    assert ground.inpaint_figures(empty, np.empty((0, 8, 8), np.uint8)).shape == (0, 3, 8, 8)


def test_messages():
    views, masks = _random((2, 3, 6, 4), 5)
    with pytest.raises(ValueError, match=r"inpaint_figures: masks must be \(2, 6, 4\) uint8, got \(2, 4, 6\)"):
        ground.inpaint_figures(views, masks.transpose(0, 2, 1))
    with pytest.raises(ValueError, match=r"inpaint_figures: views must be \(N, 3, H, W\) uint8"):
        ground.inpaint_figures(views[:, :2], masks)
    with pytest.raises(ValueError, match=r"threshold must be in 0\.\.255, got 256"):
        ground.inpaint_figures(views, masks, threshold=256)
    with pytest.raises(ValueError, match=r"margin_px must be in 0\.\.8, got 9"):
        ground.inpaint_figures(views, masks, margin_px=9)
    with pytest.raises(ValueError, match="out must be"):
        ground.inpaint_figures(views, masks, out=masks)
    with pytest.raises(TypeError, match="masks must be a NumPy or CUDA array, got list"):
        ground.inpaint_figures(views, [1])
