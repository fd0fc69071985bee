"""Saliency over the graph of cells."""

from __future__ import annotations

import numpy as np
import pytest

from figureground.kernels import saliency_graph, saliency_lattice
from figureground.kernels.saliency_graph import CUES, cell_saliency

CELLS, GRID = 256, 16
ROW, COLUMN = np.divmod(np.arange(CELLS), GRID)
APART = np.maximum(abs(ROW[:, None] - ROW), abs(COLUMN[:, None] - COLUMN))
BORDER = (ROW % 15 == 0) | (COLUMN % 15 == 0)


def _features(seed, count=3):
    """Scenes: a figure of another color with mostly higher cues, in some of them at the border, on a noisy ground."""
    rng = np.random.default_rng(seed)
    features = np.zeros((count, 6, CELLS), np.float32)
    for n in range(count):
        y, x = rng.uniform(5, 11, 2) - (0, 5 * (n % 2))
        figure = (ROW - y) ** 2 + (COLUMN - x) ** 2 < rng.uniform(6, 16)
        features[n, :3] = np.where(figure, rng.uniform(60, 200, (3, 1)), rng.uniform(60, 200, (3, 1)))
        features[n, :3] += rng.normal(0, 6, (3, CELLS))
        features[n, 3] = rng.uniform(20, 200, CELLS)
        features[n, 4] = np.where(figure, 110, 30) + rng.uniform(0, 100, CELLS)
        features[n, 5] = np.where(figure, 1800, 500) + rng.uniform(0, 1600, CELLS)
    return features


def _stretch(values):
    return (values - values.min()) / np.ptp(values)


def _sharpen(values):
    counts = np.bincount((values * 255 + 0.5).astype(int), minlength=256)
    level = np.arange(256)
    best, middle = -1.0, 1.0
    for cut in range(255):
        low, high = counts[: cut + 1], counts[cut + 1 :]
        if low.sum() and high.sum():
            means = (low @ level[: cut + 1]) / low.sum(), (high @ level[cut + 1 :]) / high.sum()
            between = low.sum() * high.sum() * (means[0] - means[1]) ** 2
            if between > best:
                best, middle = between, sum(means) / 510
    return 1 / (1 + np.exp(-15 * (values - middle)))


def _reference(features, cue):
    """One image: dense matrices, float64, an exact solve."""
    colors = features[:4].astype(float) * np.array([[0.3**0.5 / 2.55], [1], [1], [1 / 15]])

    def squares():
        return ((colors[:, :, None] - colors[:, None]) ** 2).sum(axis=0)

    colors *= 15 / max(np.sqrt(squares())[APART == 1].mean(), 2)
    square = squares()
    place = ((ROW[:, None] - ROW) ** 2 + (COLUMN[:, None] - COLUMN) ** 2) / GRID**2
    reach = np.exp(-square / (2 * 5.5**2) - place / (2 * 0.5**2))

    def ground(trust):
        connectivity = (reach[:, BORDER] * trust[BORDER]).sum(axis=1) / np.sqrt(reach.sum(axis=1))
        return 4.5 * (1 - np.exp(-(connectivity**2) / 2))

    cues = {
        "barrier": _stretch(features[4]) + _stretch(features[5]),
        "border": _stretch(features[5]),
        "contrast": (np.sqrt(square) * np.exp(-place / (2 * 0.4**2)) * ground(np.ones(CELLS))).sum(axis=1),
    }[cue]
    like = np.exp(-square / (2 * 4**2)) * (APART <= 2)
    for _ in range(3):
        cues = like @ cues / like.sum(axis=1)
    cues = _stretch(cues)
    near = (APART > 0) & (APART <= 2)
    links = np.exp(-square / (2 * 8**2)) * (near | (BORDER[:, None] & BORDER & (APART > 0))) + 0.15 * (APART == 1)
    y, x = (ROW + 0.5) / GRID, (COLUMN + 0.5) / GRID

    def solve(cues, prior, ground):
        figure = _sharpen(_stretch(_stretch(cues) * prior))
        return _stretch(np.linalg.solve(np.diag(links.sum(axis=1) + ground + figure) - links, figure))

    warm = np.clip((features[1].astype(float) - 128) / 40, -1, 1)
    center = np.exp(-((y - 0.5) ** 2 + (x - 0.5) ** 2) / (2 * 0.31**2))
    first = solve(cues + 0.15 * warm, center, ground(np.ones(CELLS)))
    weight = first**2 / (first**2).sum()
    off = np.stack([y - weight @ y, x - weight @ x])
    spread = 4 * (weight * off) @ off.T
    tall, wide = np.clip(np.diag(spread), 0.15**2, 0.5**2)
    tilt = np.clip(spread[0, 1], -0.8 * np.sqrt(tall * wide), 0.8 * np.sqrt(tall * wide))
    prior = np.exp(-np.einsum("ic,ij,jc->c", off, np.linalg.inv([[tall, tilt], [tilt, wide]]), off) / 2)
    walk = np.exp(-np.sqrt(square) / 8) * near + 1e-4 * (APART == 1)
    away = walk.sum(axis=1) + (walk + np.eye(CELLS))[:, BORDER].sum(axis=1)
    walk = _stretch(np.linalg.solve(np.diag(away) - walk, away))
    own = reach**2 / (reach**2).sum(axis=1, keepdims=True)
    second = cues + first + 0.5 * _stretch(own @ first) + 1.25 * walk + 0.4 * warm
    second = solve(second, prior, ground(1 - 0.7 * first))
    return _stretch(0.5 * second + 0.5 * _stretch(own @ second))


def test_adjacent_cells_are_fifteen_apart_on_average():
    features = np.random.default_rng(3).uniform(0, 200, (6, CELLS)).astype(np.float32)
    colors = np.empty((4, CELLS), np.float32)
    saliency_graph._even_out(features, colors, saliency_lattice.STENCIL, saliency_lattice.LINKED)
    apart = np.sqrt(((colors[:, :, None] - colors[:, None]) ** 2).sum(axis=0))
    np.testing.assert_allclose(apart[APART == 1].mean(), 15, rtol=1e-5)


@pytest.mark.parametrize("cue", CUES)
def test_equals_dense_solve(cue):
    features = _features(0, 6)
    got = cell_saliency(features, cue=cue) / 255
    want = np.array([_reference(image, cue) for image in features])
    # A few conjugate gradient steps in float32 against an exact solve in float64; without any one of its terms (walk, warmth,
    # look, doubt) or with another constant the reference is further away than this.
    assert np.abs(got - want).mean() < {"barrier": 0.0022, "border": 0.0037, "contrast": 0.0013}[cue]
    assert np.corrcoef(got.ravel(), want.ravel())[0, 1] > 0.9997


@pytest.mark.parametrize("cue", CUES)
def test_cuda_source_equals_cpu(host_orders, cue):
    features = np.concatenate([_features(1, 2), np.zeros((1, 6, CELLS), np.float32)])
    number = CUES.index(cue)
    with host_orders() as device:
        got = device.numpy(saliency_graph._cuda(device.array(features), number))
    np.testing.assert_array_equal(got, saliency_graph._cpu(features, number))


def test_flat_is_zero_and_empty_is_legal():
    assert cell_saliency(np.zeros((2, 6, CELLS), np.float32)).max() == 0
    assert cell_saliency(np.zeros((0, 6, CELLS), np.float32)).shape == (0, CELLS)


def test_mirrored_scene():
    features = _features(2, 2)
    mirrored = features.reshape(2, 6, GRID, GRID)[..., ::-1].reshape(features.shape).copy()
    got = cell_saliency(mirrored).reshape(2, GRID, GRID)[..., ::-1].astype(int)
    assert np.abs(got - cell_saliency(features).reshape(2, GRID, GRID)).max() <= 1  # sums in another order


def test_messages():
    with pytest.raises(ValueError, match=r"cell_saliency: cue must be one of barrier, border, contrast, got 'magic'"):
        cell_saliency(np.zeros((1, 6, CELLS), np.float32), cue="magic")
