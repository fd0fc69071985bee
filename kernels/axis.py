"""Which source pixels one output pixel of a resize sees, and with what integer weights.

The window and the triangle are those of Pillow's bilinear filter (`precompute_coeffs` in its Resample.c): support
max(scale, 1), so that shrinking averages and does not alias. Weights are integers that sum to 2**14 exactly, so a flat
area keeps its grey level. They are differences of the rounded running sum, W(k) = floor(2**14 * S(k) / S(count) + 1/2),
which never drifts however many taps there are; S has a closed form (two arithmetic series), so a CUDA thread finds any
one weight without the others (`window_of` and `running_sum` in resample_window.cuh are this function, operation by operation).
"""

from __future__ import annotations

import numba

WEIGHT_ONE = 1 << 14
"""Sum of the weights of one output pixel."""


@numba.njit(nogil=True, cache=True)
def taps_of(scale):  # type: ignore[no-untyped-def]
    """Return an upper bound of the taps of one output pixel, for a scale [source px per output px]."""
    return int(2.0 * max(scale, 1.0)) + 2


@numba.njit(nogil=True, cache=True)
def fill_axis(origin, scale, n, first, count, weights):  # type: ignore[no-untyped-def]
    """Fill the windows and weights of all output pixels of one axis.

    Parameters
    ----------
    origin : float64
        Where the box begins [px of the source].
    scale : float64
        Source px per output px, > 0.
    n : int
        Length of the source [px]; windows are cut to [0, n).
    first, count : (n_out,) int32
        Written: first source px of each output px, and how many it sees (>= 1).
    weights : (n_out, taps) int32
        Written: weights, zero past `count`. `taps` >= `taps_of(scale)`.
    """
    support = max(scale, 1.0)
    step = 1.0 / support
    for i in range(len(first)):
        center = origin + (i + 0.5) * scale
        begin = max(int(center - support + 0.5), 0)
        end = min(int(center + support + 0.5), n)
        taps = end - begin
        rising = min(int(center + 0.5), end) - begin  # taps left of the centre, where the triangle goes up
        u = (begin - center + 0.5) * step
        half = 0.5 * rising * (rising - 1.0)
        top = rising * (1.0 + u) + step * half
        total = top + ((taps - rising) * (1.0 - u) - step * (0.5 * taps * (taps - 1.0) - half))
        norm = WEIGHT_ONE / total
        before = 0
        for k in range(1, taps + 1):
            if k <= rising:
                s = k * (1.0 + u) + step * (0.5 * k * (k - 1.0))
            else:
                s = top + ((k - rising) * (1.0 - u) - step * (0.5 * k * (k - 1.0) - half))
            now = int(s * norm + 0.5)
            weights[i, k - 1] = now - before
            before = now
        weights[i, taps:] = 0
        first[i] = begin
        count[i] = taps
