"""Synthesise textures by quilting: blocks of an exemplar side by side, cut where they agree best.

Layout: planar uint8 exemplars (N, K, 3, E, F) in, planar uint8 textures (N, 3, S, S) out. On the CPU alone: it is for jobs that
make textures once, not for training. Integer sums and draws, so the result is the same on every machine.

Source: Efros and Freeman 2001, "Image quilting for texture synthesis and transfer": blocks in raster order, each one drawn among
those whose overlap with what is there differs by at most (1 + tolerance) times the least, minimum-error boundary cuts.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from .arrays import on_gpu
from .draws import QUILT, draw_below, keys_of

MAX_OVERLAP = (2**31 - 1) // (3 * 255**2)
"""Pixels of the overlaps of one block, at most: their sum of squares fits 31 bits."""


def quilt_textures(
    exemplars: Any, *, seeds: np.ndarray, size: int = 224, block: int = 32, overlap: int = 8, tolerance: float = 0.1
) -> np.ndarray:
    """Synthesise a texture from each set of exemplars.

    Parameters
    ----------
    exemplars : (N, K, 3, E, F) uint8, NumPy
        K exemplars for each texture; blocks are taken from all of them.
    seeds : (N,) uint64, NumPy
    size : int
        Side of the textures [px].
    block : int
        Side of a block [px], at most E and F.
    overlap : int
        Pixels that neighbouring blocks share, 1 .. block / 2.
    tolerance : float
        Blocks may differ by this share more than the best one, 0 .. 10.

    Returns
    -------
    (N, 3, size, size) uint8, NumPy

    Raises
    ------
    TypeError
        If the exemplars are on a GPU.
    ValueError
        If a shape, dtype or range does not fit.

    Notes
    -----
    The first block is uniform over all places. Any other is uniform over the places whose sum of squared differences d over
    the overlap, and all three channels, fulfils d <= m + floor(m * t / 1024), m the least sum and t = round(1024 * tolerance).
    In an overlap, the path of least summed squared difference that runs from end to end, moving by at most one pixel a step,
    parts old from new; the pixels on it are new. Of equal paths the one nearest the old side is taken. Where two overlaps
    meet, a pixel is new if it is on the new side of both cuts. What stands out beyond `size` is cut off.

    Examples
    --------
    >>> stripes = np.zeros((1, 1, 3, 12, 12), np.uint8)
    >>> stripes[..., ::4] = 200
    >>> texture = quilt_textures(stripes, seeds=np.array([1], np.uint64), size=16, block=8, overlap=4)
    >>> bool((texture == texture[:, :, :1]).all()), np.unique(np.diff(np.flatnonzero(texture[0, 0, 0]))).tolist()
    (True, [4])
    """
    if on_gpu("quilt_textures", exemplars=exemplars):
        raise TypeError("quilt_textures: exemplars must be a NumPy array, got a CUDA array; move it with cupy.asnumpy")
    shape = tuple(exemplars.shape)
    if len(shape) != 5 or shape[2] != 3 or exemplars.dtype != np.uint8 or 0 in shape[1:]:
        raise ValueError(
            f"quilt_textures: exemplars must be (N, K, 3, E, F) uint8 with at least one pixel, got {shape} {exemplars.dtype}"
        )
    keys = keys_of("quilt_textures", seeds, shape[0], QUILT)
    if size < 1:
        raise ValueError(f"quilt_textures: size must be at least 1 px, got {size}")
    if not 2 <= block <= min(shape[3:]):
        raise ValueError(f"quilt_textures: block must be 2 .. {min(shape[3:])} px, got {block}")
    if not 1 <= overlap <= block // 2:
        raise ValueError(f"quilt_textures: overlap must be 1 .. {block // 2} px, half a block, got {overlap}")
    if (2 * block - overlap) * overlap > MAX_OVERLAP:
        raise ValueError(
            f"quilt_textures: overlaps of a block must cover at most {MAX_OVERLAP} px, got "
            f"{(2 * block - overlap) * overlap}; lower block or overlap"
        )
    if not 0.0 <= tolerance <= 10.0:
        raise ValueError(f"quilt_textures: tolerance must be in 0 .. 10, got {tolerance}")
    step = block - overlap
    across = max(0, -(-(size - block) // step)) + 1
    side = block + (across - 1) * step
    sources = np.ascontiguousarray(exemplars.transpose(0, 1, 3, 4, 2)).reshape(*shape[:2], shape[3], shape[4] * 3)
    canvas = np.zeros((side, side * 3), np.uint8)
    out = np.empty((shape[0], 3, size, size), np.uint8)
    for n in range(shape[0]):
        _quilt(sources[n], keys[n], across, block, overlap, round(1024 * tolerance), canvas)
        out[n] = canvas.reshape(side, side, 3)[:size, :size].transpose(2, 0, 1)
    return out


@numba.njit(nogil=True, cache=True)
def _quilt(sources, key, across, block, overlap, tolerance, canvas):  # type: ignore[no-untyped-def]
    count, height, width = sources.shape[0], sources.shape[1], sources.shape[2] // 3
    rows, columns = height - block + 1, width - block + 1
    places = rows * columns
    sums = np.empty(count * places, np.int32)
    cut_left, cut_top = np.zeros(block, np.int64), np.zeros(block, np.int64)
    costs = np.empty((block, overlap), np.int64)
    for i in range(across):
        for j in range(across):
            top, left = i * (block - overlap), j * (block - overlap)
            number = i * across + j
            if number == 0:
                chosen = draw_below(key, 0, count * places)
            else:
                least = _compare(sources, canvas, top, left, block, overlap, tolerance, sums)
                limit = least + ((np.int64(least) * tolerance) >> 10)
                near = 0
                for p in range(len(sums)):
                    near += sums[p] <= limit
                pick = draw_below(key, number, near)
                chosen = -1
                while pick >= 0:
                    chosen += 1
                    pick -= sums[chosen] <= limit
            source = sources[chosen // places]
            y, x = chosen % places // columns, chosen % places % columns
            cut_left[:] = 0
            cut_top[:] = 0
            if j > 0:
                _costs(canvas, top, left, source, y, x, block, overlap, False, costs)
                _cut(costs, cut_left)
            if i > 0:
                _costs(canvas, top, left, source, y, x, block, overlap, True, costs)
                _cut(costs, cut_top)
            for r in range(block):
                for c in range(cut_left[r], block):
                    if r >= cut_top[c]:
                        for k in range(3):
                            canvas[top + r, 3 * (left + c) + k] = source[y + r, 3 * (x + c) + k]


@numba.njit(nogil=True, cache=True)
def _compare(sources, canvas, top, left, block, overlap, tolerance, sums):  # type: ignore[no-untyped-def]
    """Write each place's sum of squared differences over the overlap; return the least.

    A place that is already out of reach is given up: its sum is then too small to be right, but too large to be chosen.
    """
    count, height, width = sources.shape[0], sources.shape[1], sources.shape[2] // 3
    rows, columns = height - block + 1, width - block + 1
    least, limit, p = np.int64(2**31 - 1), np.int64(2**31 - 1), 0
    for e in range(count):
        for y in range(rows):
            for x in range(columns):
                total = np.int32(0)
                for r in range(block):
                    span = 3 * block if top > 0 and r < overlap else (3 * overlap if left > 0 else 0)
                    if span == 0:
                        break
                    total += _difference(
                        sources[e, y + r, 3 * x : 3 * x + span], canvas[top + r, 3 * left : 3 * left + span]
                    )
                    if total > limit:
                        break
                sums[p] = total
                p += 1
                if total < least:
                    least = np.int64(total)
                    limit = least + ((least * tolerance) >> 10)
    return least


@numba.njit(nogil=True, cache=True, inline="always")
def _difference(a, b):  # type: ignore[no-untyped-def]
    total = np.int32(0)
    for k in range(len(a)):
        d = np.int32(np.int32(a[k]) - np.int32(b[k]))
        total = np.int32(total + np.int32(d * d))
    return total


@numba.njit(nogil=True, cache=True)
def _costs(canvas, top, left, source, y, x, block, overlap, transposed, costs):  # type: ignore[no-untyped-def]
    """Write the squared difference of each pixel of an overlap: (along the block, across the overlap)."""
    for a in range(block):
        for b in range(overlap):
            r, c = (b, a) if transposed else (a, b)
            total = np.int64(0)
            for k in range(3):
                d = np.int64(canvas[top + r, 3 * (left + c) + k]) - np.int64(source[y + r, 3 * (x + c) + k])
                total += d * d
            costs[a, b] = total


@numba.njit(nogil=True, cache=True)
def _cut(costs, cut):  # type: ignore[no-untyped-def]
    """Find the path of least cost from the first line to the last, and overwrite `costs` by its sums."""
    lines, span = costs.shape
    for a in range(1, lines):
        for b in range(span):
            best = costs[a - 1, b]
            if b > 0:
                best = min(best, costs[a - 1, b - 1])
            if b < span - 1:
                best = min(best, costs[a - 1, b + 1])
            costs[a, b] += best
    at = 0
    for b in range(1, span):
        if costs[lines - 1, b] < costs[lines - 1, at]:
            at = b
    cut[lines - 1] = at
    for a in range(lines - 2, -1, -1):
        best = at
        for b in range(max(at - 1, 0), min(at + 2, span)):
            if costs[a, b] < costs[a, best] or (costs[a, b] == costs[a, best] and b < best):
                best = b
        at = best
        cut[a] = at
