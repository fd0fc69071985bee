"""Scores of features: k-NN, linear probe, background gap, and means with standard errors over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch.nn import functional as F

from figureground.bench.bggap import vote_classes
from figureground.bench.experiment_learn import Features

NEIGHBOURS = 20
_PENALTY = 1e-3
_ROUNDS = 100


def fit_linear(values: np.ndarray, labels: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Fit multinomial logistic regression (L-BFGS, squared penalty 0.001 on standardised features, float64).

    Parameters
    ----------
    values : (N, D) float32
    labels : (N,) int64
        0..classes - 1.
    classes : int

    Returns
    -------
    weight : (D, classes) float64
    bias : (classes,) float64
        Logits of raw features are `values @ weight + bias`.

    Examples
    --------
    >>> weight, bias = fit_linear(np.array([[-1.0], [-2], [1], [2]]), np.array([0, 0, 1, 1]), 2)
    >>> (np.array([[-3.0], [3.0]]) @ weight + bias).argmax(1)
    array([0, 1])
    """
    mean, scale = values.mean(0, dtype=np.float64), values.std(0, dtype=np.float64)
    scale = np.where(scale > 1e-8, scale, 1.0)
    x, y = torch.from_numpy((values - mean) / scale), torch.from_numpy(np.asarray(labels, np.int64))
    weight = torch.zeros(x.shape[1], classes, dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(classes, dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS([weight, bias], max_iter=_ROUNDS, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        solver.zero_grad()
        loss = F.cross_entropy(x @ weight + bias, y) + _PENALTY * weight.square().sum()
        loss.backward()
        return loss

    solver.step(closure)
    raw = weight.detach().numpy() / scale[:, None]
    return raw, bias.detach().numpy() - mean @ raw


def score_sets(train: Features, tests: Mapping[str, Features]) -> dict[str, float]:
    """Score an encoder by its features.

    Parameters
    ----------
    train : Features
        Of the training images, with their bias: the bank of the neighbours, the set of the linear probe.
    tests : mapping of Features
        By name; `mixed_same` and `mixed_rand` among them.

    Returns
    -------
    dict of float
        "knn/<set>" and "linear/<set>": accuracy [%]; "knn/bg_gap" and "linear/bg_gap": mixed_same - mixed_rand [% points].
    """
    weight, bias = fit_linear(train.values, train.labels, int(train.labels.max()) + 1)
    k = min(NEIGHBOURS, len(train.labels))
    scores = {}
    for name, test in tests.items():
        near = vote_classes(test.values, train.values, train.labels, k=k)
        scores[f"knn/{name}"] = 100 * float((near == test.labels).mean())
        scores[f"linear/{name}"] = 100 * float(((test.values @ weight + bias).argmax(1) == test.labels).mean())
    for probe in ("knn", "linear"):
        scores[f"{probe}/bg_gap"] = scores[f"{probe}/mixed_same"] - scores[f"{probe}/mixed_rand"]
    return scores


def mean_error(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and its standard error; the error is NaN for a single value.

    Examples
    --------
    >>> mean_error([1.0, 3.0])
    (2.0, 1.0)
    """
    array = np.asarray(values, np.float64)
    if not len(array):
        raise ValueError("mean_error: values must hold at least one, got none")
    error = float(array.std(ddof=1) / np.sqrt(len(array))) if len(array) > 1 else float("nan")
    return float(array.mean()), error


def compare(mine: Mapping[int, float], baseline: Mapping[int, float]) -> tuple[float, float]:
    """Return the mean difference and its standard error over the seeds that both have (a paired comparison).

    Examples
    --------
    >>> compare({0: 5.0, 1: 9.0}, {0: 4.0, 1: 6.0, 2: 7.0})
    (2.0, 1.0)
    """
    return mean_error([value - baseline[seed] for seed, value in sorted(mine.items()) if seed in baseline])


def mask_overlap(masks: np.ndarray, truth: np.ndarray) -> float:
    """Return the mean intersection over union of masks, both cut at 128, over images; (N, H, W) uint8 each.

    Examples
    --------
    >>> mask_overlap(np.array([[[255, 255, 0]]], np.uint8), np.array([[[255, 0, 0]]], np.uint8))
    0.5
    """
    mine, theirs = masks >= 128, truth >= 128
    both, either = (mine & theirs).sum((1, 2)), (mine | theirs).sum((1, 2))
    return float(np.where(either > 0, both / np.maximum(either, 1), 1.0).mean())
