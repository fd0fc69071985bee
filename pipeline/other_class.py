"""Donors of another class (`other_class=True`): labels that must be there, and grounds that are not known to be of another.

A sample without a label takes any donor; a donor without a label, or of the sample's own class, is taken only where no candidate of
another class is. These grounds are counted, and where they are most of them, the loader says so once.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Sequence

import numpy as np

from figureground.shards import Store

from .recipe import Recipe

log = logging.getLogger(__name__)

_FIRST, _STEP = 64, 4096
"""Samples whose labels are looked for at first, and then at a time."""
_ENOUGH, _SHARE = 200, 0.5
"""So many grounds are waited for; a larger share of them than this is worth a warning."""


def _views(recipe: Recipe) -> list[int]:
    grounds = [view.background for view in recipe.views]
    return [i for i, ground in enumerate(grounds) if ground and ground.mode != "remove" and ground.other_class]


def check_labels(recipe: Recipe, store: Store) -> None:
    """Make sure that there are labels if a recipe wants donors of another class.

    Raises
    ------
    ValueError
        If no sample has a label. Of shards that are fetched the indexes alone are looked at: a `.cls` or `.json` is taken for one.
    """
    if not _views(recipe):
        return
    found = store.has("cls") or store.has("json")
    if found and not store.is_remote:
        starts = [0, *range(_FIRST, len(store), _STEP), len(store)]
        found = any((store.targets_of(np.arange(a, b)) >= 0).any() for a, b in itertools.pairwise(starts))
    if not found:
        raise ValueError(
            f"Loader: other_class=True needs labels (a whole number in .cls, or as \"label\" in .json), got none in "
            f"{store.shards[0]} ...; pack the images with their classes, or leave other_class out"
        )


class OtherClass:
    """Counts the grounds that were to be of another class and are not known to be.

    Parameters
    ----------
    recipe : Recipe
    targets_of : callable
        Returns the classes (N,) int64 of sample ids, negative where there is none: `Store.targets_of`.

    Examples
    --------
    >>> from figureground.pipeline import recipes
    >>> from figureground.pipeline.plan import PLAN_DTYPE
    >>> grounds = OtherClass(recipes.moco_v2().with_background("swap", other_class=True), lambda ids: ids // 10 - 1)
    >>> rows = np.zeros(4, PLAN_DTYPE)
    >>> rows["background"], rows["sample"], rows["donor"] = (1, 1, 1, 0), (10, 10, 0, 10), (20, 11, 20, 11)
    >>> grounds.count([rows])
    >>> grounds.drawn, grounds.unmet  # the second has the sample's class, the third sample has none
    (3, 2)
    """

    def __init__(self, recipe: Recipe, targets_of: Callable[[np.ndarray], np.ndarray]) -> None:
        self._views, self._targets_of, self._warned = _views(recipe), targets_of, False
        self.drawn = 0
        self.unmet = 0

    def count(self, plans: Sequence[np.ndarray]) -> None:
        """Take note of the settled plans of a batch, (B,) PLAN_DTYPE for each view."""
        for view in self._views[: len(plans)]:
            rows = plans[view][plans[view]["background"] > 0]
            own, lent = self._targets_of(rows["sample"]), self._targets_of(rows["donor"])
            self.drawn += len(rows)
            self.unmet += int(((own == lent) | (own < 0) | (lent < 0)).sum())
        if not self._warned and self.drawn >= _ENOUGH and self.unmet > _SHARE * self.drawn:
            self._warned = True
            log.warning(
                "other_class: %d of the first %d grounds are not known to be of another class than their figure; labels are "
                "missing, or most samples that lie near each other in the order are of one class", self.unmet, self.drawn,
            )  # fmt: skip
