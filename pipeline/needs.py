"""Which shards the next batches need: told to the stores that fetch them."""

from __future__ import annotations

from collections.abc import Sequence

from figureground.shards import MaskStore, Store

from .lanes import Split
from .windows import WindowOrder


class Ahead:
    """Tells stores of fetched shards which shards the next batches need.

    Parameters
    ----------
    store : Store
    masks : MaskStore, several of them, or None
    order : WindowOrder
    split : Split
    past : int
        How many positions back donors lie.
    block : int
        Samples work together in aligned blocks of so many positions; see `companions`.

    Notes
    -----
    As many shards as a window has are fetched beyond that which is being read. All that the global batch takes of the lanes that
    this rank reads is announced: the ranks of a node share a cache.
    """

    def __init__(
        self,
        store: Store,
        masks: MaskStore | Sequence[MaskStore | None] | None,
        order: WindowOrder,
        split: Split,
        *,
        past: int = 0,
        block: int = 1,
    ) -> None:
        sidecars = [masks] if isinstance(masks, MaskStore) or masks is None else masks
        self._stores: list[Store | MaskStore] = [store, *(m for m in sidecars if m is not None)]
        self._order, self._split, self._past, self._block = order, split, past, block

    def need(self, epoch: int, batch: int, start: int) -> None:
        """Announce batch number `batch` after the first `start` samples, before its first image is read."""
        depth, block = self._split.depth(batch, start), self._block
        begin, end = depth // block * block, -(-(depth + self._split.lane_step) // block) * block
        shards = self._order.shards_needed(
            epoch, begin, ahead=self._order.window, count=end - begin, past=self._past,
            lanes=self._split.lanes_read(batch, start),
        )  # fmt: skip
        for store in self._stores:
            store.need(shards)
