"""Who works with whom: the samples that lend a style, or pixels, to those of a batch.

Lenders are found by positions in the epoch's order alone: an aligned block of positions has one style for each view, an aligned
group of positions is mixed, a partner lies in the same aligned block of 8; with lanes all of these are aligned with the start of
their lane, and end with it. So a view depends on neither batch nor rank, and a
replayed sample is the same. Lenders that are not in a batch go through the whole recipe behind it, and are not handed out;
a batch whose size is a multiple of the blocks has none.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np

from .hashing import chain, uniform
from .lanes import lane_of, lane_starts
from .order import DONOR_BLOCK, Order, _order_key
from .recipe import Recipe
from .windows import WindowOrder

_STYLE, _PARTNER = 11, 12  # purposes of keys, behind those of the orders
_APPLIED, _PICK = 1, 2
_EDGES = 3
"""Blocks of a batch that may lie partly outside of it: at its two ends, and where the last batch wraps around."""


@dataclass(frozen=True)
class Companions:
    """The samples of a batch and behind them their lenders: E rows."""

    count: int
    """Samples of the batch itself: the first rows."""
    positions: np.ndarray
    """(E,) int64: of all rows, in the epoch's order."""
    style: np.ndarray
    """(V, E) int32: row that lends its style, -1 where none does."""
    partner: np.ndarray
    """(V, E) int32: row whose pixels cover blocks of the corrupted copy, -1 where the fill does."""
    group: np.ndarray
    """(count, group) int32: rows of each sample's group in order; -1 where the group is not whole; (count, 0) without mixing."""
    place: np.ndarray
    """(count,) int8: place of each sample in its group; 0 without mixing."""

    def note(self, plans: list[np.ndarray], samples: np.ndarray) -> None:
        """Write the sample ids of styles and partners into the plans of the views."""
        for rows, style, partner in zip(plans, self.style, self.partner, strict=False):
            rows["style"] = np.where(style >= 0, samples[style], -1)
            rows["partner"] = np.where(partner >= 0, samples[partner], -1)

    def members(self, samples: np.ndarray) -> np.ndarray:
        """Return the sample ids of each sample's group: (count, group) int64, -1 where the group is not whole."""
        return np.where(self.group >= 0, samples[self.group], -1)


def lookahead(recipe: Recipe) -> int:
    """Return the size of the largest aligned block of positions that a recipe works on, at least 1."""
    sizes = [recipe.style.block if recipe.style else 1, recipe.mixing.group if recipe.mixing else 1]
    return max(*sizes, DONOR_BLOCK if recipe.corruption else 1)


def extra_rows(recipe: Recipe) -> int:
    """Return how many lenders, and donors of lenders, a run of consecutive positions has at most, but for huge recipes."""
    styles = len(recipe.style.views) if recipe.style else 0
    partners = 2 * DONOR_BLOCK if recipe.corruption and recipe.corruption.partner_p else 0
    groups = 2 * (recipe.mixing.group - 1) if recipe.mixing else 0
    return (_EDGES * styles + partners + groups) * (len(recipe.views) + 2)


def find_companions(recipe: Recipe, order: Order | WindowOrder, epoch: int, positions: np.ndarray) -> Companions | None:
    """Find the lenders of the samples at some positions.

    Parameters
    ----------
    recipe : Recipe
    order : Order or WindowOrder
    epoch : int
    positions : (B,) int64

    Returns
    -------
    Companions, or None if the recipe has no technique that lends.

    Examples
    --------
    >>> from figureground.pipeline import recipes
    >>> recipe = recipes.mae().with_group_mixing(group=4)
    >>> found = find_companions(recipe, Order(10, shuffle=False), 0, np.array([6, 9]))
    >>> found.positions.tolist(), found.group.tolist(), found.place.tolist()
    ([6, 9, 4, 5, 7], [[2, 3, 0, 4], [-1, -1, -1, -1]], [2, 1])
    """
    mixing, corruption, style = recipe.mixing, recipe.corruption, recipe.style
    if mixing is None and corruption is None and style is None:
        return None
    positions = np.ascontiguousarray(positions, np.int64)
    count, views = len(positions), len(recipe.views)
    groups = np.full((count, mixing.group if mixing else 0), -1, np.int64)
    place = np.zeros(count, np.int8)
    if mixing is not None:
        starts = lane_starts(order.samples, order.lanes)
        lane = np.searchsorted(starts, positions, side="right") - 1
        place = ((positions - starts[lane]) % mixing.group).astype(np.int8)
        first = positions - place
        whole = first + mixing.group <= starts[lane + 1]
        groups[whole] = first[whole, None] + np.arange(mixing.group)
    partners = np.full((views, count), -1, np.int64)
    if corruption is not None and corruption.partner_p:
        donors = order.donors(epoch, positions, 2 * views + 1)  # the first ones are background donors
        for view in corruption.views:
            wanted = _wanted(positions, _key(order, epoch, _PARTNER), view, corruption.partner_p)
            partners[view, wanted] = donors[wanted, views + 1 + view]
    finished = _behind(positions, np.concatenate([groups.ravel(), partners.ravel()]))
    styles = np.full((views, len(finished)), -1, np.int64)
    if style is not None:
        key = _key(order, epoch, _STYLE)
        for view in style.views:
            styles[view] = _styles(finished, key, view, style.block, style.p, order.samples, order.lanes)
    every = _behind(finished, styles.ravel())
    row_of: dict[int, int] = {}
    for row, position in enumerate(every.tolist()):
        row_of.setdefault(position, row)

    def rows(wanted: np.ndarray, width: int) -> np.ndarray:
        found = np.full((len(wanted), width), -1, np.int32)
        found[:, : wanted.shape[1]] = [[row_of[p] if p >= 0 else -1 for p in line] for line in wanted.tolist()]
        return found

    group = rows(groups, groups.shape[1]) if mixing else groups.astype(np.int32)
    return Companions(count, every, rows(styles, len(every)), rows(partners, len(every)), group, place)


def _key(order: Order | WindowOrder, epoch: int, purpose: int) -> np.uint64:
    return np.uint64(_order_key(np.uint64(order.seed % 2**64), epoch, purpose))


def _behind(positions: np.ndarray, more: np.ndarray) -> np.ndarray:
    """Append the positions that are not there yet, each once, in rising order."""
    return np.concatenate([positions, np.setdiff1d(more[more >= 0], positions)])


@numba.njit(nogil=True, cache=True)
def _wanted(positions, key, view, p):  # type: ignore[no-untyped-def]
    out = np.empty(len(positions), np.bool_)
    for i in range(len(positions)):
        out[i] = uniform(chain(chain(key, positions[i]), view), _APPLIED) < p
    return out


@numba.njit(nogil=True, cache=True)
def _styles(positions, key, view, block, p, samples, lanes):  # type: ignore[no-untyped-def]
    """Draw the lender of each position's block: its position, or -1."""
    out = np.empty(len(positions), np.int64)
    for i in range(len(positions)):
        lane = lane_of(positions[i], samples, lanes)
        begin, end = lane * samples // lanes, (lane + 1) * samples // lanes
        number = (positions[i] - begin) // block
        h = chain(chain(key, lane * samples + number), view)
        out[i] = -1
        if uniform(h, _APPLIED) < p:
            first = begin + number * block
            out[i] = first + np.int64(chain(h, _PICK) % np.uint64(min(block, end - first)))
    return out
