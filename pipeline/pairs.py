"""Pairs beyond one image: a view may show another frame of the sample's clip, or another image of its class or group.

Which one is a pure function of (seed, epoch, sample id, view): it depends on neither batch nor rank. Temporal pairs of
frames: Purushwalkam and Gupta 2020, "Demystifying contrastive self-supervised learning" (and many since); pairs of one class:
Khosla et al. 2020, "Supervised contrastive learning"; of a group: mined neighbours, products, patients, places.
"""

from __future__ import annotations

import logging

import numba
import numpy as np

from figureground.shards import Store

from .hashing import chain, uniform, view_key
from .recipe import Recipe
from .sample_groups import GroupTable, group_clips, group_members

log = logging.getLogger(__name__)

_PAIRED, _PARTNER = 7000, 7001
"""Purposes of draws; beyond those of `plan`."""


@numba.njit(nogil=True, cache=True)
def _draw_partners(seed, epoch, view, samples, members, starts, place, low, high, p, out):  # type: ignore[no-untyped-def]
    for i in range(len(samples)):
        sample = samples[i]
        out[i] = sample
        at = place[sample]
        h = view_key(seed, epoch, sample, view)
        if at < 0 or uniform(h, _PAIRED) >= p:
            continue
        group = np.searchsorted(starts, at, side="right") - 1
        # Members at distances low .. high before and after; the sample itself (low = 0) counts once, as "before".
        before = min(at - starts[group], high) - low + 1
        after = min(starts[group + 1] - 1 - at, high) - max(low, 1) + 1
        before, after = max(before, 0), max(after, 0)
        if before + after == 0:
            continue
        pick = np.int64(chain(h, _PARTNER) % np.uint64(before + after))
        out[i] = members[at - low - pick] if pick < before else members[at + max(low, 1) + pick - before]


class Partners:
    """Draws whose images the views of samples show.

    Parameters
    ----------
    recipe : Recipe
        With pairs; see `Recipe.with_pairs`.
    tables : dict of kind to GroupTable
        Clips, classes or groups: one for each kind of pair that the recipe has.
    seed : int

    Examples
    --------
    >>> from figureground.pipeline import recipes
    >>> recipe = recipes.moco_v2().with_pairs("class")
    >>> partners = Partners(recipe, {"class": group_members(np.array([0, 1, 0, -1]))}, seed=0)
    >>> partners.draw(0, np.arange(4)).tolist()
    [[0, 1, 2, 3], [2, 1, 0, 3]]
    """

    def __init__(self, recipe: Recipe, tables: dict[str, GroupTable], seed: int) -> None:
        self._views, self._tables, self._seed = recipe.views, tables, np.uint64(seed % 2**64)

    def draw(self, epoch: int, samples: np.ndarray) -> np.ndarray:
        """Return the sample id (V, N) int64 of the image that each view of samples (N,) int64 shows.

        It is the sample's own where the view has no pair, the pair was not drawn, or there is no partner.
        """
        samples = np.ascontiguousarray(samples, np.int64)
        shown = np.tile(samples, (len(self._views), 1))
        for number, view in enumerate(self._views):
            if view.pair is None:
                continue
            table = self._tables[view.pair.kind]
            low, high = view.pair.gap or (1, len(table.place))
            _draw_partners(
                self._seed, epoch, number, samples, table.members, table.starts, table.place, low, high, view.pair.p,
                shown[number],
            )  # fmt: skip
        return shown

    def related(self, samples: np.ndarray, candidates: np.ndarray) -> np.ndarray:
        """Tell which candidates (P, K) are of the same clip, class or group as their sample (P,): (P, K) bool.

        What stands in for a ground, or for a negative's figure, had better not be a partner.
        """
        found = np.zeros(candidates.shape, bool)
        for kind in {view.pair.kind for view in self._views if view.pair is not None and view.pair.p > 0}:
            own, others = self._tables[kind].group_of(samples), self._tables[kind].group_of(candidates)
            found |= (own[:, None] == others) & (others >= 0)
        return found


def find_partners(recipe: Recipe, store: Store, groups: np.ndarray | None, seed: int) -> Partners | None:
    """Make the tables that a recipe's pairs need; None if it has none.

    Parameters
    ----------
    recipe : Recipe
    store : Store
        Its keys name the clips, its targets the classes.
    groups : (N,) int64, optional
        Group of each sample, -1 for none.
    seed : int

    Raises
    ------
    ValueError
        If the shards are fetched, groups are missing or of no use, or there is not one clip, class or group of two samples.
    """
    kinds = {view.pair.kind for view in recipe.views if view.pair is not None}
    if groups is not None and "group" not in kinds:
        raise ValueError("Loader: groups is of no use to this recipe; make it with Recipe.with_pairs('group')")
    if not kinds:
        return None
    if store.is_remote:
        raise ValueError(
            "Loader: recipes with pairs need local shards, got URLs, of which only a window is at hand; copy the shards to disk"
        )
    if groups is None and "group" in kinds:
        raise ValueError("Loader: groups must be given to a recipe with with_pairs('group'), got None")
    tables: dict[str, GroupTable] = {}
    for kind in sorted(kinds):
        if kind == "clip":
            tables[kind] = group_clips(*store.key_bytes())
        else:
            tables[kind] = group_members(np.asarray(groups if kind == "group" else store.targets))
        if tables[kind].largest < 2:
            raise ValueError(f"Loader: with_pairs({kind!r}) needs {_NEEDS[kind]}, got none in {store.shards[0]} ...")
        sizes = np.diff(tables[kind].starts)
        paired = int(sizes[sizes > 1].sum())
        if paired < len(store) / 2:
            log.warning(
                "with_pairs(%r): only %d of %d samples have a partner, all views of the others show their own image", kind, paired,
                len(store),
            )  # fmt: skip
    return Partners(recipe, tables, seed)


_NEEDS = {
    "clip": "keys 'clip/frame' with at least two frames of a clip",
    "class": 'targets (.cls, or "label" in .json) with at least two samples of a class',
    "group": "at least two samples of a group",
}
