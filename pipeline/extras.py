"""The second pass over a batch: what needs several samples' views at once, or is handed out beside the views.

    coloured views -> style of the block -> patches, solarize -> finished 8-bit views -> normalise
                                                                        |-> corrupted copy and its mask
                                                                        |-> copy mixed across its group
    masks of the views -> tokens to hide

Views that a technique acts on are kept as 8-bit arrays for the length of a batch; all others never come here.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from figureground.kernels.arrays import array_module
from figureground.kernels.blocks import corrupt_blocks
from figureground.kernels.fourier import transfer_amplitude
from figureground.kernels.patches import mix_patches
from figureground.kernels.token_masks import patch_masks
from figureground.shards import MaskStore, Store
from figureground.shards.cache import ShardCache
from figureground.shards.masks import TEXTURES
from figureground.shards.urls import shown

from .companions import Companions
from .formats import WITH_NEGATIVES, dinov2_patch
from .recipe import Recipe

log = logging.getLogger(__name__)

Each = Callable[[int, Callable[[slice], None]], None]
"""Runs a function on slices of so many rows: of chunks on threads, or of all at once on a GPU."""


class Extras:
    """What the techniques of a recipe make of a batch.

    Parameters
    ----------
    recipe : Recipe
    companions : Companions
    """

    def __init__(self, recipe: Recipe, companions: Companions) -> None:
        self._recipe, self._companions = recipe, companions
        views = len(recipe.views)
        self._coloured: dict[int, Any] = {}
        self._masks: dict[int, Any] = {}
        self._others: list[Any] = []
        self._final: dict[int, Any] = {}
        self.corrupted: list[Any] = [None] * views
        """Corrupted copies of the views, and None for views without."""
        self.corruption_masks: list[Any] = [None] * views
        """(B, S, S) bool, True = covered."""
        self.mixed: list[Any] = [None] * views
        """Mixed copies of the views."""
        self.mixing_sources: list[Any] = [None] * views
        """(B, patches) int8: which member of its group each patch shows."""

    def begin(self, empty: Callable[..., Any], *, masks: bool, others: int) -> None:
        """Make room for the views that are kept.

        Parameters
        ----------
        empty : callable (shape, kind) -> array
            As for `Augmenter.augment`.
        masks : bool
            Are there masks of the views?
        others : int
            Negatives of the query that are pictures of their own: the swap negative, a texture.
        """
        recipe, rows = self._recipe, len(self._companions.positions)
        for v in recipe.style.views if recipe.style else ():
            size, shuffle = recipe.views[v].crop.size, recipe.views[v].patch_shuffle
            self._coloured[v] = empty((rows, 3, size, size), "mask")
            if masks and shuffle is not None and shuffle.region != "all":
                self._masks[v] = empty((rows, size, size), "mask")
            if v == 0:
                self._others = [empty((rows, 3, size, size), "mask") for _ in range(others)]
        copied = {
            *(recipe.corruption.views if recipe.corruption else ()),
            *(recipe.mixing.views if recipe.mixing else ()),
        }
        for v in copied:
            size = recipe.views[v].crop.size
            self._final[v] = empty((rows, 3, size, size), "mask")

    def keep(self, view: int, part: slice, coloured: Any, mask: Any, others: list[Any]) -> bool:
        """Keep coloured views for `restyle`; False: this view needs no style."""
        if view not in self._coloured:
            return False
        self._coloured[view][part] = coloured
        if view in self._masks:
            self._masks[view][part] = mask
        for kept, other in zip(self._others, others, strict=False):
            kept[part] = other
        return True

    def copied(self, view: int) -> bool:
        """Tell whether copies of a view are made, of which `keep_final` must be told."""
        return view in self._final

    def keep_final(self, view: int, part: slice, final: Any) -> None:
        """Keep finished views for `make_copies`."""
        self._final[view][part] = final

    def restyle(self, each: Each, finish: Callable[[int, slice, Any, Any, list[Any]], None]) -> None:
        """Give the kept views, and the query's negatives, the style of their block, and finish them."""
        for view in self._coloured:
            each(len(self._companions.positions), partial(self._restyle, finish, view))

    def _restyle(self, finish: Callable[..., None], view: int, part: slice) -> None:
        coloured, lenders = self._coloured[view], self._companions.style[view][part]
        others = [self._styled(other[part], coloured, lenders) for other in (self._others if view == 0 else [])]
        mask = self._masks[view][part] if view in self._masks else None
        finish(view, part, self._styled(coloured[part], coloured, lenders), mask, others)

    def _styled(self, own: Any, coloured: Any, lenders: np.ndarray) -> Any:
        """Return a copy of some views in the style of others: rows of `coloured`, -1 for none."""
        style = self._recipe.style
        assert style is not None
        xp, wanted = array_module(own), lenders >= 0
        if not wanted.any():
            return own.copy()
        rows = np.unique(lenders[wanted])
        stack = xp.concatenate([own, coloured[xp.asarray(rows)]])
        which = np.full(len(stack), -1, np.int32)
        which[: len(own)][wanted] = len(own) + np.searchsorted(rows, lenders[wanted])
        return transfer_amplitude(stack, style=which, window=style.window, ratio=style.ratio, out=stack)[: len(own)]

    def make_copies(
        self,
        each: Each,
        plans: list[np.ndarray],
        write: Callable[[Any, np.ndarray, Any], None],
        empty: Callable[..., Any],
        shape: Callable[[int, int], tuple[int, ...]],
    ) -> None:
        """Make the corrupted and the mixed copies of the finished views.

        Parameters
        ----------
        each : callable
        plans : list of (E,) PLAN_DTYPE
        write : callable (views, rows, out)
            Normalises.
        empty : callable (shape, kind) -> array
        shape : callable (count, size) -> shape of the loader's views
        """
        count, recipe = self._companions.count, self._recipe
        for view in recipe.corruption.views if recipe.corruption else ():
            size = recipe.views[view].crop.size
            out, flags = empty(shape(count, size), "view"), empty((count, size, size), "flag")

            def corrupt(part: slice, view: int = view, out: Any = out, flags: Any = flags) -> None:
                corrupted, mask = self._corrupted(view, part, plans[view])
                flags[part] = mask > 0
                write(corrupted, plans[view][part], out[part])

            each(count, corrupt)
            self.corrupted[view], self.corruption_masks[view] = out, flags
        for view in recipe.mixing.views if recipe.mixing else ():
            self._mix(view, each, plans[view], write, empty, shape)

    def _corrupted(self, view: int, part: slice, rows: np.ndarray) -> tuple[Any, Any]:
        technique, final = self._recipe.corruption, self._final[view]
        assert technique is not None
        xp, partner = array_module(final), self._companions.partner[view][part]
        how: dict[str, Any] = {"max_block": technique.max_block, "grid": technique.grid}
        seeds, lent = rows["seed"][part], np.flatnonzero(partner >= 0)
        corrupted, mask = corrupt_blocks(
            final[part], seeds=seeds, max_share=technique.max_share, fill=technique.fill, apply=partner < 0, **how
        )
        if len(lent):
            places, pairs = xp.asarray(lent), np.arange(2 * len(lent), dtype=np.int32)
            stack = xp.concatenate([final[part][places], final[xp.asarray(partner[lent])]])
            got, covered = corrupt_blocks(
                stack, seeds=np.tile(seeds[lent], 2), max_share=technique.partner_share, fill="partner",
                partners=np.roll(pairs, len(lent)), apply=pairs < len(lent), **how,
            )  # fmt: skip
            corrupted[places], mask[places] = got[: len(lent)], covered[: len(lent)]
        return corrupted, mask

    def _mix(self, view: int, each: Each, rows: np.ndarray, write: Callable[..., None], empty: Any, shape: Any) -> None:
        """Mix whole groups; a sample without a whole group stays as it is."""
        technique, final, companions = self._recipe.mixing, self._final[view], self._companions
        assert technique is not None
        xp, count = array_module(final), companions.count
        size = self._recipe.views[view].crop.size
        tokens = (size // technique.patch) ** 2
        mixed, sources = empty((count, 3, size, size), "mask"), empty((count, tokens), "source")
        whole = np.flatnonzero(companions.group[:, 0] >= 0)
        alone = np.flatnonzero(companions.group[:, 0] < 0)
        if len(alone):
            places = xp.asarray(alone)
            mixed[places] = final[places]
            sources[places] = xp.asarray(companions.place[alone])[:, None]
        groups, of_group = np.unique(companions.group[whole], axis=0, return_inverse=True)
        of_group = of_group.reshape(-1)

        def work(part: slice) -> None:
            members = groups[part]
            got, source = mix_patches(
                final[xp.asarray(members.ravel())], seeds=rows["seed"][members[:, 0]], group=technique.group,
                patch=technique.patch,
            )  # fmt: skip
            mine = (of_group >= part.start) & (of_group < part.stop)
            targets = xp.asarray(whole[mine])
            places = xp.asarray((of_group[mine] - part.start) * technique.group + companions.place[whole[mine]])
            mixed[targets], sources[targets] = got[places], source[places]

        if len(groups):
            each(len(groups), work)
        out = empty(shape(count, size), "view")
        each(count, lambda part: write(mixed[part], rows[:count][part], out[part]))
        self.mixed[view], self.mixing_sources[view] = out, sources


def hide_tokens(
    recipe: Recipe, plans: list[np.ndarray], view_masks: list[Any] | None, count: int, empty: Callable[..., Any]
) -> list[Any]:
    """Choose the tokens that masked image modelling hides.

    Parameters
    ----------
    recipe : Recipe
        With token masks.
    plans : list of PLAN_DTYPE tables
        One for each view.
    view_masks : list of (N, S, S) uint8, or None
        Masks of the views; N is at least `count`.
    count : int
        Rows that are handed out.
    empty : callable (shape, kind) -> array

    Returns
    -------
    list of (count, tokens) bool, row-major, True = hidden; None for views without.
    """
    technique = recipe.token_masks
    assert technique is not None
    found: list[Any] = [None] * len(recipe.views)
    for view in technique.views:
        side = recipe.views[view].crop.size // technique.patch
        out = empty((count, side, side), "flag")
        masks = view_masks[view][:count] if technique.led and view_masks is not None else None
        patch_masks(
            masks,
            seeds=plans[view]["seed"][:count],
            grid=(side, side),
            ratio=technique.ratio,
            policy=technique.by,
            out=out,
        )
        found[view] = out.reshape(count, side * side)
    return found


def open_textures(
    store: Store, textures_dir: str | os.PathLike[str] | None, cache: ShardCache | None = None
) -> MaskStore:
    """Open the textures of a store's samples.

    Raises
    ------
    ValueError
        If there is not a single one: then no negative would be what the recipe asks for.
    """
    textures = MaskStore(store, textures_dir, kind=TEXTURES, cache=cache)
    there = int(textures.present.sum())
    if not there:
        where = "beside the shards" if textures_dir is None else f"in {shown(os.fspath(textures_dir))}"
        raise ValueError(
            f"Loader: 'texture-file' negatives need textures, found none {where}; run 'figureground textures', pass "
            f"textures_dir, or ask for 'texture' negatives"
        )
    if there < len(textures) / 2:
        log.warning(
            "only %d of %d images have a texture, the negatives of the others are random phase; 'figureground textures' makes them",
            there, len(textures),
        )  # fmt: skip
    return textures


def check_loading(recipe: Recipe, *, format: str, masks: object, batch_size: int) -> None:
    """Check that a loader's arguments suit the techniques of its recipe.

    Raises
    ------
    ValueError
        If the format cannot hand out what they make, the masks that they need are off, or groups do not fill a batch.

    Notes
    -----
    Formats without negatives make none: that is legal, and a warning.
    """
    if format == "dinov2":
        dinov2_patch([view.crop.size for view in recipe.views])
    made = {
        "token masks": recipe.token_masks, "block corruption": recipe.corruption, "group mixing": recipe.mixing,
    }  # fmt: skip
    named = [name for name, technique in made.items() if technique is not None]
    if named and format != "dict":
        raise ValueError(f"Loader: format must be 'dict' for a recipe with {' and '.join(named)}, got {format!r}")
    if recipe.token_masks is not None and recipe.token_masks.led and masks is None:
        raise ValueError(
            f"Loader: masks must be 'auto', 'sidecar' or 'kernel' for token masks by {recipe.token_masks.by!r}, got None"
        )
    if recipe.negatives is not None and format not in WITH_NEGATIVES:
        log.warning(
            "format=%r hands out no negatives, so the recipe's %s negatives are not made; pass format='dict' for them",
            format, recipe.negatives.kind,
        )  # fmt: skip
    if recipe.mixing is not None and batch_size % recipe.mixing.group:
        group = recipe.mixing.group
        raise ValueError(
            f"Loader: batch_size must be a multiple of the mixing group, {group}, {2 * group}, {3 * group}, ..., got {batch_size}"
        )
