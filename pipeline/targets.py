"""What augmentation-aware methods learn from: plan rows as small float arrays.

`augself_targets` gives the differences between two views that AugSelf predicts, `augmentation_vector` describes one view for
methods that condition on it (CASSLE and others). Both are pure functions of the rows that a batch carries as `params`.
Joint labels of turned views are in `label_targets`.

Sources: Lee et al. 2021, "Improving transferability of representations via augmentation-aware self-supervision" (AugSelf;
transforms.py of the authors' code); Przewięźlikowski et al. 2023, "Augmentation-aware self-supervised learning with
conditioned projector" (CASSLE).
"""

from __future__ import annotations

import numpy as np

from .plan import BACKGROUND_MODES, PLAN_DTYPE
from .recipe import Recipe

VECTOR_FIELDS = (
    "center_y", "center_x", "height", "width",  # of the crop, relative to the image; center_x as seen after the flip
    "flip",
    "jitter",  # 1: applied
    "brightness", "contrast", "saturation",  # factor - 1; 0 where not applied
    "hue",  # [turns]; 0 where not applied
    "brightness_turn", "contrast_turn", "saturation_turn", "hue_turn",  # 0.25 first .. 1 last; 0 where not applied
    "grayscale",
    "blur",  # 1: applied
    "blur_sigma",  # [px]; 0 where not applied
    "solarize",  # 1: applied
    "solarize_share",  # share of the grey levels that are inverted; 0 where not applied
    *(f"background_{name}" for name in BACKGROUND_MODES[1:]),  # 1 for the mode that was applied
    *(f"rotation_{degrees}" for degrees in (90, 180, 270)),  # 1 for the one that was applied, to the left
    *(f"channels_{order}" for order in ("rbg", "grb", "gbr", "brg", "bgr")),  # 1 for the order that was applied
)  # fmt: skip
"""Columns of `augmentation_vector`. New ones will only be added at the end."""


def augself_targets(first: np.ndarray, second: np.ndarray, recipe: Recipe) -> dict[str, np.ndarray]:
    """Return what AugSelf predicts from two views of each sample: first view minus second view.

    Parameters
    ----------
    first, second : (N,) PLAN_DTYPE
        Rows of two views of the same samples, such as `batch["params"][0]` and `batch["params"][1]`.
    recipe : Recipe
        The one that drew them; its jitter ranges are the colours' units.

    Returns
    -------
    dict of (N, k) float32
        "crop" (N, 4): shift of the centre, vertical and horizontal, then difference of height and of width, all relative
        to the image. The horizontal shift is as seen in the first view: its sign turns where that one is flipped.
        "flip" (N, 1): 1 where both are flipped or neither, else 0.
        "color" (N, 4): brightness, contrast, saturation, hue: (factor - 1, or the shift) / (range's high - low), 0 for a
        view without jitter; so in [-1, 1].
        "blur" (N, 1): difference of sigma [px], 0 for a view without blur.
        "solarize" (N, 1): difference of threshold / 256, 1 for a view that is not solarized.
        "grayscale" (N, 1): difference of the flags (the paper does not predict it).
        "rotation" (N, 1): difference of the quarter turns modulo 4: 0, 1, 2 or 3. Turns come last: all others are before them.

    Raises
    ------
    ValueError
        If the rows are no plan, are of different samples, or are no views of the recipe; or if two views of a sample show
        different images (`with_pairs`): crops and flips of two images have no difference to predict. Leave those rows
        out: same = first["source"] == second["source"], then first[same], second[same].

    Examples
    --------
    >>> from figureground.pipeline import recipes
    >>> from figureground.pipeline.plan import draw_plan
    >>> where = {"seed": 0, "epoch": 0, "samples": np.arange(3), "sizes": np.full((3, 2), 300)}
    >>> rows = [draw_plan(recipes.moco_v2(), view, **where) for view in (0, 1)]
    >>> targets = augself_targets(*rows, recipes.moco_v2())
    >>> {name: target.shape for name, target in targets.items()}
    {'crop': (3, 4), 'flip': (3, 1), 'color': (3, 4), 'blur': (3, 1), 'solarize': (3, 1), 'grayscale': (3, 1), 'rotation': (3, 1)}
    """
    _check("augself_targets", "first", first)
    _check("augself_targets", "second", second)
    if not np.array_equal(first["sample"], second["sample"]):
        raise ValueError(
            f"augself_targets: first and second must be rows of the same samples, got {first['sample'][:4].tolist()} and "
            f"{second['sample'][:4].tolist()} (the first four)"
        )
    different = int((first["source"] != second["source"]).sum())
    if different:
        raise ValueError(
            f"augself_targets: first and second must show the same images, got {different} of {len(first)} rows whose "
            f"'source' differs; leave those out (pairs of images have no difference of crops)"
        )
    crop = _boxes(first) - _boxes(second)
    crop[:, 1] *= np.where(first["flip"], -1, 1)
    targets = {
        "crop": crop,
        "flip": first["flip"] == second["flip"],
        "color": _colors(first, recipe) - _colors(second, recipe),
        "blur": _if(first, "blur", first["blur_sigma"]) - _if(second, "blur", second["blur_sigma"]),
        "solarize": _if(second, "solarize", _inverted(second)) - _if(first, "solarize", _inverted(first)),
        "grayscale": first["grayscale"].astype(np.float64) - second["grayscale"],
        "rotation": (first["rotation"].astype(np.int64) - second["rotation"]) % 4,
    }
    return {name: _columns(target) for name, target in targets.items()}


def augmentation_vector(rows: np.ndarray) -> np.ndarray:
    """Describe each view by numbers of a fixed schema, as input of a network.

    Parameters
    ----------
    rows : (N,) PLAN_DTYPE

    Returns
    -------
    (N, 33) float32
        Columns are `VECTOR_FIELDS`. All are 0 for an operation that was not applied; none needs scaling: crops, flags
        and turns lie in [0, 1], colours in about [-1, 1], sigma in its range [px].

    Raises
    ------
    ValueError
        If the rows are no plan.

    Notes
    -----
    The horizontal centre is counted from the right where the view is flipped, as CASSLE's code does.

    Examples
    --------
    >>> rows = np.zeros(1, PLAN_DTYPE)
    >>> rows["size"], rows["crop"], rows["flip"] = (100, 200), (20, 10, 100, 50), 1
    >>> augmentation_vector(rows)[0, :6]
    array([0.35, 0.65, 0.5 , 0.5 , 1.  , 0.  ], dtype=float32)
    """
    _check("augmentation_vector", "rows", rows)
    boxes = _boxes(rows)
    boxes[:, 1] = np.where(rows["flip"], 1 - boxes[:, 1], boxes[:, 1])
    factors = rows["jitter_factors"].astype(np.float64) - (1, 1, 1, 0)
    turns = (np.argsort(rows["jitter_order"], axis=1) + 1) / 4
    columns = [
        boxes,
        rows["flip"],
        rows["jitter"],
        _if(rows, "jitter", factors),
        _if(rows, "jitter", turns),
        rows["grayscale"],
        rows["blur"],
        _if(rows, "blur", rows["blur_sigma"]),
        rows["solarize"],
        _if(rows, "solarize", _inverted(rows)),
        rows["background"][:, None] == np.arange(1, len(BACKGROUND_MODES)),
        rows["rotation"][:, None] == np.arange(1, 4),
        rows["channel_order"][:, None] == np.arange(1, 6),
    ]
    return np.concatenate([_columns(column) for column in columns], 1)


def _check(function: str, name: str, rows: np.ndarray) -> None:
    if not isinstance(rows, np.ndarray) or rows.ndim != 1 or rows.dtype != PLAN_DTYPE:
        got = f"{rows.shape} {rows.dtype}" if isinstance(rows, np.ndarray) else type(rows).__name__
        raise ValueError(f"{function}: {name} must be (N,) PLAN_DTYPE rows of a plan, got {got}")


def _columns(values: np.ndarray) -> np.ndarray:
    """One row per sample, as float32."""
    return (values if values.ndim == 2 else values[:, None]).astype(np.float32)


def _boxes(rows: np.ndarray) -> np.ndarray:
    """Centre y, centre x, height, width of each crop, relative to its image, (N, 4) float64."""
    x0, y0, width, height = rows["crop"].astype(np.float64).T
    image_height, image_width = rows["size"].astype(np.float64).T
    center_y, center_x = (y0 + height / 2) / image_height, (x0 + width / 2) / image_width
    return np.stack([center_y, center_x, height / image_height, width / image_width], 1)


def _if(rows: np.ndarray, flag: str, values: np.ndarray) -> np.ndarray:
    """The values as float64, 0 in rows whose flag is 0."""
    applied = rows[flag].astype(bool)
    return np.where(applied if values.ndim == 1 else applied[:, None], values.astype(np.float64), 0.0)


def _inverted(rows: np.ndarray) -> np.ndarray:
    """Share of the grey levels at or above the threshold of solarization."""
    share: np.ndarray = 1 - rows["solarize_threshold"] / 256
    return share


def _colors(rows: np.ndarray, recipe: Recipe) -> np.ndarray:
    """Each colour's distance from no change, over the length of its range in the rows' own views, (N, 4) float64."""
    if len(rows) and not 0 <= rows["view"].min() <= rows["view"].max() < len(recipe.views):
        raise ValueError(
            f"augself_targets: rows must be of the recipe's views 0..{len(recipe.views) - 1}, got view "
            f"{rows['view'].max()}; negatives have no targets"
        )
    lengths = np.ones((len(recipe.views), 4))
    for view, of in zip(recipe.views, lengths):
        if view.jitter is not None:
            strengths = np.array([view.jitter.brightness, view.jitter.contrast, view.jitter.saturation])
            of[:] = *(1 + strengths - np.maximum(0, 1 - strengths)), 2 * view.jitter.hue
    lengths[lengths == 0] = 1  # a range of one value: no difference
    change = rows["jitter_factors"].astype(np.float64) - (1, 1, 1, 0)
    return _if(rows, "jitter", change / lengths[rows["view"]])
