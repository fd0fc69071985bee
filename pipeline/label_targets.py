"""Joint labels of label augmentation: class times transformation.

`joint_targets` for what `Recipe.with_label_augmentation` drew, one transformation a view; `expand_labels` makes all
transformations of given views, as the paper trains with. Transformation number r * 6 + c is r quarter turns to the left with row
c of `kernels.turns.CHANNEL_ORDERS`; with rotations alone it is r, with colours alone c.

Source: Lee, Hwang and Shin 2020, "Self-supervised label augmentation via input transformations" (joint classifier over M * N
labels; order of the transformations as in the authors' code).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from figureground.kernels.turns import CHANNEL_ORDERS

from .config import LabelAugmentation
from .plan import PLAN_DTYPE
from .recipe import Recipe

if TYPE_CHECKING:
    import torch


def transform_numbers(rows: np.ndarray, recipe: Recipe) -> np.ndarray:
    """Number the transformation of each view.

    Parameters
    ----------
    rows : (N,) PLAN_DTYPE
        Of one view, such as `batch["params"][0]`.
    recipe : Recipe
        The one that drew them.

    Returns
    -------
    (N,) int64
        0 .. M - 1, where M is `recipe.views[v].label_augmentation.transforms`.

    Raises
    ------
    ValueError
        If the rows are no plan, are of several views, or their view has no label augmentation.

    Examples
    --------
    >>> from figureground.pipeline import recipes
    >>> rows = np.zeros(2, PLAN_DTYPE)
    >>> rows["rotation"], rows["channel_order"] = (0, 3), (2, 5)
    >>> transform_numbers(rows, recipes.moco_v2().with_label_augmentation())
    array([ 2, 23])
    """
    made = _augmentation("transform_numbers", rows, recipe)
    turns, orders = rows["rotation"].astype(np.int64), rows["channel_order"].astype(np.int64)
    return turns * (len(CHANNEL_ORDERS) if made.colors else 1) + orders


def joint_targets(targets: Any, rows: np.ndarray, recipe: Recipe) -> Any:
    """Join the classes of samples with the transformations of one of their views.

    Parameters
    ----------
    targets : (N,) int64, torch tensor or NumPy
        Class, -1 where there is none, such as `batch["target"]`.
    rows : (N,) PLAN_DTYPE
        Of one view, such as `batch["params"][0]`.
    recipe : Recipe

    Returns
    -------
    (N,) int64, as `targets` and on its device
        target * M + transformation; -1 stays -1.

    Raises
    ------
    ValueError
        If the rows do not fit the targets or the recipe.

    Notes
    -----
    Grey views (`grayscale_p`) look the same in every order of channels: their labels cannot be learnt, so consider recipes
    without grayscale.

    Examples
    --------
    >>> from figureground.pipeline import recipes
    >>> rows = np.zeros(3, PLAN_DTYPE)
    >>> rows["rotation"] = 1, 3, 2
    >>> joint_targets(np.array([0, 2, -1]), rows, recipes.moco_v2().with_label_augmentation(colors=False))
    array([ 1, 11, -1])
    """
    numbers = transform_numbers(rows, recipe)
    if tuple(targets.shape) != numbers.shape:
        raise ValueError(f"joint_targets: targets must be ({len(numbers)},) as the rows, got {tuple(targets.shape)}")
    count = _augmentation("joint_targets", rows, recipe).transforms
    if isinstance(targets, np.ndarray):
        return np.where(targets < 0, targets, targets * count + numbers)
    joint = targets * count + targets.new_tensor(numbers)
    return joint.where(targets >= 0, targets)


def expand_labels(
    views: torch.Tensor, targets: torch.Tensor, *, rotation: bool = True, colors: bool = True
) -> tuple[torch.Tensor, torch.Tensor]:
    """Make all transformations of a batch, with their joint labels.

    Parameters
    ----------
    views : (B, 3, S, S) tensor, any dtype
        Of a recipe without label augmentation.
    targets : (B,) int64 tensor
        Class, -1 where there is none.
    rotation, colors : bool
        As `Recipe.with_label_augmentation`'s.

    Returns
    -------
    views : (B * M, 3, S, S) tensor, as `views`
        M rows for each sample, one after the other, in the order of their numbers.
    targets : (B * M,) int64 tensor
        target * M + transformation; -1 stays -1.

    Raises
    ------
    ValueError
        If a shape does not fit, or neither kind is wanted.

    Notes
    -----
    Normalised views get their channels permuted after normalisation: each channel was normalised as the colour that it shows.
    `Recipe.with_label_augmentation` permutes before it. The shift is small with ImageNet's constants, but do not mix both.

    Examples
    --------
    >>> import torch
    >>> views, targets = expand_labels(torch.rand(2, 3, 4, 4), torch.tensor([0, 7]), colors=False)
    >>> views.shape, targets.tolist()
    (torch.Size([8, 3, 4, 4]), [0, 1, 2, 3, 28, 29, 30, 31])
    """
    count = LabelAugmentation(rotation, colors).transforms
    shape = tuple(views.shape)
    if len(shape) != 4 or shape[1] != 3 or shape[2] != shape[3]:
        raise ValueError(f"expand_labels: views must be (B, 3, S, S), got {shape}")
    if tuple(targets.shape) != shape[:1]:
        raise ValueError(f"expand_labels: targets must be ({shape[0]},), got {tuple(targets.shape)}")
    orders = CHANNEL_ORDERS.tolist() if colors else [[0, 1, 2]]
    made = views.new_empty((shape[0], count, *shape[1:]))
    for turns in range(4 if rotation else 1):
        turned = views.rot90(turns, (2, 3))
        for number, order in enumerate(orders):
            made[:, turns * len(orders) + number] = turned[:, order]
    numbers = targets.new_tensor(range(count))
    joint = (targets[:, None] * count + numbers).where(targets[:, None] >= 0, targets[:, None])
    return made.flatten(0, 1), joint.flatten()


def _augmentation(function: str, rows: np.ndarray, recipe: Recipe) -> LabelAugmentation:
    """Return the label augmentation of the view that rows belong to."""
    if not isinstance(rows, np.ndarray) or rows.ndim != 1 or rows.dtype != PLAN_DTYPE:
        got = f"{rows.shape} {rows.dtype}" if isinstance(rows, np.ndarray) else type(rows).__name__
        raise ValueError(f"{function}: rows must be (N,) PLAN_DTYPE rows of a plan, got {got}")
    numbers = np.unique(rows["view"])
    if len(numbers) > 1 or (len(numbers) and not 0 <= numbers[0] < len(recipe.views)):
        raise ValueError(
            f"{function}: rows must be of one of the recipe's views 0..{len(recipe.views) - 1}, got views "
            f"{numbers.tolist()}"
        )
    made = recipe.views[int(numbers[0]) if len(numbers) else 0].label_augmentation
    if made is None:
        raise ValueError(
            f"{function}: recipe must have a label augmentation on view {numbers[0] if len(numbers) else 0}, got none; see "
            f"Recipe.with_label_augmentation"
        )
    return made
