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
    axes = axes_of(source, height, width)
    buffers = buffers_of(source, channels, axes, 0, width)
    for y in range(0, height, LANES):
        resample_strip(source, channels, axes, buffers, y, 0, width)
        store_strip(buffers[3], min(LANES, height - y), 0, width, target + y * width, height)


@numba.njit(nogil=True, cache=True)
def axes_of(source, height, width):  # type: ignore[no-untyped-def]
    """Return first tap, taps and weights of the rows, then of the columns of an output."""
    y_first, y_count = np.empty(height, np.int32), np.empty(height, np.int32)
    y_weights = np.empty((height, taps_of(source.scale_y) + 3), np.int32)
    fill_axis(source.origin_y, source.scale_y, source.rows, y_first, y_count, y_weights)
    x_first, x_count = np.empty(width, np.int32), np.empty(width, np.int32)
    x_weights = np.empty((width, taps_of(source.scale_x)), np.int32)
    fill_axis(source.origin_x, source.scale_x, source.cols, x_first, x_count, x_weights)
    return y_first, y_count, y_weights, x_first, x_count, x_weights


@numba.njit(nogil=True, cache=True)
def _span(source, axes, begin, end):  # type: ignore[no-untyped-def]
    """Return the source columns, first and one past the last, that output columns begin .. end - 1 take from."""
    x_first, x_count = axes[3], axes[4]
    low, high = (len(x_first) - end, len(x_first) - begin) if source.flip else (begin, end)
    return x_first[low], x_first[high - 1] + x_count[high - 1]


@numba.njit(nogil=True, cache=True)
def buffers_of(source, channels, axes, begin, end):  # type: ignore[no-untyped-def]
    """Make room for strips of columns begin .. end - 1; the last buffer is the block that `resample_strip` fills."""
    left, right = _span(source, axes, begin, end)
    used = (right - left) * channels
    padded = (used + LANES - 1) // LANES * LANES
    block = np.empty((channels, len(axes[3]), LANES), np.uint8)
    return np.empty((LANES, padded), np.int16), np.empty((padded, LANES), np.int16), np.empty(used, np.int32), block


@numba.njit(nogil=True, cache=True)
def resample_strip(source, channels, axes, buffers, y, begin, end):  # type: ignore[no-untyped-def]
    """Resample output rows y .. y + 15, as far as there are so many, and columns begin .. end - 1 into the block.

    Parameters
    ----------
    source, channels
        As for `resample_plane`.
    axes, buffers : tuples
        From `axes_of` and, for the same columns, `buffers_of`.
    y, begin, end : int
    """
    y_first, y_count, y_weights, x_first, x_count, x_weights = axes
    rows, columns, sums, block = buffers
    left, _ = _span(source, axes, begin, end)
    address, padded = source.address + left * channels, rows.shape[1]
    for r in range(min(LANES, len(y_first) - y)):
        i = y + r
        _vertical(address, source.pitch, source.rows, y_first[i], y_count[i], y_weights[i], sums, rows[r])
    for j in range(0, padded, LANES):
        transpose_int16(rows.ctypes.data + 2 * j, 2 * padded, columns.ctypes.data + 2 * LANES * j, 2 * LANES)
    _horizontal(columns, channels, left, source.flip, x_first, x_count, x_weights, begin, end, block)


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
def store_strip(block, rows, begin, end, target, height):  # type: ignore[no-untyped-def]
    """Transpose columns begin .. end - 1 of a block into planar rows.

    Parameters
    ----------
    block : (channels, width, 16) uint8
    rows : int
        How many of the 16 there are.
    begin, end : int
        `begin` is a multiple of 16.
    target : int
        Address of the first row of the first channel.
    height : int
        Rows from one channel to the next.
    """
    channels, width, _ = block.shape
    whole = max(end // LANES * LANES, begin) if rows == LANES else begin
    for c in range(channels):
        to = target + c * height * width
        for x in range(begin, whole, LANES):
            transpose_uint8(block.ctypes.data + LANES * (c * width + x), LANES, to + x, width)
        out = carray(bytes_at(to), (rows, width))
        for r in range(rows):
            for x in range(whole, end):
                out[r, x] = block[c, x, r]
