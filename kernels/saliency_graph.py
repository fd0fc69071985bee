"""Saliency of 256 cells as the least-cost labelling of a graph: figure cues, background cues, smoothness between like cells.

Layout: features (N, 6, 256) float32 in (see `saliency_cells`), one byte per cell out. Everything is float32 in a fixed
order: loops over cells run upwards, sums over all cells are a halving tree, exp is `saliency_logistic.decay`. So CPU and
CUDA agree bit for bit. The graph itself is in `saliency_lattice`.

Sources: Zhu, Liang, Wei and Sun 2014, "Saliency optimization from robust background detection" (boundary connectivity,
weighted contrast, the cost), with Gaussian affinities in place of shortest paths. A second pass replaces the center prior by
a Gaussian around the figure found so far, the object-biased prior of Li, Lu, Zhang, Ruan and Yang 2013, "Saliency detection
via dense and sparse reconstruction"; it trusts border cells less that look like figure, and adds three cues: the time until a
random walk over the cells is absorbed by the border (Jiang, Zhang, Lu, Yang and Yang 2013, "Saliency detection via absorbing
Markov chain"), how salient cells of the same look are, as GrabCut's color models ask (Rother, Kolmogorov and Blake 2004), and
warmth (Shen and Wu 2012, "A unified approach to salient object detection via low rank matrix recovery": red draws the eye).
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from .arrays import array_module, on_gpu, table_on
from .launch import launch
from .saliency_cells import CELLS
from .saliency_lattice import (
    AT_X,
    AT_Y,
    BORDER,
    FAR_APART,
    LINKED,
    ON_BORDER,
    STENCIL,
    TOUCHING,
    add,
    add_product,
    add_scaled,
    dot,
    minimise,
    pull,
    square_distance,
    stretch,
    sum_cells,
)
from .saliency_logistic import HALF, ONE, F, class_middle, decay

CUES = ("barrier", "border", "contrast")
"""What speaks for figure: barrier cost and border contrast; border contrast; contrast to likely background."""

_TINY = F(1e-3)
_LIGHT_SCALE, _ROUGH_SCALE = F(0.3**0.5 / 2.55), F(1 / 15)  # lightness squared counts .3, since shading changes it most
_USUAL_STEP, _LEAST_STEP = F(15), F(2)  # the mean Lab distance of adjacent cells is stretched to 15
_REACH_COLOR, _REACH_PLACE = F(1 / (2 * 5.5**2)), F(1 / (2 * 0.5**2))
_LINK_COLOR, _LINK_FLOOR = F(1 / (2 * 8.0**2)), F(0.15)
_CONTRAST_PLACE = F(1 / (2 * 0.4**2))
_GROUND_WEIGHT, _SLOPE = F(4.5), F(15)
_CENTER_SIGMA, _OBJECT_SCALE, _LEAST_SPREAD, _MOST_SPREAD, _MOST_TILT = 0.31, F(4), F(0.15**2), F(0.5**2), F(0.8)
_WALK_COLOR, _WALK_LEAST = F(1 / 8), F(1e-4)
_WALK_WEIGHT, _LOOK_WEIGHT, _LOOK_SHARE, _DOUBT = F(1.25), F(0.5), F(0.5), F(0.7)
_WARM_SCALE, _WARM_FIRST, _WARM_SECOND = F(1 / 40), F(0.15), F(0.4)
STEPS = (10, 8, 4)
"""Conjugate gradient steps of the random walk, the first and the second pass (which starts from the first's result)."""

_CENTER = np.exp(-((AT_Y - 0.5) ** 2 + (AT_X - 0.5) ** 2) / (2 * _CENTER_SIGMA**2)).astype(F)
_EDGE = len(BORDER)
_NO_BORDER, _NO_LINKS = np.empty(0, np.int32), np.empty((0, 0), F)


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
    w = exp(-d^2 / (2 * 8^2)) on the two rings around each cell and between border cells, + .15 on the first ring, and
    g = 4.5 (1 - exp(-b^2 / 2)) for boundary connectivity b. d is the Lab distance of cells, lightness squared counted .3 and
    roughness added, stretched so that adjacent cells are 15 apart on average.

    f is the sum of cues, each stretched, times a prior, sharpened: in the first pass the cue + .15 warmth; in the second
    the cue + the first result s + .5 own + 1.25 walk + .4 warmth. Warmth is a* / 40, walk the absorption time for steps
    of weight exp(-d / 8), own the mean of s over cells weighted by r^2, r = exp(-d^2 / (2 * 5.5^2) - p^2 / (2 * .5^2)) for
    cells p apart; r also gives b, from border cells weighted 1 - .7 s in the second pass. The result is the mean of its
    own and itself.

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
        _CONTRAST_PLACE, _GROUND_WEIGHT, _SLOPE, _OBJECT_SCALE, _LEAST_SPREAD, _MOST_SPREAD, _MOST_TILT, _TINY, _WALK_COLOR,
        _WALK_LEAST, _WALK_WEIGHT, _LOOK_WEIGHT, _LOOK_SHARE, _DOUBT, _WARM_SCALE, _WARM_FIRST, _WARM_SECOND,
    ],
    F,
)  # fmt: skip
"""What `struct Constants` of saliency_graph.cu holds."""


def _cpu(features: np.ndarray, cue: int) -> np.ndarray:
    out = np.empty((len(features), CELLS), np.uint8)
    _solve_images(features, cue, AT_Y, AT_X, _CENTER, BORDER, ON_BORDER, STENCIL, LINKED, TOUCHING, FAR_APART, out)
    return out


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
                total[i] += np.sqrt(square_distance(colors[0], colors[1], colors[2], colors[3], i, i + stencil[k]))
    scale = _USUAL_STEP / max(sum_cells(total) / F(930), _LEAST_STEP)
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
def _reach_from(square, at_y, at_x, y, x, to):  # type: ignore[no-untyped-def]
    for i in range(to.size):
        v, u = at_y[i] - y, at_x[i] - x
        to[i] = decay(square[i] * _REACH_COLOR + (v * v + u * u) * _REACH_PLACE)


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _reaches(colors, at_y, at_x, reach, area, looks):  # type: ignore[no-untyped-def]
    """Write how much each two cells belong together, and its sum and the sum of its squares over each row."""
    square = np.empty(CELLS, F)
    area[:] = 0
    looks[:] = 0
    for j in range(CELLS):
        _squares_to(colors, j, square)
        _reach_from(square, at_y, at_x, at_y[j], at_x[j], reach[j])
        add(area, reach[j])
        add_product(reach[j], reach[j], looks)


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _ground_weights(reach, area, trust, border, out):  # type: ignore[no-untyped-def]
    """Write 4.5 (1 - exp(-b^2 / 2)), b the boundary connectivity of each cell, border cells weighted by trust."""
    edge = np.zeros(CELLS, F)
    for p in range(border.size):
        add_scaled(reach[border[p]], trust[border[p]], edge)
    for i in range(CELLS):
        out[i] = _GROUND_WEIGHT * (ONE - decay(edge[i] * edge[i] / area[i] * HALF))


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _add_like(reach, value, to):  # type: ignore[no-untyped-def]
    for i in range(to.size):
        to[i] += (reach[i] * reach[i]) * value


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _own_look(reach, looks, values, out):  # type: ignore[no-untyped-def]
    """Write the mean of the values over cells of the same look, stretched."""
    total = np.zeros(CELLS, F)
    for j in range(CELLS):
        _add_like(reach[j], values[j], total)
    for i in range(CELLS):
        out[i] = total[i] / looks[i]
    stretch(out, _TINY)


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
def _walk(colors, on_border, stencil, linked, touching, near, out):  # type: ignore[no-untyped-def]
    """Write how long a random walk takes to be absorbed by a twin of a border cell, stretched; `near` is scratch."""
    l, a, b, r = colors[0], colors[1], colors[2], colors[3]  # noqa: E741
    for k in range(stencil.size):
        for i in range(CELLS):
            j = min(max(i + stencil[k], 0), CELLS - 1)
            near[k, i] = decay(np.sqrt(square_distance(l, a, b, r, i, j)) * _WALK_COLOR) * linked[k, i]
            near[k, i] += _WALK_LEAST * touching[k, i]
    degree, sinks = np.empty(CELLS, F), np.empty(CELLS, F)
    pull(np.ones(CELLS, F), near, _NO_LINKS, _NO_BORDER, stencil, degree)
    pull(on_border, near, _NO_LINKS, _NO_BORDER, stencil, sinks)
    total = (degree + sinks) + on_border
    out[:] = 1
    minimise(total, total, near, _NO_LINKS, _NO_BORDER, stencil, STEPS[0], out)
    stretch(out, _TINY)


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _links(colors, border, stencil, linked, far_apart, near, across):  # type: ignore[no-untyped-def]
    """Write the likeness of cells on the two rings, near (24, 256), and of border cells further apart, across (60, 60)."""
    l, a, b, r = colors[0], colors[1], colors[2], colors[3]  # noqa: E741
    for k in range(stencil.size):
        for i in range(CELLS):
            j = min(max(i + stencil[k], 0), CELLS - 1)
            near[k, i] = decay(square_distance(l, a, b, r, i, j) * _LINK_COLOR) * linked[k, i]
    for p in range(border.size):
        for q in range(border.size):
            square = square_distance(l, a, b, r, border[p], border[q])
            across[p, q] = decay(square * _LINK_COLOR) * far_apart[p, q]


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _even_cues(near, stencil, cues):  # type: ignore[no-untyped-def]
    """Average the cues of like neighbours, weight exp(-d^2 / (2 * 4^2)) = likeness^4, three times, in place."""
    weights, work = np.ones(CELLS, F), np.empty(CELLS, F)
    fourth = near * near
    fourth *= fourth
    for k in range(stencil.size):
        add(weights, fourth[k])
    for _ in range(3):
        pull(cues, fourth, _NO_LINKS, _NO_BORDER, stencil, work)
        for i in range(CELLS):
            cues[i] = (cues[i] + work[i]) / weights[i]


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _object_prior(saliency, at_y, at_x, out):  # type: ignore[no-untyped-def]
    """Write a Gaussian around the figure, twice as wide as it is and tilted as it is."""
    weight = saliency * saliency
    scale = ONE / max(sum_cells(weight), _TINY)
    off_y, off_x = at_y - dot(weight, at_y) * scale, at_x - dot(weight, at_x) * scale
    scale *= _OBJECT_SCALE
    tall = min(max(dot(weight, off_y * off_y) * scale, _LEAST_SPREAD), _MOST_SPREAD)
    wide = min(max(dot(weight, off_x * off_x) * scale, _LEAST_SPREAD), _MOST_SPREAD)
    most = np.sqrt(tall * wide) * _MOST_TILT
    tilt = min(max(dot(weight, off_y * off_x) * scale, -most), most)
    shrink = HALF / (tall * wide - tilt * tilt)
    for i in range(CELLS):
        v, u = off_y[i], off_x[i]
        out[i] = decay(max((((v * v) * wide + (u * u) * tall) - F(2) * tilt * (v * u)) * shrink, F(0)))


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _figure_weights(cues, prior, out):  # type: ignore[no-untyped-def]
    out[:] = cues
    stretch(out, _TINY)
    out *= prior
    stretch(out, _TINY)
    _sharpen(out, _SLOPE)


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _cues(features, cue, out):  # type: ignore[no-untyped-def]
    out[:] = features[5]
    stretch(out, F(4))
    if cue == 0:
        barrier = features[4].copy()
        stretch(barrier, F(4))
        out += barrier
    stretch(out, _TINY)


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _warmth(alpha, out):  # type: ignore[no-untyped-def]
    for i in range(CELLS):
        out[i] = min(max((alpha[i] - F(128)) * _WARM_SCALE, -ONE), ONE)


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _solve_images(features, cue, at_y, at_x, center, border, on_border, stencil, linked, touching, far_apart, out):  # type: ignore[no-untyped-def]
    colors, near, across = np.empty((4, CELLS), F), np.empty((stencil.size, CELLS), F), np.empty((_EDGE, _EDGE), F)
    reach, area, looks, own = np.empty((CELLS, CELLS), F), np.empty(CELLS, F), np.empty(CELLS, F), np.empty(CELLS, F)
    ground, degree, cues, figure = np.empty(CELLS, F), np.empty(CELLS, F), np.empty(CELLS, F), np.empty(CELLS, F)
    prior, walk, warm, ones = np.empty(CELLS, F), np.empty(CELLS, F), np.empty(CELLS, F), np.ones(CELLS, F)
    floor = touching * _LINK_FLOOR
    for n in range(len(features)):
        _even_out(features[n], colors, stencil, linked)
        _warmth(features[n, 1], warm)
        _cues(features[n], cue, cues)
        _reaches(colors, at_y, at_x, reach, area, looks)
        _ground_weights(reach, area, ones, border, ground)
        if cue == 2:
            _contrast(colors, at_y, at_x, ground, cues)
        _walk(colors, on_border, stencil, linked, touching, near, walk)
        _links(colors, border, stencil, linked, far_apart, near, across)
        _even_cues(near, stencil, cues)
        stretch(cues, _TINY)
        walk *= cues.max() * _WALK_WEIGHT  # where no cue differs there is no figure
        add(near.reshape(-1), floor.reshape(-1))
        pull(ones, near, across, border, stencil, degree)
        _figure_weights(cues + _WARM_FIRST * warm, center, figure)
        x = figure / ((figure + ground) + _TINY)
        minimise(figure, (degree + ground) + figure, near, across, border, stencil, STEPS[1], x)
        saliency = x.copy()
        stretch(saliency, _TINY)
        _object_prior(saliency, at_y, at_x, prior)
        _own_look(reach, looks, saliency, own)
        _ground_weights(reach, area, ONE - _DOUBT * saliency, border, ground)
        _figure_weights(((cues + saliency) + (_LOOK_WEIGHT * own + walk)) + _WARM_SECOND * warm, prior, figure)
        minimise(figure, (degree + ground) + figure, near, across, border, stencil, STEPS[2], x)
        stretch(x, _TINY)
        _own_look(reach, looks, x, own)
        x = (ONE - _LOOK_SHARE) * x + _LOOK_SHARE * own
        stretch(x, _TINY)
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
