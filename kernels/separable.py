"""The two passes of an antialiased resize of one image on the CPU: columns first, then rows.

    source rows, uint8, interleaved  --vertical-->  16 rows of int16, in 1/64 grey  --transpose-->  16 rows side by side
    --horizontal, one register for the 16 rows-->  uint8  --transpose-->  16 rows of the planar output

The vertical pass runs along the row and needs no shuffles; the horizontal pass, whose taps differ from pixel to
pixel, runs across 16 rows, which share them. Sums are exact integers, so the order does not matter and CUDA agrees:
v = (sum w * source + 2**7) >> 8 fits int16, out = (sum w * v + 2**19) >> 20 lies in 0..255 because the weights are
not negative and sum to 2**14.
"""

from __future__ import annotations

import numba
import numpy as np
from numba import carray

from .axis import fill_axis, taps_of
from .lanes import LANES, bytes_at, transpose_int16, transpose_uint8, weigh_lanes


@numba.njit(nogil=True, cache=True)
def resample_plane(source, channels, height, width, target):  # type: ignore[no-untyped-def]
    """Resample one image into planar memory.

    Parameters
    ----------
    source : record of resample.PLANE_DTYPE
        Where to read, and the geometry.
    channels : int
        Bytes per source px.
    height, width : int
        Size of the output [px].
    target : int
        Address of the (channels, height, width) uint8 output.
    """
    resample_part(source, channels, height, width, target, 0, height, 0, width)


@numba.njit(nogil=True, cache=True)
def resample_part(source, channels, height, width, target, top, bottom, begin, end):  # type: ignore[no-untyped-def]
    """Resample as `resample_plane` does, but only what lies in some rows and columns of the output, and a little around it.

    Parameters
    ----------
    source, channels, height, width, target
        As for `resample_plane`.
    top, bottom, begin, end : int
        Rows top .. bottom - 1 and columns begin .. end - 1 are written, at least; others may be, with their true values.
    """
    if top >= bottom or begin >= end:
        return
    top, begin = top // LANES * LANES, begin // LANES * LANES
    end = min((end + LANES - 1) // LANES * LANES, width)
    y_first, y_count = np.empty(height, np.int32), np.empty(height, np.int32)
    y_weights = np.empty((height, taps_of(source.scale_y) + 3), np.int32)
    fill_axis(source.origin_y, source.scale_y, source.rows, y_first, y_count, y_weights)
    x_first, x_count = np.empty(width, np.int32), np.empty(width, np.int32)
    x_weights = np.empty((width, taps_of(source.scale_x)), np.int32)
    fill_axis(source.origin_x, source.scale_x, source.cols, x_first, x_count, x_weights)

    low, high = (width - end, width - begin) if source.flip else (begin, end)
    left = x_first[low]
    used = (x_first[high - 1] + x_count[high - 1] - left) * channels
    padded = (used + LANES - 1) // LANES * LANES
    rows = np.empty((LANES, padded), np.int16)
    columns = np.empty((padded, LANES), np.int16)
    sums = np.empty(used, np.int32)
    block = np.empty((channels, width, LANES), np.uint8)
    address = source.address + left * channels
    for y in range(top, bottom, LANES):
        for r in range(min(LANES, height - y)):
            i = y + r
            _vertical(address, source.pitch, source.rows, y_first[i], y_count[i], y_weights[i], sums, rows[r])
        for j in range(0, padded, LANES):
            transpose_int16(rows.ctypes.data + 2 * j, 2 * padded, columns.ctypes.data + 2 * LANES * j, 2 * LANES)
        _horizontal(columns, channels, left, source.flip, x_first, x_count, x_weights, begin, end, block)
        _store(block, y, height, begin, end, target)


@numba.njit(nogil=True, cache=True)
def _vertical(address, pitch, n_rows, first, count, weights, sums, out):  # type: ignore[no-untyped-def]
    """Weigh source rows first .. first + count - 1 into out[: len(sums)]; zero weights past `count` may be read."""
    n, last = len(sums), n_rows - 1
    for k in range(0, count, 4):
        a = carray(bytes_at(address + pitch * (first + k)), n)
        b = carray(bytes_at(address + pitch * min(first + k + 1, last)), n)
        w0, w1, w2, w3 = weights[k], weights[k + 1], weights[k + 2], weights[k + 3]
        if count <= 2:
            for i in range(n):
                out[i] = np.int32(w0 * a[i] + w1 * b[i] + 128) >> 8
            return
        c = carray(bytes_at(address + pitch * min(first + k + 2, last)), n)
        d = carray(bytes_at(address + pitch * min(first + k + 3, last)), n)
        if count <= 4:
            for i in range(n):
                out[i] = np.int32(w0 * a[i] + w1 * b[i] + w2 * c[i] + w3 * d[i] + 128) >> 8
        elif k == 0:
            for i in range(n):
                sums[i] = w0 * a[i] + w1 * b[i] + w2 * c[i] + w3 * d[i] + 128
        elif k + 4 < count:
            for i in range(n):
                sums[i] += w0 * a[i] + w1 * b[i] + w2 * c[i] + w3 * d[i]
        else:
            for i in range(n):
                out[i] = np.int32(sums[i] + w0 * a[i] + w1 * b[i] + w2 * c[i] + w3 * d[i]) >> 8


@numba.njit(nogil=True, cache=True)
def _horizontal(columns, channels, left, flip, first, count, weights, begin, end, block):  # type: ignore[no-untyped-def]
    """Weigh the columns of 16 rows: block (channels, width, 16) from columns (source px * channels, 16)."""
    width = len(first)
    step = 2 * LANES * channels
    for x in range(begin, end):
        i = width - 1 - x if flip else x
        at = columns.ctypes.data + (first[i] - left) * step
        at_weights = weights.ctypes.data + 4 * weights.shape[1] * i
        for c in range(channels):
            to = block.ctypes.data + LANES * (c * width + x)
            weigh_lanes(at + 2 * LANES * c, step, at_weights, count[i], to)


@numba.njit(nogil=True, cache=True)
def _store(block, y, height, begin, end, target):  # type: ignore[no-untyped-def]
    """Transpose columns begin .. end - 1 of block (channels, width, 16) into rows y .. y + 15 of the planar output."""
    channels, width, _ = block.shape
    rows = min(LANES, height - y)
    whole = max(end // LANES * LANES, begin) if rows == LANES else begin
    for c in range(channels):
        to = target + (c * height + y) * width
        for x in range(begin, whole, LANES):
            transpose_uint8(block.ctypes.data + LANES * (c * width + x), LANES, to + x, width)
        out = carray(bytes_at(to), (rows, width))
        for r in range(rows):
            for x in range(whole, end):
                out[r, x] = block[c, x, r]
