"""Colour jitter, grayscale and solarize of views, in Pillow's 8-bit arithmetic.

Layout: planar uint8 views (N, 3, H, W), RGB. What torchvision's ColorJitter, RandomGrayscale and RandomSolarize do to
PIL images, bit for bit. Intermediate values are whole numbers below 2^24, which float32 holds exactly on both devices;
where Pillow itself rounds (the blends, the hue), the float32 operations round alike: this was checked for all colours.

Source: Pillow's ImageEnhance, Image.blend and its HSV conversions; torchvision.transforms.functional.adjust_hue.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from .arrays import aligned, array_module, on_gpu, table_on
from .launch import launch

SKIP = 255
"""Value of `order` for an empty slot."""

_BRIGHTNESS, _CONTRAST, _SATURATION, _HUE, _GRAY = 1, 2, 3, 4, 5  # operations: column of `factors` + 1
# A view's operations as octal digits, the first one lowest: those ahead of contrast, and contrast with what follows (or
# all of them, if there is no contrast). The hue factor is here the byte that is added.
_STEPS = np.dtype([("factors", "<f4", 4), ("before", "<u4"), ("after", "<u4")])
_BLOCK = 1024  # pixels at a time on the CPU: 3 float32 rows of them are 12 KiB, which stay in the first-level cache
_F = np.float32


def jitter_color(views: Any, *, factors: Any, order: Any, grayscale: Any = None, out: Any = None) -> Any:
    """Change brightness, contrast, saturation and hue in each view's own order, then turn some views gray.

    Parameters
    ----------
    views : (N, 3, H, W) uint8
        RGB.
    factors : (N, 4) float32, host
        Brightness, contrast and saturation (finite, 1 is no change) and hue [turns, -0.5 to 0.5].
    order : (N, 4) uint8, host
        Columns of `factors` in the order in which they act, each at most once; 255 is an empty slot.
    grayscale : (N,) bool, host, optional
        Views to be turned gray (three equal channels) at the end.
    out : (N, 3, H, W) uint8, optional
        May be `views` itself.

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
    Brightness, contrast and saturation blend the view with black, with its mean gray level and with its own gray
    version: out = clip(a + factor * (v - a)), truncated, in float32. Gray is
    (19595 R + 38470 G + 7471 B + 32768) >> 16; its mean over the whole view is taken when contrast's turn comes, and
    rounded. Hue goes through 8-bit HSV, which loses a little even at factor 0; leave its slot empty where torchvision
    would not call it. Pillow's builds for Arm may fuse the blend's multiplication and addition, and then differ from
    these numbers by one level in rare pixels.

    Examples
    --------
    >>> view = np.full((1, 3, 1, 2), 100, np.uint8)
    >>> factors = np.array([[1.25, 1, 1, 0]], np.float32)
    >>> jitter_color(view, factors=factors, order=np.array([[0, 255, 255, 255]], np.uint8))[0, :, 0].tolist()
    [[125, 125], [125, 125], [125, 125]]
    """
    gpu = _check_views("jitter_color", views, out)
    table = _table(len(views), factors, order, grayscale)
    if out is None:
        out = array_module(views).empty_like(views)
    if views.size == 0:
        return out
    if gpu:
        return _cuda(views, table, out)
    return _cpu(views, table, out)


def solarize(views: Any, thresholds: Any, *, out: Any = None) -> Any:
    """Invert every value at or above its view's threshold.

    Parameters
    ----------
    views : (N, 3, H, W) uint8
    thresholds : (N,) integer, host
        v stays where v < threshold and becomes 255 - v elsewhere: 128 is the usual choice, 256 or more leaves the view
        alone, 0 or less inverts all of it.
    out : (N, 3, H, W) uint8, optional
        May be `views` itself.

    Returns
    -------
    (N, 3, H, W) uint8, on the device of `views`.

    Raises
    ------
    TypeError
        If `views` and `out` are on different devices.
    ValueError
        If a shape or dtype does not fit.

    Notes
    -----
    Pillow's ImageOps.solarize. `normalize_views` does the same on the way when it is given the thresholds.

    Examples
    --------
    >>> view = np.array([10, 127, 128, 250], np.uint8).reshape(1, 1, 1, 4).repeat(3, 1)
    >>> solarize(view, np.array([128]))[0, 0]
    array([[ 10, 127, 127,   5]], dtype=uint8)
    """
    gpu = _check_views("solarize", views, out)
    limits = np.asarray(thresholds)
    if limits.shape != (len(views),) or limits.dtype.kind not in "iu":
        raise ValueError(f"solarize: thresholds must be ({len(views)},) integers, got {limits.shape} {limits.dtype}")
    limits = np.clip(limits, 0, 256).astype(np.int32)
    if out is None:
        out = array_module(views).empty_like(views)
    if views.size == 0:
        return out
    if gpu:
        return _cuda_solarize(views, limits, out)
    _solarize(views.reshape(len(views), -1), limits, out.reshape(len(views), -1))
    return out


def _check_views(function: str, views: Any, out: Any) -> bool:
    gpu = on_gpu(function, views=views, out=out)
    if views.ndim != 4 or views.shape[1] != 3 or views.dtype != np.uint8:
        raise ValueError(f"{function}: views must be (N, 3, H, W) uint8, got {tuple(views.shape)} {views.dtype}")
    if out is not None and (tuple(out.shape) != tuple(views.shape) or out.dtype != np.uint8):
        raise ValueError(f"{function}: out must be {tuple(views.shape)} uint8, got {tuple(out.shape)} {out.dtype}")
    for name, array in (("views", views), ("out", out)):
        if array is not None and not array.flags.c_contiguous:
            raise ValueError(f"{function}: {name} must be C-contiguous, got strides {array.strides}; pass a copy")
    return gpu


def _table(count: int, factors: Any, order: Any, grayscale: Any) -> np.ndarray:
    """Check the parameters and return one row of `_STEPS` per view."""
    factors, order = np.asarray(factors), np.asarray(order)
    gray = np.zeros(count, bool) if grayscale is None else np.asarray(grayscale)
    if factors.shape != (count, 4) or factors.dtype != np.float32:
        raise ValueError(f"jitter_color: factors must be ({count}, 4) float32, got {factors.shape} {factors.dtype}")
    if order.shape != (count, 4) or order.dtype != np.uint8:
        raise ValueError(f"jitter_color: order must be ({count}, 4) uint8, got {order.shape} {order.dtype}")
    if gray.shape != (count,) or gray.dtype not in (np.bool_, np.uint8):
        raise ValueError(f"jitter_color: grayscale must be ({count},) bool, got {gray.shape} {gray.dtype}")
    table = np.zeros(count, _STEPS)
    packed = np.ascontiguousarray(factors), np.ascontiguousarray(order), gray != 0
    if not _fill_steps(*packed, table["factors"], table["before"], table["after"]):
        _refuse(factors, order)
    return table


@numba.njit(nogil=True, cache=True)
def _fill_steps(factors, order, gray, chosen, before, after):  # type: ignore[no-untyped-def]
    """Write the rows of a table; False: a value is wrong."""
    for n in range(len(factors)):
        seen, shift = 0, np.uint32(0)
        ahead, contrast_at = np.uint32(0), np.uint32(0)
        for k in range(4):
            step = order[n, k]
            if step == SKIP:
                continue
            if step > 3 or (seen >> step) & 1:
                return False
            seen |= 1 << step
            if step + 1 == _CONTRAST:
                contrast_at = shift
            ahead |= np.uint32(step + 1) << shift
            shift += np.uint32(3)
        if gray[n]:
            ahead |= np.uint32(_GRAY) << shift
        before[n] = ahead & ((np.uint32(1) << contrast_at) - np.uint32(1))
        after[n] = ahead >> contrast_at
        for c in range(4):
            if not np.isfinite(factors[n, c]):
                return False
            chosen[n, c] = factors[n, c]
        if abs(factors[n, 3]) > 0.5:
            return False
        # The product is exact in float64 and truncated towards zero; negative shifts wrap around, as NumPy's bytes do.
        chosen[n, 3] = np.int32(np.float64(factors[n, 3]) * 255) & 255
    return True


def _refuse(factors: np.ndarray, order: np.ndarray) -> None:
    """Say which parameter is wrong."""
    used = np.stack([(order == step).sum(1) for step in range(4)], 1)
    wrong = (used > 1).any(1) | (used.sum(1) + (order == SKIP).sum(1) != 4)
    if wrong.any():
        row = int(wrong.argmax())
        raise ValueError(
            f"jitter_color: order must hold 0 to 3 at most once and 255 for empty slots, got {order[row].tolist()} in "
            f"row {row}"
        )
    wrong = ~np.isfinite(factors).all(1) | (np.abs(factors[:, 3]) > 0.5)
    if wrong.any():
        row = int(wrong.argmax())
        raise ValueError(
            f"jitter_color: factors must be finite with hue in [-0.5, 0.5], got {factors[row].tolist()} in row {row}"
        )
    raise AssertionError("jitter_color: parameters were refused, but no fault is found in them")


def _cpu(views: np.ndarray, table: np.ndarray, out: np.ndarray) -> np.ndarray:
    shape = (len(views), 3, -1)
    factors, before, after = (np.ascontiguousarray(table[name]) for name in ("factors", "before", "after"))
    _jitter(views.reshape(shape), factors, before, after, out.reshape(shape))
    return out


@numba.njit(nogil=True, cache=True)
def _jitter(views, factors, before, after, out):  # type: ignore[no-untyped-def]
    pixels = views.shape[2]
    block = np.empty((3, _BLOCK), np.float32)
    for n in range(views.shape[0]):
        source, level = views[n], _F(0)
        if after[n] & 7 == _CONTRAST:  # it needs the view's mean at its turn: a pass of its own for what comes before
            total = 0
            for start in range(0, pixels, _BLOCK):
                size = min(_BLOCK, pixels - start)
                _load(source, start, size, block)
                if before[n]:
                    _apply(block, size, factors[n], before[n], level)
                    _store(block, size, out[n], start)
                total += _gray_sum(block, size)
            level = _F((2 * total + pixels) // (2 * pixels))
            source = out[n] if before[n] else source
        for start in range(0, pixels, _BLOCK):
            size = min(_BLOCK, pixels - start)
            _load(source, start, size, block)
            _apply(block, size, factors[n], after[n], level)
            _store(block, size, out[n], start)


@numba.njit(nogil=True, cache=True)
def _apply(block, size, factors, operations, level):  # type: ignore[no-untyped-def]
    while operations:
        operation = operations & 7
        if operation == _BRIGHTNESS:
            _blend(block, size, factors[0], _F(0))
        elif operation == _CONTRAST:
            _blend(block, size, factors[1], level)
        elif operation == _SATURATION:
            _saturate(block, size, factors[2])
        elif operation == _HUE:
            _turn_hue(block, size, factors[3])
        elif operation == _GRAY:
            _saturate(block, size, _F(0))
        operations >>= np.uint32(3)


@numba.njit(nogil=True, cache=True)
def _load(source, start, size, block):  # type: ignore[no-untyped-def]
    for c in range(3):
        values, row = source[c, start : start + size], block[c]
        for i in range(size):
            row[i] = _F(values[i])


@numba.njit(nogil=True, cache=True)
def _store(block, size, target, start):  # type: ignore[no-untyped-def]
    for c in range(3):
        values, row = target[c, start : start + size], block[c]
        for i in range(size):
            values[i] = np.uint8(np.int32(row[i]))


@numba.njit(nogil=True, cache=True)
def _whole(x):  # type: ignore[no-untyped-def]
    """Drop the fraction of a float32 in [0, 2^24)."""
    return _F(np.int32(x))


@numba.njit(nogil=True, cache=True)
def _gray(r, g, b):  # type: ignore[no-untyped-def]
    return _whole((_F(19595) * r + _F(38470) * g + _F(7471) * b + _F(32768)) * _F(1 / 65536))


@numba.njit(nogil=True, cache=True)
def _mix(value, gray, factor):  # type: ignore[no-untyped-def]
    return _whole(min(max(gray + factor * (value - gray), _F(0)), _F(255)))


@numba.njit(nogil=True, cache=True)
def _gray_sum(block, size):  # type: ignore[no-untyped-def]
    reds, greens, blues = block[0], block[1], block[2]
    total = np.int32(0)  # at most 255 * _BLOCK
    for i in range(size):
        total = np.int32(total + np.int32(_gray(reds[i], greens[i], blues[i])))
    return total


@numba.njit(nogil=True, cache=True)
def _blend(block, size, factor, level):  # type: ignore[no-untyped-def]
    for c in range(3):
        row = block[c]
        for i in range(size):
            row[i] = _mix(row[i], level, factor)


@numba.njit(nogil=True, cache=True)
def _saturate(block, size, factor):  # type: ignore[no-untyped-def]
    reds, greens, blues = block[0], block[1], block[2]
    for i in range(size):
        r, g, b = reds[i], greens[i], blues[i]
        gray = _gray(r, g, b)
        reds[i], greens[i], blues[i] = _mix(r, gray, factor), _mix(g, gray, factor), _mix(b, gray, factor)


@numba.njit(nogil=True, cache=True)
def _turn_hue(block, size, shift):  # type: ignore[no-untyped-def]
    reds, greens, blues = block[0], block[1], block[2]
    for i in range(size):
        r, g, b = reds[i], greens[i], blues[i]
        # To HSV. Hue in sixths of a turn is (0, 2 or 4) + 1 - x or (0, 2 or 4) - 1 + x, x being the middle channel's
        # place between the greatest (0) and the least (1); this order of operations rounds as Pillow's for all colours.
        value, least = max(r, max(g, b)), min(r, min(g, b))
        range_ = value - least
        x = (value - (r + g + b - value - least)) / max(range_, _F(1))
        base = _F(0) if r == value else (_F(2) if g == value else _F(4))
        after = g >= b if r == value else (b >= r if g == value else r >= g)
        sixths = (base + _F(1)) - x if after else (base - _F(1)) + x
        hue = sixths / _F(6) * _F(255)
        hue = _whole(hue + _F(255) if hue < _F(0) else hue) + shift
        hue = hue - _F(256) if hue >= _F(256) else hue
        saturation = _whole(range_ * _F(255) / max(value, _F(1)))
        # Back to RGB: a channel is value * (1 - saturation * w), w being 0 around the channel's own hue and 1 opposite.
        # In units of 1 / (255 * 85) the product is a whole number and never half-way, so the rounding is exact.
        turn = hue + hue  # 510 is a full turn
        weight = min(max(_F(170) - abs(turn - _F(255)), _F(0)), _F(85))
        reds[i] = _whole(value * (_F(21675) - saturation * weight) * _F(1 / 21675) + _F(0.5))
        weight = min(max(abs(turn - _F(170)) - _F(85), _F(0)), _F(85))
        greens[i] = _whole(value * (_F(21675) - saturation * weight) * _F(1 / 21675) + _F(0.5))
        weight = min(max(abs(turn - _F(340)) - _F(85), _F(0)), _F(85))
        blues[i] = _whole(value * (_F(21675) - saturation * weight) * _F(1 / 21675) + _F(0.5))


@numba.njit(nogil=True, cache=True)
def _solarize(views, limits, out):  # type: ignore[no-untyped-def]
    for n in range(views.shape[0]):
        values, result, limit = views[n], out[n], np.uint16(limits[n])
        for i in range(values.size):
            v = np.uint16(values[i])
            result[i] = np.uint8(v if v < limit else np.uint16(255) - v)


def _cuda(views: Any, table: np.ndarray, out: Any) -> Any:
    xp = array_module(views)
    count, pixels = len(views), views.shape[2] * views.shape[3]
    steps = table_on(xp, table)
    wide = pixels % 16 == 0 and aligned(views, out)
    chunks = -(-pixels // (2048 if wide else 128))  # 128 threads, 16 pixels each where loads may be wide
    sums = xp.zeros(count, np.uint64)
    name = "color_{}16" if wide else "color_{}1"
    grid, shape = (chunks * count,), (np.int64(pixels), np.int32(chunks))
    if (table["after"] & 7 == _CONTRAST).any():
        launch("color", name.format("gray_sums"), grid, (128,), (views, steps, sums, out, *shape))
    launch("color", name.format("jitter"), grid, (128,), (views, steps, sums, out, *shape))
    return out


def _cuda_solarize(views: Any, limits: np.ndarray, out: Any) -> Any:
    xp = array_module(views)
    values = views.size // len(views)
    wide = values % 16 == 0 and aligned(views, out)
    items = views.size // (16 if wide else 1)
    args = (views, table_on(xp, limits), out, np.int64(values), np.int64(items))
    launch("color", "color_solarize16" if wide else "color_solarize1", (-(-items // 256),), (256,), args)
    return out
