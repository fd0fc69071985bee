"""Inpaint the figures of views, so that a ground that is put behind another figure carries no figure of its own.

Layout: planar uint8 views (N, 3, H, W), uint8 masks (N, H, W). Push-pull: the known pixels are averaged down a pyramid of
half-sized levels until nothing is unknown (push), then each unknown cell takes the bilinear interpolation of the coarser
level (pull). A cell is one 16-bit number: 0 where it is unknown, else 2**13 plus eight times its colour, so that the sum of
four cells holds their number and the sum of their colours. All integers: both devices agree bit for bit.

Source: Gortler, Grzeszczuk, Szeliski and Cohen 1996, "The lumigraph", section 3.4 (push, pull), with weights of 0 or 1.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from .arrays import aligned, array_module, on_gpu
from .launch import launch
from .planar import check_plane, check_views, output_like

THRESHOLD, MARGIN_PX = 8, 2
"""Defaults of `inpaint_figures`: mask values above 8 count as figure, and 2 px around them."""
MARGIN_LIMIT_PX = 8
"""Largest margin."""
GREY = 128
"""What a view of nothing but figure becomes."""

_COARSE = 64  # px: levels within this square are one launch, as in ground.cu
_U = np.uint16
_KNOWN, _COLOR = _U(1 << 13), _U((1 << 13) - 1)  # a cell's mark, and the bits of its colour
_THREE, _FOUR, _SIX, _EIGHT, _TWELVE, _13 = _U(3), _U(4), _U(6), _U(8), _U(12), _U(13)


def inpaint_figures(
    views: Any, masks: Any, *, threshold: int = THRESHOLD, margin_px: int = MARGIN_PX, out: Any = None
) -> Any:
    """Fill the figures of views from the ground around them.

    Parameters
    ----------
    views : (N, 3, H, W) uint8
    masks : (N, H, W) uint8
        255 is figure.
    threshold : int
        Pixels whose mask is above it are unknown, 0..255: low, because the soft rim of a mask shows figure colour.
    margin_px : int
        Unknown too are the pixels this near to those, along both axes (a square); 0..8 [px].
    out : (N, 3, H, W) uint8, optional
        May be `views` itself.

    Returns
    -------
    (N, 3, H, W) uint8, on the device of `views`
        Known pixels as they were. A view without any known pixel becomes mid grey, 128.

    Raises
    ------
    TypeError
        If the arrays are on different devices.
    ValueError
        If a shape, dtype or value does not fit.

    Notes
    -----
    Levels halve, sizes rounded up, down to 1 x 1. Push: a cell is the mean of its known ones among the 2 x 2 below it, in
    eighths of a grey level, halves up; unknown if all four are. Pull: an unknown cell takes 9/16 of the cell above it and
    3/16, 3/16 and 1/16 of that one's neighbours on its side (clamped at the borders), halves up. Its colour never leaves
    the range of the known pixels by more than a grey level.

    Examples
    --------
    >>> views = np.tile(np.array([10, 10, 90, 30, 30], np.uint8), (1, 3, 1, 1))
    >>> inpaint_figures(views, np.array([[[0, 0, 255, 0, 0]]], np.uint8), margin_px=0)[0, 0]
    array([[10, 10, 25, 30, 30]], dtype=uint8)
    """
    gpu = on_gpu("inpaint_figures", views=views, masks=masks, out=out)
    count, height, width = check_views("inpaint_figures", views)
    check_plane("inpaint_figures", "masks", masks, (count, height, width))
    if not 0 <= threshold <= 255:
        raise ValueError(f"inpaint_figures: threshold must be in 0..255, got {threshold}")
    if not 0 <= margin_px <= MARGIN_LIMIT_PX:
        raise ValueError(f"inpaint_figures: margin_px must be in 0..{MARGIN_LIMIT_PX}, got {margin_px}")
    out = output_like("inpaint_figures", views, out)
    if count:
        (_cuda if gpu else _cpu)(views, masks, int(threshold), int(margin_px), out)
    return out


def _levels(height: int, width: int) -> np.ndarray:
    """Return height, width and first cell of each level above the views, (levels, 3) int64; the last one is 1 x 1."""
    levels: list[tuple[int, int, int]] = []
    first = 0
    while not levels or height * width > 1:
        height, width = -(-height // 2), -(-width // 2)
        levels.append((height, width, first))
        first += height * width
    return np.array(levels, np.int64)


def _cpu(views: np.ndarray, masks: np.ndarray, threshold: int, margin: int, out: np.ndarray) -> None:
    _fill(views, masks, np.uint8(threshold), margin, _levels(*masks.shape[1:]), out)


@numba.njit(nogil=True, cache=True)
def _fill(views, masks, threshold, margin, levels, out):  # type: ignore[no-untyped-def]
    _, _, height, width = views.shape
    top, last = len(levels) - 1, levels[len(levels) - 1]
    cells = np.empty(last[2] + 1, np.uint16)
    unknown, touched = np.empty((height, width), np.uint8), np.empty(height, np.uint8)
    lines = np.zeros((2, width + 2), np.uint16)  # two rows of a level, 0 past its end
    column, words = np.empty(width + 4, np.uint16), np.empty(width // 2 + 2, np.uint32)
    for n in range(len(views)):
        _mark(masks[n], threshold, margin, unknown, touched)
        if not touched.any():
            out[n] = views[n]
            continue
        for c in range(3):
            _push_view(views[n, c], unknown, lines, _level(cells, levels[0]))
            for k in range(top):
                _push(_level(cells, levels[k]), lines, _level(cells, levels[k + 1]))
            cells[last[2]] = cells[last[2]] & _COLOR if cells[last[2]] else _U(8 * GREY)
            for k in range(top - 1, -1, -1):
                _pull(_level(cells, levels[k + 1]), column, words, _level(cells, levels[k]))
            _pull_view(_level(cells, levels[0]), column, words, views[n, c], unknown, touched, out[n, c])


@numba.njit(nogil=True, cache=True, inline="always")
def _level(cells, level):  # type: ignore[no-untyped-def]
    return cells[level[2] : level[2] + level[0] * level[1]].reshape((level[0], level[1]))


@numba.njit(nogil=True, cache=True)
def _mark(mask, threshold, margin, unknown, touched):  # type: ignore[no-untyped-def]
    """Write 255 where a pixel is unknown, 0 elsewhere, and which rows have unknown ones: a square dilation, rows first."""
    height, width = mask.shape
    for y in range(height):
        source, line = mask[y], unknown[y]
        for x in range(width):
            line[x] = np.uint8(255) if source[x] > threshold else np.uint8(0)
        for k in range(1, min(margin, width - 1) + 1):
            here, there, left, right = line[k:], source[: width - k], line[: width - k], source[k:]
            for x in range(width - k):
                here[x] |= np.uint8(255) if there[x] > threshold else np.uint8(0)
            for x in range(width - k):
                left[x] |= np.uint8(255) if right[x] > threshold else np.uint8(0)
    wide = unknown.copy()
    for y in range(height):
        line, most = unknown[y], np.uint8(0)
        for row in range(max(y - margin, 0), min(y + margin + 1, height)):
            other = wide[row]
            for x in range(width):
                line[x] |= other[x]
        for x in range(width):
            most |= line[x]
        touched[y] = most


@numba.njit(nogil=True, cache=True)
def _push_view(view, unknown, lines, coarse):  # type: ignore[no-untyped-def]
    height, width = view.shape
    for i in range(len(coarse)):
        for j in range(2):
            line = lines[j, :width]
            if 2 * i + j < height:
                values, holes = view[2 * i + j], unknown[2 * i + j]
                for x in range(width):
                    line[x] = _U(0) if holes[x] else _U(_U(values[x]) * _EIGHT + _KNOWN)
            else:
                line[:] = _U(0)
        _average(lines, width, coarse[i])


@numba.njit(nogil=True, cache=True)
def _push(fine, lines, coarse):  # type: ignore[no-untyped-def]
    height, width = fine.shape
    for i in range(len(coarse)):
        for j in range(2):
            line = lines[j, :width]
            if 2 * i + j < height:
                line[:] = fine[2 * i + j]
            else:
                line[:] = _U(0)
        _average(lines, width, coarse[i])


@numba.njit(nogil=True, cache=True)
def _average(lines, width, coarse):  # type: ignore[no-untyped-def]
    lines[:, width] = _U(0)
    even, odd = lines[0, : 2 * len(coarse)], lines[1, : 2 * len(coarse)]
    for x in range(len(coarse)):
        total = _U(_U(even[2 * x] + even[2 * x + 1]) + _U(odd[2 * x] + odd[2 * x + 1]))
        known, color = _U(total >> _13), _U(total & _COLOR)
        share = _SIX if known == 2 else (_FOUR if known == 3 else (_THREE if known == 4 else _TWELVE))
        color = _U(_U(_U(color * share) + _SIX) // _TWELVE)
        coarse[x] = _U(color + _KNOWN) if known else _U(0)


@numba.njit(nogil=True, cache=True)
def _expand(coarse, y, column, words):  # type: ignore[no-untyped-def]
    """Interpolate the colours of one row of the finer level; `words` holds its cells in pairs."""
    height, width = coarse.shape
    near, far = coarse[y // 2], coarse[min(max(y // 2 + (1 if y & 1 else -1), 0), height - 1)]
    inner = column[1 : width + 1]
    for x in range(width):
        inner[x] = _U(_U(near[x] * _THREE) + far[x])
    column[0], column[width + 1] = column[1], column[width]
    left, right = column[:width], column[2 : width + 2]
    for x in range(width):
        middle = _U(inner[x] * _THREE + _EIGHT)
        low, high = _U(_U(middle + left[x]) >> _FOUR), _U(_U(middle + right[x]) >> _FOUR)
        words[x] = np.uint32(low) | np.uint32(high) << np.uint32(16)


@numba.njit(nogil=True, cache=True)
def _pull(coarse, column, words, fine):  # type: ignore[no-untyped-def]
    guess = words.view(np.uint16)[: fine.shape[1]]
    for y in range(len(fine)):
        _expand(coarse, y, column, words)
        line = fine[y]
        for x in range(len(line)):
            line[x] = line[x] & _COLOR if line[x] else guess[x]


@numba.njit(nogil=True, cache=True)
def _pull_view(coarse, column, words, view, unknown, touched, out):  # type: ignore[no-untyped-def]
    guess = words.view(np.uint16)[: view.shape[1]]
    for y in range(len(view)):
        line, holes, result = view[y], unknown[y], out[y]
        if not touched[y]:
            result[:] = line
            continue
        _expand(coarse, y, column, words)
        for x in range(len(line)):
            result[x] = np.uint8(_U(guess[x] + _FOUR) >> _THREE) if holes[x] else line[x]


def _cuda(views: Any, masks: Any, threshold: int, margin: int, out: Any) -> None:
    xp = array_module(views)
    count, _, height, width = views.shape
    levels = [(int(h), int(w)) for h, w, _ in _levels(height, width)]
    while len(levels) > 1 and max(levels[-2]) <= _COARSE:
        levels.pop()
    unknown = xp.empty((count, height, width), np.uint8)
    cells = [xp.empty((count, 3, *level), np.uint16) for level in levels]
    size = np.int32(height), np.int32(width)

    def start(total: int) -> tuple[tuple[int], tuple[int]]:
        return (-(-total // 256),), (256,)

    total = count * levels[0][0] * levels[0][1]
    rule = np.int32(threshold), np.int32(margin)
    launch("ground", "ground_begin", *start(total), (views, masks, *size, *rule, np.int64(total), unknown, cells[0]))
    for (h, w), fine, coarse in zip(levels, cells, cells[1:]):
        args = fine, np.int32(h), np.int32(w), np.int64(coarse.size), coarse
        launch("ground", "ground_push", *start(coarse.size), args)
    h, w = levels[-1]
    launch("ground", "ground_coarse", (3 * count,), (256,), (cells[-1], np.int32(h), np.int32(w)))
    for (h, w), fine, coarse in reversed(list(zip(levels, cells, cells[1:]))):
        args = coarse, np.int32(h), np.int32(w), np.int64(fine.size), fine
        launch("ground", "ground_pull", *start(fine.size), args)
    vector = 4 if width % 4 == 0 and aligned(views, out, unknown, to=4) else 1
    total = views.size // vector
    launch("ground", f"ground_end{vector}", *start(total), (views, unknown, cells[0], *size, np.int64(total), out))
