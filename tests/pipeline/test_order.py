"""Visiting order: a bijection, pure in (seed, epoch), the same for any ranks and batch size."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from figureground.pipeline.hashing import chain, splitmix64, uniform
from figureground.pipeline.order import DONOR_BLOCK, Order

MASK = 2**64 - 1


def _splitmix64(x: int) -> int:
    """The published generator in plain integers."""
    z = (x + 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def test_splitmix64_equals_the_published_values():
    # The first outputs of the reference implementation seeded with 1234567.
    state, got = 1234567, []
    for _ in range(3):
        got.append(int(splitmix64(np.uint64(state))) & MASK)
        state = (state + 0x9E3779B97F4A7C15) & MASK
    assert got == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@given(st.integers(0, MASK), st.integers(0, 2**63 - 1))
@settings(max_examples=50, deadline=None)
def test_chain_and_uniform_equal_plain_python(h, purpose):
    want = _splitmix64(h ^ _splitmix64(purpose))
    assert int(chain(np.uint64(h), purpose)) & MASK == want
    assert float(uniform(np.uint64(h), purpose)) == (want >> 40) * 2.0**-24


@given(st.integers(1, 3000), st.integers(-5, 2**70), st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_each_epoch_visits_every_sample_once(samples, seed, epoch):
    order = Order(samples, seed)
    positions = np.arange(samples)
    ids = order.sample_ids(epoch, positions)
    np.testing.assert_array_equal(np.sort(ids), positions)
    np.testing.assert_array_equal(order.positions(epoch, ids), positions)


def test_epochs_and_seeds_differ_and_repeat():
    positions = np.arange(1000)
    first = Order(1000, 1).sample_ids(0, positions)
    np.testing.assert_array_equal(first, Order(1000, 1).sample_ids(0, positions))
    for other in (Order(1000, 1).sample_ids(1, positions), Order(1000, 2).sample_ids(0, positions)):
        assert (first == other).mean() < 0.02
    np.testing.assert_array_equal(Order(1000, 1, shuffle=False).sample_ids(7, positions), positions)


def test_shuffle_is_uniform():
    # Where the first sample goes, and how often neighbours stay neighbours, over many epochs.
    samples, epochs = 64, 4000
    where = np.array([Order(samples, 9).positions(e, np.array([0, 1])) for e in range(epochs)])
    counts = np.bincount(where[:, 0], minlength=samples)
    expected = epochs / samples
    assert ((counts - expected) ** 2 / expected).sum() < 110  # chi-square of 63 degrees: p > 0.0002
    assert abs((where[:, 1] - where[:, 0] == 1).mean() - 1 / samples) < 0.01


@pytest.mark.parametrize("samples", [1, 2, 3, 7, 8, 9, 15, 16, 17, 100])
def test_donors_are_others_of_the_block(samples):
    positions = np.arange(samples)
    donors = Order(samples, 4).donors(2, positions, 3)
    for p, row in zip(positions, donors):
        if samples == 1:
            assert row.tolist() == [0, 0, 0]
            continue
        assert p not in row
        first, last = p // DONOR_BLOCK * DONOR_BLOCK, min(p // DONOR_BLOCK * DONOR_BLOCK + DONOR_BLOCK, samples)
        first -= DONOR_BLOCK if last - first < DONOR_BLOCK and first else 0
        assert all(first <= d < last for d in row)
        if last - first > 3:
            assert len(set(row.tolist())) == 3


def test_donors_do_not_depend_on_the_question():
    order = Order(100, 4)
    many = order.donors(2, np.arange(100), 3)
    np.testing.assert_array_equal(order.donors(2, np.array([37]), 2), many[37:38, :2])


def test_messages():
    with pytest.raises(ValueError, match="samples must be at least 1, got 0"):
        Order(0)
    for lanes in (0, 3):
        with pytest.raises(ValueError, match=rf"lanes must be 1 to 2, .* at least 8 of the 20 samples, got {lanes}"):
            Order(20, lanes=lanes)
    with pytest.raises(ValueError, match=r"positions must be in \[0, 10\), got 0 .. 10"):
        Order(10).sample_ids(0, np.array([0, 10]))
