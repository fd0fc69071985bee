"""Backgrounds that were drawn and left alone: counted, and said so where the masks seem to be of no use.

A mask that covers next to nothing, or all, leaves its image alone (`min_area`, `max_area`). That is right for some images; where it
happens to most of them, the masks are likely wrong (imported ones of 0 and 1 instead of 0 and 255, say), and a run without its
augmentation looks like any other.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from .recipe import Recipe
from .tables import Slots

log = logging.getLogger(__name__)

_ENOUGH, _SHARE = 200, 0.5
"""So many drawn backgrounds are waited for; a larger share of unusable masks than this is worth a warning."""


class LeftAlone:
    """Counts the views whose background was to change and was left alone.

    Parameters
    ----------
    recipe : Recipe
    """

    def __init__(self, recipe: Recipe) -> None:
        self._views = [(i, view.background) for i, view in enumerate(recipe.views) if view.background is not None]
        self._warned = False
        self.drawn = 0
        self.unmasked = 0
        """Left alone for want of a mask."""
        self.too_small = 0
        """Left alone because the figure is below `min_area`."""
        self.too_large = 0
        """Left alone because the figure is above `max_area`."""

    @property
    def total(self) -> int:
        """All that were left alone by their masks."""
        return self.unmasked + self.too_small + self.too_large

    def count(self, plans: Sequence[np.ndarray], slots: Slots, count: int) -> None:
        """Take note of the first `count` samples of a batch: its plans (one table a view) and where its masks are."""
        for view, background in self._views:
            drawn = plans[view]["background_drawn"][:count] > 0
            rows = slots.of_view(view)[:count][drawn]
            valid, area = slots.mask_valid[rows], slots.mask_area[rows]
            self.drawn += len(rows)
            self.unmasked += int((~valid).sum())
            self.too_small += int((valid & (area < background.min_area)).sum())
            self.too_large += int((valid & (area > background.max_area)).sum())
        unusable = self.too_small + self.too_large
        if not self._warned and self.drawn >= _ENOUGH and unusable > _SHARE * self.drawn:
            self._warned = True
            log.warning(
                "%d of the first %d backgrounds were left alone by their masks: %d figures below min_area, %d above max_area; look "
                "at the masks with 'figureground show masks', or change these limits",
                unusable, self.drawn, self.too_small, self.too_large,
            )  # fmt: skip
