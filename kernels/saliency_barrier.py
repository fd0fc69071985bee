"""Minimum barrier distance to the image border: how much a path from the border must go up and down to get here.

The barrier of a path is its greatest minus its least value; a figure that differs from its surroundings cannot be reached
from the border without one. Layout: planar uint8 Lab (N, 3, H, W) in, one cost per channel out.

Implemented from the formulas of Zhang, Sclaroff, Lin, Shen, Price and Mech 2015, "Minimum barrier salient object detection
at 80 FPS". Where the paper scans in raster order, this takes directional passes (each row looks at the
row before it only), which suit vector registers and thread blocks and give one definition for both devices.

The authors state a patent claim on their method ("patent pending" in the readme of their program). The methods "cells" and
"rbd" of `saliency.estimate_saliency` do without it.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from .arrays import array_module, on_gpu
from .lanes import transpose_uint8
from .launch import launch

ROUNDS = 3
"""Rounds of passes: down, up, right, left."""
MOST_SHARED = 96 * 1024
"""Shared memory that every CUDA device since Volta grants a block [bytes]; larger images use global memory."""
_GROUP = 4
"""Images side by side in a row, so that a row fills many registers."""


def barrier_cost(planes: Any) -> Any:
    """Measure the barrier between each pixel and the image border, in each channel by itself.

    Parameters
    ----------
    planes : (N, 3, H, W) uint8
        Channels of any kind; Lab smoothed by a median works best.

    Returns
    -------
    (N, 3, H, W) uint8, on the device of `planes`
        0 on the outermost pixels; elsewhere at least the exact minimum barrier distance, since it is the cost of some path.

    Notes
    -----
    Each pixel keeps the greatest and least value (U, L) of its path, (I, I) on the border and (255, 0) elsewhere. A pass
    replaces them by (max(U', I), min(L', I)) of the neighbour it comes from where the difference is smaller.

    Examples
    --------
    >>> planes = np.zeros((1, 3, 3, 3), np.uint8)
    >>> planes[:, :, 1, 1] = 9
    >>> barrier_cost(planes)[0, 0].tolist()
    [[0, 0, 0], [0, 9, 0], [0, 0, 0]]
    """
    if on_gpu("barrier_cost", planes=planes):
        return _cuda(planes)
    return _cpu(planes)


def _cpu(planes: np.ndarray) -> np.ndarray:
    cost = np.empty_like(planes)
    height, width = (-(-size // 16) * 16 for size in planes.shape[2:])
    rows = np.empty((3, height, 3 * _GROUP * width), np.uint8)
    columns = np.empty((3, width, 3 * _GROUP * height), np.uint8)
    for first in range(0, len(planes), _GROUP):
        _scan_group(planes[first : first + _GROUP], cost[first : first + _GROUP], rows, columns, ROUNDS)
    return cost


@numba.njit(nogil=True, cache=True)
def _flip(source, target, n_planes):  # type: ignore[no-untyped-def]
    """Transpose each of the planes that lie side by side: (H, planes * W) to (W, planes * H), both multiples of 16."""
    height, width = source.shape[0], target.shape[0]
    from_pitch, to_pitch = source.shape[1], target.shape[1]
    for c in range(n_planes):
        for y in range(0, height, 16):
            for x in range(0, width, 16):
                start = source.ctypes.data + y * from_pitch + c * width + x
                end = target.ctypes.data + x * to_pitch + c * height + y
                transpose_uint8(start, from_pitch, end, to_pitch)


@numba.njit(nogil=True, cache=True)
def _relax(high, low, here, high_before, low_before):  # type: ignore[no-untyped-def]
    for x in range(here.size):
        i, u, v = here[x], high[x], low[x]
        new_high, new_low = np.uint8(max(high_before[x], i)), np.uint8(min(low_before[x], i))
        better = np.uint8(new_high - new_low) < np.uint8(u - v)
        high[x] = new_high if better else u
        low[x] = new_low if better else v


@numba.njit(nogil=True, cache=True)
def _pass_twice(high, low, here, n):  # type: ignore[no-untyped-def]
    """Go down and up again over the first n rows."""
    for y in range(1, n):
        _relax(high[y], low[y], here[y], high[y - 1], low[y - 1])
    for y in range(n - 2, -1, -1):
        _relax(high[y], low[y], here[y], high[y + 1], low[y + 1])


@numba.njit(nogil=True, cache=True)
def _scan_group(planes, cost, rows, columns, rounds):  # type: ignore[no-untyped-def]
    count, _, height, width = planes.shape
    pitch, n_planes = columns.shape[1], 3 * count
    here, high, low = rows[0], rows[1], rows[2]
    high[:] = 255
    low[:] = 0
    here[:] = 0
    for p in range(n_planes):
        plane, left = planes[p // 3, p % 3], p * pitch
        for y in range(height):
            here[y, left : left + width] = plane[y]
        for y in (0, height - 1):
            high[y, left : left + width] = plane[y]
            low[y, left : left + width] = plane[y]
        for y in range(height):
            for x in (0, width - 1):
                high[y, left + x] = low[y, left + x] = plane[y, x]
    _flip(here, columns[0], n_planes)
    for _ in range(rounds):
        _pass_twice(high, low, here, height)
        _flip(high, columns[1], n_planes)
        _flip(low, columns[2], n_planes)
        _pass_twice(columns[1], columns[2], columns[0], width)
        _flip(columns[1], high, n_planes)
        _flip(columns[2], low, n_planes)
    for p in range(n_planes):
        left = p * pitch
        for y in range(height):
            _subtract(high[y, left : left + width], low[y, left : left + width], cost[p // 3, p % 3, y])


@numba.njit(nogil=True, cache=True)
def _subtract(high, low, out):  # type: ignore[no-untyped-def]
    for x in range(out.size):
        out[x] = high[x] - low[x]


def _cuda(planes: Any) -> Any:
    """One block per image and channel, all in shared memory if it fits; a thread owns a column, then a row."""
    xp = array_module(planes)
    count, _, height, width = planes.shape
    cost = xp.empty(planes.shape, np.uint8)
    if planes.size:
        pitch = -(-width // 4) * 4
        pitch += 4 * (pitch % 8 == 0)  # an odd number of words: rows start in different banks
        threads = -(-max(height, width) // 32) * 32
        memory = 3 * height * pitch
        fits = memory <= MOST_SHARED
        scratch = xp.empty(1 if fits else 3 * count * memory, np.uint8)
        size = (np.int32(height), np.int32(width), np.int32(pitch), np.int32(ROUNDS), np.int32(fits))
        grid, shared = (3 * count,), memory if fits else 0
        launch(
            "saliency_barrier", "saliency_barrier_scan", grid, (threads,), (planes, cost, scratch, *size), shared=shared
        )
    return cost
