"""Eight-bit CIE Lab planes of RGB images, raw and median-filtered: what every saliency cue looks at.

Layout: planar uint8, (N, 3, H, W) in and out, with L * 255 / 100, a + 128, b + 128 as OpenCV packs them. Tables and shifts
only, so CPU and CUDA agree bit for bit. Within one unit of the exact formula in L, a and b.

Source: IEC 61966-2-1 (sRGB), CIE 15 (Lab, white D65).
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from .arrays import array_module, on_gpu
from .launch import launch

_TO_XYZ = np.array([[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]])


def _tables() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return linear light (256,), the cube root of Lab (16385,) and the matrix (9,), all int32.

    Light is in 1 / 2**14, the root in 1 / 2**12; the rows of the matrix sum to 2**14, so white is exactly white.
    """
    grey = np.arange(256) / 255
    linear = np.where(grey <= 0.04045, grey / 12.92, ((grey + 0.055) / 1.055) ** 2.4)
    light = np.arange((1 << 14) + 1) / (1 << 14)
    root = np.where(light > 0.008856, np.cbrt(light), 7.787 * light + 16 / 116)
    matrix = np.rint(_TO_XYZ / _TO_XYZ.sum(axis=1, keepdims=True) * (1 << 14)).astype(np.int32)
    matrix[:, 1] += (1 << 14) - matrix.sum(axis=1, dtype=np.int32)
    as_int = [np.rint(linear * (1 << 14)).astype(np.int32), np.rint(root * (1 << 12)).astype(np.int32)]
    return as_int[0], as_int[1], matrix.reshape(-1)


_LINEAR, _ROOT, _MATRIX = _tables()


def lab_planes(images: Any) -> tuple[Any, Any]:
    """Turn RGB images to Lab, and smooth that by a 3 x 3 median.

    Parameters
    ----------
    images : (N, 3, H, W) uint8
        Planar RGB.

    Returns
    -------
    raw, smooth : (N, 3, H, W) uint8, on the device of `images`
        L * 255 / 100, a + 128, b + 128; at the border the median sees the edge pixels repeated.

    Examples
    --------
    >>> raw, smooth = lab_planes(np.full((1, 3, 2, 2), 255, np.uint8))
    >>> raw[0, :, 0, 0].tolist()
    [255, 128, 128]
    """
    if on_gpu("lab_planes", images=images):
        return _cuda(images)
    return _cpu(images)


def _cpu(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    raw, smooth = np.empty_like(images), np.empty_like(images)
    _convert(images.reshape(*images.shape[:2], -1), _LINEAR, _ROOT, _MATRIX, raw.reshape(*images.shape[:2], -1))
    width = images.shape[3]
    _median(raw, smooth, np.empty((3, width + 2), np.uint8))
    return raw, smooth


@numba.njit(nogil=True, cache=True)
def _convert(images, linear, root, m, out):  # type: ignore[no-untyped-def]
    half, shift = np.int32(1 << 13), np.int32(14)
    for n in range(images.shape[0]):
        red, green, blue = images[n, 0], images[n, 1], images[n, 2]
        light, alpha, beta = out[n, 0], out[n, 1], out[n, 2]
        for i in range(red.size):
            r, g, b = linear[red[i]], linear[green[i]], linear[blue[i]]
            x = root[(m[0] * r + m[1] * g + m[2] * b + half) >> shift]
            y = root[(m[3] * r + m[4] * g + m[5] * b + half) >> shift]
            z = root[(m[6] * r + m[7] * g + m[8] * b + half) >> shift]
            # 75725 = 2.55 * 116 * 2**8, 42781901 = 2.55 * 16 * 2**20; 526336 = 128.5 * 2**12.
            lightness = (np.int32(75725) * y - np.int32(42781901) + np.int32(1 << 19)) >> np.int32(20)
            light[i] = max(np.int32(0), lightness)
            alpha[i] = (np.int32(500) * (x - y) + np.int32(526336)) >> np.int32(12)
            beta[i] = (np.int32(200) * (y - z) + np.int32(526336)) >> np.int32(12)


@numba.njit(nogil=True, cache=True)
def _median(planes, out, columns):  # type: ignore[no-untyped-def]
    # Each column of three is sorted once: the median of nine is the median of the greatest minimum, the middle
    # median and the least maximum of three neighbouring columns.
    height, width = planes.shape[2], planes.shape[3]
    low, mid, high = columns[0], columns[1], columns[2]
    for n in range(planes.shape[0]):
        for c in range(3):
            for y in range(height):
                above, here, below = planes[n, c, max(y - 1, 0)], planes[n, c, y], planes[n, c, min(y + 1, height - 1)]
                for x in range(width):
                    p, q, r = min(above[x], here[x]), max(above[x], here[x]), below[x]
                    low[x + 1] = min(p, r)
                    high[x + 1] = max(q, r)
                    mid[x + 1] = max(p, min(q, r))
                for edge, inner in ((0, 1), (width + 1, width)):
                    low[edge], mid[edge], high[edge] = low[inner], mid[inner], high[inner]
                row = out[n, c, y]
                for x in range(width):
                    greatest = max(max(low[x], low[x + 1]), low[x + 2])
                    least = min(min(high[x], high[x + 1]), high[x + 2])
                    middle = max(min(mid[x], mid[x + 1]), min(max(mid[x], mid[x + 1]), mid[x + 2]))
                    row[x] = max(min(greatest, least), min(max(greatest, least), middle))


def _cuda(images: Any) -> tuple[Any, Any]:
    xp = array_module(images)
    count, _, height, width = images.shape
    raw, smooth = xp.empty(images.shape, np.uint8), xp.empty(images.shape, np.uint8)
    if images.size == 0:
        return raw, smooth
    pixels, total = height * width, count * height * width
    tables = tuple(xp.asarray(t) for t in (_LINEAR, _ROOT, _MATRIX))
    args = (images, *tables, raw, np.int32(pixels), np.int64(total))
    launch("saliency_lab", "saliency_lab_convert", (-(-total // 256),), (256,), args)
    sizes = (np.int32(height), np.int32(width), np.int64(3 * total))
    launch("saliency_lab", "saliency_lab_median", (-(-3 * total // 256),), (256,), (raw, smooth, *sizes))
    return raw, smooth
