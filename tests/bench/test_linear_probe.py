"""The linear probe against a solver that is told everything again, and on features whose answers are known."""

from __future__ import annotations

import numpy as np
import pytest

from figureground.bench.linear_probe import PENALTIES, LinearProbe


def _features(count, dims, classes=3, seed=0, spread=1.0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count)
    labels[:classes] = np.arange(classes)
    centers = rng.normal(size=(classes, dims))
    return (centers[labels] + spread * rng.normal(size=(count, dims))).astype(np.float32), labels


def _solved_again(bank, labels, query, out, penalty):
    """Scores of one query by normal equations with an intercept, without the rows `out`."""
    z, q = (bank - bank.mean(0)) / bank.std(0), (query - bank.mean(0)) / bank.std(0)
    kept = np.setdiff1d(np.arange(len(bank)), out)
    a = np.concatenate([z[kept], np.ones((len(kept), 1))], 1)
    y = (labels[kept, None] == np.unique(labels)).astype(float)
    ridge = np.diag([penalty * len(bank)] * z.shape[1] + [0.0])
    return np.append(q, 1) @ np.linalg.solve(a.T @ a + ridge, a.T @ y)


@pytest.mark.parametrize(("count", "dims"), [(40, 7), (20, 33), (12, 1)])
def test_leaving_rows_out_is_exact(count, dims):
    bank, labels = _features(count, dims)
    bank = bank.astype(np.float64)
    queries = np.random.default_rng(1).normal(size=(count, dims))
    forbidden = np.stack([np.arange(count), np.roll(np.arange(count), 3)], 1)
    forbidden[::3, 1], forbidden[1::4, 1] = -1, forbidden[1::4, 0]  # one row, and the same row twice
    probe = LinearProbe(bank, labels)
    said = probe.classify(queries, forbidden=forbidden)
    want = []
    for query, out in zip(queries, forbidden, strict=True):
        scores = _solved_again(bank, labels, query, out[out >= 0], probe.penalty)
        want.append(scores)
        rows = (probe._standardise(query[None])) @ probe._axes
        gone = np.unique(out[out >= 0])
        got = probe._scores(rows)[0] - probe._change(rows[0], probe._rows[gone], probe._residuals[gone])
        np.testing.assert_allclose(got, scores, atol=1e-7)
    np.testing.assert_array_equal(said, np.argmax(want, 1))
    np.testing.assert_array_equal(
        probe.classify(queries), [_solved_again(bank, labels, q, [], probe.penalty).argmax() for q in queries]
    )


def test_the_penalty_has_the_least_left_out_error():
    bank, labels = _features(30, 6, spread=2.0)
    bank = bank.astype(np.float64)
    errors = {}
    for penalty in PENALTIES:
        left_out = [_solved_again(bank, labels, bank[i], [i], penalty) for i in range(30)]
        errors[penalty] = ((np.array(left_out) - (labels[:, None] == np.arange(3))) ** 2).mean()
    assert LinearProbe(bank, labels).penalty == min(errors, key=errors.get)


def test_separable_features():
    bank, labels = _features(200, 20, classes=5, spread=0.1)
    queries, truth = bank[100:], labels[100:]
    assert (LinearProbe(bank[:100], labels[:100] + 7).classify(queries) == truth + 7).all()


def test_a_line_cannot_tell_an_exclusive_or():
    signs = np.array([[a, b] for a in (-1, 1) for b in (-1, 1)] * 25) + np.random.default_rng(0).normal(
        0, 0.1, (100, 2)
    )
    labels = (signs[:, 0] * signs[:, 1] > 0).astype(np.int64)
    own = np.arange(100)[:, None]
    assert (LinearProbe(signs, labels).classify(signs, forbidden=own) == labels).mean() < 0.6
    product = np.concatenate([signs, signs[:, :1] * signs[:, 1:]], 1)
    assert (LinearProbe(product, labels).classify(product, forbidden=own) == labels).mean() == 1


def test_noise_is_not_learnt_by_heart():
    """More features than rows, no signal: with its own row every query would be right, without it none knows."""
    rng = np.random.default_rng(3)
    noise, labels = rng.normal(size=(60, 300)), np.arange(60) % 2
    probe = LinearProbe(noise, labels)
    assert (probe.classify(noise, forbidden=np.arange(60)[:, None]) == labels).mean() < 0.7


def test_scale_shift_and_constants_change_nothing():
    bank, labels = _features(80, 6, spread=1.5)
    queries, _ = _features(50, 6, seed=9)
    want = LinearProbe(bank, labels).classify(queries)
    scale, shift = np.array([1e-3, 1, 50, 1, 1, 2]), np.array([0, 9, 0, -3, 0, 1])
    np.testing.assert_array_equal(LinearProbe(bank * scale + shift, labels).classify(queries * scale + shift), want)
    more = [np.concatenate([x, np.full((len(x), 1), 0.1, np.float32)], 1) for x in (bank, queries)]
    np.testing.assert_array_equal(LinearProbe(more[0], labels).classify(more[1]), want)


def test_messages():
    bank, labels = _features(6, 2)
    probe = LinearProbe(bank, labels)
    for make, says in (
        (lambda: LinearProbe(bank[0], labels), r"bank and labels must be \(N, D\) and \(N,\), got \(2,\) and \(6,\)"),
        (lambda: LinearProbe(bank, labels[1:]), r"got \(6, 2\) and \(5,\)"),
        (lambda: LinearProbe(bank * np.nan, labels), "bank must be finite, got nan"),
        (lambda: LinearProbe(bank, labels * 0), "labels must be of at least two classes, got 1"),
        (lambda: probe.classify(bank[:, :1]), r"queries must be \(M, 2\), got \(6, 1\)"),
        (lambda: probe.classify(bank * np.inf), "queries must be finite, got"),
        (lambda: probe.classify(bank[:1], forbidden=np.arange(6)[None]), "must leave rows of the bank, got all 6"),
    ):
        with pytest.raises(ValueError, match=f"LinearProbe: .*{says}"):
            make()
