"""Where the background donors of a sample come from: its block, the past, the whole store, or the user's own set.

Every rule is a pure function of (seed, epoch, position), so donors depend on neither batch nor rank, and a replayed or resumed
sample meets the same ones.

    rule                 candidates of the sample at position p                            decoded further for a view drawn
    "block"              the other seven of its aligned block of eight (`Order.donors`)    0 (batch sizes that 8 divides)
    "past"               the `past` positions before p                                     1, or 0 if it is in the batch
    "store"              all other samples                                                 1, or 0 if it is in the batch
    `backgrounds=`       all images of the user's set                                      1

So with B samples a batch, V views and probability p, about p V B more images are decoded than B: 102 for B = 256, V = 2, p = 0.2,
of which "past" finds many in the batch itself (half of them where `past` = B, one rank). Measured with B = 64 of 200
samples, `moco_v2`, p = 0.2: 64 images a batch for "block", 73 for "past" of 64, 82 for "store"; 1.56, 1.63 and 1.80 ms of CPU
a sample.

"past" is a queue of past backgrounds (Mo et al.'s code falls back to one), made a function of the position: nothing is kept, so
the images are decoded again. At the start of an epoch (or of a lane, see `lanes`), where fewer than `past` positions lie before
p, the candidates are the other ones of the first `past` + 1. So it needs only what lies near, as do lanes, and fetched shards,
whose cache holds two windows; "store" is refused for these.

The donors of the views of one sample differ while there are enough candidates. The swap negative's image is always of the
block: it shows another figure, and is needed for each sample of a batch, so further decoding would double the cost.
"""

from __future__ import annotations

from collections.abc import Callable

import numba
import numpy as np

from .config import Background
from .hashing import chain
from .lanes import lane_starts
from .order import DONOR_BLOCK, Order, _order_key, _stand_in
from .recipe import Recipe
from .windows import WindowOrder

EXTRA_IMAGES = 6 * DONOR_BLOCK
"""Donors of the block that are no members of a batch lie in the blocks at its two ends (and at the wrap of the last batch)."""
_REACH, _SET, _SET_STAND_IN = 6, 7, 8  # purposes of keys; 1 to 5 are those of the orders
_HASHED_ATTEMPTS = 100


@numba.njit(nogil=True, cache=True)
def _draw_distinct(positions, low, size, own, key, out):  # type: ignore[no-untyped-def]
    """Draw out.shape[1] of low[i] .. low[i] + size - 1, own[i] left out; they differ while there are enough."""
    chosen = np.empty(out.shape[1], np.int64)  # ranks taken in this round, rising
    for i in range(len(positions)):
        h = chain(key, positions[i])
        inside = low[i] <= own[i] < low[i] + size
        others = size - 1 if inside else size
        for k in range(out.shape[1]):
            if others == 0:
                out[i, k] = own[i]
                continue
            taken = k % others
            rank = np.int64(chain(h, k) % np.uint64(others - taken))
            j = 0
            while j < taken and rank >= chosen[j]:
                rank += 1
                j += 1
            for m in range(taken, j, -1):
                chosen[m] = chosen[m - 1]
            chosen[j] = rank
            out[i, k] = low[i] + rank + (1 if inside and low[i] + rank >= own[i] else 0)


def _distinct_first(candidates: np.ndarray) -> np.ndarray:
    """Move what a row (P, K) holds already behind its others: where few candidates are drawn again, as in a store of 5 samples."""
    seen = np.zeros(candidates.shape, bool)
    for k in range(1, candidates.shape[1]):
        seen[:, k] = (candidates[:, :k] == candidates[:, k : k + 1]).any(axis=1)
    return np.take_along_axis(candidates, np.argsort(seen, axis=1, kind="stable"), axis=1) if seen.any() else candidates


class Donors:
    """The donors of samples by position; and an order that knows the user's own backgrounds.

    Positions from `samples` on are backgrounds of the user's set, in the set's order; their ids follow those of the store.

    Parameters
    ----------
    order : Order or WindowOrder
    recipe : Recipe
    backgrounds : int
        Size of the user's set; 0: donors are samples.
    first : int, optional
        Sample id of background 0: the store's number of samples, by default the order's.

    Examples
    --------
    >>> from figureground.pipeline import recipes
    >>> recipe = recipes.moco_v2().with_background("random", donors="past", past=2)
    >>> donors = Donors(Order(samples=100, shuffle=False), recipe).draw(0, np.array([50]), lambda candidates: candidates)
    >>> sorted(donors[0, :2].tolist()), donors.shape  # two views; the last column is the swap negative's
    ([48, 49], (1, 3))
    """

    def __init__(
        self, order: Order | WindowOrder, recipe: Recipe, backgrounds: int = 0, first: int | None = None
    ) -> None:
        self._order, self._backgrounds = order, backgrounds
        self._first = order.samples if first is None else first
        self._rules = [rule_of(view.background, order.samples, backgrounds) for view in recipe.views]
        self.samples, self.seed = order.samples, order.seed

    def _key(self, epoch: int, purpose: int) -> np.uint64:
        return np.uint64(_order_key(np.uint64(self.seed % 2**64), epoch, purpose))

    def draw(self, epoch: int, positions: np.ndarray, arrange: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """Return the donor positions of each view, and of the swap negative.

        Parameters
        ----------
        epoch : int
        positions : (P,) int64
        arrange : callable
            Puts the preferred ones first in each row of (P, K) candidate positions; the views take columns in their order.

        Returns
        -------
        (P, V + 1) int64
            Positions; from `samples` on numbers of backgrounds plus `samples`.
        """
        views = len(self._rules)
        count = max(views + 1, DONOR_BLOCK - 1)
        block = _distinct_first(arrange(self._order.donors(epoch, positions, count)))
        if not any(self._rules):
            return block[:, : views + 1].copy()
        donors = np.concatenate([block[:, :views], np.full((len(positions), 1), -1)], axis=1)
        for rule in set(self._rules) - {0}:
            columns = [view for view in range(views) if self._rules[view] == rule]
            if rule < 0:
                donors[:, columns] = self._of_set(epoch, positions, count)[:, columns]
            else:
                within = _distinct_first(arrange(self._within(epoch, positions, count, rule)))
                donors[:, columns] = within[:, columns]
        # The negative's image is the next of the block that is no ground of a view: both in one picture would be one image.
        block = np.roll(block, -views, axis=1)
        fresh = ~(block[:, :, None] == donors[:, None, :views]).any(axis=2)
        donors[:, views] = block[np.arange(len(block)), fresh.argmax(axis=1)]
        return donors

    def _within(self, epoch: int, positions: np.ndarray, count: int, reach: int) -> np.ndarray:
        """Draw among the `reach` positions before each; see the module's text for the start of an epoch or lane."""
        positions = np.ascontiguousarray(positions, np.int64)
        out = np.empty((len(positions), count), np.int64)
        starts = lane_starts(self.samples, self._order.lanes)
        begin = starts[np.searchsorted(starts, positions, side="right") - 1]
        low, size = np.maximum(positions - reach, begin), min(reach + 1, self.samples // self._order.lanes)
        _draw_distinct(positions, low, size, positions, self._key(epoch, _REACH), out)
        return out

    def _of_set(self, epoch: int, positions: np.ndarray, count: int) -> np.ndarray:
        positions = np.ascontiguousarray(positions, np.int64)
        out = np.empty((len(positions), count), np.int64)
        low = np.full(len(positions), self.samples, np.int64)
        _draw_distinct(positions, low, self._backgrounds, positions, self._key(epoch, _SET), out)
        return out

    def sample_ids(self, epoch: int, positions: np.ndarray) -> np.ndarray:
        """Return the sample ids (P,) int64 at positions (P,) int64."""
        positions = np.asarray(positions, np.int64)
        ids = positions + (self._first - self.samples)
        ours = positions < self.samples
        ids[ours] = self._order.sample_ids(epoch, positions[ours])
        return ids

    def replacement(self, epoch: int, position: int, attempt: int) -> int:
        """Return what stands in for the sample, or the background, at `position` when that one cannot be decoded."""
        if position < self.samples:
            return self._order.replacement(epoch, position, attempt)
        if attempt < _HASHED_ATTEMPTS:
            return self._first + int(_stand_in(self._key(epoch, _SET_STAND_IN), position, attempt, self._backgrounds))
        return self._first + (position - self.samples + attempt) % self._backgrounds


def rule_of(background: Background | None, samples: int, backgrounds: int = 0) -> int:
    """Return how far the donors of a view lie: 0 in its block, -1 in the user's set, else so many positions back.

    Examples
    --------
    >>> rule_of(Background("swap", donors="past", past=300), 200), rule_of(Background("swap", donors="store"), 200)
    (199, 199)
    """
    if background is None or background.mode == "remove":
        return 0
    if backgrounds:
        return -1
    reach = {"block": 0, "past": background.past, "store": samples}[background.donors]
    return min(reach, samples - 1)


def most_images(recipe: Recipe, batch_size: int, samples: int, backgrounds: int = 0, cut_runs: int = 1) -> int:
    """Return how many images a batch takes at most, donors and partners included.

    `cut_runs` is how many runs of positions it consists of whose ends may cut blocks; see `Split.cut_runs`.

    Examples
    --------
    >>> from figureground.pipeline import recipes
    >>> two = recipes.moco_v2()
    >>> [most_images(two.with_background("swap", donors=donors), 256, 10**6) for donors in ("block", "past", "store")]
    [304, 816, 816]
    """
    far = sum(rule_of(view.background, samples, backgrounds) != 0 for view in recipe.views)
    paired = sum(view.pair is not None for view in recipe.views)
    more = min((cut_runs - 1) * EXTRA_IMAGES, batch_size * (len(recipe.views) + 1))
    return batch_size * (1 + far + paired) + EXTRA_IMAGES + more


def reach_of(recipe: Recipe, samples: int, backgrounds: int = 0) -> int:
    """Return how many positions back donors lie at most; 0: in their blocks."""
    return max(0, *(rule_of(view.background, samples, backgrounds) for view in recipe.views))


def check_donors(recipe: Recipe, order: Order | WindowOrder, step: int, backgrounds: int | None) -> None:
    """Refuse donors that cannot be had.

    Parameters
    ----------
    recipe : Recipe
    order : Order or WindowOrder
    step : int
        Positions (of each lane) that one batch of all ranks takes.
    backgrounds : int or None
        Size of the user's set; None: there is none.

    Raises
    ------
    ValueError
        If donors lie in shards that a cache need not hold; or there is a user's set and no view takes donors, or a view
        wants them from elsewhere or of another class.
    """
    grounds = [view.background for view in recipe.views if view.background and view.background.mode != "remove"]
    if backgrounds is not None:
        if not grounds:
            raise ValueError(
                "Loader: backgrounds must be None for a recipe whose views take no donors, got a set; add "
                "with_background('random' or 'swap')"
            )
        for ground in grounds:
            if ground.donors != "block" or ground.other_class:
                raise ValueError(
                    f"Loader: with backgrounds=... all donors are of that set, got a view with donors={ground.donors!r}, "
                    f"other_class={ground.other_class}; leave both at their defaults"
                )
        return
    if not isinstance(order, WindowOrder):
        return
    if any(ground.donors == "store" for ground in grounds):
        raise ValueError(
            "Loader: donors must be 'block' or 'past' where shards are fetched (URLs) or read in lanes, got 'store', whose shard "
            "need not be at hand; or pass backgrounds=..."
        )
    reach, room = reach_of(recipe, order.samples), order.smallest_window
    if reach and order.windows > 2 and reach + step + DONOR_BLOCK > room:
        of_lane = " in a lane" if order.lanes > 1 else ""
        raise ValueError(
            f"Loader: past + the {step} samples of a batch of all ranks{of_lane} + {DONOR_BLOCK} must be at most the {room} "
            f"samples of the smallest window of shards, got past = {reach}; lower past or raise window"
        )
