"""Do the planner's parameters have the distributions of torchvision's transforms? A sampler in plain Python says.

`sample_view` is written after torchvision's definitions (RandomResizedCrop with its ten tries and fallback, ColorJitter,
RandomGrayscale, GaussianBlur, RandomSolarize) with Python's own generator; it shares nothing with the planner.
"""

from __future__ import annotations

import math
import random

import numpy as np
from scipy import stats

from figureground.pipeline import recipes
from figureground.pipeline.config import View
from figureground.pipeline.plan import draw_plan

DRAWN = (("moco_v2", 0), ("byol", 1), ("swav", 2), ("dino", 0))
"""Recipe and view whose draws are compared: between them most ranges and probabilities of the presets."""
LEAST_P = 1e-4
"""About sixty tests: a p-value below this is a finding, not chance."""


def sample_view(view: View, height: int, width: int, draw: random.Random) -> dict[str, float]:
    """Draw a view's parameters as torchvision's transforms do, with Python's generator.

    Parameters
    ----------
    view : View
        With a random crop.
    height, width : int
        Of the image [px].
    draw : random.Random

    Returns
    -------
    dict of float
        Keys as in `describe_rows`.
    """
    x, y, w, h = _sample_crop(view, height, width, draw)
    jitter, blur = view.jitter, view.blur
    order = list(range(4))
    draw.shuffle(order)
    strengths = (0.0, 0.0, 0.0) if jitter is None else (jitter.brightness, jitter.contrast, jitter.saturation)
    shift = 0.0 if jitter is None else jitter.hue
    factors = [draw.uniform(max(0, 1 - s), 1 + s) for s in strengths]
    return {
        "crop area": w * h / (width * height),
        "crop aspect": math.log(w / h),
        "crop x": x / (width - w) if width > w else 0.5,
        "crop y": y / (height - h) if height > h else 0.5,
        "flip": float(draw.random() < view.flip_p),
        "jitter": float(jitter is not None and draw.random() < jitter.p),
        "jitter order": float(sum(v * 4**k for k, v in enumerate(order))),
        "brightness": factors[0],
        "contrast": factors[1],
        "saturation": factors[2],
        "hue": draw.uniform(-shift, shift),
        "grayscale": float(draw.random() < view.grayscale_p),
        "blur": float(blur is not None and draw.random() < blur.p),
        "blur sigma": draw.uniform(*blur.sigma) if blur is not None else 0.0,
        "solarize": float(draw.random() < view.solarize_p),
    }


def _sample_crop(view: View, height: int, width: int, draw: random.Random) -> tuple[int, int, int, int]:
    low, high = view.crop.ratio
    for _ in range(10):
        target = height * width * draw.uniform(*view.crop.scale)
        aspect = math.exp(draw.uniform(math.log(low), math.log(high)))
        w, h = round(math.sqrt(target * aspect)), round(math.sqrt(target / aspect))
        if 0 < w <= width and 0 < h <= height:
            y = draw.randint(0, height - h)
            return draw.randint(0, width - w), y, w, h
    w, h = width, height
    if width / height < low:
        h = round(width / low)
    elif width / height > high:
        w = round(height * high)
    return (width - w) // 2, (height - h) // 2, w, h


def describe_rows(rows: np.ndarray) -> dict[str, np.ndarray]:
    """Turn plan rows into the parameters that are compared, (N,) float64 each.

    Parameters
    ----------
    rows : (N,) PLAN_DTYPE

    Returns
    -------
    dict of (N,) float64
    """
    x, y, w, h = rows["crop"].astype(np.float64).T
    height, width = rows["size"].astype(np.float64).T

    def place(corner: np.ndarray, room: np.ndarray) -> np.ndarray:
        return np.where(room > 0, corner / np.maximum(room, 1), 0.5)

    factors = dict(zip(("brightness", "contrast", "saturation", "hue"), rows["jitter_factors"].T.astype(np.float64)))
    flags = {name: rows[name].astype(np.float64) for name in ("flip", "jitter", "grayscale", "blur", "solarize")}
    return {
        "crop area": w * h / (width * height),
        "crop aspect": np.log(w / h),
        "crop x": place(x, width - w),
        "crop y": place(y, height - h),
        "jitter order": rows["jitter_order"].astype(np.float64) @ (1, 4, 16, 64),
        "blur sigma": rows["blur_sigma"].astype(np.float64),
        **factors,
        **flags,
    }


def compare_draws(name: str, view: int, draws: int, seed: int = 0) -> dict[str, dict[str, float]]:
    """Test whether the planner's parameters have torchvision's distributions.

    Parameters
    ----------
    name : str
        A preset.
    view : int
    draws : int
        Samples of either sampler.
    seed : int
        Of both.

    Returns
    -------
    dict by parameter of {"statistic", "p"}
        Kolmogorov and Smirnov's two-sample test; chi-squared for flags and the order of the jitter.
    """
    recipe, draw = recipes.PRESETS[name](), random.Random(seed)
    shapes = np.array(
        [(375, 500), (500, 333), (400, 400), (120, 640), (90, 60)]
    )  # height, width; the fourth needs fallbacks
    sizes = shapes[np.arange(draws) % len(shapes)]
    ours = describe_rows(draw_plan(recipe, view, seed=seed, epoch=0, samples=np.arange(draws), sizes=sizes))
    theirs = [sample_view(recipe.views[view], int(h), int(w), draw) for h, w in sizes]
    results = {}
    for parameter in theirs[0]:
        a, b = ours[parameter], np.array([t[parameter] for t in theirs])
        values = np.unique(np.concatenate([a, b]))
        if len(values) == 1:
            statistic, p = 0.0, 1.0
        elif len(values) <= 24:
            statistic, p = stats.chi2_contingency([[(s == v).sum() for v in values] for s in (a, b)])[:2]
        else:
            # float32 rows against float64 draws: the rounding alone would show where many draws are equal (the centre).
            statistic, p = stats.ks_2samp(a.astype(np.float32), b.astype(np.float32))
        results[parameter] = {"statistic": float(statistic), "p": float(p)}
    return results


def draw_table(results: dict[str, dict[str, dict[str, float]]]) -> str:
    """Write the second table in Markdown: statistic and p-value of each parameter, one column per view."""
    lines = ["| parameter | " + " | ".join(results) + " |", "|---" * (len(results) + 1) + "|"]
    for parameter in next(iter(results.values())):
        cells = (f"{r[parameter]['statistic']:.3g} (p {r[parameter]['p']:.2g})" for r in results.values())
        lines.append(f"| {parameter} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
