"""Gaussian blur of views, each with its own sigma.

Layout: planar uint8 views (N, 3, H, W). A true, separable Gaussian with reflected borders (the edge is not repeated), as in
torchvision's GaussianBlur and in SciPy, not the repeated box filters of Pillow. All integers: weights of 16 bits, columns
first into 8.8 fixed point, then rows; so both devices agree bit for bit.

Source: torchvision.transforms.GaussianBlur (definition), scipy.ndimage.gaussian_filter (radius).
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from .arrays import aligned, array_module, on_gpu, table_on
from .launch import launch

SIGMA_LIMIT_PX = 8.0
"""Largest sigma; its radius of 32 pixels is what the CUDA tiles are made for."""

_WORK = 4096  # values at a time on the CPU, so that sums and intermediate rows stay in the first-level cache
_TILE_HEIGHT, _TILE_WIDTH = 32, 64  # as in blur.cu
_MOST_VIEWS = 21845  # a launch: their planes are the third axis of a grid
_U = np.uint32


def gaussian_blur(views: Any, sigma_px: Any, *, taps: int | None = None, out: Any = None) -> Any:
    """Blur each view with a Gaussian of its own width.

    Parameters
    ----------
    views : (N, 3, H, W) uint8
    sigma_px : (N,) float32, host
        Standard deviations [px], 0 to 8; 0 leaves the view alone.
    taps : int, optional
        Weights along each axis, odd: torchvision's `kernel_size`. A smaller number than the bell's cuts it off.
    out : (N, 3, H, W) uint8, optional
        May be `views` itself (on a GPU that costs a copy of the batch).

    Returns
    -------
    (N, 3, H, W) uint8, on the device of `views`.

    Raises
    ------
    TypeError
        If `views` and `out` are on different devices.
    ValueError
        If a shape, dtype or value does not fit.

    Notes
    -----
    Weights exp(-x^2 / (2 sigma^2)) for |x| <= radius = int(4 sigma + 0.5), SciPy's default, normalized to the sum 65536
    after rounding. torchvision has the same weights, but its user picks the radius; its usual 23 taps for views of 224 px
    and sigma up to 2 hold all that this radius holds. `taps` = 9 (DINOv2) ends at 4 px: sigma 2 then blurs as 1.85 does. At most
    one gray level from the exact result.

    Examples
    --------
    >>> view = np.zeros((1, 3, 1, 5), np.uint8)
    >>> view[..., 2] = 200
    >>> gaussian_blur(view, np.array([0.5], np.float32))[0, 0]
    array([[  0,  21, 157,  21,   0]], dtype=uint8)
    """
    gpu = on_gpu("gaussian_blur", views=views, out=out)
    if views.ndim != 4 or views.shape[1] != 3 or views.dtype != np.uint8:
        raise ValueError(f"gaussian_blur: views must be (N, 3, H, W) uint8, got {tuple(views.shape)} {views.dtype}")
    if out is not None and (tuple(out.shape) != tuple(views.shape) or out.dtype != np.uint8):
        raise ValueError(f"gaussian_blur: out must be {tuple(views.shape)} uint8, got {tuple(out.shape)} {out.dtype}")
    for name, array in (("views", views), ("out", out)):
        if array is not None and not array.flags.c_contiguous:
            raise ValueError(f"gaussian_blur: {name} must be C-contiguous, got strides {array.strides}; pass a copy")
    if taps is not None and (taps < 1 or taps % 2 == 0):
        raise ValueError(f"gaussian_blur: taps must be an odd number of at least 1, got {taps}")
    radii, weights = _weights(len(views), sigma_px, taps)
    if out is None:
        out = array_module(views).empty_like(views)
    if views.size == 0:
        return out
    if gpu:
        return _cuda(views, radii, weights, out)
    return _cpu(views, radii, weights, out)


def _weights(count: int, sigma_px: Any, taps: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return radii (N,) int32 and weights (N, largest radius + 1) uint32: the middle one first, then one side."""
    sigma = np.asarray(sigma_px)
    if sigma.shape != (count,) or sigma.dtype != np.float32:
        raise ValueError(f"gaussian_blur: sigma_px must be ({count},) float32, got {sigma.shape} {sigma.dtype}")
    wrong = ~((sigma >= 0) & (sigma <= SIGMA_LIMIT_PX))
    if wrong.any():
        row = int(wrong.argmax())
        raise ValueError(
            f"gaussian_blur: sigma_px must be in [0, {SIGMA_LIMIT_PX:g}], got {sigma[row]} in row {row}; blur a smaller "
            f"view for more"
        )
    wide = sigma.astype(np.float64)[:, None]
    radii = (4 * wide[:, 0] + 0.5).astype(np.int32)
    if taps is not None:
        radii = np.minimum(radii, np.int32(taps // 2))
    x = np.arange(radii.max(initial=0) + 1)
    bell = np.where(x <= radii[:, None], np.exp(-((x / np.maximum(wide, 1e-3)) ** 2) / 2), 0)
    weights = np.rint(bell / (2 * bell.sum(1, keepdims=True) - bell[:, :1]) * 65536).astype(np.uint32)
    weights[:, 0] = 65536 - 2 * weights[:, 1:].sum(1)
    return radii, weights


def _cpu(views: np.ndarray, radii: np.ndarray, weights: np.ndarray, out: np.ndarray) -> np.ndarray:
    _blur(views, radii, weights, out)
    return out


@numba.njit(nogil=True, cache=True)
def _blur(views, radii, weights, out):  # type: ignore[no-untyped-def]
    height, width = views.shape[2:]
    most = radii.max()
    padded = np.empty((height + 2 * most) * (width + 2 * most), np.uint8)
    size = max(_WORK, width + 2 * most)
    columns, sums = np.empty(size, np.uint16), np.empty(size, np.uint32)
    for n in range(views.shape[0]):
        radius, row = radii[n], weights[n]
        if radius == 0:
            _copy(views[n].reshape(-1), out[n].reshape(-1))
            continue
        for c in range(3):
            _pad(views[n, c], radius, padded)
            # Several padded rows at a time as one long row: the loops run over the padding between them, too, which is
            # cheaper than starting anew.
            step = width + 2 * radius
            rows = max(1, _WORK // step)
            for top in range(0, height, rows):
                count = min(rows, height - top)
                _weigh(padded[top * step :], count * step, step, radius, row, sums)
                for i in range(count * step):
                    columns[i] = np.uint16(_U(sums[i] + _U(128)) >> _U(8))
                _weigh(columns, count * step - 2 * radius, 1, radius, row, sums)
                for y in range(count):
                    line, result = sums[y * step : y * step + width], out[n, c, top + y]
                    for x in range(width):
                        result[x] = np.uint8(_U(line[x] + _U(1 << 23)) >> _U(24))


@numba.njit(nogil=True, cache=True)
def _reflect(i, size):  # type: ignore[no-untyped-def]
    """Return the place in [0, size) that i mirrors: ... 2 1 0 1 2 ..., over and over."""
    if size == 1:
        return 0
    i %= 2 * (size - 1)
    return i if i < size else 2 * (size - 1) - i


@numba.njit(nogil=True, cache=True)
def _copy(source, target):  # type: ignore[no-untyped-def]
    for i in range(source.size):
        target[i] = source[i]


@numba.njit(nogil=True, cache=True)
def _pad(plane, radius, padded):  # type: ignore[no-untyped-def]
    height, width = plane.shape
    step = width + 2 * radius
    for y in range(height + 2 * radius):
        source, target = plane[_reflect(y - radius, height)], padded[y * step : (y + 1) * step]
        _copy(source, target[radius:])
        for x in range(radius):
            target[x] = source[_reflect(x - radius, width)]
            target[radius + width + x] = source[_reflect(width + x, width)]


@numba.njit(nogil=True, cache=True)
def _weigh(values, size, step, radius, weights, sums):  # type: ignore[no-untyped-def]
    """Write sums[i] = sum of weights[|k|] * values[i + (radius + k) * step]; 32 bits hold it, since weights sum to 2^16.

    Two distances at a time: each pass over `sums` costs as much as the products of one.
    """
    middle, weight = values[radius * step :], _U(weights[0])
    a, b, one = values[(radius - 1) * step :], values[(radius + 1) * step :], _U(weights[1])
    for i in range(size):
        sums[i] = _U(_U(_U(middle[i]) * weight) + _U(_U(_U(a[i]) + _U(b[i])) * one))
    for k in range(2, radius, 2):
        a, b, one = values[(radius - k) * step :], values[(radius + k) * step :], _U(weights[k])
        c, d, two = values[(radius - k - 1) * step :], values[(radius + k + 1) * step :], _U(weights[k + 1])
        for i in range(size):
            pair = _U(_U(_U(_U(a[i]) + _U(b[i])) * one) + _U(_U(_U(c[i]) + _U(d[i])) * two))
            sums[i] = _U(sums[i] + pair)
    if radius > 1 and radius % 2 == 0:
        a, b, one = values, values[2 * radius * step :], _U(weights[radius])
        for i in range(size):
            sums[i] = _U(sums[i] + _U(_U(_U(a[i]) + _U(b[i])) * one))


def _cuda(views: Any, radii: np.ndarray, weights: np.ndarray, out: Any) -> Any:
    xp = array_module(views)
    count, _, height, width = views.shape
    same = _address(views) == _address(out)
    source = views.copy() if same else views  # a tile reads its neighbours' pixels
    tiles = -(-width // _TILE_WIDTH), -(-height // _TILE_HEIGHT)
    radius = int(radii.max())
    line = _TILE_WIDTH + 2 * (-(-radius // 4) * 4)
    shared = (
        line * (_TILE_HEIGHT + 2 * radius) + 2 * line * _TILE_HEIGHT
    )  # bytes of the tile, 8.8 values of its columns
    wide = width % 4 == 0 and aligned(source, out, to=4)
    numbers = [np.int32(i) for i in (height, width, weights.shape[1], wide, same)]
    for first in range(0, count, _MOST_VIEWS):
        part = slice(first, first + _MOST_VIEWS)
        args = (source[part], table_on(xp, radii[part]), table_on(xp, weights[part]), out[part], *numbers)
        launch("blur", "blur_tile", (*tiles, 3 * len(radii[part])), (256,), args, shared=shared)
    return out


def _address(array: Any) -> int:
    return int(array.ctypes.data if isinstance(array, np.ndarray) else array.data.ptr)
