"""As axis.py, for Pillow's bicubic filter: windows and integer weights of one axis.

The filter is Keys's cubic convolution with a = -1/2 (Keys 1981, "Cubic convolution interpolation for digital image
processing", equation 15), stretched by s = max(scale, 1) when shrinking: four cubic pieces between x = -2, -1, 0, 1, 2.
Weights are differences of the rounded running sum as in axis.py; a sum over one piece is a polynomial in the number of its
taps (power sums), so a CUDA thread finds any one weight alone (resample_cubic.cuh is this file, operation by operation).

Bounds. Let P and N be the sums of the positive weights and of the negative ones' magnitudes, P - N = 1. N / P <= 0.465:
write h = 1 / s <= 1 for the distance of two taps; |k| <= 2/27 beyond 1, k >= 9/16 up to 1/2.
  * h <= 0.39. A side of the window that reaches beyond 1 holds all its positive taps. There k falls from 1, so that h * P >=
    13/24 - h (left Riemann sum), and h * N <= 1/24 + 2h/27 (integral and largest value): N / P <= 0.071 / 0.151.
  * h > 0.39. A side has at most ceil(s) <= 3 taps beyond 1. One side reaches there: N <= 6/27, and the tap nearest to the centre
    gives P >= 9/16. Both do: N <= 12/27, and the nearest taps of the two sides, no more than 1 apart, give P >= 1.
So P < 1.87, N < 0.87; windows of `fill_cubic_axis` reach 1.135 and 0.135 (tests/kernels/test_axis_cubic.py). Rounded weights add
at most two units. A weight thus fits int16, and sums of weights times 8 bits, or 14 bits, fit int32 in any order.
"""

from __future__ import annotations

import numba
import numpy as np

from .axis import WEIGHT_ONE


@numba.njit(nogil=True, cache=True)
def cubic_taps_of(scale):  # type: ignore[no-untyped-def]
    """Return an upper bound of the taps of one output pixel, for a scale [source px per output px]."""
    return int(4.0 * max(scale, 1.0)) + 2


@numba.njit(nogil=True, cache=True)
def _piece(piece, x, h):  # type: ignore[no-untyped-def]
    """Return d0..d3: the filter at x, x + h, x + 2h ... on a piece is d0 + d1 * j + d2 * j**2 + d3 * j**3."""
    sign = -1.0 if piece < 2 else 1.0
    if piece == 0 or piece == 3:
        c0, c1, c2, c3 = 2.0, -4.0 * sign, 2.5, -0.5 * sign
    else:
        c0, c1, c2, c3 = 1.0, 0.0, -2.5, 1.5 * sign
    hh = h * h
    return (
        c0 + x * (c1 + x * (c2 + x * c3)),
        h * (c1 + x * (2.0 * c2 + x * (3.0 * c3))),
        hh * (c2 + 3.0 * c3 * x),
        hh * h * c3,
    )


@numba.njit(nogil=True, cache=True)
def _power_sum(d0, d1, d2, d3, m):  # type: ignore[no-untyped-def]
    """Sum the first m taps of a piece."""
    a = 0.5 * m * (m - 1.0)
    return d0 * m + d1 * a + d2 * (a * (2.0 * m - 1.0) * (1.0 / 3.0)) + d3 * (a * a)


@numba.njit(nogil=True, cache=True)
def fill_cubic_axis(origin, scale, n, first, count, weights):  # type: ignore[no-untyped-def]
    """Fill the windows and weights of all output pixels of one axis.

    Parameters
    ----------
    origin, scale, n, first, count
        As in `fill_axis`.
    weights : (n_out, taps) int32
        Written: weights, some negative, zero past `count`. `taps` >= `cubic_taps_of(scale)`.
    """
    support = max(scale, 1.0)
    step = 1.0 / support
    ends = np.zeros(5, np.int64)  # taps before the end of each piece
    for i in range(len(first)):
        center = origin + (i + 0.5) * scale
        begin = max(int(center - 2.0 * support + 0.5), 0)
        end = min(int(center + 2.0 * support + 0.5), n)
        u = (begin - center + 0.5) * step
        ends[1] = max(min(int(center - support + 0.5), end), begin) - begin
        ends[2] = min(int(center + 0.5), end) - begin
        ends[3] = min(int(center + support + 0.5), end) - begin
        ends[4] = end - begin
        total = 0.0
        for piece in range(4):
            d0, d1, d2, d3 = _piece(piece, u + step * ends[piece], step)
            total = total + _power_sum(d0, d1, d2, d3, float(ends[piece + 1] - ends[piece]))
        norm = WEIGHT_ONE / total
        base, before = 0.0, WEIGHT_ONE
        for piece in range(4):
            start, taps = ends[piece], ends[piece + 1] - ends[piece]
            d0, d1, d2, d3 = _piece(piece, u + step * start, step)
            for m in range(1, taps + 1):
                s = base + _power_sum(d0, d1, d2, d3, float(m))
                now = int(s * norm + (WEIGHT_ONE + 0.5))  # one more, so that it is positive and truncation is floor
                weights[i, start + m - 1] = now - before
                before = now
            base = base + _power_sum(d0, d1, d2, d3, float(taps))
        weights[i, ends[4] :] = 0
        first[i] = begin
        count[i] = ends[4]
