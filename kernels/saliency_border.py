"""Unlike the border: how far each pixel's colour is from the colours of the four border strips.

Layout: planar uint8 Lab (N, 3, H, W) in, one uint16 map out. A strip is a tenth of the image; its colours are summed
exactly in integers, mean and covariance follow in float64, distances in float32 in a fixed order: CPU and CUDA agree bit for bit.

Source: the backgroundness cue of Zhang et al. 2015, "Minimum barrier salient object detection at 80 FPS", section 4 (Mahalanobis
distance to each strip; the strip farthest away, which may hold the figure, does not count).
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from .arrays import array_module, on_gpu
from .launch import launch

REGULAR = 20.0
"""Added to each variance [8-bit Lab units squared]: a strip of one colour still allows for noise."""
FULL = 4095
"""Greatest value of the cue."""
_LEAST_SPREAD = np.float32(1e-3)


def border_contrast(planes: Any) -> Any:
    """Measure how much each pixel differs in colour from the image border.

    Parameters
    ----------
    planes : (N, 3, H, W) uint8
        Lab, smoothed by a median.

    Returns
    -------
    (N, H, W) uint16, on the device of `planes`
        0 to `FULL`, stretched per image; all 0 where the image is flat.

    Notes
    -----
    For each strip k: d_k = sqrt((c - mean)' (covariance + 20 I)^-1 (c - mean)), stretched to 0..1. The cue is
    sum d_k - max d_k, stretched.

    Examples
    --------
    >>> planes = np.full((1, 3, 16, 16), 128, np.uint8)
    >>> planes[:, :, 6:10, 6:10] = 200
    >>> cue = border_contrast(planes)[0]
    >>> int(cue[0, 0]), int(cue[8, 8])
    (0, 4095)
    """
    if on_gpu("border_contrast", planes=planes):
        return _cuda(planes)
    return _cpu(planes)


def _cpu(planes: np.ndarray) -> np.ndarray:
    cue = np.empty((len(planes), *planes.shape[2:]), np.uint16)
    if planes.size:
        _contrast(planes, np.empty((5, *planes.shape[2:]), np.float32), np.empty((4, 9), np.float32), cue)
    return cue


@numba.njit(nogil=True, cache=True)
def _strip_model(plane, top, bottom, left, right, model):  # type: ignore[no-untyped-def]
    """Write mean (3) and inverse covariance (00, 11, 22, 2 * 01, 2 * 02, 2 * 12) of the colours in a box."""
    sums = np.zeros(9, np.int64)
    for y in range(top, bottom):
        a, b, c = plane[0, y, left:right], plane[1, y, left:right], plane[2, y, left:right]
        s0 = s1 = s2 = s00 = s11 = s22 = s01 = s02 = s12 = np.int32(0)
        for x in range(right - left):
            p, q, r = np.int32(a[x]), np.int32(b[x]), np.int32(c[x])
            s0 += p
            s1 += q
            s2 += r
            s00 += p * p
            s11 += q * q
            s22 += r * r
            s01 += p * q
            s02 += p * r
            s12 += q * r
        row = (s0, s1, s2, s00, s11, s22, s01, s02, s12)
        for k in range(9):
            sums[k] += row[k]
    _invert(sums, (bottom - top) * (right - left), model)


@numba.njit(nogil=True, cache=True)
def _invert(s, n, model):  # type: ignore[no-untyped-def]
    nn = float(n) * float(n)
    xx = float(n * s[3] - s[0] * s[0]) / nn + REGULAR
    yy = float(n * s[4] - s[1] * s[1]) / nn + REGULAR
    zz = float(n * s[5] - s[2] * s[2]) / nn + REGULAR
    xy = float(n * s[6] - s[0] * s[1]) / nn
    xz = float(n * s[7] - s[0] * s[2]) / nn
    yz = float(n * s[8] - s[1] * s[2]) / nn
    c00, c01, c02 = yy * zz - yz * yz, xz * yz - xy * zz, xy * yz - xz * yy
    inverse = 1.0 / ((xx * c00 + xy * c01) + xz * c02)
    for k in range(3):
        model[k] = np.float32(float(s[k]) / float(n))
    model[3] = np.float32(c00 * inverse)
    model[4] = np.float32((xx * zz - xz * xz) * inverse)
    model[5] = np.float32((xx * yy - xy * xy) * inverse)
    model[6] = np.float32(2.0 * (c01 * inverse))
    model[7] = np.float32(2.0 * (c02 * inverse))
    model[8] = np.float32(2.0 * ((xy * xz - xx * yz) * inverse))


@numba.njit(nogil=True, cache=True)
def _distances(plane, model, out):  # type: ignore[no-untyped-def]
    """Write the Mahalanobis distance of each pixel of one image to one strip."""
    m0, m1, m2, q00, q11, q22, q01, q02, q12 = model
    for y in range(out.shape[0]):
        first, second, third, row = plane[0, y], plane[1, y], plane[2, y], out[y]
        for x in range(row.size):
            a, b, c = np.float32(first[x]) - m0, np.float32(second[x]) - m1, np.float32(third[x]) - m2
            square = a * ((q00 * a + q01 * b) + q02 * c) + (b * (q11 * b + q12 * c) + c * (q22 * c))
            row[x] = np.sqrt(max(square, np.float32(0)))


@numba.njit(nogil=True, cache=True)
def _range(field):  # type: ignore[no-untyped-def]
    """Return the least value and one over the spread."""
    low, high = field[0].copy(), field[0].copy()
    for y in range(1, field.shape[0]):
        row = field[y]
        for x in range(row.size):
            low[x] = row[x] if row[x] < low[x] else low[x]
            high[x] = row[x] if row[x] > high[x] else high[x]
    least, most = low.min(), high.max()
    return least, np.float32(1) / max(most - least, _LEAST_SPREAD)


@numba.njit(nogil=True, cache=True)
def _contrast(planes, fields, models, cue):  # type: ignore[no-untyped-def]
    height, width = planes.shape[2], planes.shape[3]
    tall, wide = max(1, (height + 5) // 10), max(1, (width + 5) // 10)
    for n in range(len(planes)):
        plane = planes[n]
        _strip_model(plane, 0, tall, 0, width, models[0])
        _strip_model(plane, height - tall, height, 0, width, models[1])
        _strip_model(plane, 0, height, 0, wide, models[2])
        _strip_model(plane, 0, height, width - wide, width, models[3])
        low, scale = np.empty(4, np.float32), np.empty(4, np.float32)
        for k in range(4):
            m = models[k]
            _distances(plane, (m[0], m[1], m[2], m[3], m[4], m[5], m[6], m[7], m[8]), fields[k])
            low[k], scale[k] = _range(fields[k])
        for y in range(height):
            _combine(fields[0, y], fields[1, y], fields[2, y], fields[3, y], low, scale, fields[4, y])
        least, stretch = _range(fields[4])
        for y in range(height):
            row, out = fields[4, y], cue[n, y]
            for x in range(width):
                out[x] = np.uint16(np.int32((row[x] - least) * stretch * np.float32(FULL) + np.float32(0.5)))


@numba.njit(nogil=True, cache=True)
def _combine(first, second, third, fourth, low, scale, out):  # type: ignore[no-untyped-def]
    l0, l1, l2, l3 = low[0], low[1], low[2], low[3]
    s0, s1, s2, s3 = scale[0], scale[1], scale[2], scale[3]
    for x in range(out.size):
        a, b, c, d = (first[x] - l0) * s0, (second[x] - l1) * s1, (third[x] - l2) * s2, (fourth[x] - l3) * s3
        out[x] = ((a + b) + (c + d)) - max(max(a, b), max(c, d))


def _cuda(planes: Any) -> Any:
    """One block per image; distances are computed anew in each of three rounds and never stored."""
    xp = array_module(planes)
    count, _, height, width = planes.shape
    cue = xp.empty((count, height, width), np.uint16)
    if planes.size:
        args = (planes, cue, np.int32(height), np.int32(width))
        launch("saliency_border", "saliency_border_contrast", (count,), (256,), args)
    return cue
