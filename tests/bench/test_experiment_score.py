"""Scores on constructed features, whose accuracy is known by arithmetic."""

from __future__ import annotations

import math

import numpy as np
import pytest

from figureground.bench.experiment_learn import Features
from figureground.bench.experiment_score import compare, fit_linear, mask_overlap, mean_error, score_sets


def coded(labels, grounds, weight):
    """Features that hold the label and, `weight` times as loud, the scene."""
    eye = np.eye(3, dtype=np.float32)
    return Features(np.concatenate([eye[labels], weight * eye[grounds]], 1), np.asarray(labels, np.int64))


@pytest.fixture
def labels():
    return np.arange(90) % 3


@pytest.mark.parametrize(("weight", "swapped"), [(0.0, 100.0), (5.0, 0.0)])
def test_neighbours_follow_what_is_loud(labels, weight, swapped):
    other = (labels + 1) % 3
    tests = {
        "in_distribution": coded(labels, labels, weight), "swapped": coded(labels, other, weight),
        "mixed_same": coded(labels, labels, weight),
        "mixed_rand": coded(labels, np.where(np.arange(90) < 45, labels, other), weight),
    }  # fmt: skip
    scores = score_sets(coded(labels, labels, weight), tests)
    assert scores["knn/in_distribution"] == 100
    assert scores["knn/swapped"] == swapped
    assert scores["knn/bg_gap"] == scores["knn/mixed_same"] - scores["knn/mixed_rand"] == (0 if weight == 0 else 50)


def test_the_linear_probe_finds_what_neighbours_cannot(labels):
    """A quiet figure that says all, beside a loud scene that says a half."""
    train = coded(labels, (labels + np.arange(90) // 3 % 2) % 3, 5.0)  # its own scene or the next
    test = coded(labels, (labels + 2) % 3, 5.0)
    scores = score_sets(train, {"mixed_same": test, "mixed_rand": test})
    assert scores["linear/mixed_same"] == 100
    assert scores["knn/mixed_same"] == 0
    assert scores["linear/bg_gap"] == 0


def test_fit_linear_against_scipy():
    from scipy.optimize import minimize

    rng = np.random.default_rng(0)
    x, y = rng.normal(3.0, 2.0, (60, 4)), rng.integers(0, 3, 60)
    weight, bias = fit_linear(x, y, 3)
    z = (x - x.mean(0)) / x.std(0)

    def loss(flat):
        w, b = flat[:12].reshape(4, 3), flat[12:]
        logits = z @ w + b
        return np.mean(np.logaddexp.reduce(logits, 1) - logits[np.arange(60), y]) + 1e-3 * (w**2).sum()

    want = minimize(loss, np.zeros(15), method="BFGS", options={"gtol": 1e-7})
    logits = z @ want.x[:12].reshape(4, 3) + want.x[12:]
    got = x @ weight + bias
    np.testing.assert_allclose(got - got.mean(1, keepdims=True), logits - logits.mean(1, keepdims=True), atol=2e-3)


def test_a_dead_feature_does_no_harm():
    x = np.array([[-1.0, 7], [-2, 7], [1, 7], [2, 7]])
    weight, bias = fit_linear(x, np.array([0, 0, 1, 1]), 2)
    assert np.isfinite(weight).all()
    assert (x @ weight + bias).argmax(1).tolist() == [0, 0, 1, 1]


def test_mean_and_standard_error():
    # deviations -2, 0, 2: variance 8 / 2 = 4, error 2 / sqrt(3)
    assert mean_error([1.0, 3.0, 5.0]) == (3.0, pytest.approx(2 / math.sqrt(3)))
    mean, error = mean_error([4.0])
    assert mean == 4.0
    assert math.isnan(error)
    with pytest.raises(ValueError, match="at least one, got none"):
        mean_error([])


def test_compare_pairs_seeds():
    mean, error = compare({0: 50.0, 1: 10.0, 5: 99.0}, {0: 48.0, 1: 6.0})
    assert (mean, error) == (3.0, 1.0)  # 2 and 4; unpaired it would be 24 and more


def test_mask_overlap_by_hand():
    full, half, none = (np.full((1, 2, 2), 255, np.uint8) for _ in range(3))
    half[0, 0], none[:] = 0, 0
    assert mask_overlap(full, half) == 0.5
    assert mask_overlap(none, none) == 1.0
    assert mask_overlap(np.concatenate([full, none]), np.concatenate([half, full])) == 0.25
