"""Cut views out of images of any size: crop, antialiased resize, flip, composite on a new ground, in one go.

In: ragged interleaved uint8 images (height, width, 3) and masks (height, width), read where they lie. Out: planar views
(N, 3, H, W) uint8 and their masks (N, H, W) uint8. Each output pixel needs its image, its mask and its donor once, so
the composite is fused. The resize is Pillow's bilinear or bicubic (those that the papers' code trained with: torchvision's
RandomResizedCrop on PIL images), the composite is Pillow's Image.composite; in integers, so that both devices agree.

Source: Pillow, Resample.c (`precompute_coeffs`) and Paste.c (8-bit composite); reimplemented.
"""

from __future__ import annotations

from typing import Any, Literal

import numba
import numpy as np

from .arrays import Ragged, array_module, on_gpu, table_on
from .background import _blend_row
from .lanes import LANES
from .launch import launch
from .render_rows import DONOR, FILL, KEEP, MEAN, NOISE, RENDER_DTYPE, full_rows, planes_of
from .separable import axes_of, buffers_of, resample_plane, resample_strip, store_strip
from .separable_cubic import resample_plane_cubic

__all__ = ["DONOR", "FILL", "KEEP", "MEAN", "NOISE", "RENDER_DTYPE", "Interpolation", "full_rows", "render_views"]

Interpolation = Literal["bilinear", "bicubic"]

_TILE_ROWS, _TILE_COLS = 32, 32  # as in resample.cu
_MOST_VIEWS = 65535  # a launch: the third axis of a grid


def render_views(
    images: Ragged,
    rows: np.ndarray,
    size: tuple[int, int],
    *,
    masks: Ragged | None = None,
    interpolation: Interpolation = "bilinear",
    out: Any = None,
    masks_out: Any = None,
    return_masks: bool = True,
) -> tuple[Any, Any]:
    """Render one view per row: crop, resize, flip, and replace the ground where the row says so.

    Parameters
    ----------
    images : Ragged
        RGB images, on the host or on the GPU.
    rows : (N,) RENDER_DTYPE, NumPy
        What each view shows; on the host for both devices. Fields are documented at `RENDER_DTYPE`.
    size : (int, int)
        Height and width of the views [px].
    masks : Ragged, optional
        Masks of one channel, 255 = figure. A mask of any size covers its whole image; it goes through the view's
        geometry, always with context outside the box.
    interpolation : {"bilinear", "bicubic"}
        Filter of images and donors; masks are always bilinear, because a bicubic mask would overshoot.
    out : (N, 3, H, W) uint8, optional
    masks_out : (N, H, W) uint8, optional
    return_masks : bool
        False: the views' masks are used, not returned, which spares writing them.

    Returns
    -------
    views : (N, 3, H, W) uint8
    view_masks : (N, H, W) uint8, or None if `masks` is None or `return_masks` False
        All 0 for a row without a mask; such a view is left alone, whatever its mode.

    Raises
    ------
    TypeError
        If host and GPU arrays are mixed.
    ValueError
        If a row names an image, mask or donor that is not there, a box leaves its image, or an array does not fit.

    Notes
    -----
    Weights are Pillow's, quantised to sum to 2**14 (axis.py, axis_cubic.py). Bilinear: columns first, v = (sum w * source
    + 2**7) >> 8; then rows: (sum w * v + 2**19) >> 20. Pillow resizes rows first and rounds to 8 bits between; the two
    differ by one grey level at most. Bicubic: the same with rows first and cut to 0..255 after each pass, as Pillow does,
    since the filter overshoots; one grey level at most, too. A box with fractions and `clip` = 1 reads the pixels that it
    touches.

    Ground: figure * m + ground * (255 - m), rounded as `composite_views` does. Mode 3 takes the mean of each channel of
    the view before the composite, halves up. Mode 4 is a hash of the pixel p = y * W + x of the output, modulo 2**32:
    h = f(f(p ^ seed_lo) + seed_hi), f being the finaliser of MurmurHash3 (x ^= x >> 16, x *= 0x85EBCA6B, x ^= x >> 13,
    x *= 0xC2B2AE35, x ^= x >> 16); red is its lowest byte, then green, then blue.

    Examples
    --------
    >>> images = Ragged.from_arrays([np.full((4, 6, 3), 90, np.uint8)])
    >>> masks = Ragged.from_arrays([np.array([[0, 255]], np.uint8)])
    >>> rows = full_rows(images.sizes)
    >>> rows["mask"], rows["mode"], rows["fill"] = 0, FILL, 10
    >>> views, view_masks = render_views(images, rows, (1, 3), masks=masks)
    >>> view_masks[0]
    array([[  0, 128, 255]], dtype=uint8)
    >>> views[0, 0]
    array([[10, 50, 90]], dtype=uint8)
    """
    gpu = on_gpu("render_views", images=images, masks=masks, out=out, masks_out=masks_out)
    if interpolation not in ("bilinear", "bicubic"):
        raise ValueError(f"render_views: interpolation must be 'bilinear' or 'bicubic', got {interpolation!r}")
    _check_batches(images, masks, size, masks_out)
    height, width = int(size[0]), int(size[1])
    planes = planes_of(rows, images, masks, (height, width))
    xp = _module_of(gpu)
    views = _output(xp, "out", out, (len(rows), 3, height, width))
    view_masks = None
    if masks is not None and (return_masks or (gpu and (rows["mode"] == MEAN).any())):  # the mean takes a second pass
        view_masks = _output(xp, "masks_out", masks_out, (len(rows), height, width))
    if len(rows):
        (_cuda if gpu else _cpu)(planes, rows, views, view_masks, cubic=interpolation == "bicubic")
    return views, view_masks if return_masks else None


def _check_batches(images: Ragged, masks: Ragged | None, size: tuple[int, int], masks_out: Any) -> None:
    if images.channels != 3:
        raise ValueError(f"render_views: images must have 3 channels, got {images.channels}")
    if masks is not None and masks.channels != 1:
        raise ValueError(f"render_views: masks must have 1 channel, got {masks.channels}")
    if masks is None and masks_out is not None:
        raise ValueError("render_views: masks_out must be None without masks, got an array; give masks as well")
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"render_views: size must be a height and a width of at least 1 px, got {size}")


def _module_of(gpu: bool) -> Any:
    if not gpu:
        return np
    import cupy

    return cupy


def _output(xp: Any, name: str, array: Any, shape: tuple[int, ...]) -> Any:
    if array is None:
        return xp.empty(shape, np.uint8)
    if tuple(array.shape) != shape or array.dtype != np.uint8 or not array.flags.c_contiguous:
        raise ValueError(
            f"render_views: {name} must be {shape} uint8, C-contiguous, got {tuple(array.shape)} {array.dtype}"
        )
    return array


def _cpu(
    planes: np.ndarray, rows: np.ndarray, views: np.ndarray, view_masks: np.ndarray | None, *, cubic: bool
) -> None:
    if view_masks is None:
        view_masks = np.empty((0, *views.shape[2:]), np.uint8)
    mode, fill = np.ascontiguousarray(rows["mode"]), np.ascontiguousarray(rows["fill"])
    seeds = np.stack([rows["seed_lo"], rows["seed_hi"]], 1).view(np.uint32)
    _render(planes, mode, fill, seeds, cubic, views, view_masks)


@numba.njit(nogil=True, cache=True)
def _render(planes, mode, fill, seeds, cubic, views, view_masks):  # type: ignore[no-untyped-def]
    _, _, height, width = views.shape
    spare = np.empty(height * width, np.uint8)
    for n in range(len(views)):
        view = views[n].reshape((3, height * width))
        masked = planes[n, 1].address != 0
        mask = view_masks[n].reshape(height * width) if len(view_masks) > 0 else spare
        if masked:
            resample_plane(planes[n, 1], 1, height, width, mask.ctypes.data)
        elif len(view_masks) > 0:
            mask[:] = 0
        if not masked or mode[n] == KEEP:
            _resample(cubic, planes[n, 0], height, width, view.ctypes.data)
        elif cubic or mode[n] == MEAN:
            _composite(planes[n], mode[n], fill[n], seeds[n], cubic, (height, width), mask, view)
        else:
            _composite_strips(planes[n], mode[n], fill[n], seeds[n], (height, width), mask, view)


@numba.njit(nogil=True, cache=True)
def _composite(planes, mode, fill, seeds, cubic, size, mask, view):  # type: ignore[no-untyped-def]
    """Render one view on a new ground, all of it at once."""
    height, width = size
    # Not in place: a loop whose input may be its output is not vectorised.
    figure, ground = np.empty(view.shape, np.uint8), np.empty(view.shape, np.uint8)
    _resample(cubic, planes[0], height, width, figure.ctypes.data)
    if mode == DONOR:
        _resample(cubic, planes[2], height, width, ground.ctypes.data)
    elif mode == NOISE:
        _fill_noise(seeds, 0, ground)
    else:
        for c in range(3):
            ground[c] = fill[c] if mode == FILL else _mean(figure[c])
    for c in range(3):
        _blend_row(figure[c], ground[c], mask, view[c])


@numba.njit(nogil=True, cache=True)
def _composite_strips(planes, mode, fill, seeds, size, mask, view):  # type: ignore[no-untyped-def]
    """Do the same in strips of 16 rows, which stay in cache, and leave out what of the figure its mask hides."""
    height, width = size
    figure, ground = np.empty((3, LANES * width), np.uint8), np.empty((3, LANES * width), np.uint8)
    top, bottom, begin, end = _extent(mask.reshape(size))
    begin, end = begin // LANES * LANES, min((end + LANES - 1) // LANES * LANES, width)
    if top == bottom:
        begin, end = 0, width  # there is no figure: its buffers are not used
    axes = axes_of(planes[0], height, width)
    buffers = buffers_of(planes[0], 3, axes, begin, end)
    donor = planes[2] if mode == DONOR else planes[0]
    donor_axes = axes_of(donor, height, width) if mode == DONOR else axes
    donor_buffers = buffers_of(donor, 3, donor_axes, 0, width) if mode == DONOR else buffers
    if mode != DONOR:
        for c in range(3):
            ground[c] = fill[c]
    for y in range(0, height, LANES):
        rows = min(LANES, height - y)
        first, past = y * width, (y + rows) * width
        if top < y + rows and y < bottom:
            resample_strip(planes[0], 3, axes, buffers, y, begin, end)
            store_strip(buffers[3], rows, begin, end, figure.ctypes.data, LANES)
        if mode == DONOR:
            resample_strip(donor, 3, donor_axes, donor_buffers, y, 0, width)
            store_strip(donor_buffers[3], rows, 0, width, ground.ctypes.data, LANES)
        elif mode == NOISE:
            _fill_noise(seeds, first, ground)
        for c in range(3):  # where the mask is 0 the figure is left from before, and counts for nothing
            _blend_row(figure[c][: past - first], ground[c][: past - first], mask[first:past], view[c][first:past])


@numba.njit(nogil=True, cache=True)
def _extent(mask):  # type: ignore[no-untyped-def]
    """Return the rows and the columns, first and one past the last, that hold all of a mask that is not 0."""
    height, width = mask.shape
    any_of_row, any_of_column = np.zeros(height, np.uint8), np.zeros(width, np.uint8)
    for y in range(height):
        found = np.uint8(0)
        for x in range(width):
            found |= mask[y, x]
            any_of_column[x] |= mask[y, x]
        any_of_row[y] = found
    top, bottom, begin, end = 0, height, 0, width
    while top < bottom and any_of_row[top] == 0:
        top += 1
    while bottom > top and any_of_row[bottom - 1] == 0:
        bottom -= 1
    while begin < end and any_of_column[begin] == 0:
        begin += 1
    while end > begin and any_of_column[end - 1] == 0:
        end -= 1
    return top, bottom, begin, end


@numba.njit(nogil=True, cache=True)
def _resample(cubic, plane, height, width, target):  # type: ignore[no-untyped-def]
    if cubic:
        resample_plane_cubic(plane, 3, height, width, target)
    else:
        resample_plane(plane, 3, height, width, target)


@numba.njit(nogil=True, cache=True)
def _mean(values):  # type: ignore[no-untyped-def]
    total = 0
    for i in range(len(values)):
        total += values[i]
    return (2 * total + len(values)) // (2 * len(values))


@numba.njit(nogil=True, cache=True)
def _mix(x):  # type: ignore[no-untyped-def]
    x = np.uint32((x ^ (x >> np.uint32(16))) * np.uint32(0x85EBCA6B))
    x = np.uint32((x ^ (x >> np.uint32(13))) * np.uint32(0xC2B2AE35))
    return np.uint32(x ^ (x >> np.uint32(16)))


@numba.njit(nogil=True, cache=True)
def _fill_noise(seeds, first, ground):  # type: ignore[no-untyped-def]
    """Fill (3, pixels) with noise; `first` is the number of the first pixel."""
    red, green, blue, low, high = ground[0], ground[1], ground[2], seeds[0], seeds[1]
    for p in range(len(red)):
        h = _mix(np.uint32(_mix(np.uint32(first + p) ^ low) + high))
        red[p] = h & np.uint32(255)
        green[p] = (h >> np.uint32(8)) & np.uint32(255)
        blue[p] = (h >> np.uint32(16)) & np.uint32(255)


def _cuda(planes: np.ndarray, rows: np.ndarray, views: Any, view_masks: Any, *, cubic: bool) -> None:
    xp = array_module(views)
    count, _, height, width = views.shape
    tiles = -(-width // _TILE_COLS), -(-height // _TILE_ROWS)
    averaged = np.flatnonzero((rows["mode"] == MEAN) & (planes["address"][:, 1] != 0))
    totals = xp.zeros((count if len(averaged) else 1, 3), np.uint64)
    size = np.int32(height), np.int32(width)
    masks = xp.empty(0, np.uint8) if view_masks is None else view_masks
    has_masks = np.int32(2 if view_masks is not None else (planes["address"][:, 1] != 0).any())
    name = "resample_views_cubic" if cubic else "resample_views"
    for first in range(0, count, _MOST_VIEWS):
        part = slice(first, first + _MOST_VIEWS)
        tables, sums = (table_on(xp, planes[part]), table_on(xp, rows[part])), totals[part] if len(averaged) else totals
        args = (*tables, *size, views[part], masks[part], has_masks, sums)
        launch("resample", name, (*tiles, len(views[part])), (256,), args)
    if len(averaged):
        names = xp.asarray(averaged.astype(np.int32))
        blocks = -(-height * width // 256)
        launch("resample", "resample_mean", (blocks * len(averaged),), (256,), (names, *size, masks, totals, views))
