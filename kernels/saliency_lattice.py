"""The lattice of 16 x 16 cells as a graph: who is next to whom, sums in a fixed order, and conjugate gradients.

Layout: fields (256,) float32, one value per cell; links of each cell to the two rings around it, near (24, 256), and between border
cells, across (60, 60). Compiled helpers of `saliency_graph`; loops over cells run upwards, sums over all cells are a halving
tree, so that saliency_graph.cu gives the same bits.
"""

from __future__ import annotations

import numba
import numpy as np

from .saliency_cells import CELLS, GRID
from .saliency_logistic import ONE, F

_PLACE = ((np.arange(GRID) + 0.5) / GRID).astype(F)
AT_Y, AT_X = np.repeat(_PLACE, GRID), np.tile(_PLACE, GRID)
"""Centers of the cells, in 0..1: (256,) each."""
_ROW, _COLUMN = np.divmod(np.arange(CELLS), GRID)
ON_BORDER = ((_ROW % (GRID - 1) == 0) | (_COLUMN % (GRID - 1) == 0)).astype(F)
"""1 on the outermost cells, else 0: (256,)."""
BORDER = np.flatnonzero(ON_BORDER).astype(np.int32)
"""The outermost cells, upwards: (60,)."""
_RING = [(dy, dx) for dy in range(-2, 3) for dx in range(-2, 3) if dy or dx]
_REACHES = 2 * GRID + 2
STENCIL = np.array([dy * GRID + dx for dy, dx in _RING], np.int32)
"""Steps to the cells of the two rings, in reading order: (24,)."""
_EXISTS = np.array([((_ROW + dy) // GRID == 0) & ((_COLUMN + dx) // GRID == 0) for dy, dx in _RING])
_NEXT_TO = np.array([max(abs(dy), abs(dx)) == 1 for dy, dx in _RING])
LINKED = _EXISTS.astype(F)
"""1 where a step of the stencil stays on the lattice, else 0: (24, 256)."""
TOUCHING = (_EXISTS & _NEXT_TO[:, None]).astype(F)
"""1 where it also leads to one of the eight nearest cells: (24, 256)."""
FAR_APART = (
    np.maximum(abs(_ROW[BORDER][:, None] - _ROW[BORDER]), abs(_COLUMN[BORDER][:, None] - _COLUMN[BORDER])) > 2
).astype(F)
"""1 between border cells that are not on each other's rings, else 0: (60, 60)."""


@numba.njit(nogil=True, cache=True, error_model="numpy")
def sum_cells(values):  # type: ignore[no-untyped-def]
    """Add 256 numbers: the upper half to the lower, eight times."""
    work = values.copy()
    half = CELLS // 2
    while half:
        add(work[:half], work[half : 2 * half])
        half //= 2
    return work[0]


@numba.njit(nogil=True, cache=True, error_model="numpy")
def add(to, values):  # type: ignore[no-untyped-def]
    """Add values to a field, in place."""
    for i in range(to.size):
        to[i] += values[i]


@numba.njit(nogil=True, cache=True, error_model="numpy")
def add_scaled(weights, value, to):  # type: ignore[no-untyped-def]
    """Add weights times one value to a field, in place."""
    for i in range(to.size):
        to[i] += weights[i] * value


@numba.njit(nogil=True, cache=True, error_model="numpy")
def stretch(values, least_spread):  # type: ignore[no-untyped-def]
    """Map the range of the values to 0..1, in place."""
    low, high = values[0], values[0]
    for i in range(1, CELLS):
        low, high = min(low, values[i]), max(high, values[i])
    scale = ONE / max(high - low, least_spread)
    for i in range(CELLS):
        values[i] = (values[i] - low) * scale


@numba.njit(nogil=True, cache=True, error_model="numpy")
def square_distance(l, a, b, r, i, j):  # type: ignore[no-untyped-def]  # noqa: E741
    """Return the squared distance of two cells in weighted L, a, b and roughness."""
    return ((l[i] - l[j]) * (l[i] - l[j]) + (a[i] - a[j]) * (a[i] - a[j])) + (
        (b[i] - b[j]) * (b[i] - b[j]) + (r[i] - r[j]) * (r[i] - r[j])
    )


@numba.njit(nogil=True, cache=True, error_model="numpy")
def add_product(weights, values, to):  # type: ignore[no-untyped-def]
    """Add weights times values to a field, in place."""
    for i in range(to.size):
        to[i] += weights[i] * values[i]


@numba.njit(nogil=True, cache=True, error_model="numpy")
def pull(x, near, across, border, stencil, out):  # type: ignore[no-untyped-def]
    """Write sum over neighbours of weight * x: the rings in order, then the border cells in order."""
    padded = np.zeros(CELLS + 2 * _REACHES, F)
    padded[_REACHES : _REACHES + CELLS] = x
    out[:] = 0
    for k in range(stencil.size):
        first = _REACHES + stencil[k]
        add_product(near[k], padded[first : first + CELLS], out)
    edge = np.zeros(border.size, F)
    for q in range(border.size):
        add_scaled(across[q], x[border[q]], edge)
    for p in range(border.size):
        out[border[p]] += edge[p]


@numba.njit(nogil=True, cache=True, error_model="numpy")
def dot(a, b):  # type: ignore[no-untyped-def]
    """Return the sum of products."""
    return sum_cells(a * b)


@numba.njit(nogil=True, cache=True, error_model="numpy")
def minimise(target, diagonal, near, across, border, stencil, steps, x):  # type: ignore[no-untyped-def]
    """Take Jacobi-preconditioned conjugate gradient steps on (diagonal - W) x = target, from x, in place."""
    product = np.empty(CELLS, F)
    pull(x, near, across, border, stencil, product)
    rest = target - (diagonal * x - product)
    scaled = rest / diagonal
    way, size = scaled.copy(), dot(rest, scaled)
    for _ in range(steps):
        pull(way, near, across, border, stencil, product)
        moved = diagonal * way - product
        length = size / max(dot(way, moved), F(1e-20))
        x += length * way
        rest -= length * moved
        scaled = rest / diagonal
        new_size = dot(rest, scaled)
        way = scaled + (new_size / max(size, F(1e-20))) * way
        size = new_size
