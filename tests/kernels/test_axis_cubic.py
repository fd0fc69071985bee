"""Windows and integer weights of one axis, bicubic."""

from __future__ import annotations

import numpy as np
import pytest

from figureground.kernels.axis import WEIGHT_ONE
from figureground.kernels.axis_cubic import cubic_taps_of, fill_cubic_axis

CASES = [
    (0, 500, 500, 224),
    (0, 20, 20, 224),
    (3.7, 11.2, 20, 17),
    (0, 1, 1, 5),
    (0, 2, 2, 9),
    (0, 7, 7, 7),
    (0.25, 0.5, 1, 3),
    (0, 4000, 4000, 32),
    (12.5, 40000.25, 60000, 3),
    (0, 100000, 100000, 1),
]


def _axis(origin, length, n, n_out):
    first, count = np.zeros(n_out, np.int32), np.zeros(n_out, np.int32)
    weights = np.full((n_out, cubic_taps_of(length / n_out)), -1, np.int32)
    fill_cubic_axis(float(origin), length / n_out, n, first, count, weights)
    return first, count, weights


def _keys(x):
    """Keys 1981, equation 15."""
    x = np.abs(x)
    inner, outer = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return np.where(x < 1, inner, np.where(x < 2, outer, 0))


def _pillow_axis(origin, length, n, n_out):
    """Pillow's precompute_coeffs, in float64, tap by tap."""
    scale = length / n_out
    support = max(scale, 1.0)
    for i in range(n_out):
        center = origin + (i + 0.5) * scale
        begin, end = max(int(center - 2 * support + 0.5), 0), min(int(center + 2 * support + 0.5), n)
        weights = _keys((np.arange(begin, end) - center + 0.5) / support)
        yield begin, end - begin, weights / weights.sum()


def test_by_hand():
    first, count, weights = _axis(0, 8, 8, 16)  # twice as long: quarters of a pixel
    assert (first[7], count[7]) == (2, 4)  # centre 3.75 px, window 1.75 .. 5.75: the px whose centres it holds
    quarter = np.array([-0.0703125, 0.8671875, 0.2265625, -0.0234375])  # k at -1.25, -0.25, 0.75, 1.75
    assert weights[7, :4].tolist() == (quarter * WEIGHT_ONE).tolist()
    assert weights[8, :4].tolist() == (quarter[::-1] * WEIGHT_ONE).tolist()
    assert _axis(0, 7, 7, 7)[2].tolist() == [[WEIGHT_ONE if k == min(i, 1) else 0 for k in range(6)] for i in range(7)]


@pytest.mark.parametrize(("origin", "length", "n", "n_out"), CASES)
def test_windows_are_pillows_and_weights_follow_the_filter(origin, length, n, n_out):
    first, count, weights = _axis(origin, length, n, n_out)
    for i, (begin, taps, want) in enumerate(_pillow_axis(origin, length, n, n_out)):
        assert (first[i], count[i]) == (begin, taps)
        got = weights[i]
        assert got.sum() == WEIGHT_ONE
        assert not got[taps:].any()
        assert np.abs(got[:taps] - want * WEIGHT_ONE).max() <= 1.0 + 1e-6
        running = np.cumsum(got[:taps]) - np.cumsum(want) * WEIGHT_ONE
        assert np.abs(running).max() <= 0.5 + 1e-6  # the error never adds up, however long the window


def test_windows_advance():
    for origin, length, n, n_out in CASES:
        first, count, _ = _axis(origin, length, n, n_out)
        assert (count >= 1).all()
        assert (np.diff(first) >= 0).all()
        assert (np.diff(first + count) >= 0).all()


def test_sums_stay_within_the_documented_bounds():
    """Random geometries, with windows cut on either side; the proof allows 1.87 and 0.87."""
    rng = np.random.default_rng(0)
    most = 0.0
    for _ in range(3000):
        n = int(rng.integers(1, 40))
        length = float(rng.uniform(0.01, n)) if rng.random() < 0.7 else float(n)
        n_out = int(rng.integers(1, 60))
        weights = _axis(rng.uniform(0, n - length), length, n, n_out)[2]
        positive = weights.clip(0).sum(1).max() / WEIGHT_ONE
        assert weights.max() < 2**15
        most = max(most, positive)
    assert 1.125 < most < 1.135
