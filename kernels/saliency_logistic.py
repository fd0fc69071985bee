"""Push soft maps to a side: a logistic centred half-way between the two Otsu classes, with an exp of our own.

Layout: maps (N, H, W) in, uint8 masks out. Counts are integers, class variances float64, the rest float32 in a fixed order:
CPU and CUDA (saliency_logistic.cuh is the same, operation by operation) agree bit for bit.

Source: Otsu 1979, "A threshold selection method from gray-level histograms"; the logistic is that of Zhang et al. 2015, "Minimum
barrier salient object detection at 80 FPS".
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from .arrays import array_module, on_gpu
from .launch import launch

F = np.float32
ONE, HALF = F(1), F(0.5)
SLOPE = F(12)
"""Slope of the logistic, for maps in 0..1."""
_SCALE, _SHIFT = F(255 / 0.9), F(255 * 0.05 / 0.9)
"""The lowest and the highest 5 % of the logistic become 0 and 255: ground that is not quite 0 lets the old ground shine through,
costs a fifth of a mask's file, and keeps kernels from leaving out what is hidden."""


def sharpen_maps(maps: Any) -> Any:
    """Sharpen maps to masks.

    Parameters
    ----------
    maps : (N, H, W) uint8
        Saliency, 255 the most.

    Returns
    -------
    (N, H, W) uint8, on the device of `maps`
        1 / (1 + exp(-12 (q - m))) for the map q in 0..1 and the middle m of its Otsu classes, stretched from .05 .. .95 to
        0 .. 255; 0 for a map of one level.

    Examples
    --------
    >>> sharpen_maps(np.array([[[0, 255]]], np.uint8)).tolist()
    [[[0, 255]]]
    """
    on_gpu("sharpen_maps", maps=maps)
    return sharpen_field(maps.astype(np.float32))


def sharpen_field(field: Any) -> Any:
    """Do the same for maps that are not rounded yet.

    Parameters
    ----------
    field : (N, H, W) float32
        Saliency, 0 to 255.

    Returns
    -------
    (N, H, W) uint8, on the device of `field`.

    Examples
    --------
    >>> sharpen_field(np.array([[[0, 255]]], np.float32)).tolist()
    [[[0, 255]]]
    """
    if on_gpu("sharpen_field", field=field):
        return _cuda(field)
    return _cpu(field)


def _cpu(field: np.ndarray) -> np.ndarray:
    out = np.empty(field.shape, np.uint8)
    _sharpen_all(field.reshape(len(field), -1), out.reshape(len(field), -1))
    return out


@numba.njit(nogil=True, cache=True, error_model="numpy", inline="always")
def decay(x):  # type: ignore[no-untyped-def]
    """Return exp(-x) for x >= 0: five terms of the series at x / 64, squared six times; below e^-32 it stays there."""
    t = min(x, F(32)) * F(1 / 64)
    p = ONE - t * (ONE - t * (HALF - t * (F(1 / 6) - t * (F(1 / 24) - t * F(1 / 120)))))
    p = p * p
    p = p * p
    p = p * p
    p = p * p
    p = p * p
    return p * p


@numba.njit(nogil=True, cache=True, error_model="numpy")
def class_middle(counts, total):  # type: ignore[no-untyped-def]
    """Return half-way between the means of the two Otsu classes of 256 counts, in 0..1; 2 if there is one class only."""
    mass = np.int64(0)
    for level in range(256):
        mass += level * counts[level]
    below, mass_below, best, found = np.int64(0), np.int64(0), 0.0, False
    left, left_mass = np.int64(0), np.int64(0)
    for level in range(255):
        below += counts[level]
        mass_below += level * counts[level]
        if 0 < below < total:
            gap = float(mass * below - total * mass_below)
            between = gap * gap / (float(below) * float(total - below))
            if between > best:
                best, left, left_mass, found = between, below, mass_below, True
    if not found:
        return F(2)  # above all: no figure
    low, high = float(left_mass) / float(left), float(mass - left_mass) / float(total - left)
    return F((low + high) / 510.0)


@numba.njit(nogil=True, cache=True, error_model="numpy")
def sharpen_one(field, out):  # type: ignore[no-untyped-def]
    """Map 0..255 float32 to uint8 by the logistic."""
    counts = np.zeros(256, np.int64)
    for i in range(field.size):
        counts[np.int32(field[i] + HALF)] += 1
    middle = class_middle(counts, field.size)
    for i in range(field.size):
        z = SLOPE * (field[i] * F(1 / 255) - middle)
        e = decay(abs(z))
        value = (ONE if z >= F(0) else e) / (ONE + e)
        out[i] = np.uint8(np.int32(min(max(value * _SCALE - _SHIFT, F(0)), F(255)) + HALF))


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _sharpen_all(field, out):  # type: ignore[no-untyped-def]
    for n in range(len(field)):
        sharpen_one(field[n], out[n])


def _cuda(field: Any) -> Any:
    """One block per image."""
    xp = array_module(field)
    out = xp.empty(field.shape, np.uint8)
    if out.size:
        args = (field, out, np.int32(out[0].size), SLOPE, _SCALE, _SHIFT)
        launch("saliency_logistic", "saliency_logistic_sharpen", (len(field),), (256,), args)
    return out
