"""A linear probe of features in closed form: ridge regression on one-hot classes, with rows left out exactly.

The usual linear evaluation trains a logistic regression by SGD; this one has no learning rate, no seed and no epochs, and lets each
query be judged by a probe that has not seen certain images, as k-NN does with `forbidden`.
"""

from __future__ import annotations

import numpy as np

PENALTIES = tuple(10.0**k for k in range(2, -6, -1))
"""Candidates for the ridge, as a multiple of the number of rows; features are standardised."""
_NOTHING = 1e-6
"""A feature whose standard deviation is below this share of the largest one is constant: rounding errors."""


class LinearProbe:
    """Least squares from standardised features to one-hot classes, with an intercept.

    Parameters
    ----------
    bank : (N, D) float
        Features.
    labels : (N,) int64

    Attributes
    ----------
    penalty : float
        The chosen one of `PENALTIES`: least squared error where each row of the bank is predicted without itself; of equal ones
        the largest.

    Raises
    ------
    ValueError
        If a shape does not fit, a feature is not finite, or there are fewer than two classes.

    Notes
    -----
    Minimises sum |y - W z - b|^2 + penalty * N * |W|^2 over the bank, z standardised by the bank's mean and standard deviation. In
    float64 from the eigenvectors of the smaller Gram matrix.

    Examples
    --------
    >>> bank = np.array([[0.0, 5.0], [1.0, 5.0], [10.0, 5.0], [11.0, 5.0]])
    >>> LinearProbe(bank, np.array([3, 3, 8, 8])).classify(np.array([[2.0, 5.0], [9.0, 5.0]]))
    array([3, 8])
    """

    def __init__(self, bank: np.ndarray, labels: np.ndarray) -> None:
        if bank.ndim != 2 or labels.shape != bank.shape[:1]:
            raise ValueError(
                f"LinearProbe: bank and labels must be (N, D) and (N,), got {bank.shape} and {labels.shape}"
            )
        _check_finite("bank", bank)
        self._names, owner = np.unique(labels, return_inverse=True)
        if len(self._names) < 2:
            raise ValueError(f"LinearProbe: labels must be of at least two classes, got {len(self._names)}")
        values = bank.astype(np.float64)
        self._mean, scale = values.mean(0), values.std(0)
        self._weight = np.where(scale > _NOTHING * scale.max(), 1 / np.maximum(scale, 1e-300), 0.0)
        z = self._standardise(values)
        squares, self._axes = _principal_axes(z)
        self._rows = z @ self._axes
        self._one_hot = (owner[:, None] == np.arange(len(self._names))).astype(np.float64)
        self.penalty = min(PENALTIES, key=lambda penalty: self._left_out_error(squares, penalty))
        self._set(squares, self.penalty)

    def _standardise(self, values: np.ndarray) -> np.ndarray:
        return (values - self._mean) * self._weight

    def _set(self, squares: np.ndarray, penalty: float) -> None:
        """Solve for one penalty, in the coordinates of the axes."""
        self._inverse = 1 / (squares + penalty * len(self._rows))
        self._weights = self._inverse[:, None] * (self._rows.T @ self._one_hot)
        self._residuals = self._one_hot - self._scores(self._rows)

    def _scores(self, rows: np.ndarray) -> np.ndarray:
        scores: np.ndarray = rows @ self._weights + self._one_hot.mean(0)
        return scores

    def _left_out_error(self, squares: np.ndarray, penalty: float) -> float:
        self._set(squares, penalty)
        leverage = (self._rows**2) @ self._inverse + 1 / len(self._rows)
        return float(((self._residuals / (1 - leverage)[:, None]) ** 2).mean())

    def classify(self, queries: np.ndarray, *, forbidden: np.ndarray | None = None) -> np.ndarray:
        """Classify features.

        Parameters
        ----------
        queries : (M, D) float
        forbidden : (M, F) int64, optional
            Rows of the bank that the probe must not have been fit on, -1 for none. The probe is the one of the other rows, exactly
            (mean, standard deviation and penalty stay those of the whole bank).

        Returns
        -------
        (M,) int64

        Raises
        ------
        ValueError
            If a shape does not fit, a feature is not finite, or a query forbids the whole bank.
        """
        if queries.ndim != 2 or queries.shape[1] != len(self._mean):
            raise ValueError(f"LinearProbe: queries must be (M, {len(self._mean)}), got {queries.shape}")
        _check_finite("queries", queries)
        rows = self._standardise(queries.astype(np.float64)) @ self._axes
        scores = self._scores(rows)
        for i, unwanted in enumerate([] if forbidden is None else forbidden):
            out = np.unique(unwanted[unwanted >= 0])
            if len(out) >= len(self._rows):
                raise ValueError(
                    f"LinearProbe: forbidden must leave rows of the bank, got all {len(out)} for query {i}"
                )
            if len(out):
                scores[i] -= self._change(rows[i], self._rows[out], self._residuals[out])
        winners: np.ndarray = self._names[scores.argmax(1)]
        return winners

    def _change(self, row: np.ndarray, out: np.ndarray, residuals: np.ndarray) -> np.ndarray:
        """What some rows of the bank add to a query's scores (the Woodbury identity)."""
        gain = (out * self._inverse) @ np.stack([row, *out], 1) + 1 / len(self._rows)
        change: np.ndarray = gain[:, 0] @ np.linalg.solve(np.eye(len(out)) - gain[:, 1:], residuals)
        return change


def _check_finite(name: str, values: np.ndarray) -> None:
    if not np.isfinite(values).all():
        raise ValueError(f"LinearProbe: {name} must be finite, got {values[~np.isfinite(values)][0]}; check the model")


def _principal_axes(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the squared singular values (r,) of `z` (N, D) that are not 0 and their right vectors (D, r)."""
    wide = z.shape[0] < z.shape[1]
    squares, vectors = np.linalg.eigh(z @ z.T if wide else z.T @ z)
    kept = squares > 1e-12 * max(squares.max(initial=0.0), 1e-300)
    squares, vectors = squares[kept], vectors[:, kept]
    return squares, (z.T @ vectors) / np.sqrt(squares) if wide else vectors
