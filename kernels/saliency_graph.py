"""Saliency of 256 cells as the least-cost labelling of a graph: figure cues, background cues, smoothness between like cells.

Layout: features (N, 6, 256) float32 in (see `saliency_cells`), one byte per cell out. Everything is float32 in a fixed
order: loops over cells run upwards, sums over all cells are a halving tree, exp is `saliency_logistic.decay`. So CPU and
CUDA agree bit for bit.

Sources: Zhu, Liang, Wei and Sun 2014, "Saliency optimization from robust background detection" (boundary connectivity,
weighted contrast, the cost), with Gaussian affinities in place of shortest paths. A second pass replaces the center prior by
a Gaussian around the figure found so far, the object-biased prior of Li, Lu, Zhang, Ruan and Yang 2013, "Saliency detection
via dense and sparse reconstruction".
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from .arrays import array_module, on_gpu, table_on
from .launch import launch
from .saliency_cells import CELLS, GRID
from .saliency_logistic import HALF, ONE, F, class_middle, decay

CUES = ("barrier", "border", "contrast")
"""What speaks for figure: barrier cost and border contrast; border contrast; contrast to likely background."""

_TINY = F(1e-3)
_LIGHT_SCALE, _ROUGH_SCALE = F(0.3**0.5 / 2.55), F(1 / 15)  # lightness squared counts .3, since shading changes it most
_USUAL_STEP, _LEAST_STEP = F(15), F(2)  # the mean Lab distance of adjacent cells is stretched to 15
_REACH_COLOR, _REACH_PLACE = F(1 / (2 * 6.0**2)), F(1 / (2 * 0.5**2))
_LINK_COLOR, _LINK_FLOOR = F(1 / (2 * 8.0**2)), F(0.1)
_CONTRAST_PLACE = F(1 / (2 * 0.4**2))
_GROUND_WEIGHT, _SLOPE = F(4.5), F(15)
_CENTER_SIGMA, _OBJECT_SCALE, _LEAST_SIGMA, _MOST_SIGMA = 0.33, F(2), F(0.15), F(0.5)
STEPS = (8, 4)
"""Conjugate gradient steps of the first and the second pass (which starts from the first's result)."""

_PLACE = ((np.arange(GRID) + 0.5) / GRID).astype(F)
_AT_Y, _AT_X = np.repeat(_PLACE, GRID), np.tile(_PLACE, GRID)
_CENTER = np.exp(-((_AT_Y - 0.5) ** 2 + (_AT_X - 0.5) ** 2) / (2 * _CENTER_SIGMA**2)).astype(F)
_ROW, _COLUMN = np.divmod(np.arange(CELLS), GRID)
_BORDER = np.flatnonzero((_ROW % (GRID - 1) == 0) | (_COLUMN % (GRID - 1) == 0)).astype(np.int32)
_EDGE = len(_BORDER)
_RING = [(dy, dx) for dy in range(-2, 3) for dx in range(-2, 3) if dy or dx]
_REACHES = 2 * GRID + 2
_STENCIL = np.array([dy * GRID + dx for dy, dx in _RING], np.int32)
_EXISTS = np.array([((_ROW + dy) // GRID == 0) & ((_COLUMN + dx) // GRID == 0) for dy, dx in _RING])
_NEXT_TO = np.array([max(abs(dy), abs(dx)) == 1 for dy, dx in _RING])
_FLOOR = np.where(_EXISTS & _NEXT_TO[:, None], _LINK_FLOOR, F(0))
_LINKED = _EXISTS.astype(F)
_FAR_APART = (
    np.maximum(abs(_ROW[_BORDER][:, None] - _ROW[_BORDER]), abs(_COLUMN[_BORDER][:, None] - _COLUMN[_BORDER])) > 2
).astype(F)


def cell_saliency(features: Any, *, cue: str = "barrier") -> Any:
    """Weigh figure against background cues over the graph of cells, twice.

    Parameters
    ----------
    features : (N, 6, 256) float32
        From `saliency_cells.soft_cells`.
    cue : {"barrier", "border", "contrast"}
        See `CUES`.

    Returns
    -------
    (N, 256) uint8, on the device of `features`
        0 to 255, stretched per image; all 0 where the image is flat.

    Raises
    ------
    ValueError
        If `cue` is unknown.

    Notes
    -----
    Minimises sum g s^2 + f (s - 1)^2 + sum w (s_i - s_j)^2 by Jacobi-preconditioned conjugate gradients, with
    w = exp(-d^2 / (2 * 8^2)) on the two rings around each cell and between border cells, + .1 on the first ring, and
    g = 4.5 (1 - exp(-b^2 / 2)) for boundary connectivity b. d is the Lab distance of cells, lightness squared counted .3 and
    roughness added, stretched so that adjacent cells are 15 apart on average.

    Examples
    --------
    >>> cell_saliency(np.zeros((1, 6, 256), np.float32)).max()
    np.uint8(0)
    """
    if cue not in CUES:
        raise ValueError(f"cell_saliency: cue must be one of {', '.join(CUES)}, got {cue!r}")
    if on_gpu("cell_saliency", features=features):
        return _cuda(features, CUES.index(cue))
    return _cpu(features, CUES.index(cue))


_CONSTANTS = np.array(
    [
        _LIGHT_SCALE, _ROUGH_SCALE, _USUAL_STEP, _LEAST_STEP, _REACH_COLOR, _REACH_PLACE, _LINK_COLOR, _LINK_FLOOR,
        _CONTRAST_PLACE, _GROUND_WEIGHT, _SLOPE, _OBJECT_SCALE, _LEAST_SIGMA, _MOST_SIGMA, _TINY,
    ],
    F,
)  # fmt: skip
"""What `struct Constants` of saliency_graph.cu holds."""


def _cpu(features: np.ndarray, cue: int) -> np.ndarray:
    out = np.empty((len(features), CELLS), np.uint8)
    for_graph = (_AT_Y, _AT_X, _CENTER, _BORDER, _STENCIL, _LINKED, _FLOOR, _FAR_APART)
    _solve_images(features, cue, *for_graph, out)
    return out


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _sum(values):  # type: ignore[no-untyped-def]
    """Add 256 numbers: the upper half to the lower, eight times."""
    work = values.copy()
    half = CELLS // 2
    while half:
        _add(work[:half], work[half : 2 * half])
        half //= 2
    return work[0]


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _add(to, values):  # type: ignore[no-untyped-def]
    for i in range(to.size):
        to[i] += values[i]


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _add_scaled(weights, value, to):  # type: ignore[no-untyped-def]
    for i in range(to.size):
        to[i] += weights[i] * value


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _stretch(values, least_spread):  # type: ignore[no-untyped-def]
    """Map the range of the values to 0..1, in place."""
    low, high = values[0], values[0]
    for i in range(1, CELLS):
        low, high = min(low, values[i]), max(high, values[i])
    scale = ONE / max(high - low, least_spread)
    for i in range(CELLS):
        values[i] = (values[i] - low) * scale


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _sharpen(values, slope):  # type: ignore[no-untyped-def]
    """Push values in 0..1 to a side by a logistic centred between their Otsu classes, in place."""
    counts = np.zeros(256, np.int64)
    for i in range(CELLS):
        counts[np.int32(values[i] * F(255) + HALF)] += 1
    middle = class_middle(counts, CELLS)
    for i in range(CELLS):
        z = slope * (values[i] - middle)
        e = decay(abs(z))
        values[i] = (ONE if z >= F(0) else e) / (ONE + e)


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _square_distance(l, a, b, r, i, j):  # type: ignore[no-untyped-def]  # noqa: E741
    return ((l[i] - l[j]) * (l[i] - l[j]) + (a[i] - a[j]) * (a[i] - a[j])) + (
        (b[i] - b[j]) * (b[i] - b[j]) + (r[i] - r[j]) * (r[i] - r[j])
    )


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _even_out(features, colors, stencil, linked):  # type: ignore[no-untyped-def]
    """Write weighted L, a, b, roughness, stretched so that adjacent cells are 15 apart on average."""
    scales = (_LIGHT_SCALE, ONE, ONE, _ROUGH_SCALE)
    for f in range(4):
        for i in range(CELLS):
            colors[f, i] = features[f, i] * scales[f]
    total = np.zeros(CELLS, F)
    for k in (12, 15, 16, 17):  # right; lower left, lower, lower right
        for i in range(CELLS):
            if linked[k, i] > F(0):
                total[i] += np.sqrt(_square_distance(colors[0], colors[1], colors[2], colors[3], i, i + stencil[k]))
    scale = _USUAL_STEP / max(_sum(total) / F(930), _LEAST_STEP)
    for f in range(4):
        for i in range(CELLS):
            colors[f, i] *= scale


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _squares_to(colors, j, out):  # type: ignore[no-untyped-def]
    l, a, b, r = colors[0], colors[1], colors[2], colors[3]  # noqa: E741
    lj, aj, bj, rj = l[j], a[j], b[j], r[j]
    for i in range(out.size):
        out[i] = ((l[i] - lj) * (l[i] - lj) + (a[i] - aj) * (a[i] - aj)) + (
            (b[i] - bj) * (b[i] - bj) + (r[i] - rj) * (r[i] - rj)
        )


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _add_reach(square, at_y, at_x, y, x, to):  # type: ignore[no-untyped-def]
    for i in range(to.size):
        v, u = at_y[i] - y, at_x[i] - x
        to[i] = decay(square[i] * _REACH_COLOR + (v * v + u * u) * _REACH_PLACE)


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _ground_weights(colors, at_y, at_x, border, out):  # type: ignore[no-untyped-def]
    """Write 4.5 (1 - exp(-b^2 / 2)), b the boundary connectivity of each cell."""
    square, reach, area, edge = np.empty(CELLS, F), np.empty(CELLS, F), np.zeros(CELLS, F), np.zeros(CELLS, F)
    next_border = 0
    for j in range(CELLS):
        _squares_to(colors, j, square)
        _add_reach(square, at_y, at_x, at_y[j], at_x[j], reach)
        _add(area, reach)
        if next_border < border.size and border[next_border] == j:
            _add(edge, reach)
            next_border += 1
    for i in range(CELLS):
        out[i] = _GROUND_WEIGHT * (ONE - decay(edge[i] * edge[i] / area[i] * HALF))


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _contrast(colors, at_y, at_x, ground, out):  # type: ignore[no-untyped-def]
    """Write each cell's contrast to cells that are likely background, near ones first."""
    square, total = np.empty(CELLS, F), np.zeros(CELLS, F)
    for j in range(CELLS):
        _squares_to(colors, j, square)
        y, x, weight = at_y[j], at_x[j], ground[j]
        for i in range(CELLS):
            v, u = at_y[i] - y, at_x[i] - x
            total[i] += np.sqrt(square[i]) * decay((v * v + u * u) * _CONTRAST_PLACE) * weight
    out[:] = total


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _links(colors, border, stencil, linked, far_apart, near, across):  # type: ignore[no-untyped-def]
    """Write the likeness of cells on the two rings, near (24, 256), and of border cells further apart, across (60, 60)."""
    l, a, b, r = colors[0], colors[1], colors[2], colors[3]  # noqa: E741
    for k in range(stencil.size):
        for i in range(CELLS):
            j = min(max(i + stencil[k], 0), CELLS - 1)
            near[k, i] = decay(_square_distance(l, a, b, r, i, j) * _LINK_COLOR) * linked[k, i]
    for p in range(border.size):
        for q in range(border.size):
            square = _square_distance(l, a, b, r, border[p], border[q])
            across[p, q] = decay(square * _LINK_COLOR) * far_apart[p, q]


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _add_product(weights, values, to):  # type: ignore[no-untyped-def]
    for i in range(to.size):
        to[i] += weights[i] * values[i]


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _pull(x, near, across, border, stencil, out):  # type: ignore[no-untyped-def]
    """Write sum over neighbours of weight * x: the rings in order, then the border cells in order."""
    padded = np.zeros(CELLS + 2 * _REACHES, F)
    padded[_REACHES : _REACHES + CELLS] = x
    out[:] = 0
    for k in range(stencil.size):
        first = _REACHES + stencil[k]
        _add_product(near[k], padded[first : first + CELLS], out)
    edge = np.zeros(border.size, F)
    for q in range(border.size):
        _add_scaled(across[q], x[border[q]], edge)
    for p in range(border.size):
        out[border[p]] += edge[p]


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _even_cues(near, stencil, cues):  # type: ignore[no-untyped-def]
    """Average the cues of like neighbours, weight exp(-d^2 / (2 * 4^2)) = likeness^4, three times, in place."""
    padded, weights, work = np.zeros(CELLS + 2 * _REACHES, F), np.ones(CELLS, F), np.empty(CELLS, F)
    fourth = near * near
    fourth *= fourth
    for k in range(stencil.size):
        _add(weights, fourth[k])
    for _ in range(3):
        work[:] = cues
        padded[_REACHES : _REACHES + CELLS] = cues
        for k in range(stencil.size):
            first = _REACHES + stencil[k]
            _add_product(fourth[k], padded[first : first + CELLS], work)
        for i in range(CELLS):
            cues[i] = work[i] / weights[i]


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _dot(a, b):  # type: ignore[no-untyped-def]
    return _sum(a * b)


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _minimise(figure, ground, degree, near, across, border, stencil, steps, x):  # type: ignore[no-untyped-def]
    """Take conjugate gradient steps on (diag(degree + ground + figure) - W) x = figure, from x, in place."""
    diagonal, product = (degree + ground) + figure, np.empty(CELLS, F)
    _pull(x, near, across, border, stencil, product)
    rest = figure - (diagonal * x - product)
    scaled = rest / diagonal
    way, size = scaled.copy(), _dot(rest, scaled)
    for _ in range(steps):
        _pull(way, near, across, border, stencil, product)
        moved = diagonal * way - product
        length = size / max(_dot(way, moved), F(1e-20))
        x += length * way
        rest -= length * moved
        scaled = rest / diagonal
        new_size = _dot(rest, scaled)
        way = scaled + (new_size / max(size, F(1e-20))) * way
        size = new_size


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _object_prior(saliency, at_y, at_x, out):  # type: ignore[no-untyped-def]
    """Write a Gaussian around the figure, twice as wide as it is."""
    weight = saliency * saliency
    scale = ONE / max(_sum(weight), _TINY)
    y, x = _dot(weight, at_y) * scale, _dot(weight, at_x) * scale
    off_y, off_x = (at_y - y) * (at_y - y), (at_x - x) * (at_x - x)
    tall = min(max(np.sqrt(_dot(weight, off_y) * scale) * _OBJECT_SCALE, _LEAST_SIGMA), _MOST_SIGMA)
    wide = min(max(np.sqrt(_dot(weight, off_x) * scale) * _OBJECT_SCALE, _LEAST_SIGMA), _MOST_SIGMA)
    tall, wide = HALF / (tall * tall), HALF / (wide * wide)
    for i in range(CELLS):
        out[i] = decay(off_y[i] * tall + off_x[i] * wide)


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _figure_weights(cues, prior, out):  # type: ignore[no-untyped-def]
    out[:] = cues
    _stretch(out, _TINY)
    out *= prior
    _stretch(out, _TINY)
    _sharpen(out, _SLOPE)


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _cues(features, cue, out):  # type: ignore[no-untyped-def]
    out[:] = features[5]
    _stretch(out, F(4))
    if cue == 0:
        barrier = features[4].copy()
        _stretch(barrier, F(4))
        out += barrier
    _stretch(out, _TINY)


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _solve_images(features, cue, at_y, at_x, center, border, stencil, linked, floor, far_apart, out):  # type: ignore[no-untyped-def]
    colors, near, across = np.empty((4, CELLS), F), np.empty((stencil.size, CELLS), F), np.empty((_EDGE, _EDGE), F)
    ground, degree, cues, figure = np.empty(CELLS, F), np.empty(CELLS, F), np.empty(CELLS, F), np.empty(CELLS, F)
    prior, ones = np.empty(CELLS, F), np.ones(CELLS, F)
    for n in range(len(features)):
        _even_out(features[n], colors, stencil, linked)
        _cues(features[n], cue, cues)
        _ground_weights(colors, at_y, at_x, border, ground)
        if cue == 2:
            _contrast(colors, at_y, at_x, ground, cues)
        _links(colors, border, stencil, linked, far_apart, near, across)
        _even_cues(near, stencil, cues)
        _add(near.reshape(-1), floor.reshape(-1))
        _pull(ones, near, across, border, stencil, degree)
        _figure_weights(cues, center, figure)
        x = figure / ((figure + ground) + _TINY)
        _minimise(figure, ground, degree, near, across, border, stencil, STEPS[0], x)
        saliency = x.copy()
        _stretch(saliency, _TINY)
        _object_prior(saliency, at_y, at_x, prior)
        _stretch(cues, _TINY)
        _figure_weights((cues + cues) + saliency, prior, figure)
        _minimise(figure, ground, degree, near, across, border, stencil, STEPS[1], x)
        _stretch(x, _TINY)
        for i in range(CELLS):
            out[n, i] = np.uint8(np.int32(x[i] * F(255) + HALF))


def _cuda(features: Any, cue: int) -> Any:
    """One block per image, one thread per cell."""
    xp = array_module(features)
    out = xp.empty((len(features), CELLS), np.uint8)
    if len(features):
        args = (features, table_on(xp, _CONSTANTS), xp.asarray(_CENTER), np.int32(cue), *map(np.int32, STEPS), out)
        launch("saliency_graph", "saliency_graph_solve", (len(features),), (CELLS,), args)
    return out
