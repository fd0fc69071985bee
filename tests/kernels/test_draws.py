"""Integer draws, and the copies of short runs that patch operations are made of."""

from __future__ import annotations

import draws_oracle as oracle
import numpy as np
import pytest

from figureground.kernels import draws, moves
from figureground.pipeline import hashing


def test_known_values():
    # The first outputs of splitmix64 for state 0, as published with the algorithm.
    state = np.array([0, 0x9E3779B97F4A7C15], np.uint64)
    assert [hex(v) for v in draws.mix64(state)] == ["0xe220a8397b1dcdaf", "0x6e789e6aa1b965f4"]
    assert draws.scramble32(np.uint32(1)) == 0x514E28B7  # MurmurHash3's finaliser


def test_equal_to_python_integers():
    rng = np.random.default_rng(0)
    for key in rng.integers(0, 2**64, 20, dtype=np.uint64):
        for i in (0, 1, 7, 2**31, 2**40):
            assert draws.draw(key, i) == int(oracle.uniform(int(key), i) * 2**24)
            for bound in (1, 2, 225, 2**24):
                assert draws.draw_below(key, i, bound) == oracle.below(int(key), i, bound)


def test_equal_to_the_planner():
    seeds = np.random.default_rng(1).integers(0, 2**64, 10, dtype=np.uint64)
    keys = draws.keys_of("f", seeds, 10, draws.TILE_SIDE)
    assert keys.tolist() == [int(hashing.chain(s, draws.TILE_SIDE)) for s in seeds]
    assert [draws.draw(k, 5) for k in keys] == [int(hashing.uniform(k, 5) * 2**24) for k in keys]


def test_purposes_differ():
    names = [name for name in vars(draws) if name.isupper() and not name.startswith("_")]
    assert len({getattr(draws, name) for name in names}) == len(names) == 11


@pytest.mark.parametrize("wanted", [0, 1, 3, 5])
def test_choose_first(wanted):
    items = np.arange(10, 19, dtype=np.int16)
    draws.choose_first(items, 2, 5, wanted, np.uint64(7), 3)
    assert items[2 : 2 + wanted].tolist() == oracle.shuffled(list(range(12, 17)), wanted, 7, 3)
    assert sorted(items[2:7]) == list(range(12, 17))
    assert items[[0, 1, 7, 8]].tolist() == [10, 11, 17, 18]


def test_permutations_are_uniform():
    counts = np.zeros(6)
    for key in range(6000):
        items = np.arange(3, dtype=np.int16)
        draws.choose_first(items, 0, 3, 3, np.uint64(oracle.mix64(key)), 0)
        counts[[[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]].index(items.tolist())] += 1
    assert ((counts - 1000) ** 2 / 1000).sum() < 20.5  # chi-squared, 5 degrees of freedom, p = 0.001


@pytest.mark.parametrize("count", [*range(40), 63, 64, 65, 112])
def test_moves_touch_nothing_else(count):
    source = np.random.default_rng(2).integers(1, 256, count + 64, dtype=np.uint8)
    for shift in (0, 1, 5):
        target = np.zeros(count + 64, np.uint8)
        moves.move_bytes(source.ctypes.data + 3, target.ctypes.data + 16 + shift, count)
        want = np.zeros_like(target)
        want[16 + shift : 16 + shift + count] = source[3 : 3 + count]
        np.testing.assert_array_equal(target, want)


def test_cell_sums():
    mask = np.random.default_rng(3).integers(0, 256, (11, 17), dtype=np.uint8)
    sums = np.full((3, 4), -1)
    moves.cell_sums(mask, 3, 4, sums)
    np.testing.assert_array_equal(sums, mask[:9, :16].reshape(3, 3, 4, 4).sum((1, 3)))


def test_messages():
    with pytest.raises(ValueError, match=r"f: seeds must be \(3,\) uint64 in NumPy, got \(2,\) uint64"):
        draws.keys_of("f", np.zeros(2, np.uint64), 3, 1)
    with pytest.raises(ValueError, match=r"got \(3,\) int64"):
        draws.keys_of("f", np.zeros(3, np.int64), 3, 1)
    with pytest.raises(ValueError, match="got list"):
        draws.keys_of("f", [1, 2, 3], 3, 1)
    with pytest.raises(ValueError, match=r"f: apply must be \(3,\) bool in NumPy, got \(3,\) uint8"):
        draws.chosen_of("f", np.zeros(3, np.uint8), 3)
