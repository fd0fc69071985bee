"""Cover the figure's box of a view with its own largest strip of ground, tiled: a ground with real texture and no figure.

Layout: planar uint8 views (N, 3, H, W), uint8 masks (N, H, W). Pixels are moved, never computed, so both devices agree bit
for bit.

Source: Mo et al. 2021, "Object-aware contrastive learning for debiased scene representation", background mixup.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from .arrays import aligned, array_module, on_gpu
from .launch import launch
from .moves import move_bytes
from .planar import check_plane, check_views, output_like

THRESHOLD = 51
"""Default of `tile_ground`: 0.2 of the full scale."""


def tile_ground(views: Any, masks: Any, *, threshold: int = THRESHOLD, out: Any = None) -> tuple[Any, Any]:
    """Tile the largest strip beside the figure's bounding box over that box.

    Parameters
    ----------
    views : (N, 3, H, W) uint8
    masks : (N, H, W) uint8
        255 is figure.
    threshold : int
        The box holds all pixels whose mask is at least this, 1..255.
    out : (N, 3, H, W) uint8, optional
        May be `views` itself.

    Returns
    -------
    grounds : (N, 3, H, W) uint8, on the device of `views`
    valid : (N,) bool, on the device of `views`
        False where no strip is left because the box is the whole view, and where no pixel reaches the threshold, so that
        nobody knows what is ground (the source treats both alike); such a view is copied as it is.

    Raises
    ------
    TypeError
        If the arrays are on different devices.
    ValueError
        If a shape, dtype or value does not fit.

    Notes
    -----
    The strips are the whole rows above and below the box and the whole columns left and right of it; of equal areas the
    first of top, left, right, bottom is taken. Tiles repeat from the view's top left corner: pixel (y, x) of the box
    shows row y mod height of a horizontal strip, or column x mod width of a vertical one. The source's box ends one row
    and one column too early, its right and bottom strips begin with the box's last ones; here neither does.

    Examples
    --------
    >>> views = np.arange(5, dtype=np.uint8).reshape(1, 1, 1, 5).repeat(3, 1)
    >>> grounds, valid = tile_ground(views, np.array([[[0, 0, 255, 255, 0]]], np.uint8))
    >>> grounds[0, 0].tolist(), valid.tolist()
    ([[0, 1, 0, 1, 4]], [True])
    """
    gpu = on_gpu("tile_ground", views=views, masks=masks, out=out)
    count, height, width = check_views("tile_ground", views)
    check_plane("tile_ground", "masks", masks, (count, height, width))
    if not 1 <= threshold <= 255:
        raise ValueError(f"tile_ground: threshold must be in 1..255, got {threshold}")
    out = output_like("tile_ground", views, out)
    valid = array_module(views).empty(count, np.bool_)
    if count:
        (_cuda if gpu else _cpu)(views, masks, int(threshold), out, valid)
    return out, valid


def _cpu(views: np.ndarray, masks: np.ndarray, threshold: int, out: np.ndarray, valid: np.ndarray) -> None:
    _tile(views, masks, np.uint8(threshold), out, valid)


@numba.njit(nogil=True, cache=True)
def _tile(views, masks, threshold, out, valid):  # type: ignore[no-untyped-def]
    _, _, height, width = views.shape
    columns = np.empty(width, np.uint8)
    for n in range(len(views)):
        if out.ctypes.data != views.ctypes.data:
            out[n] = views[n]
        top, left, bottom, right = _box(masks[n], threshold, columns)
        first, length, vertical = _strip(top, left, bottom, right, height, width)
        valid[n] = length > 0
        if length == 0:
            continue
        for c in range(3):
            plane = out.ctypes.data + (3 * n + c) * height * width
            for y in range(top, bottom):
                if vertical:
                    line = plane + y * width
                    x = left
                    while x < right:
                        phase = x % length
                        run = min(length - phase, right - x)
                        move_bytes(line + first + phase, line + x, run)
                        x += run
                else:
                    source = plane + (first + y % length) * width
                    move_bytes(source + left, plane + y * width + left, right - left)


@numba.njit(nogil=True, cache=True)
def _box(mask, threshold, columns):  # type: ignore[no-untyped-def]
    """Return top, left, bottom, right, the ends excluded; bottom is 0 if nothing reaches the threshold."""
    height, width = mask.shape
    columns[:] = 0
    top, bottom = height, 0
    for y in range(height):
        line, most = mask[y], np.uint8(0)
        for x in range(width):
            most = max(most, line[x])
        if most >= threshold:
            top, bottom = min(top, y), y + 1
            for x in range(width):
                columns[x] = max(columns[x], line[x])
    left, right = 0, width
    while left < width and columns[left] < threshold:
        left += 1
    while right > left and columns[right - 1] < threshold:
        right -= 1
    return top, left, bottom, right


@numba.njit(nogil=True, cache=True)
def _strip(top, left, bottom, right, height, width):  # type: ignore[no-untyped-def]
    """Return first row or column, length, and whether the strip is vertical; length 0 if there is none."""
    first, length, vertical, area = 0, 0, False, 0
    if bottom == 0:
        return first, length, vertical
    if top * width > area:
        first, length, vertical, area = 0, top, False, top * width
    if left * height > area:
        first, length, vertical, area = 0, left, True, left * height
    if (width - right) * height > area:
        first, length, vertical, area = right, width - right, True, (width - right) * height
    if (height - bottom) * width > area:
        first, length, vertical, area = bottom, height - bottom, False, (height - bottom) * width
    return first, length, vertical


def _cuda(views: Any, masks: Any, threshold: int, out: Any, valid: Any) -> None:
    xp = array_module(views)
    count, _, height, width = views.shape
    tiles = xp.empty((count, 7), np.int32)
    size = np.int32(height), np.int32(width)
    launch("ground_strips", "ground_strips_find", (count,), (256,), (masks, *size, np.int32(threshold), tiles, valid))
    vector = 4 if width % 4 == 0 and aligned(views, out, to=4) else 1
    total = views.size // vector
    args = (views, tiles, *size, np.int64(total), out)
    launch("ground_strips", f"ground_strips_fill{vector}", (-(-total // 256),), (256,), args)
