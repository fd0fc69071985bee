"""Tables between plans and kernels: where a batch's images lie, and what the resampling kernel is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from figureground.kernels.resample import RENDER_DTYPE

from .plan import BACKGROUND_MODES
from .recipe import Recipe

_RENDER_MODES = {"none": 0, "constant": 1, "grey": 1, "random": 2, "swap": 2, "mean": 3, "noise": 4}
_CODES = np.array([_RENDER_MODES[name] for name in BACKGROUND_MODES], np.int32)


@dataclass(frozen=True)
class Slots:
    """Where the images of a batch's samples lie among the decoded ones."""

    image: np.ndarray
    """(B,) int32: row of each sample's own image."""
    donor: np.ndarray
    """(V, B) int32: row of each view's donor, -1 where there is none; the last row is for the negative, if any."""
    mask_valid: np.ndarray
    """(decoded,) bool."""
    mask_area: np.ndarray
    """(decoded,) float: mean of each mask, 0..1."""
    source: np.ndarray | None = None
    """(V, B) int32: row of the image that each view shows; None where all show the samples' own."""
    box: np.ndarray | None = None
    """(decoded, 4) float64: object's box in each image, x0, y0, width, height [px], zeros: not known; None: nobody asks."""

    texture: np.ndarray | None = None
    """(B,) int32: row of each sample's texture, -1 where there is none; None if nobody asks."""

    def of_view(self, view: int) -> np.ndarray:
        """Return the rows (B,) int32 of the images that a view shows."""
        return self.image if self.source is None else self.source[view]

    @property
    def shown(self) -> np.ndarray:
        """Rows of all images that views show, each once."""
        return np.unique(self.image if self.source is None else self.source)

    @property
    def masked(self) -> np.ndarray:
        """(B,) bool: has each sample a mask for the images of all its views?"""
        if self.source is None:
            return np.asarray(self.mask_valid[self.image])
        return np.asarray(self.mask_valid[self.source].all(axis=0))


def settle_backgrounds(recipe: Recipe, plans: list[np.ndarray], slots: Slots) -> None:
    """Clear the background flag, in place, where a mask is missing or its area is outside the recipe's limits."""
    for view, (recipe_view, rows) in enumerate(zip(recipe.views, plans, strict=False)):
        background = recipe_view.background
        if background is None:
            continue
        valid, area = slots.mask_valid[slots.of_view(view)], slots.mask_area[slots.of_view(view)]
        usable = valid & (area >= background.min_area) & (area <= background.max_area)
        if background.mode != "remove":
            usable = usable & (slots.donor[view] >= 0)
        rows["background"][~usable] = 0


def render_rows(rows: np.ndarray, image: np.ndarray, donor: np.ndarray, mask_valid: np.ndarray) -> np.ndarray:
    """Views: (N,) RENDER_DTYPE of plan rows, with the rows of their images, donors and masks among the decoded ones."""
    table = np.zeros(len(rows), RENDER_DTYPE)
    table["image"] = image
    table["mask"] = np.where(mask_valid[image], image, -1)
    table["donor"] = donor
    table["mode"] = _CODES[rows["background"]]
    table["donor"][table["mode"] != 2] = -1
    table["box"], table["clip"], table["flip"] = rows["crop"], rows["crop_clip"], rows["flip"]
    table["donor_box"], table["donor_flip"], table["fill"] = rows["donor_crop"], rows["donor_flip"], rows["fill"]
    seeds = rows["seed"].astype("<u8").view("<i4").reshape(-1, 2)
    table["seed_lo"], table["seed_hi"] = seeds[:, 0], seeds[:, 1]
    return table


def negative_rows(rows: np.ndarray, donor: np.ndarray) -> np.ndarray:
    """The image that fills the query's figure in a swap negative: a donor with a crop of its own."""
    table = np.zeros(len(rows), RENDER_DTYPE)
    table["image"], table["mask"], table["donor"] = donor, -1, -1
    table["box"], table["clip"], table["flip"] = rows["donor_crop"], 1, rows["donor_flip"]
    return table


def texture_rows(rows: np.ndarray, crops: np.ndarray, slots: Slots) -> np.ndarray:
    """Textures of the queries, with the query's flip and a crop of their own; a sample without one stands in for it."""
    assert slots.texture is not None
    table = np.zeros(len(rows), RENDER_DTYPE)
    there = slots.texture >= 0
    table["image"] = np.where(there, slots.texture, slots.image)
    table["mask"], table["donor"] = -1, -1
    table["box"] = np.where(there[:, None], crops, rows["crop"])
    table["clip"], table["flip"] = rows["crop_clip"], rows["flip"]
    return table


def render_donors(rows: np.ndarray, mask_valid: np.ndarray) -> np.ndarray:
    """The donors of some views, as views of their own with their masks."""
    table = np.zeros(len(rows), RENDER_DTYPE)
    table["image"], table["donor"], table["clip"] = rows["donor"], -1, 1
    table["mask"] = np.where(mask_valid[rows["donor"]], rows["donor"], -1)
    table["box"], table["flip"] = rows["donor_box"], rows["donor_flip"]
    return table


def without_masks(table: np.ndarray) -> np.ndarray:
    """Copy a table so that every image is left alone."""
    table = table.copy()
    table["mask"], table["mode"] = -1, 0
    return table


def color_arguments(rows: np.ndarray) -> dict[str, Any]:
    """Arguments of `jitter_color` for plan rows; rows without jitter get no step."""
    order = np.where(rows["jitter"][:, None] == 1, rows["jitter_order"], 255).astype(np.uint8)
    return {"factors": rows["jitter_factors"], "order": order, "grayscale": rows["grayscale"]}
