"""An order in which no batch holds two samples of one cluster.

Contrastive losses take the other samples of a batch for negatives; samples of one cluster are probably false ones. G-SimCLR
(Chakraborty, Gosthipaty and Paul 2020) clusters the data and takes each sample of a batch from another cluster. Here the
batch is the global one, of all ranks, and the order stays a pure function of (seed, epoch).

A cluster of more samples than there are batches leaves out its surplus: other samples each epoch. Samples without a cluster
are free. With B batches of G samples, the clusters lie one after another, each of at most B samples, in random order; dealing
them to the batches in turn gives each batch G samples, and no two of one cluster. Images that `with_pairs` adds to a batch are
not looked at.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numba
import numpy as np

from figureground.shards import Store

from .hashing import chain
from .order import Order, _stand_in
from .sample_groups import GroupSource, group_members, groups_fingerprint, read_groups

log = logging.getLogger(__name__)

_STAND_IN, _SAMPLES, _CLUSTERS, _BATCHES, _WITHIN = 3, 6, 7, 8, 9  # purposes of keys; 1 to 5 are those of other orders
_OWN_CLUSTER, _OTHER_CLUSTERS = 50, 200
_EPOCHS_KEPT = 2


@numba.njit(nogil=True, cache=True)
def _hashes(key, values):  # type: ignore[no-untyped-def]
    out = np.empty(len(values), np.uint64)
    for i in range(len(values)):
        out[i] = chain(key, values[i])
    return out


@dataclass(frozen=True)
class _Epoch:
    ids: np.ndarray
    """(P,) sample at each position."""
    position: np.ndarray
    """(N,) position of each sample, -1 where it is left out."""


class StratifiedOrder(Order):
    """The visiting order of an epoch whose global batches hold at most one sample of each cluster.

    Parameters
    ----------
    labels : (N,) int64
        Cluster of each sample; negative: none, the sample is free.
    seed : int
        Any integer; taken modulo 2**64.
    step : int
        Samples of a global batch: batch_size x world_size. The order depends on it.
    world_size : int
        A last batch that is not full is cut to a multiple of it, so that all ranks are equal.
    drop_last : bool
        Leave out the last batch if it is not full.

    Raises
    ------
    ValueError
        If there are not enough clusters for one batch.

    Notes
    -----
    `samples` is the number of positions of an epoch, the same for all epochs, not that of all samples. Memory: 40 bytes a
    sample. A new epoch costs a sort.

    Examples
    --------
    >>> order = StratifiedOrder(np.array([0, 0, 0, 1, 1, -1, -1]), step=2)
    >>> order.samples, order.left_out
    (6, 0)
    >>> ids = order.sample_ids(0, np.arange(6)).reshape(3, 2)
    >>> bool((ids < 3).sum(axis=1).max() <= 1)
    True
    """

    def __init__(
        self, labels: np.ndarray, seed: int = 0, *, step: int, world_size: int = 1, drop_last: bool = True
    ) -> None:
        if step < 1:
            raise ValueError(f"Loader: batch_size must be at least 1, got a global batch of {step}")
        labels = np.asarray(labels, np.int64)
        free = labels < 0
        named, codes = np.unique(labels[~free], return_inverse=True)
        own = np.empty(len(labels), np.int64)  # a free sample is a cluster of one
        own[~free], own[free] = codes.reshape(-1), len(named) + np.arange(int(free.sum()))
        sizes = np.bincount(own, minlength=1)
        full = _most_batches(sizes, step)
        rest = int(np.minimum(sizes, full + 1).sum()) - full * step
        last = 0 if drop_last else rest // world_size * world_size
        if full * step + last == 0:
            raise ValueError(
                f"Loader: a batch of batch_size x world_size = {step} samples of different clusters cannot be made of "
                f"{len(named)} clusters and {int(free.sum())} samples without one; lower batch_size or make more clusters"
            )
        super().__init__(full * step + last, seed, True)
        self._labels, self._sizes, self._table = own, sizes, group_members(own)
        self._step, self._full, self._rest, self._last = step, full, rest, last
        limit = full + (last > 0)
        self.left_out = int(np.maximum(sizes - limit, 0).sum())
        """Samples that each epoch leaves out because their clusters are larger than the number of batches."""
        if self.left_out:
            log.warning(
                "clusters: %d clusters have more samples than the epoch has batches (%d), so %d of %d samples are left out of "
                "each epoch, others each time",
                int((sizes > limit).sum()), limit, self.left_out, len(labels),
            )  # fmt: skip
        self._recent: dict[int, _Epoch] = {}

    def __repr__(self) -> str:
        return f"StratifiedOrder({self.samples} positions, {len(self._labels)} samples, global batch {self._step})"

    def _epoch(self, epoch: int) -> _Epoch:
        found = self._recent.get(epoch)
        if found is None:
            ids = self._deal(epoch)
            position = np.full(len(self._labels), -1, self._table.members.dtype)
            position[ids] = np.arange(len(ids), dtype=position.dtype)
            found = _Epoch(ids, position)
            # Replaced, not changed: threads may be reading it.
            self._recent = dict([*self._recent.items(), (epoch, found)][-_EPOCHS_KEPT:])
        return found

    def _deal(self, epoch: int) -> np.ndarray:
        """Return the sample ids (P,) of an epoch."""
        numbers, full = np.arange(len(self._labels)), self._full
        # Clusters one after another in random order, and their samples in random order.
        clusters = np.argsort(_hashes(self._key(epoch, _CLUSTERS), np.arange(len(self._sizes))), kind="stable")
        place = np.empty(len(clusters), np.int64)
        place[clusters] = np.arange(len(clusters))
        order = np.lexsort((_hashes(self._key(epoch, _SAMPLES), numbers), place[self._labels]))
        sizes = self._sizes[clusters]
        ends = np.cumsum(sizes)
        rank = numbers - np.repeat(ends - sizes, sizes)  # of each sample in its cluster
        # The last batch takes one sample of each cluster that has more than the full ones can hold, then of others.
        large = sizes > full
        takes = large.copy()
        takes[np.flatnonzero(~large)[: self._rest - int(large.sum())]] = True
        kept = np.minimum(sizes, full) - (takes & ~large)
        dealt = order[rank < np.repeat(kept, sizes)].reshape(self._step, full).T
        dealt = dealt[np.argsort(_hashes(self._key(epoch, _BATCHES), np.arange(full)), kind="stable")]
        within = self._key(epoch, _WITHIN)
        keys = _hashes(within, np.ascontiguousarray(dealt).reshape(-1)).reshape(dealt.shape)
        dealt = np.take_along_axis(dealt, np.argsort(keys, axis=1, kind="stable"), axis=1)
        last = order[(ends - sizes + kept)[takes]]
        last = last[np.argsort(_hashes(within, last), kind="stable")][: self._last]
        return np.concatenate([dealt.reshape(-1), last]).astype(self._table.members.dtype)

    def sample_ids(self, epoch: int, positions: np.ndarray) -> np.ndarray:
        """Return the sample ids (P,) int64 at `positions` (P,) int64 of an epoch."""
        positions = np.ascontiguousarray(positions, np.int64)
        if positions.size and (positions.min() < 0 or positions.max() >= self.samples):
            raise ValueError(
                f"StratifiedOrder: positions must be in [0, {self.samples}), got {int(positions.min())} .. "
                f"{int(positions.max())}"
            )
        return self._epoch(epoch).ids[positions].astype(np.int64)

    def positions(self, epoch: int, sample_ids: np.ndarray) -> np.ndarray:
        """Return the positions (P,) int64 of `sample_ids` (P,) int64: the inverse of `sample_ids`.

        Raises
        ------
        ValueError
            If there is no such sample, or the epoch leaves one out.
        """
        ids = np.ascontiguousarray(sample_ids, np.int64)
        if ids.size and (ids.min() < 0 or ids.max() >= len(self._labels)):
            raise ValueError(
                f"StratifiedOrder: sample ids must be in [0, {len(self._labels)}), got {int(ids.min())} .. {int(ids.max())}"
            )
        found = self._epoch(epoch).position[ids].astype(np.int64)
        if (found < 0).any():
            raise ValueError(
                f"StratifiedOrder: samples must be visited in epoch {epoch}, got {ids[found < 0][:4].tolist()}, which it leaves out"
            )
        return found

    def replacement(self, epoch: int, position: int, attempt: int) -> int:
        """Return the sample id that stands in for the sample at `position` when that one cannot be decoded.

        One of the same cluster, so that the batch stays stratified; if there is none, one of a cluster that the batch lacks.
        """
        key, ids = self._key(epoch, _STAND_IN), self._epoch(epoch).ids
        cluster = int(self._labels[ids[position]])
        size = int(self._sizes[cluster])
        if size > 1 and attempt < _OWN_CLUSTER:
            first = int(self._table.starts[cluster])
            return int(self._table.members[first + int(_stand_in(key, position, attempt, size))])
        begin = position // self._step * self._step
        taken = set(self._labels[ids[begin : begin + self._step]].tolist())
        sample = 0
        for further in range(_OTHER_CLUSTERS):
            sample = int(_stand_in(key, position, attempt * _OTHER_CLUSTERS + further, len(self._labels)))
            if int(self._labels[sample]) not in taken:
                break
        return sample


def _most_batches(sizes: np.ndarray, step: int) -> int:
    """Return the largest number of full batches that clusters of these sizes can fill, one sample of each in a batch."""
    low, high = 0, int(sizes.sum()) // step
    while low < high:
        middle = (low + high + 1) // 2
        if int(np.minimum(sizes, middle).sum()) >= middle * step:
            low = middle
        else:
            high = middle - 1
    return low


def stratify(
    store: Store,
    clusters: GroupSource,
    seed: int,
    *,
    shuffle: bool,
    step: int,
    world_size: int,
    drop_last: bool,
) -> tuple[StratifiedOrder, str]:
    """Make the loader's order from a sidecar of clusters; see `read_groups` and `StratifiedOrder`.

    Returns
    -------
    order : StratifiedOrder
    fingerprint : str
        Differs between orders that differ for the same shards and seed.

    Raises
    ------
    ValueError
        If the shards are fetched, or `shuffle` is False, or the clusters are of no use.
    """
    if store.is_remote:
        raise ValueError(
            "Loader: clusters need local shards, got URLs, of which only a window is at hand; copy the shards to disk"
        )
    if not shuffle:
        raise ValueError("Loader: shuffle must be True with clusters, got False")
    labels = read_groups(clusters, store, "clusters")
    order = StratifiedOrder(labels, seed, step=step, world_size=world_size, drop_last=drop_last)
    return order, f"{groups_fingerprint(labels)} in batches of {step}"
