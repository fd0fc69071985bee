"""The two passes of an antialiased bicubic resize of one image on the CPU: rows first, then columns, as Pillow does.

    16 source rows, uint8  --transpose-->  16 rows side by side  --horizontal, one register for the 16 rows-->
    int16 in 1/64 grey, cut to 0..255 grey  --transpose-->  planar rows  --vertical-->  uint8, cut to 0..255

The bicubic filter overshoots, and Pillow cuts to 0..255 after each pass: the order of the passes shows at hard edges (up to 9
grey levels in photographs, 22 in noise), so it is Pillow's, other than in separable.py. Between the passes Pillow rounds to
8 bits, we to 14. Sums are exact int32 (bounds: axis_cubic.py): h = cut((sum w * source + 2**7) >> 8, 0, 255 * 64), then
out = cut((sum w * h + 2**19) >> 20, 0, 255).
"""

from __future__ import annotations

import numba
import numpy as np
from numba import carray

from .axis_cubic import cubic_taps_of, fill_cubic_axis
from .lanes import LANES, bytes_at, transpose_int16, transpose_uint8, weigh_byte_lanes


@numba.njit(nogil=True, cache=True)
def resample_plane_cubic(source, channels, height, width, target):  # type: ignore[no-untyped-def]
    """Resample one image into planar memory; parameters as in `separable.resample_plane`."""
    y_first, y_count = np.empty(height, np.int32), np.empty(height, np.int32)
    y_weights = np.empty((height, cubic_taps_of(source.scale_y) + 3), np.int32)
    fill_cubic_axis(source.origin_y, source.scale_y, source.rows, y_first, y_count, y_weights)
    x_first, x_count = np.empty(width, np.int32), np.empty(width, np.int32)
    x_weights = np.empty((width, cubic_taps_of(source.scale_x)), np.int32)
    fill_cubic_axis(source.origin_x, source.scale_x, source.cols, x_first, x_count, x_weights)

    left, top = x_first[0], y_first[0]
    used = (x_first[width - 1] + x_count[width - 1] - left) * channels
    n_rows = y_first[height - 1] + y_count[height - 1] - top
    padded, wide = _to_lanes(used), _to_lanes(width)
    rows = np.zeros((LANES, padded), np.uint8)
    columns = np.empty((padded, LANES), np.uint8)
    block = np.zeros((channels, wide, LANES), np.int16)
    between = np.empty((channels, _to_lanes(n_rows), wide), np.int16)
    for y in range(0, n_rows, LANES):
        for r in range(min(LANES, n_rows - y)):
            at = source.address + source.pitch * np.int64(top + y + r) + left * channels
            rows[r, :used] = carray(bytes_at(at), used)
        for j in range(0, padded, LANES):
            transpose_uint8(rows.ctypes.data + j, padded, columns.ctypes.data + LANES * j, LANES)
        _horizontal(columns, channels, left, source.flip, x_first, x_count, x_weights, block)
        for c in range(channels):
            for x in range(0, wide, LANES):
                at = block.ctypes.data + 2 * LANES * (c * wide + x)
                transpose_int16(at, 2 * LANES, between[c, y:, x:].ctypes.data, 2 * wide)
    sums = np.empty(width, np.int32)
    for c in range(channels):
        for y in range(height):
            out = carray(bytes_at(target + (c * height + y) * width), width)
            _vertical(between[c, :n_rows], y_first[y] - top, y_count[y], y_weights[y], sums, out)


@numba.njit(nogil=True, cache=True)
def _to_lanes(n):  # type: ignore[no-untyped-def]
    return (n + LANES - 1) // LANES * LANES


@numba.njit(nogil=True, cache=True)
def _horizontal(columns, channels, left, flip, first, count, weights, block):  # type: ignore[no-untyped-def]
    """Weigh the columns of 16 rows: block (channels, >= width, 16) int16 from columns (source px * channels, 16) uint8."""
    width = len(first)
    step = LANES * channels
    for x in range(width):
        i = width - 1 - x if flip else x
        at = columns.ctypes.data + (first[i] - left) * step
        at_weights = weights.ctypes.data + 4 * weights.shape[1] * i
        for c in range(channels):
            to = block.ctypes.data + 2 * LANES * (c * block.shape[1] + x)
            weigh_byte_lanes(at + LANES * c, step, at_weights, count[i], to)


@numba.njit(nogil=True, cache=True)
def _vertical(between, first, count, weights, sums, out):  # type: ignore[no-untyped-def]
    """Weigh rows first .. first + count - 1 of `between` into out; zero weights past `count` may be read."""
    n, last = len(sums), len(between) - 1
    for k in range(0, count, 4):
        a, b = between[first + k], between[min(first + k + 1, last)]
        c, d = between[min(first + k + 2, last)], between[min(first + k + 3, last)]
        w0, w1, w2, w3 = weights[k], weights[k + 1], weights[k + 2], weights[k + 3]
        if k == 0:
            for i in range(n):
                sums[i] = w0 * a[i] + w1 * b[i] + w2 * c[i] + w3 * d[i] + (1 << 19)
        else:
            for i in range(n):
                sums[i] += w0 * a[i] + w1 * b[i] + w2 * c[i] + w3 * d[i]
    for i in range(n):
        out[i] = min(max(sums[i] >> 20, 0), 255)
