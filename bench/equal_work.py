"""Do the peers do the same work? Compared before the clock starts: shape, dtype, and what the views look like.

All draw from the same distributions over the same images, so over a few hundred views these agree but for chance: mean and
standard deviation of each channel, the share of grey views (grayscale draws), the mean step between neighbours (crops, resize
filter and blur), how the two views of an image differ in brightness, contrast and hue (jitter) and in being grey (grayscale),
and whether views lean to one side (flips). A peer that is out of bounds is marked, never hidden. Not seen are saturation jitter
left out alone, and crops of a somewhat different scale.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from figureground.pipeline import recipes

BOUNDS = {
    "mean": 0.15, "std": 0.1, "gray": 0.1, "step": 0.2, "lean": 0.1,
    "brightness": 0.1, "contrast": 0.1, "hue": 0.2, "one_gray": 0.15,
}  # fmt: skip
"""Largest differences: means, deviations and lean in normalised units, the shares of grey views and of pairs with one of them,
the step relative to ours, brightness and contrast as logarithms, the hue in radians. With 512 views chance alone moved the mean
by up to 0.1, the others by up to 0.05, hue and one_gray by 0.12 and 0.08; kornia's crop without antialiasing moves the step by
0.1. Left out of ours, brightness jitter moves "brightness" from 0.27 to 0.09, hue jitter "hue" from 0.3 to 0.03, all jitter
"contrast" from 0.35 to 0.11, grayscale "one_gray" from 0.2 to 0, the flip "lean" by 0.1, blur the step by 0.23."""
ENOUGH = 512
"""Views that the bounds are made for: of fewer, chance alone may be out of bounds. Those of pairs, which vary most, then widen by
the square root."""
PAIRS = ("lean", "brightness", "contrast", "hue", "one_gray")
"""What `describe_pairs` gives."""
_COLOURED = 0.1
"""Share of its brightness by which a view's mean colour must be off grey for its hue to count."""
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


def describe_pairs(first: np.ndarray, second: np.ndarray) -> dict[str, float]:
    """Sum up how two views of the same images differ, and to which side they lean.

    Parameters
    ----------
    first, second : (N, 3, H, W) float
        Normalised.

    Returns
    -------
    dict
        Means over the pairs of |log of the ratio| of "brightness" and of "contrast" (mean and deviation of the grey level); "hue":
        median angle between the mean colours [rad], of pairs that have any; "one_gray": share of pairs of which one view is
        without colour; "lean": mean difference between left and right halves.
    """
    std, mean = (np.array(x, np.float32)[:, None, None] for x in (recipes.IMAGENET_STD, recipes.IMAGENET_MEAN))
    found = []
    lean = []
    for views in (first, second):
        levels = np.asarray(views, np.float32) * std + mean
        luma, (r, g, b) = levels.mean(1), levels.mean((2, 3)).T
        half = luma.shape[2] // 2
        lean.append((luma[:, :, :half].mean((1, 2)) - luma[:, :, -half:].mean((1, 2))) / std.mean())
        bright = np.maximum(luma.mean((1, 2)), 1 / 255)
        colour = (2 * r - g - b) + 1j * np.sqrt(3) * (g - b)
        gray = (levels.max(1) - levels.min(1)).mean((1, 2)) < _LEVEL / 255
        found.append((bright, np.maximum(luma.std((1, 2)), 1 / 255), colour, gray))
    one, other = found
    clear = (np.abs(one[2]) > _COLOURED * one[0]) & (np.abs(other[2]) > _COLOURED * other[0])
    turns = np.abs(np.angle(one[2][clear] / other[2][clear]))
    return {
        "brightness": round(float(np.abs(np.log(one[0] / other[0])).mean()), 4),
        "contrast": round(float(np.abs(np.log(one[1] / other[1])).mean()), 4),
        "hue": round(float(np.median(turns)), 4) if len(turns) else 0.0,
        "one_gray": round(float((one[3] != other[3]).mean()), 4),
        "lean": round(float(np.mean(lean)), 4),
    }


def differences(summary: Mapping[str, Any], reference: Mapping[str, Any]) -> dict[str, float]:
    """Return how far a summary is from the reference, by the names of `BOUNDS`, as far as both have them.

    Examples
    --------
    >>> ours = {"mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0], "gray": 0.2, "step": 0.1}
    >>> differences({**ours, "std": [1.0, 1.25, 1.0], "step": 0.05}, ours)
    {'mean': 0.0, 'std': 0.25, 'gray': 0.0, 'step': 0.5}
    """
    far = {
        name: max(abs(a - b) for a, b in zip(summary[name], reference[name], strict=True)) for name in ("mean", "std")
    }
    for name in ("gray", *PAIRS):
        if name in summary and name in reference:
            far[name] = abs(summary[name] - reference[name])
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
        That of `describe` and, for two views or more, of `describe_pairs`; and "equal", "why" (empty if equal).
    """
    wrong = [f"{v.shape} {v.dtype}" for v in views if v.shape[1:] != (3, size, size) or v.dtype != dtype]
    if wrong:
        return {"equal": False, "why": f"gives {wrong[0]} instead of (B, 3, {size}, {size}) {np.dtype(dtype)}"}
    summary = describe(np.concatenate(views))
    if len(views) > 1 and len(views[0]) == len(views[1]):
        summary |= describe_pairs(views[0], views[1])
    count = sum(len(v) for v in views)
    far = {} if reference is None else differences(summary, reference)
    wider = math.sqrt(max(1.0, ENOUGH / count))
    bounds = {name: bound * wider if name in PAIRS else bound for name, bound in BOUNDS.items()}
    beyond = [
        f"{name} differs by {far[name]:.2f} (at most {bounds[name]:.2g})" for name in far if far[name] > bounds[name]
    ]
    return {**summary, "views": count, "equal": not beyond, "why": "; ".join(beyond)}
