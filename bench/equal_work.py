"""Do the peers do the same work? Compared before the clock starts: shape, dtype, and what the views look like.

All draw from the same distributions over the same images, so over a few hundred views these agree but for chance: mean and
standard deviation of each channel, the share of grey views (grayscale draws), and the mean step between neighbours (crops, resize
filter and blur). A peer that is out of bounds is marked, never hidden.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from figureground.pipeline import recipes

BOUNDS = {"mean": 0.15, "std": 0.1, "gray": 0.1, "step": 0.2}
"""Largest differences: means and deviations in normalised units, the share of grey views, the step relative to ours. With 512 views
chance alone moved the mean by up to 0.1, the others by up to 0.05; kornia's crop without antialiasing moves the step by 0.1."""
_LEVEL = 2.5
"""Channels of a grey view differ by no more than this [grey levels]: rounding."""


def describe(views: np.ndarray) -> dict[str, Any]:
    """Sum up normalised views.

    Parameters
    ----------
    views : (N, 3, H, W) float

    Returns
    -------
    dict
        "mean" and "std" of each channel, "gray" the share of views without colour, "step" the mean difference of horizontal
        neighbours.

    Examples
    --------
    >>> views = np.zeros((2, 3, 4, 4), np.float32)
    >>> views[1, 0] = 1.0
    >>> summary = describe(views)
    >>> summary["mean"], summary["gray"], summary["step"]
    ([0.5, 0.0, 0.0], 0.0, 0.0)
    """
    views = np.asarray(views, np.float32)
    std, mean = (np.array(x, np.float32)[:, None, None] for x in (recipes.IMAGENET_STD, recipes.IMAGENET_MEAN))
    levels = 255 * (views * std + mean)
    spread = (levels.max(1) - levels.min(1)).reshape(len(levels), -1)
    return {
        "mean": [round(float(x), 4) for x in views.mean((0, 2, 3), dtype=np.float64)],
        "std": [round(float(x), 4) for x in views.std((0, 2, 3), dtype=np.float64)],
        "gray": round(float((np.percentile(spread, 99, axis=1) <= _LEVEL).mean()), 4),
        "step": round(float(np.abs(np.diff(views, axis=3)).mean()), 4),
    }


def differences(summary: Mapping[str, Any], reference: Mapping[str, Any]) -> dict[str, float]:
    """Return how far a summary is from the reference, by the names of `BOUNDS`.

    Examples
    --------
    >>> ours = {"mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0], "gray": 0.2, "step": 0.1}
    >>> differences({**ours, "std": [1.0, 1.25, 1.0], "step": 0.05}, ours)
    {'mean': 0.0, 'std': 0.25, 'gray': 0.0, 'step': 0.5}
    """
    far = {
        name: max(abs(a - b) for a, b in zip(summary[name], reference[name], strict=True)) for name in ("mean", "std")
    }
    far["gray"] = abs(summary["gray"] - reference["gray"])
    far["step"] = abs(summary["step"] / reference["step"] - 1) if reference["step"] else 0.0
    return {name: round(value, 4) for name, value in far.items()}


def check(views: list[np.ndarray], size: int, dtype: Any, reference: Mapping[str, Any] | None) -> dict[str, Any]:
    """Check the views of a peer.

    Parameters
    ----------
    views : list of (N, 3, size, size) arrays, one a view
    size : int
    dtype : numpy dtype
    reference : mapping, optional
        What `check` gave for ours; None for ours itself.

    Returns
    -------
    dict
        That of `describe`, and "equal", "why" (empty if equal).
    """
    wrong = [f"{v.shape} {v.dtype}" for v in views if v.shape[1:] != (3, size, size) or v.dtype != dtype]
    if wrong:
        return {"equal": False, "why": f"gives {wrong[0]} instead of (B, 3, {size}, {size}) {np.dtype(dtype)}"}
    summary = describe(np.concatenate(views))
    far = {} if reference is None else differences(summary, reference)
    beyond = [
        f"{name} differs by {far[name]:.2f} (at most {BOUNDS[name]:g})" for name in far if far[name] > BOUNDS[name]
    ]
    return {**summary, "views": sum(len(v) for v in views), "equal": not beyond, "why": "; ".join(beyond)}
