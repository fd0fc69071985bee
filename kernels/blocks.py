"""Corrupt blocks of views: random rectangles are covered by noise, by the mean colour, or by another view's pixels.

Layout: planar uint8 views (N, 3, H, W) in and out, uint8 masks (N, H, W) out. Integer draws and integer noise, so both devices
agree bit for bit.

Source: Atito, Awais and Kittler 2021, "SiT: Self-supervised vision transformer", and "GMML is all you need" (group masked
model learning); the block sizes, the alignment and the stop rule follow their published code.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from .arrays import aligned, array_module, on_gpu
from .draws import BLOCK_NOISE, BLOCK_SHARE, BLOCKS, chosen_of, draw_below, keys_of, mix64, scramble32
from .launch import launch
from .planar import check_views, output_like

FILLS = ("noise", "zero", "partner")
ZERO = (124, 116, 104)
"""The colour nearest to zero after ImageNet's normalisation (mean 0.485, 0.456, 0.406)."""
MAX_BLOCKS = 4096
"""Blocks drawn per view, at most; reached only by tiny blocks with a large share."""
_MEAN = (126643, 119071, 106015)  # ImageNet's mean, in 2**-10 grey
_GAIN = (405, 396, 398)  # ImageNet's deviation per deviation of the sum of four bytes, in 2**-10


def corrupt_blocks(
    views: Any,
    *,
    seeds: np.ndarray,
    max_share: float = 0.5,
    max_block: float = 0.3,
    grid: int = 1,
    fill: str = "noise",
    partners: np.ndarray | None = None,
    apply: np.ndarray | None = None,
    out: Any = None,
) -> tuple[Any, Any]:
    """Cover random blocks of each view until a drawn share of its area is covered.

    Parameters
    ----------
    views : (N, 3, H, W) uint8
    seeds : (N,) uint64, NumPy
    max_share : float
        Largest share of the area to cover, 0 .. 1; the share is uniform in min(0.5, max_share) .. max_share.
    max_block : float
        Largest side of a block, as a share of H and of W; must give more than `grid` pixels.
    grid : int
        Blocks lie on, and measure, multiples of this many pixels: 1, or the patch side of a vision transformer.
    fill : "noise", "zero" or "partner"
        What covers: noise that is nearly N(0, 1) after ImageNet's normalisation; the colour `ZERO`; the pixels of
        view `partners[n]` at the same place.
    partners : (N,) int32, NumPy, optional
        For "partner": rows of `views`.
    apply : (N,) bool, NumPy, optional
        False: the view is left alone, and its mask is empty.
    out : (N, 3, H, W) uint8, optional
        May be `views` itself, except for "partner".

    Returns
    -------
    corrupted : (N, 3, H, W) uint8, on the device of `views`
    mask : (N, H, W) uint8, on the device of `views`
        255 where the view is covered.

    Raises
    ------
    TypeError
        If the arrays are on different devices.
    ValueError
        If a shape, dtype or range does not fit.

    Notes
    -----
    A block's corner is uniform in 0 .. H - grid - 1 and rounded down to the grid; its side is uniform in
    grid .. floor(max_block * H) - 1, cut at the border and rounded to the grid (halves to even); the same for W.
    Blocks may overlap; covered pixels count once, and the last block may exceed the share. Noise is the sum s of four
    bytes of a hash, scaled: mean + std * (s - 510) / 147.8, cut to 0 .. 255. The papers' two stages are two calls:
    noise on each view, then "partner" with max_share = 0.3 on the batch; the union of both masks is numpy.maximum.
    Their third filling, another block of the same view, is not offered.

    Examples
    --------
    >>> views = np.zeros((1, 3, 6, 8), np.uint8)
    >>> seeds = np.array([7], np.uint64)
    >>> corrupted, mask = corrupt_blocks(views, seeds=seeds, max_share=0.3, max_block=0.9, grid=2, fill="zero")
    >>> mask[0] // 255
    array([[0, 0, 0, 0, 0, 0, 0, 0],
           [0, 0, 0, 0, 0, 0, 0, 0],
           [0, 0, 1, 1, 1, 1, 0, 0],
           [0, 0, 1, 1, 1, 1, 0, 0],
           [0, 0, 1, 1, 1, 1, 0, 0],
           [0, 0, 1, 1, 1, 1, 0, 0]], dtype=uint8)
    >>> corrupted[0, :, 2, 2]
    array([124, 116, 104], dtype=uint8)
    """
    gpu = on_gpu("corrupt_blocks", views=views, out=out)
    count, height, width = check_views("corrupt_blocks", views)
    if not 0.0 <= max_share <= 1.0:
        raise ValueError(f"corrupt_blocks: max_share must be in 0 .. 1, got {max_share}")
    largest = int(height * max_block), int(width * max_block)
    if grid < 1 or min(largest) <= grid or max(max_block, 0) > 1:
        raise ValueError(
            f"corrupt_blocks: max_block must be at most 1 and give blocks of more than grid = {grid} px, got {max_block} "
            f"of {height} x {width} px"
        )
    chosen = chosen_of("corrupt_blocks", apply, count)
    keys = keys_of("corrupt_blocks", seeds, count, BLOCKS)
    noise = keys_of("corrupt_blocks", seeds, count, BLOCK_NOISE)
    shares = (mix64(keys_of("corrupt_blocks", seeds, count, BLOCK_SHARE)) >> np.uint64(40)) * 2.0**-24
    low = min(0.5, max_share)
    targets = np.ceil((low + (max_share - low) * shares) * (height * width)).astype(np.int32)
    targets[~chosen] = 0
    partners = _check_partners(fill, partners, count)
    if fill == "partner" and out is views:
        raise ValueError('corrupt_blocks: out must not be views for fill "partner", got the same array; leave it out')
    out = output_like("corrupt_blocks", views, out)
    mask = array_module(views).zeros((count, height, width), np.uint8)
    if count:
        cover = _cuda_cover if gpu else _cpu_cover
        cover(keys, targets, int(grid), largest[0] - int(grid), largest[1] - int(grid), mask)
        (_cuda_fill if gpu else _cpu_fill)(views, mask, FILLS.index(fill), noise, partners, out)
    return out, mask


def _check_partners(fill: str, partners: Any, count: int) -> np.ndarray:
    if fill not in FILLS:
        raise ValueError(f"corrupt_blocks: fill must be one of {', '.join(FILLS)}, got {fill!r}")
    if fill != "partner":
        if partners is not None:
            raise ValueError(f"corrupt_blocks: partners must be None for fill {fill!r}, got an array")
        return np.zeros(count, np.int32)
    if not isinstance(partners, np.ndarray) or partners.shape != (count,) or partners.dtype != np.int32:
        got = f"{partners.shape} {partners.dtype}" if isinstance(partners, np.ndarray) else type(partners).__name__
        raise ValueError(f"corrupt_blocks: partners must be ({count},) int32 in NumPy, got {got}")
    if count and (partners.min() < 0 or partners.max() >= count):
        raise ValueError(
            f"corrupt_blocks: partners must be in 0 .. {count - 1}, got {partners.min()} .. {partners.max()}"
        )
    return partners


@numba.njit(nogil=True, cache=True)
def _side(grid, extra, room):  # type: ignore[no-untyped-def]
    """A block's side: cut at the border, rounded to the grid, halves to even; rounding may pass a border off the grid."""
    side = min(grid + extra, room)
    cells, rest = side // grid, 2 * (side % grid)
    if rest > grid or (rest == grid and cells % 2 == 1):
        cells += 1
    return min(cells * grid, room)


@numba.njit(nogil=True, cache=True)
def _cpu_cover(keys, targets, grid, span_h, span_w, mask):  # type: ignore[no-untyped-def]
    _, height, width = mask.shape
    for n in range(len(keys)):
        covered, key = 0, keys[n]
        for t in range(MAX_BLOCKS):
            if covered >= targets[n]:
                break
            top = draw_below(key, 4 * t, height - grid) // grid * grid
            left = draw_below(key, 4 * t + 1, width - grid) // grid * grid
            h = _side(grid, draw_below(key, 4 * t + 2, span_h), height - top)
            w = _side(grid, draw_below(key, 4 * t + 3, span_w), width - left)
            for y in range(top, top + h):
                row = mask[n, y, left : left + w]
                seen = 0
                for x in range(w):
                    seen += row[x]
                covered += w - seen // 255
                row[:] = 255


def _cpu_fill(
    views: np.ndarray, mask: np.ndarray, fill: int, noise: np.ndarray, partners: np.ndarray, out: np.ndarray
) -> None:
    planes = (len(views), 3, mask[0].size)
    _fill(views.reshape(planes), mask.reshape(len(views), -1), fill, noise, partners, out.reshape(planes))


@numba.njit(nogil=True, cache=True)
def _fill(views, mask, fill, noise, partners, out):  # type: ignore[no-untyped-def]
    pixels = mask.shape[1]
    cover = np.empty(pixels, np.uint8)
    for n in range(len(views)):
        for c in range(3):
            view, result, covered, source = views[n, c], out[n, c], mask[n], cover
            if fill == 0:
                _noise_plane(noise[n], c, cover)
            elif fill == 1:
                cover[:] = ZERO[c]
            else:
                source = views[partners[n], c]
            for i in range(pixels):
                m = covered[i]
                result[i] = (source[i] & m) | (view[i] & ~m)


@numba.njit(nogil=True, cache=True)
def _noise_plane(key, c, plane):  # type: ignore[no-untyped-def]
    low, high = np.uint32(key & np.uint64(0xFFFFFFFF)), np.uint32(key >> np.uint64(32))
    mean, gain = np.int32(_MEAN[c]), np.int32(_GAIN[c])
    first, byte = c * len(plane), np.uint32(255)
    for i in range(len(plane)):
        h = scramble32(np.uint32(scramble32(np.uint32(first + i) ^ low) + high))
        s = (h & byte) + ((h >> np.uint32(8)) & byte) + ((h >> np.uint32(16)) & byte) + (h >> np.uint32(24))
        value = np.int32(mean + np.int32(np.int32(s) - np.int32(510)) * gain + np.int32(512)) >> np.int32(10)
        plane[i] = min(max(value, 0), 255)


def _cuda_cover(keys: np.ndarray, targets: np.ndarray, grid: int, span_h: int, span_w: int, mask: Any) -> None:
    xp = array_module(mask)
    count, height, width = mask.shape
    sizes = np.int32(height), np.int32(width), np.int32(grid), np.int32(span_h), np.int32(span_w)
    args = (xp.asarray(keys), xp.asarray(targets), *sizes, np.int32(MAX_BLOCKS), mask)
    launch("blocks", "blocks_cover", (count,), (256,), args)


def _cuda_fill(views: Any, mask: Any, fill: int, noise: np.ndarray, partners: np.ndarray, out: Any) -> None:
    xp = array_module(views)
    pixels = mask.shape[1] * mask.shape[2]
    vector = 4 if pixels % 4 == 0 and aligned(views, mask, out) else 1
    total = len(mask) * 3 * pixels // vector
    tables = xp.asarray(noise), xp.asarray(partners)
    colors = [np.int32(v) for triple in (ZERO, _MEAN, _GAIN) for v in triple]
    args = (views, mask, np.int32(fill), *tables, *colors, np.int32(pixels), np.int64(total), out)
    launch("blocks", f"blocks_fill{vector}", (-(-total // 256),), (256,), args)
