"""Patch negatives: canvases tiled by patches drawn with replacement."""

from __future__ import annotations

import draws_oracle as oracle
import numpy as np
import pytest

from figureground.kernels import draws, tiles

SHAPES = [(1, 7, 5, (1, 4), 1), (2, 16, 24, (3, 15), 3), (2, 33, 20, (16, 19), 2), (3, 2, 2, (1, 1), 2)]


def _case(count, height, width):
    rng = np.random.default_rng(count)
    views = rng.integers(0, 256, (count, 3, height, width), dtype=np.uint8)
    return views, rng.integers(0, 2**64, count, dtype=np.uint64)


def _negative(view, seed, k, side_range):
    """Clearest version: a canvas larger than the view, filled cell by cell, and cut."""
    _, height, width = view.shape
    low, high = side_range
    side = low + oracle.below(oracle.chain(int(seed), draws.TILE_SIDE), k, high - low + 1)
    key = oracle.chain(oracle.chain(int(seed), draws.TILE_CELL), k)
    rows, columns = height // side + 1, width // side + 1
    canvas = np.zeros((3, rows * side, columns * side), np.uint8)
    for cell in range(rows * columns):
        top, left = oracle.below(key, 2 * cell, height - side), oracle.below(key, 2 * cell + 1, width - side)
        y, x = cell // columns * side, cell % columns * side
        canvas[:, y : y + side, x : x + side] = view[:, top : top + side, left : left + side]
    return side, canvas[:, :height, :width]


def test_by_hand():
    # Sides of 1 px in a view of two: the only position is the first pixel, so the whole negative shows it.
    view = np.arange(12, dtype=np.uint8).reshape(1, 3, 2, 2)
    got = tiles.tile_patches(view, seeds=np.array([9], np.uint64), side_range=(1, 1))
    assert got.shape == (1, 1, 3, 2, 2)
    assert got[0, 0].reshape(3, 4).tolist() == [[0] * 4, [4] * 4, [8] * 4]


@pytest.mark.parametrize(("count", "height", "width", "side_range", "negatives"), SHAPES)
def test_equals_oracle(count, height, width, side_range, negatives):
    views, seeds = _case(count, height, width)
    got = tiles.tile_patches(views, seeds=seeds, side_range=side_range, count=negatives)
    sides = tiles.tile_sides(seeds, side_range=side_range, count=negatives)
    for n in range(count):
        for k in range(negatives):
            side, want = _negative(views[n], seeds[n], k, side_range)
            assert sides[n, k] == side
            np.testing.assert_array_equal(got[n, k], want)


@pytest.mark.parametrize(("count", "height", "width", "side_range", "negatives"), SHAPES)
def test_cuda_source_equals_cpu(host_orders, count, height, width, side_range, negatives):
    views, seeds = _case(count, height, width)
    want = tiles.tile_patches(views, seeds=seeds, side_range=side_range, count=negatives)
    sides = tiles.tile_sides(seeds, side_range=side_range, count=negatives)
    keys = draws.keys_of("f", seeds, count, draws.TILE_CELL)
    keys = draws.mix64(keys[:, None] ^ draws.mix64(np.arange(negatives, dtype=np.uint64)))
    with host_orders() as device:
        got = device.array(np.zeros_like(want))
        tiles._cuda(device.array(views), keys, sides, got)
        got = device.numpy(got)
    np.testing.assert_array_equal(got, want)


def test_the_public_function_on_cuda(host_cuda):
    views, seeds = _case(2, 20, 21)
    want = tiles.tile_patches(views, seeds=seeds, side_range=(4, 9), count=2)
    with host_cuda(dispatch=True):
        got = tiles.tile_patches(views, seeds=seeds, side_range=(4, 9), count=2)
    np.testing.assert_array_equal(got, want)


def test_the_papers_setting():
    seeds = np.arange(4000, dtype=np.uint64)
    sides = tiles.tile_sides(seeds)
    counts = np.bincount(sides[:, 0], minlength=73)
    assert counts[:16].sum() == 0
    assert counts.size == 73
    assert counts[16]
    assert counts[72]
    expected = 4000 / 57
    assert ((counts[16:] - expected) ** 2 / expected).sum() < 95  # chi-squared, 56 degrees of freedom, p = 0.001
    # Every pixel of a negative is a pixel of its view, negatives of one view differ, and each depends on its own seed.
    views = np.random.default_rng(0).integers(0, 256, (2, 3, 224, 224), dtype=np.uint8)
    got = tiles.tile_patches(views, seeds=seeds[:2], count=2)
    colours = [set(map(tuple, a.reshape(3, -1).T.tolist())) for a in (views[0], got[0, 0])]
    assert colours[1] <= colours[0]
    assert (got[0, 0] != got[0, 1]).any()
    np.testing.assert_array_equal(tiles.tile_patches(views[1:], seeds=seeds[1:2], count=1)[0, 0], got[1, 0])


def test_out_and_empty():
    views, seeds = _case(2, 9, 9)
    out = np.zeros((2, 1, 3, 9, 9), np.uint8)
    assert tiles.tile_patches(views, seeds=seeds, side_range=(2, 5), out=out) is out
    assert out.any()
    assert tiles.tile_patches(views[:0], seeds=seeds[:0], side_range=(2, 5), count=3).shape == (0, 3, 3, 9, 9)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"side_range": (2, 9)}, r"side_range must end below min\(H, W\) = 9, got \(2, 9\); a patch of the whole view"),
        ({"side_range": (0, 3)}, r"side_range must be 1 <= smallest <= largest, got \(0, 3\)"),
        ({"side_range": (5, 3)}, r"side_range must be 1 <= smallest <= largest, got \(5, 3\)"),
        ({"count": 0}, "count must be at least 1, got 0"),
        ({"seeds": np.zeros(3, np.uint64)}, r"seeds must be \(2,\) uint64"),
        ({"out": np.zeros((2, 3, 9, 9), np.uint8)}, r"out must be \(2, 1, 3, 9, 9\) uint8, got \(2, 3, 9, 9\)"),
    ],
)
def test_messages(change, says):
    views, seeds = _case(2, 9, 9)
    with pytest.raises(ValueError, match=f"^tile_patches: {says}"):
        tiles.tile_patches(views, **({"seeds": seeds, "side_range": (2, 5)} | change))
