"""Soft cells: 256 small regions per image that follow its edges, and what each looks like.

Layout: planar uint8 Lab (N, 3, H, W) in; labels (N, H, W) uint8 and features (N, 6, 256) float32 out. A 16 x 16 grid of blocks
is moved by two sweeps: each pixel joins the best of the nine cells around its block. Sums are exact integers, distances
float32 in a fixed order: CPU and CUDA agree bit for bit.

Source: the local assignment step of SLIC (Achanta et al. 2012, "SLIC superpixels compared to state-of-the-art superpixel
methods"), without its connectivity step.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .arrays import array_module, on_gpu
from .lanes import LANES
from .launch import launch

GRID = 16
"""Cells along each axis."""
CELLS = GRID * GRID
FEATURES = 6
"""Lightness, a, b (8-bit Lab units), roughness, barrier cost, border contrast: means over the cell."""
SWEEPS = 2
COMPACT = 20.0
"""Lab units that weigh as much as one cell's side."""
LIGHTNESS = np.float32(100 * 100 / (255 * 255))
"""Squared Lab units in a squared 8-bit lightness unit."""
_SUMS = 6
_FAR = np.float32(1e9)


def soft_cells(raw: Any, cost: Any, contrast: Any) -> tuple[Any, Any]:
    """Cut images into 16 x 16 cells that follow edges, and average each cell.

    Parameters
    ----------
    raw : (N, 3, H, W) uint8
        Lab planes, not smoothed; 16 <= H, W <= 256.
    cost : (N, 3, H, W) uint8
        Barrier cost per channel.
    contrast : (N, H, W) uint16
        Border contrast.

    Returns
    -------
    labels : (N, H, W) uint8
        The cell of each pixel, 16 * row + column of the block it started as.
    features : (N, 6, 256) float32
        Means over each cell, see `FEATURES`; the barrier cost is summed over channels. Roughness is
        2 |dL| + 5 |da| + 5 |db| to the right and lower neighbours, added. An empty cell keeps its last colour and has zeros else.

    Examples
    --------
    >>> raw = np.zeros((1, 3, 16, 16), np.uint8)
    >>> labels, features = soft_cells(raw, raw, np.zeros((1, 16, 16), np.uint16))
    >>> int(labels[0, 2, 1]), features.shape
    (33, (1, 6, 256))
    """
    if on_gpu("soft_cells", raw=raw, cost=cost, contrast=contrast):
        return _cuda(raw, cost, contrast)
    return _cpu(raw, cost, contrast)


def paint_cells(labels: Any, cells: Any) -> Any:
    """Give each pixel the value of its cell.

    Parameters
    ----------
    labels : (N, H, W) uint8
    cells : (N, 256) uint8

    Returns
    -------
    (N, H, W) uint8, on the device of both.

    Examples
    --------
    >>> paint_cells(np.array([[[3, 0]]], np.uint8), np.arange(256, dtype=np.uint8)[None] * 2).tolist()
    [[[6, 0]]]
    """
    if on_gpu("paint_cells", labels=labels, cells=cells):
        return _paint_cuda(labels, cells)
    out = np.empty(labels.shape, np.uint8)
    _paint(labels.reshape(len(labels), -1), cells, out.reshape(len(labels), -1))
    return out


def _spacing(height: int, width: int) -> tuple[np.float32, np.float32]:
    """Return what a squared pixel of distance weighs along y and x, in squared Lab units."""
    return np.float32((COMPACT * GRID / height) ** 2), np.float32((COMPACT * GRID / width) ** 2)


def _cpu(raw: np.ndarray, cost: np.ndarray, contrast: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    count, _, height, width = raw.shape
    labels = np.empty((count, height, width), np.uint8)
    features = np.empty((count, FEATURES, CELLS), np.float32)
    _cut(raw, cost, contrast, *_spacing(height, width), labels, features)
    return labels, features


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _add_pixels(raw, labels, sums):  # type: ignore[no-untyped-def]
    """Sum count, L, a, b, y, x over each cell, three to a word of 64 bits (21 bits are enough for 48 x 48 pixels)."""
    colors, places = np.zeros(CELLS, np.int64), np.zeros(CELLS, np.int64)
    for y in range(labels.shape[0]):
        light, alpha, beta, row = raw[0, y], raw[1, y], raw[2, y], labels[y]
        for x in range(row.size):
            cell = row[x]
            colors[cell] += np.int64(light[x]) + (np.int64(alpha[x]) << 21) + (np.int64(beta[x]) << 42)
            places[cell] += 1 + (np.int64(y) << 21) + (np.int64(x) << 42)
    mask = (1 << 21) - 1
    for cell in range(CELLS):
        word, place = colors[cell], places[cell]
        sums[0, cell], sums[1, cell], sums[2, cell] = word & mask, (word >> 21) & mask, word >> 42
        sums[3, cell], sums[4, cell], sums[5, cell] = place & mask, (place >> 21) & mask, place >> 42


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _take_means(sums, means):  # type: ignore[no-untyped-def]
    """Divide into means L, a, b, y, x; an empty cell keeps what it had."""
    for cell in range(CELLS):
        if sums[3, cell] > 0:
            size = np.float32(sums[3, cell])
            for k in range(3):
                means[k, cell] = np.float32(sums[k, cell]) / size
            means[3, cell] = np.float32(sums[4, cell]) / size
            means[4, cell] = np.float32(sums[5, cell]) / size


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _lay_out(means, columns, rows):  # type: ignore[no-untyped-def]
    """Lay the means of each row of cells out along x, for the left, own and right neighbour: rows (18, 3, 6, W).

    `columns` (3, W) is the neighbour's column + 1. The first and last row and column lie outside: infinitely far.
    """
    padded = np.empty(GRID + 2, np.float32)
    for r in range(GRID + 2):
        for f in range(6):
            padded[:] = _FAR if f < 5 else np.float32(0)
            if 1 <= r <= GRID:
                for c in range(GRID):
                    cell = (r - 1) * GRID + c
                    padded[c + 1] = means[f, cell] if f < 5 else np.float32(cell)
            for k in range(3):
                _pick(padded, columns[k], rows[r, k, f])


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _pick(values, index, out):  # type: ignore[no-untyped-def]
    for x in range(out.size):
        out[x] = values[index[x]]


@intrinsic
def _join_nearest(typing_context, light, alpha, beta, rows, step, along, y, weigh_y, weigh_x, label):  # type: ignore[no-untyped-def]
    """Write the nearest of nine cells for sixteen pixels side by side; all but the three float32 are byte addresses.

    `rows` are the nine candidates' means L, a, b, y, x and number at these pixels, `step` bytes from row to row;
    `along` the sixteen x. Numba's own loop stops at so many arrays, so this is LLVM's portable vector IR.
    """
    lanes = ir.VectorType(ir.FloatType(), LANES)

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        light, alpha, beta, rows, step, along, y, weigh_y, weigh_x, label = args

        def load(address: Any, kind: Any = lanes, align: int = 4) -> Any:
            return builder.load(builder.inttoptr(address, kind.as_pointer()), align=align)

        def splat(value: Any) -> Any:
            one = builder.insert_element(ir.Constant(lanes, ir.Undefined), value, ir.IntType(32)(0))
            zeros = ir.Constant(ir.VectorType(ir.IntType(32), LANES), None)
            return builder.shuffle_vector(one, ir.Constant(lanes, ir.Undefined), zeros)

        def weighed_square(value: Any, mean: Any, weight: Any = None) -> Any:
            off = builder.fsub(value, mean)
            square = builder.fmul(off, off)
            return square if weight is None else builder.fmul(square, weight)

        pixel = [builder.uitofp(load(at, ir.VectorType(ir.IntType(8), LANES), 1), lanes) for at in (light, alpha, beta)]
        pixel += [splat(y), load(along)]
        weights = (splat(ir.Constant(ir.FloatType(), float(LIGHTNESS))), None, None, splat(weigh_y), splat(weigh_x))
        best = nearest = None
        for _ in range(9):
            terms = []
            for value, weight in zip(pixel, weights):
                terms.append(weighed_square(value, load(rows), weight))
                rows = builder.add(rows, step)
            place = builder.fadd(terms[2], builder.fadd(terms[3], terms[4]))
            distance, cell = builder.fadd(builder.fadd(terms[0], terms[1]), place), load(rows)
            rows = builder.add(rows, step)
            if best is None:
                best, nearest = distance, cell
                continue
            nearer = builder.fcmp_ordered("<", distance, best)
            best, nearest = builder.select(nearer, distance, best), builder.select(nearer, cell, nearest)
        bytes_type = ir.VectorType(ir.IntType(8), LANES)
        number = builder.trunc(builder.fptosi(nearest, ir.VectorType(ir.IntType(32), LANES)), bytes_type)
        builder.store(number, builder.inttoptr(label, bytes_type.as_pointer()), align=1)
        return context.get_dummy_value()

    real = types.float32
    return types.void(*(types.int64,) * 6, real, real, real, types.int64), build


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _sweep(raw, rows, along, weigh_y, weigh_x, labels):  # type: ignore[no-untyped-def]
    """Assign all pixels of one image anew; the last sixteen of a row may overlap those before."""
    height, width = labels.shape
    plane, step = height * width, 4 * width
    for y in range(height):
        first = raw.ctypes.data + y * width
        table = rows.ctypes.data + (y * GRID // height) * 18 * step
        for left in range(0, width, LANES):
            x = min(left, width - LANES)
            light, out = first + x, labels.ctypes.data + y * width + x
            _join_nearest(
                light, light + plane, light + 2 * plane, table + 4 * x, step, along.ctypes.data + 4 * x,
                np.float32(y), weigh_y, weigh_x, out,
            )  # fmt: skip


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _describe(raw, cost, contrast, labels, sums):  # type: ignore[no-untyped-def]
    """Sum roughness, barrier cost and border contrast over each cell."""
    height, width = labels.shape
    rough, cues = np.zeros(width, np.int32), np.zeros(width, np.int64)
    for k in range(3):
        sums[k, :] = 0
    for y in range(height):
        rough[:] = 0
        for c in range(3):
            weight = np.int32(2) if c == 0 else np.int32(5)
            _add_roughness(raw[c, y], raw[c, min(y + 1, height - 1)], weight, rough)
        first, second, third, other, row = cost[0, y], cost[1, y], cost[2, y], contrast[y], labels[y]
        for x in range(width):
            cues[x] = np.int64(rough[x]) + (np.int64(other[x]) << 40)
            cues[x] += (np.int64(first[x]) + np.int64(second[x]) + np.int64(third[x])) << 20
        for x in range(width):
            cell = row[x]
            sums[0, cell] += cues[x] & 0xFFFFF
            sums[1, cell] += (cues[x] >> 20) & 0xFFFFF
            sums[2, cell] += cues[x] >> 40


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _add_roughness(here, below, weight, rough):  # type: ignore[no-untyped-def]
    for x in range(here.size - 1):
        value = np.int32(here[x])
        rough[x] += weight * (abs(np.int32(here[x + 1]) - value) + abs(np.int32(below[x]) - value))
    last = here.size - 1
    rough[last] += weight * abs(np.int32(below[last]) - np.int32(here[last]))


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _cut(raw, cost, contrast, weigh_y, weigh_x, labels, features):  # type: ignore[no-untyped-def]
    height, width = labels.shape[1:]
    block_of = np.arange(width) * GRID // width
    columns = np.empty((3, width), np.int32)
    for k in range(3):
        columns[k] = block_of + k
    sums, means = np.empty((_SUMS, CELLS), np.int64), np.zeros((5, CELLS), np.float32)
    rows, along = np.empty((GRID + 2, 3, 6, width), np.float32), np.arange(width).astype(np.float32)
    for n in range(len(raw)):
        for y in range(height):
            for x in range(width):
                labels[n, y, x] = y * GRID // height * GRID + block_of[x]
        for _ in range(SWEEPS):
            _add_pixels(raw[n], labels[n], sums)
            _take_means(sums, means)
            _lay_out(means, columns, rows)
            _sweep(raw[n], rows, along, weigh_y, weigh_x, labels[n])
        _add_pixels(raw[n], labels[n], sums)
        _take_means(sums, means)
        features[n, :3] = means[:3]
        size = sums[3].copy()
        _describe(raw[n], cost[n], contrast[n], labels[n], sums)
        for k in range(3):
            for cell in range(CELLS):
                features[n, 3 + k, cell] = np.float32(sums[k, cell]) / np.float32(max(size[cell], 1))


def _cuda(raw: Any, cost: Any, contrast: Any) -> tuple[Any, Any]:
    """One block per image; the sums of its cells are integer atomics in shared memory."""
    xp = array_module(raw)
    count, _, height, width = raw.shape
    labels = xp.empty((count, height, width), np.uint8)
    features = xp.empty((count, FEATURES, CELLS), np.float32)
    if count:
        sizes = (np.int32(height), np.int32(width), *_spacing(height, width), np.int32(SWEEPS))
        args = (raw, cost, contrast, labels, features, *sizes)
        launch("saliency_cells", "saliency_cells_cut", (count,), (256,), args)
    return labels, features


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _paint(labels, cells, out):  # type: ignore[no-untyped-def]
    for n in range(len(labels)):
        label, value, target = labels[n], cells[n], out[n]
        for i in range(label.size):
            target[i] = value[label[i]]


def _paint_cuda(labels: Any, cells: Any) -> Any:
    xp = array_module(labels)
    out = xp.empty(labels.shape, np.uint8)
    if labels.size:
        total = int(labels.size)
        args = (labels, cells, np.int32(total // len(labels)), np.int64(total), out)
        launch("saliency_cells", "saliency_cells_paint", (-(-total // 256),), (256,), args)
    return out
