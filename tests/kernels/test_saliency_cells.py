"""Soft cells."""

from __future__ import annotations

import numpy as np
import pytest

from figureground.kernels import saliency_cells
from figureground.kernels.saliency_cells import CELLS, GRID, paint_cells, soft_cells


def _inputs(shape, seed):
    rng = np.random.default_rng(seed)
    count, _, height, width = shape
    steps = rng.integers(0, 256, (count, 3, -(-height // 5), -(-width // 5))).repeat(5, 2).repeat(5, 3)
    raw = (steps[:, :, :height, :width] // 2 + rng.integers(0, 20, shape)).astype(np.uint8)
    cost = rng.integers(0, 256, shape, dtype=np.uint8)
    contrast = rng.integers(0, 4096, (count, height, width), dtype=np.uint16)
    return raw, cost, contrast


def _reference(raw, cost, contrast):
    """One image, the clearest way: float64, a pixel at a time."""
    _, height, width = raw.shape
    y, x = np.mgrid[:height, :width]
    block_y, block_x = y * GRID // height, x * GRID // width
    labels = block_y * GRID + block_x
    values = np.stack([*raw.astype(float), y, x])
    means = np.zeros((5, CELLS))
    weights = [1e4 / 65025, 1, 1, (20 * GRID / height) ** 2, (20 * GRID / width) ** 2]

    def take_means():
        for cell in range(CELLS):
            if (labels == cell).any():
                means[:, cell] = values[:, labels == cell].mean(axis=1)

    for _ in range(saliency_cells.SWEEPS):
        take_means()
        new = labels.copy()
        for i in range(height):
            for j in range(width):
                near = [
                    (block_y[i, j] + dy) * GRID + block_x[i, j] + dx
                    for dy in (-1, 0, 1)
                    for dx in (-1, 0, 1)
                    if 0 <= block_y[i, j] + dy < GRID and 0 <= block_x[i, j] + dx < GRID
                ]
                new[i, j] = near[np.argmin([np.dot(weights, (values[:, i, j] - means[:, c]) ** 2) for c in near])]
        labels = new
    take_means()
    planes = raw.astype(int)
    edges = np.pad(planes, ((0, 0), (0, 1), (0, 1)), mode="edge")
    steps = abs(edges[:, :-1, 1:] - planes) + abs(edges[:, 1:, :-1] - planes)
    rough = 2 * steps[0] + 5 * steps[1] + 5 * steps[2]
    cues = np.stack([rough, cost.astype(int).sum(axis=0), contrast])
    cue_means = [[cues[k][labels == c].mean() if (labels == c).any() else 0 for c in range(CELLS)] for k in range(3)]
    return labels, np.concatenate([means[:3], cue_means])


@pytest.mark.parametrize("shape", [(2, 3, 16, 16), (1, 3, 35, 52)])
def test_equals_definition(shape):
    inputs = _inputs(shape, 0)
    labels, features = soft_cells(*inputs)
    for n in range(shape[0]):
        want_labels, want = _reference(*(a[n] for a in inputs))
        # A tie in float64 may fall the other way in float32: none does here.
        np.testing.assert_array_equal(labels[n], want_labels)
        np.testing.assert_allclose(features[n], want, rtol=1e-6)


def test_cells_follow_an_edge():
    raw = np.zeros((1, 3, 64, 64), np.uint8)
    raw[:, :, :, 33:] = 200  # one pixel off the blocks of four
    labels, features = soft_cells(raw, raw, np.zeros((1, 64, 64), np.uint16))
    assert set(features[0, 0, np.unique(labels)]) == {0.0, 200.0}  # cells that lost all pixels keep their mixed color
    assert not set(labels[0, :, :33].flat) & set(labels[0, :, 33:].flat)


@pytest.mark.parametrize("shape", [(2, 3, 16, 16), (1, 3, 37, 53), (1, 3, 64, 18)])
def test_cuda_source_equals_cpu(host_orders, shape):
    inputs = _inputs(shape, 1)
    want_labels, want = saliency_cells._cpu(*inputs)
    cells = np.random.default_rng(2).integers(0, 256, (shape[0], CELLS), dtype=np.uint8)
    with host_orders() as device:
        labels, features = saliency_cells._cuda(*map(device.array, inputs))
        painted = device.numpy(saliency_cells._paint_cuda(labels, device.array(cells)))
        labels, features = device.numpy(labels), device.numpy(features)
    np.testing.assert_array_equal(labels, want_labels)
    np.testing.assert_array_equal(features, want)
    np.testing.assert_array_equal(painted, paint_cells(want_labels, cells))


def test_paint():
    labels = np.random.default_rng(3).integers(0, 256, (2, 5, 7), dtype=np.uint8)
    cells = np.random.default_rng(4).integers(0, 256, (2, CELLS), dtype=np.uint8)
    np.testing.assert_array_equal(paint_cells(labels, cells)[1], cells[1][labels[1]])
