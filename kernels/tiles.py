"""Patch negatives: a canvas tiled by patches of a view, drawn with replacement, so that texture stays and meaning goes.

Layout: planar uint8 views (N, 3, H, W) in, (N, count, 3, H, W) out. Pixels are moved, never computed, and the draws are
integers, so both devices agree bit for bit.

Source: Ge et al. 2021, "Robust contrastive learning using negative samples with diminished semantics", patch-based
negatives. Their code tiles the query after augmentation and normalisation; normalisation maps each pixel by itself, so
tiling the augmented uint8 view and then normalising gives the same tensor.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from .arrays import aligned, array_module, on_gpu
from .draws import TILE_CELL, TILE_SIDE, draw_below, keys_of, mix64
from .launch import launch
from .moves import move_block
from .planar import check_plane, check_views


def tile_patches(
    views: Any, *, seeds: np.ndarray, side_range: tuple[int, int] = (16, 72), count: int = 1, out: Any = None
) -> Any:
    """Make patch negatives of each view.

    Parameters
    ----------
    views : (N, 3, H, W) uint8
        The queries, after all their augmentations.
    seeds : (N,) uint64, NumPy
    side_range : (int, int)
        Smallest and largest side of the patches [px], both included; 1 .. min(H, W) - 1.
    count : int
        Negatives per view, at least 1.
    out : (N, count, 3, H, W) uint8, optional

    Returns
    -------
    (N, count, 3, H, W) uint8, on the device of `views`.

    Raises
    ------
    TypeError
        If the arrays are on different devices.
    ValueError
        If a shape, dtype or range does not fit.

    Notes
    -----
    Per negative a side d is drawn, each of lo .. hi equally likely (`tile_sides` tells it). A canvas of floor(H / d) + 1 by
    floor(W / d) + 1 cells is filled: each cell shows the d x d patch whose corner is uniform in 0 .. H - d - 1 and
    0 .. W - d - 1, independently, with replacement. The end H - d itself is excluded, as in the paper's code, so the
    last row and column are never shown. The canvas is cut to H x W from its top left corner. A patch as
    large as the view would be the view itself, a positive, hence the upper limit of `side_range`.

    Examples
    --------
    >>> views = np.arange(25, dtype=np.uint8).reshape(1, 1, 5, 5).repeat(3, 1)
    >>> tile_patches(views, seeds=np.array([1], np.uint64), side_range=(2, 2))[0, 0, 0]
    array([[ 0,  1,  0,  1, 10],
           [ 5,  6,  5,  6, 15],
           [ 0,  1, 12, 13, 11],
           [ 5,  6, 17, 18, 16],
           [ 1,  2, 12, 13,  0]], dtype=uint8)
    """
    gpu = on_gpu("tile_patches", views=views, out=out)
    size, height, width = check_views("tile_patches", views)
    sides = tile_sides(seeds, side_range=side_range, count=count)
    if side_range[1] >= min(height, width):
        raise ValueError(
            f"tile_patches: side_range must end below min(H, W) = {min(height, width)}, got {side_range}; a patch of "
            f"the whole view is the view itself"
        )
    cell_keys = keys_of("tile_patches", seeds, size, TILE_CELL)
    keys = mix64(cell_keys[:, None] ^ mix64(np.arange(count, dtype=np.uint64)))
    shape = (size, count, 3, height, width)
    check_plane("tile_patches", "out", out, shape)
    if out is None:
        out = array_module(views).empty(shape, np.uint8)
    if size:
        (_cuda if gpu else _cpu)(views, keys, sides, out)
    return out


def tile_sides(seeds: np.ndarray, *, side_range: tuple[int, int] = (16, 72), count: int = 1) -> np.ndarray:
    """Tell the patch sides that `tile_patches` uses for these seeds.

    Parameters
    ----------
    seeds : (N,) uint64, NumPy
    side_range : (int, int)
        As in `tile_patches`.
    count : int
        Negatives per view.

    Returns
    -------
    (N, count) int32, NumPy [px].

    Raises
    ------
    ValueError
        If a shape, dtype or range does not fit.

    Examples
    --------
    >>> tile_sides(np.array([1, 2], np.uint64), count=3)
    array([[50, 46, 43],
           [70, 48, 48]], dtype=int32)
    """
    low, high = side_range
    if not 1 <= low <= high:
        raise ValueError(f"tile_patches: side_range must be 1 <= smallest <= largest, got {side_range}")
    if count < 1:
        raise ValueError(f"tile_patches: count must be at least 1, got {count}")
    keys = keys_of("tile_patches", seeds, np.size(seeds), TILE_SIDE)
    draws = mix64(keys[:, None] ^ mix64(np.arange(count, dtype=np.uint64))) >> np.uint64(40)
    return (low + ((draws.astype(np.int64) * (high - low + 1)) >> 24)).astype(np.int32)


@numba.njit(nogil=True, cache=True)
def _cpu(views, keys, sides, out):  # type: ignore[no-untyped-def]
    _, _, height, width = views.shape
    plane = height * width
    for n in range(len(views)):
        for k in range(keys.shape[1]):
            side, key = np.int64(sides[n, k]), keys[n, k]
            columns = width // side + 1
            for gy in range(height // side + 1):
                for gx in range(columns):
                    cell = 2 * (gy * columns + gx)
                    corner = draw_below(key, cell, height - side) * width + draw_below(key, cell + 1, width - side)
                    h, w = min(side, height - gy * side), min(side, width - gx * side)
                    at = gy * side * width + gx * side
                    for c in range(3):
                        source = views.ctypes.data + (3 * n + c) * plane + corner
                        target = out.ctypes.data + ((n * keys.shape[1] + k) * 3 + c) * plane + at
                        move_block(source, width, target, width, h, w)


def _cuda(views: Any, keys: np.ndarray, sides: np.ndarray, out: Any) -> None:
    xp = array_module(views)
    height, width = views.shape[2:]
    vector = 4 if width % 4 == 0 and aligned(out) else 1
    total = keys.size * height * width // vector
    sizes = np.int32(keys.shape[1]), np.int32(height), np.int32(width), np.int64(total)
    args = (views, xp.asarray(keys), xp.asarray(sides), *sizes, out)
    launch("tiles", f"tiles_fill{vector}", (-(-total // 256),), (256,), args)
