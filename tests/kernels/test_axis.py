"""Windows and integer weights of one axis."""

from __future__ import annotations

import numpy as np
import pytest

from figureground.kernels.axis import WEIGHT_ONE, fill_axis, taps_of


def _axis(origin, length, n, n_out):
    first, count = np.zeros(n_out, np.int32), np.zeros(n_out, np.int32)
    weights = np.full((n_out, taps_of(length / n_out)), -1, np.int32)
    fill_axis(float(origin), length / n_out, n, first, count, weights)
    return first, count, weights


def _pillow_axis(origin, length, n, n_out):
    """Pillow's precompute_coeffs, in float64, tap by tap."""
    scale = length / n_out
    support = max(scale, 1.0)
    for i in range(n_out):
        center = origin + (i + 0.5) * scale
        begin, end = max(int(center - support + 0.5), 0), min(int(center + support + 0.5), n)
        weights = np.array([max(1 - abs((x - center + 0.5) / support), 0) for x in range(begin, end)])
        yield begin, end - begin, weights / weights.sum()


def test_by_hand():
    first, count, weights = _axis(0, 2, 2, 4)
    assert first.tolist() == [0, 0, 0, 1]
    assert count.tolist() == [1, 2, 2, 1]
    one = WEIGHT_ONE
    assert weights[:, :2].tolist() == [[one, 0], [3 * one // 4, one // 4], [one // 4, 3 * one // 4], [one, 0]]


CASES = [
    (0, 500, 500, 224),
    (0, 20, 20, 224),
    (3.7, 11.2, 20, 17),
    (0, 1, 1, 5),
    (0, 7, 7, 7),
    (0.25, 0.5, 1, 3),
    (0, 4000, 4000, 32),
    (12.5, 40000.25, 60000, 3),
    (0, 100000, 100000, 1),
]


@pytest.mark.parametrize(("origin", "length", "n", "n_out"), CASES)
def test_windows_are_pillows_and_weights_follow_its_triangle(origin, length, n, n_out):
    first, count, weights = _axis(origin, length, n, n_out)
    for i, (begin, taps, want) in enumerate(_pillow_axis(origin, length, n, n_out)):
        assert (first[i], count[i]) == (begin, taps)
        got = weights[i]
        assert got[:taps].min() >= 0
        assert got.sum() == WEIGHT_ONE
        assert not got[taps:].any()
        assert np.abs(got[:taps] - want * WEIGHT_ONE).max() <= 1.0
        running = np.cumsum(got[:taps]) - np.cumsum(want) * WEIGHT_ONE
        assert np.abs(running).max() <= 0.5 + 1e-6  # the error never adds up, however long the window


def test_windows_advance():
    for origin, length, n, n_out in CASES:
        first, count, _ = _axis(origin, length, n, n_out)
        assert (np.diff(first) >= 0).all()
        assert (np.diff(first + count) >= 0).all()
