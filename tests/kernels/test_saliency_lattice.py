"""The lattice of cells: tables, sums and conjugate gradients against dense matrices."""

from __future__ import annotations

import numpy as np

from figureground.kernels import saliency_lattice as lattice
from figureground.kernels.saliency_cells import CELLS, GRID

ROW, COLUMN = np.divmod(np.arange(CELLS), GRID)
APART = np.maximum(abs(ROW[:, None] - ROW), abs(COLUMN[:, None] - COLUMN))
EDGE = len(lattice.BORDER)


def _links(seed):
    """Symmetric links on the rings and between far border cells, and the same as one matrix."""
    rng = np.random.default_rng(seed)
    full = rng.uniform(0, 1, (CELLS, CELLS)).astype(np.float32)
    full = np.maximum(full, full.T)
    near = np.zeros((len(lattice.STENCIL), CELLS), np.float32)
    for k, step in enumerate(lattice.STENCIL):
        cells = np.flatnonzero(lattice.LINKED[k])
        near[k, cells] = full[cells, cells + step]
    across = full[np.ix_(lattice.BORDER, lattice.BORDER)] * lattice.FAR_APART
    on_border = lattice.ON_BORDER > 0
    links = full * ((APART > 0) & (APART <= 2) | (on_border[:, None] & on_border & (APART > 2)))
    return near, across, links.astype(np.float64)


def test_tables():
    assert EDGE == 60
    np.testing.assert_array_equal(
        lattice.BORDER, [i for i in range(CELLS) if ROW[i] in (0, 15) or COLUMN[i] in (0, 15)]
    )
    apart = APART
    for table, most in ((lattice.LINKED, 2), (lattice.TOUCHING, 1)):
        pairs = np.zeros((CELLS, CELLS), bool)
        for k, step in enumerate(lattice.STENCIL):
            cells = np.flatnonzero(table[k])
            pairs[cells, cells + step] = True
        np.testing.assert_array_equal(pairs, (apart > 0) & (apart <= most))


def test_pull_is_a_product_with_all_links():
    near, across, links = _links(0)
    x, got = np.random.default_rng(1).normal(size=CELLS).astype(np.float32), np.empty(CELLS, np.float32)
    lattice.pull(x, near, across, lattice.BORDER, lattice.STENCIL, got)
    np.testing.assert_allclose(got, links @ x, atol=1e-4)  # sums of 24 + 60 terms in float32


def test_pull_without_border():
    near, _, links = _links(2)
    x, got = np.random.default_rng(3).normal(size=CELLS).astype(np.float32), np.empty(CELLS, np.float32)
    lattice.pull(x, near, np.empty((0, 0), np.float32), np.empty(0, np.int32), lattice.STENCIL, got)
    np.testing.assert_allclose(got, (links * (APART <= 2)) @ x, atol=1e-4)


def test_minimise_comes_to_the_solution():
    near, across, links = _links(4)
    rng = np.random.default_rng(5)
    target, diagonal = rng.uniform(0, 4, CELLS), links.sum(axis=1) + rng.uniform(4, 8, CELLS)
    want = np.linalg.solve(np.diag(diagonal) - links, target)
    errors = []
    for steps in (0, 2, 5, 30):
        x = np.full(CELLS, 9, np.float32)
        fields = target.astype(np.float32), diagonal.astype(np.float32)
        lattice.minimise(*fields, near, across, lattice.BORDER, lattice.STENCIL, steps, x)
        errors.append(np.abs(x - want).max())
    assert errors[0] > 2 * errors[1] > 4 * errors[2]
    assert errors[3] < 1e-5 * np.abs(want).max()


def test_sums_and_stretch():
    values = np.arange(CELLS, dtype=np.float32)
    assert lattice.sum_cells(values) == 255 * 128
    assert lattice.dot(values, np.ones(CELLS, np.float32)) == 255 * 128
    lattice.stretch(values, np.float32(1e-3))
    np.testing.assert_allclose(values, np.arange(CELLS) / 255, rtol=1e-6)
    flat = np.full(CELLS, 7, np.float32)
    lattice.stretch(flat, np.float32(1e-3))
    assert flat.max() == 0
