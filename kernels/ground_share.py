"""How much of a figure lies inside crop boxes, for random crops that must keep (or lose) a share of it.

Masks are uint8 (N, H, W) of whole images; boxes come from the planner, on the host, relative to the image. An integral
image answers any number of boxes. Sums are whole numbers; one division at the end, so both devices agree bit for bit.

Source: Selvaraju et al. 2021, "CASTing your model: learning to localize improves self-supervised representations"
(saliency-constrained crops); Crow 1984, "Summed-area tables for texture mapping".
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from .arrays import array_module, on_gpu
from .launch import launch
from .planar import check_contiguous

_STEPS = 256  # box edges are rounded to 1/256 px of the mask
_SLACK = 1e-5  # boxes are float32: x0 + width may end a rounding error outside
_MOST_PIXELS = (1 << 32) // 255 - 1  # what a 32-bit integral image holds


def figure_share(masks: Any, boxes: np.ndarray) -> Any:
    """Measure which share of each mask's mass lies inside boxes.

    Parameters
    ----------
    masks : (N, H, W) uint8
        255 is figure; each covers its whole image, at any resolution (112 x 112 is plenty).
    boxes : (N, K, 4) float32, NumPy
        x0, y0, width, height relative to the image's width and height, inside [0, 1]: a plan's `crop` divided by the
        image's size.

    Returns
    -------
    (N, K) float32 in [0, 1], on the device of `masks`; 0 for a mask without mass.

    Raises
    ------
    TypeError
        If `masks` is no array.
    ValueError
        If a shape or dtype does not fit, a box leaves the image or is empty, or a mask has 2**32 / 255 pixels or more.

    Notes
    -----
    A pixel that an edge cuts counts by its covered part: edges are rounded to 1/256 px of the mask, and the integral image
    is interpolated between its nodes, which is exact for pixels of constant value. So the numerator is the mass inside
    the rounded box times 2**16, a whole number; it is divided by the total mass times 2**16 in float64, then rounded.

    Examples
    --------
    >>> masks = np.array([[[0, 0, 255, 255]]], np.uint8)
    >>> boxes = np.array([[[0, 0, 1, 1], [0.5, 0, 0.25, 1], [0, 0, 0.625, 0.5]]], np.float32)
    >>> figure_share(masks, boxes).tolist()
    [[1.0, 0.5, 0.125]]
    """
    gpu = on_gpu("figure_share", masks=masks)
    if masks.ndim != 3 or masks.dtype != np.uint8 or 0 in masks.shape[1:]:
        raise ValueError(f"figure_share: masks must be (N, H, W) uint8, got {tuple(masks.shape)} {masks.dtype}")
    check_contiguous("figure_share", "masks", masks)
    height, width = masks.shape[1:]
    if height * width > _MOST_PIXELS:
        raise ValueError(f"figure_share: masks must have at most {_MOST_PIXELS} px, got {height} x {width}")
    edges = _edges(boxes, len(masks), height, width)
    out = array_module(masks).empty(edges.shape[:2], np.float32)
    if edges.size:
        (_cuda if gpu else _cpu)(masks, edges, out)
    return out


def _edges(boxes: Any, count: int, height: int, width: int) -> np.ndarray:
    """Check boxes and return x0, y0, x1, y1 in 1/256 px of the mask, (N, K, 4) int32."""
    if not isinstance(boxes, np.ndarray) or boxes.shape != (count, *boxes.shape[1:2], 4) or boxes.dtype != np.float32:
        got = f"{boxes.shape} {boxes.dtype}" if isinstance(boxes, np.ndarray) else type(boxes).__name__
        raise ValueError(f"figure_share: boxes must be ({count}, K, 4) float32 in NumPy, got {got}")
    wide = boxes.astype(np.float64)
    corners = np.concatenate([wide[..., :2], wide[..., :2] + wide[..., 2:]], -1)
    good = (wide[..., 2:] > 0).all(-1) & ((corners >= -_SLACK) & (corners <= 1 + _SLACK)).all(-1)
    if not good.all():
        n, k = np.argwhere(~good)[0]
        raise ValueError(
            f"figure_share: boxes[{n}, {k}] must be x0, y0, width > 0, height > 0 inside [0, 1], got "
            f"{boxes[n, k].tolist()}; divide a crop in px by the image's size"
        )
    size = np.array([width, height, width, height])
    return np.rint(corners.clip(0, 1) * (size * _STEPS)).astype(np.int32)


def _cpu(masks: np.ndarray, edges: np.ndarray, out: np.ndarray) -> None:
    _share(masks, edges, out)


@numba.njit(nogil=True, cache=True)
def _share(masks, edges, out):  # type: ignore[no-untyped-def]
    _, height, width = masks.shape
    sums = np.zeros((height + 1, width + 1), np.uint32)  # [y, x]: mass above y and left of x
    for n in range(len(masks)):
        for y in range(height):
            line, above, here, run = masks[n, y], sums[y, 1:], sums[y + 1, 1:], np.uint32(0)
            for x in range(width):
                run = np.uint32(run + line[x])
                here[x] = run
            for x in range(width):
                here[x] = np.uint32(here[x] + above[x])
        total = np.int64(sums[height, width]) * (_STEPS * _STEPS)
        for k in range(out.shape[1]):
            x0, y0, x1, y1 = edges[n, k]
            inside = _mass(sums, x1, y1) - _mass(sums, x0, y1) - _mass(sums, x1, y0) + _mass(sums, x0, y0)
            out[n, k] = np.float32(inside / total) if total > 0 else np.float32(0)


@numba.njit(nogil=True, cache=True)
def _mass(sums, x, y):  # type: ignore[no-untyped-def]
    """Mass above and left of a point given in 1/256 px, times 2**16."""
    left, top = x // _STEPS, y // _STEPS
    right, bottom = min(left + 1, sums.shape[1] - 1), min(top + 1, sums.shape[0] - 1)
    u, v = np.int64(x % _STEPS), np.int64(y % _STEPS)
    upper = np.int64(sums[top, left]) * (_STEPS - u) + np.int64(sums[top, right]) * u
    lower = np.int64(sums[bottom, left]) * (_STEPS - u) + np.int64(sums[bottom, right]) * u
    return upper * (_STEPS - v) + lower * v


def _cuda(masks: Any, edges: np.ndarray, out: Any) -> None:
    xp = array_module(masks)
    count, height, width = masks.shape
    sums = xp.empty((count, height, width), np.uint32)
    size = np.int32(height), np.int32(width)
    rows, columns = count * height, count * width
    args: tuple[Any, ...] = masks, np.int32(width), np.int64(rows), sums
    launch("ground_share", "ground_share_rows", (-(-rows // 8),), (256,), args)
    launch("ground_share", "ground_share_columns", (-(-columns // 256),), (256,), (*size, np.int64(columns), sums))
    args = (sums, xp.asarray(edges), *size, np.int32(edges.shape[1]), np.int64(out.size), out)
    launch("ground_share", "ground_share_boxes", (-(-out.size // 256),), (256,), args)
