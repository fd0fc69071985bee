"""Refine coarse saliency maps: bend them to the edges of their images, then push them towards 0 and 255.

Layout: planar uint8 images (N, 3, H, W) and maps (N, H, W) in, masks (N, H, W) uint8 out. The sums under the filter are
integers, what follows is float32 in a fixed order: CPU and CUDA agree bit for bit.

Source: He, Sun and Tang 2013, "Guided image filtering" (color guide). Borders repeat the edge pixels. The contrast
step is the logistic of Zhang et al. 2015, centred between the means of the two Otsu classes.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from .arrays import array_module, on_gpu
from .launch import launch
from .saliency_logistic import F, sharpen_field, sharpen_one

RADIUS = 3
"""Half the window of the filter [px]."""
REGULAR = 1e-4
"""Variance of the guide, in 0..1 squared, below which it has no say."""
MOST_PIXELS = 256
"""Greatest height and width."""

_SIDE = 2 * RADIUS + 1
_AREA = _SIDE * _SIDE
_EPS = F(REGULAR * 255 * 255 * _AREA * _AREA)
_PITCH = 272  # a constant one lets LLVM see that channels do not overlap: 256 + 2 * RADIUS, rounded up


def refine_maps(images: Any, maps: Any) -> Any:
    """Filter maps by the colors of their images and sharpen them to masks.

    Parameters
    ----------
    images : (N, 3, H, W) uint8
        The guide; 1 <= H, W <= 256.
    maps : (N, H, W) uint8
        Saliency, 255 the most.

    Returns
    -------
    (N, H, W) uint8, on the device of `images`
        The filtered map, sharpened by `saliency_logistic.sharpen_field`; all 0 for a map of one level.

    Examples
    --------
    >>> images = np.zeros((1, 3, 16, 16), np.uint8)
    >>> images[:, :, 4:12, 4:12] = 255
    >>> mask = refine_maps(images, images[:, 0])[0]
    >>> int(mask[0, 0]), int(mask[8, 8])
    (0, 255)
    """
    if on_gpu("refine_maps", images=images, maps=maps):
        return _cuda(images, maps)
    return _cpu(images, maps)


def _cpu(images: np.ndarray, maps: np.ndarray) -> np.ndarray:
    out = np.empty_like(maps)
    height, width = maps.shape[1:]
    model, field = np.empty((height, 4 * width), F), np.empty((height, width), F)
    _refine(images, maps, model, field, out)
    return out


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _products(images, maps, y, out):  # type: ignore[no-untyped-def]
    """Write r g b p, rr rg rb rp, gg gb gp, bb bp of one row."""
    width = maps.shape[1]
    for k in range(3):
        _widen(images[k, y], out[k * _PITCH : k * _PITCH + width])
    _widen(maps[y], out[3 * _PITCH : 3 * _PITCH + width])
    at = 4
    for first in range(3):
        for second in range(first, 4):
            a, b = first * _PITCH, second * _PITCH
            _times(out[a : a + width], out[b : b + width], out[at * _PITCH : at * _PITCH + width])
            at += 1


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _widen(values, out):  # type: ignore[no-untyped-def]
    for x in range(out.size):
        out[x] = values[x]


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _times(a, b, out):  # type: ignore[no-untyped-def]
    for x in range(out.size):
        out[x] = a[x] * b[x]


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _slide(sums, new, old):  # type: ignore[no-untyped-def]
    for x in range(sums.size):
        sums[x] += new[x] - old[x]


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _sum_along(sums, padded, width, out):  # type: ignore[no-untyped-def]
    """Sum seven columns side by side, for 13 channels; edges repeat."""
    for k in range(13):
        first = k * _PITCH
        row = sums[first : first + width]
        padded[RADIUS : RADIUS + width] = row
        padded[:RADIUS] = row[0]
        padded[RADIUS + width : 2 * RADIUS + width] = row[width - 1]
        _seven(padded, out[first : first + width])


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _seven(p, out):  # type: ignore[no-untyped-def]
    for x in range(out.size):
        out[x] = p[x] + p[x + 1] + p[x + 2] + p[x + 3] + p[x + 4] + p[x + 5] + p[x + 6]


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _fit(s, out, width):  # type: ignore[no-untyped-def]
    """Fit p = a . color + b in each window by least squares (LDL factorisation), from its 13 sums."""
    n, least = np.int32(_AREA), _EPS
    for x in range(width):
        r, g, b, p = s[x], s[x + _PITCH], s[x + 2 * _PITCH], s[x + 3 * _PITCH]
        rr, rg = F(n * s[x + 4 * _PITCH] - r * r) + least, F(n * s[x + 5 * _PITCH] - r * g)
        rb, rp = F(n * s[x + 6 * _PITCH] - r * b), F(n * s[x + 7 * _PITCH] - r * p)
        gg, gb = F(n * s[x + 8 * _PITCH] - g * g) + least, F(n * s[x + 9 * _PITCH] - g * b)
        gp = F(n * s[x + 10 * _PITCH] - g * p)
        bb, bp = F(n * s[x + 11 * _PITCH] - b * b) + least, F(n * s[x + 12 * _PITCH] - b * p)
        f, h = rg / rr, rb / rr
        d = max(gg - f * rg, least)
        e = gb - h * rg
        k = e / d
        t = max((bb - h * rb) - k * e, least)
        v = gp - f * rp
        blue = ((bp - h * rp) - k * v) / t
        green = v / d - k * blue
        red = (rp / rr - f * green) - h * blue
        out[x], out[x + _PITCH], out[x + 2 * _PITCH] = red, green, blue
        out[x + 3 * _PITCH] = (F(p) - ((red * F(r) + green * F(g)) + blue * F(b))) / F(_AREA)


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _sum_rows(a, b, c, d, e, f, g, out):  # type: ignore[no-untyped-def]
    for x in range(out.size):
        out[x] = (((((a[x] + b[x]) + c[x]) + d[x]) + e[x]) + f[x]) + g[x]


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _apply(model, red, green, blue, out):  # type: ignore[no-untyped-def]
    scale = F(1.0 / _AREA)
    for x in range(out.size):
        i, j, k = x + _PITCH, x + 2 * _PITCH, x + 3 * _PITCH
        a, b, c, d = model[x], model[i], model[j], model[k]
        value = ((a * F(red[x]) + b * F(green[x])) + (c * F(blue[x]) + d)) * scale
        out[x] = min(max(value, F(0)), F(255))


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _refine(images, maps, model, field, out):  # type: ignore[no-untyped-def]
    height, width = maps.shape[1:]
    products = np.zeros((_SIDE + 1, 13 * _PITCH), np.int32)
    sums, boxes = np.empty(13 * _PITCH, np.int32), np.zeros(13 * _PITCH, np.int32)
    padded = np.empty(width + 2 * RADIUS, np.int32)
    fitted = np.empty((height, 4 * _PITCH), F)
    rows, edge, smooth = np.empty(4 * _PITCH, F), np.empty(width + 2 * RADIUS, F), np.empty(4 * _PITCH, F)
    for n in range(len(maps)):
        sums[:] = 0
        # The window of row y holds rows y - 3 to y + 3; slot (row + 3) % 8 keeps the products of a row, edges repeated.
        for row in range(-RADIUS, height + RADIUS):
            slot = (row + RADIUS) % (_SIDE + 1)
            if row <= 0 or row >= height:
                if row == -RADIUS:
                    _products(images[n], maps[n], 0, products[slot])
                else:
                    products[slot] = products[(slot + _SIDE) % (_SIDE + 1)]
            else:
                _products(images[n], maps[n], row, products[slot])
            if row < RADIUS:
                _add_row(sums, products[slot])
            else:
                if row > RADIUS:
                    _slide(sums, products[slot], products[(slot + 1) % (_SIDE + 1)])
                else:
                    _add_row(sums, products[slot])
                _sum_along(sums, padded, width, boxes)
                _fit(boxes, fitted[row - RADIUS], width)
        _smooth(images[n], fitted, rows, edge, smooth, field)
        sharpen_one(field.reshape(-1), out[n].reshape(-1))


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _add_row(sums, new):  # type: ignore[no-untyped-def]
    for x in range(sums.size):
        sums[x] += new[x]


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _smooth(image, fitted, rows, edge, smooth, field):  # type: ignore[no-untyped-def]
    """Average the models over each window (seven rows, then seven columns) and apply them."""
    height, width = field.shape
    last = height - 1
    for y in range(height):
        _sum_rows(
            fitted[max(y - 3, 0)], fitted[max(y - 2, 0)], fitted[max(y - 1, 0)], fitted[y],
            fitted[min(y + 1, last)], fitted[min(y + 2, last)], fitted[min(y + 3, last)], rows,
        )  # fmt: skip
        for k in range(4):
            row = rows[k * _PITCH : k * _PITCH + width]
            edge[RADIUS : RADIUS + width] = row
            edge[:RADIUS] = row[0]
            edge[RADIUS + width :] = row[width - 1]
            _seven(edge, smooth[k * _PITCH : k * _PITCH + width])
        _apply(smooth, image[0, y], image[1, y], image[2, y], field[y])


def _cuda(images: Any, maps: Any) -> Any:
    """Two launches over tiles for the filter, one over images for the logistic."""
    xp = array_module(maps)
    count, height, width = maps.shape
    models, field = xp.empty((count, height, width, 4), F), xp.empty((count, height, width), F)
    if maps.size:
        grid, block = (-(-width // 32), -(-height // 8), count), (32, 8)
        size = (np.int32(height), np.int32(width))
        launch("saliency_refine", "saliency_refine_fit", grid, block, (images, maps, models, *size, _EPS))
        launch("saliency_refine", "saliency_refine_apply", grid, block, (images, models, field, *size, F(1.0 / _AREA)))
    return sharpen_field(field)
