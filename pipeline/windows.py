"""Which sample comes next where shards are fetched: shards in shuffled order, samples shuffled within windows of shards.

A whole shuffle (`Order`) asks for every shard at once. Here an epoch visits windows one after another: a window is a run of
W shards in the epoch's own order of shards, and its samples are permuted among themselves. So a cache of two windows is
enough for any number of shards. As `Order` it is a pure function of (seed, epoch, position) with an inverse, starts at any
position at once, and knows neither batch nor ranks. Memory: 24 bytes a shard and epoch, whatever the number of samples.

With lanes (see `lanes`) the epoch's samples, shard after shard, are cut into equal runs first, and windows are made within each:
so a lane needs its own shards only, and a shard that a border of two lanes cuts is needed by both.

How well it mixes depends on what lies in the shards, not on the shuffle alone: see `shuffle_quality`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain as joined
from itertools import zip_longest

import numpy as np

from .hashing import chain
from .lanes import lane_starts
from .order import DONOR_BLOCK, Order, _permute, _stand_in

_STAND_IN, _SHARDS, _WITHIN = 3, 4, 5  # purposes of keys; 1 to 3 are those of `Order`
_NEAR_ATTEMPTS = 100
_EPOCHS_KEPT = 4
_FIRST_LANE = range(1)


@dataclass(frozen=True)
class _Epoch:
    """How one epoch visits the shards."""

    shards: np.ndarray
    """(S,) int64: shard at each place."""
    place: np.ndarray
    """(S,) int64: place of each shard."""
    first: np.ndarray
    """(S + 1,) int64: samples before each place."""
    borders: np.ndarray
    """(windows of all lanes + 1,) int64: samples before each window."""


class WindowOrder:
    """The visiting order of an epoch over fetched shards; a drop-in for `Order`.

    Parameters
    ----------
    starts : (S + 1,) int64
        Samples starts[s] to starts[s + 1] lie in shard s: `Store.starts`. Shards may differ in size and be empty.
    seed : int
        Any integer; taken modulo 2**64.
    shuffle : bool
        False: position p is sample p in every epoch.
    window : int
        Shards whose samples are shuffled together, at least 1. Windows are equal, give or take one shard, and the parts of shards
        that a lane's border cuts.
    lanes : int
        Runs of the epoch whose windows, and blocks of donors, are their own; see `figureground.pipeline.lanes`.

    Raises
    ------
    ValueError
        If there is no sample, `window` is less than 1, or there are too few samples for the lanes.

    Examples
    --------
    >>> order = WindowOrder([0, 3, 3, 7, 10], seed=3, window=2)
    >>> ids = order.sample_ids(0, np.arange(10))
    >>> sorted(ids.tolist()) == list(range(10)), order.positions(0, ids).tolist() == list(range(10))
    (True, True)
    >>> order.windows, order.shards_needed(0, 0, ahead=0)  # donors reach into the second window
    (2, [2, 3, 0])
    """

    def __init__(
        self,
        starts: np.ndarray | Sequence[int],
        seed: int = 0,
        shuffle: bool = True,
        window: int = 8,
        lanes: int = 1,
    ) -> None:
        if window < 1:
            raise ValueError(f"WindowOrder: window must be at least 1, got {window}")
        self.starts = np.array(starts, np.int64)
        if self.starts.ndim != 1 or len(self.starts) < 2 or self.starts[0] != 0 or (np.diff(self.starts) < 0).any():
            raise ValueError(f"WindowOrder: starts must rise from 0, one more than shards, got {starts!r:.60}")
        self._flat = Order(int(self.starts[-1]), seed, shuffle, lanes)
        self.samples, self.seed, self.shuffle = self._flat.samples, seed, shuffle
        self.window, self.lanes = window, lanes
        shards, longest = len(self.starts) - 1, -(-self.samples // lanes)
        whole = int(np.searchsorted(np.cumsum(np.sort(np.diff(self.starts))), longest, side="right"))
        self.windows = max(-(-whole // window), 1)
        """Windows of a lane, at most."""
        self.window_shards = window if lanes == 1 else min(window + 2, whole + 2, shards)
        """Shards that the samples of a window lie in, at most: those cut by the lane's borders are parts of its first and last."""
        self._lane_starts = lane_starts(self.samples, lanes)
        self._recent: dict[int, _Epoch] = {}
        self._needed: tuple[tuple[object, ...], list[int]] = ((), [])

    def __repr__(self) -> str:
        lanes = f", lanes={self.lanes}" if self.lanes > 1 else ""
        return f"WindowOrder({self.samples} samples, {len(self.starts) - 1} shards, window={self.window}{lanes})"

    def _epoch(self, epoch: int) -> _Epoch:
        found = self._recent.get(epoch)
        if found is None:
            shards = np.arange(len(self.starts) - 1, dtype=np.int64)
            if self.shuffle:
                shards = _permuted(shards, len(shards), self._flat._key(epoch, _SHARDS), False)
            first = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.diff(self.starts)[shards])])
            found = _Epoch(shards, np.argsort(shards), first, self._cut(first))
            # Replaced, not changed: threads may be reading it.
            self._recent = dict([*self._recent.items(), (epoch, found)][-_EPOCHS_KEPT:])
        return found

    def _cut(self, first: np.ndarray) -> np.ndarray:
        """Return the samples before each window: of a lane's whole shards, and at its ends the parts of those that are cut."""
        starts = self._lane_starts
        low = np.searchsorted(first, starts[:-1], side="left")
        high = np.searchsorted(first, starts[1:], side="right") - 1
        borders: list[int] = []
        for start, begin, end in zip(starts[:-1].tolist(), low.tolist(), high.tolist(), strict=True):
            whole = max(end - begin, 0)
            windows = max(-(-whole // self.window), 1)
            borders += [start, *first[begin + np.arange(1, windows) * whole // windows].tolist()]
        return np.array([*borders, self.samples], np.int64)

    def _shuffled(self, epoch: int, slots: np.ndarray, inverse: bool) -> np.ndarray:
        """Permute slots (places of samples in the epoch, before the shuffle) within their windows."""
        borders = self._epoch(epoch).borders
        key = self._flat._key(epoch, _WITHIN)
        window = np.searchsorted(borders, slots, side="right") - 1
        rows = np.argsort(window, kind="stable")
        out = np.empty_like(slots)
        for run in np.split(rows, np.flatnonzero(np.diff(window[rows])) + 1) if len(rows) else ():
            number = int(window[run[0]])
            begin, end = int(borders[number]), int(borders[number + 1])
            own = np.uint64(int(chain(key, number)) % 2**64)
            out[run] = begin + _permuted(slots[run] - begin, end - begin, own, inverse)
        return out

    def _checked(self, values: np.ndarray, name: str) -> np.ndarray:
        values = np.ascontiguousarray(values, np.int64)
        if values.size and (values.min() < 0 or values.max() >= self.samples):
            raise ValueError(
                f"WindowOrder: {name} must be in [0, {self.samples}), got {int(values.min())} .. {int(values.max())}"
            )
        return values

    def sample_ids(self, epoch: int, positions: np.ndarray) -> np.ndarray:
        """Return the sample ids (P,) int64 at `positions` (P,) int64 of an epoch."""
        positions = self._checked(positions, "positions")
        if not self.shuffle:
            return positions.copy()
        table, slots = self._epoch(epoch), self._shuffled(epoch, positions, False)
        place = np.searchsorted(table.first, slots, side="right") - 1
        return self.starts[table.shards[place]] + slots - table.first[place]

    def positions(self, epoch: int, sample_ids: np.ndarray) -> np.ndarray:
        """Return the positions (P,) int64 of `sample_ids` (P,) int64: the inverse of `sample_ids`."""
        ids = self._checked(sample_ids, "sample_ids")
        if not self.shuffle:
            return ids.copy()
        table = self._epoch(epoch)
        shard = np.searchsorted(self.starts, ids, side="right") - 1
        return self._shuffled(epoch, table.first[table.place[shard]] + ids - self.starts[shard], True)

    def donors(self, epoch: int, positions: np.ndarray, count: int) -> np.ndarray:
        """Return the positions (P, count) int64 of `count` donors for each position: as `Order.donors`.

        A block of positions that lies across the border of two windows takes donors from both.
        """
        return self._flat.donors(epoch, positions, count)

    @property
    def smallest_window(self) -> int:
        """Samples that every window holds at least, whatever shards an epoch puts into it, of a lane with more than two of them."""
        shards = len(self.starts) - 1
        whole = shards // self.windows if self.lanes == 1 else (2 * self.window + 1) // 3
        return int(np.sort(np.diff(self.starts))[:whole].sum())

    def replacement(self, epoch: int, position: int, attempt: int) -> int:
        """Return the sample id that stands in for the sample at `position` when that one cannot be decoded.

        It is of the same window, whose shards are at hand; after 100 attempts (are all shards of it bad?) of any.
        """
        if attempt >= _NEAR_ATTEMPTS:
            return self._flat.replacement(epoch, position, attempt)
        borders = self._epoch(epoch).borders
        window = int(np.searchsorted(borders, position, side="right")) - 1
        begin, end = int(borders[window]), int(borders[window + 1])
        drawn = begin + int(_stand_in(self._flat._key(epoch, _STAND_IN), position, attempt, end - begin))
        return int(self.sample_ids(epoch, np.array([drawn]))[0])

    def shards_needed(
        self, epoch: int, position: int, ahead: int, count: int = 1, past: int = 0, lanes: range = _FIRST_LANE
    ) -> list[int]:
        """Return which shards are needed from a position on, the next one first.

        Parameters
        ----------
        epoch, position : int
            Positions count from the start of each lane.
        ahead : int
            Shards of each lane beyond the window (those of the next windows, and of the next epoch's first), at least 0.
        count : int
            Positions of each lane that are read now, from `position` on: those of a batch of all ranks.
        past : int
            How many positions back donors lie: see `donors`.
        lanes : range
            Lanes that are read.

        Returns
        -------
        list of int
            Shard numbers, each once: all that the samples at these positions, and their donors, lie in; then those ahead.
            Empty shards are left out.
        """
        longest = -(-self.samples // self.lanes)
        if not 0 <= position <= longest or min(ahead, past) < 0 or count < 1:
            raise ValueError(
                f"WindowOrder.shards_needed: position must be in [0, {longest}], ahead at least 0, count at least 1, past at "
                f"least 0, got {position}, {ahead}, {count}, {past}"
            )
        borders = self._epoch(epoch).borders
        starts, ends = self._lane_starts[lanes.start : lanes.stop], self._lane_starts[lanes.start + 1 : lanes.stop + 1]
        # Donors of the last, partial block come from the one before it too.
        last = max(position + count - 1 + DONOR_BLOCK, past if position < past else 0)
        reach = np.array([[max(position - max(2 * DONOR_BLOCK - 1, past), 0)], [last]]) + starts
        begin, end = np.searchsorted(borders, np.minimum(reach, ends - 1), side="right").tolist()
        asked, needed = self._needed
        key = (epoch, lanes, ahead, begin, end)
        if asked != key:  # the same for all batches inside a window
            needed = self._list_needed(epoch, lanes, ahead, borders[np.subtract(begin, 1)], borders[end], ends)
            self._needed = key, needed
        return list(needed)

    def _list_needed(
        self, epoch: int, lanes: range, ahead: int, begin: np.ndarray, end: np.ndarray, lane_ends: np.ndarray
    ) -> list[int]:
        """List the shards of the samples from `begin` to `end` of each lane, then those that follow, one of each lane in turn."""
        here = [self._shards_of(epoch, *span) for span in zip(begin.tolist(), end.tolist(), strict=True)]
        needed = dict.fromkeys(joined.from_iterable(here))
        follow = [self._shards_of(epoch, *span) for span in zip(end.tolist(), lane_ends.tolist(), strict=True)]
        starts = self._lane_starts.tolist()
        for of_lane, lane in zip(follow, lanes, strict=True):
            of_lane += self._shards_of(epoch + 1, starts[lane], starts[lane + 1])
        coming = dict.fromkeys(shard for turn in zip_longest(*follow) for shard in turn if shard is not None)
        return [*needed, *[shard for shard in coming if shard not in needed][: ahead * len(lanes)]]

    def _shards_of(self, epoch: int, begin: int, end: int) -> list[int]:
        """List the shards that the samples from `begin` to `end` of an epoch, before the shuffle, lie in."""
        table = self._epoch(epoch)
        low = int(np.searchsorted(table.first, begin, side="right")) - 1
        shards = table.shards[low : int(np.searchsorted(table.first, end, side="left"))]
        found: list[int] = shards[self.starts[shards] < self.starts[shards + 1]].tolist()
        return found


def _permuted(values: np.ndarray, size: int, key: np.uint64, inverse: bool) -> np.ndarray:
    """Map values of [0, size) by the bijection of `Order`."""
    out = np.empty_like(values)
    _permute(values, size, key, inverse, out)
    return out


@dataclass(frozen=True)
class ShuffleQuality:
    """How much like a whole shuffle an order is; of a whole shuffle the numbers in brackets are expected."""

    rank_correlation: float
    """Spearman's, of position and sample id [0, give or take 1 / sqrt(samples)]."""
    same_class_neighbours: float
    """Share of neighbours of one class."""
    same_class_expected: float
    classes_in_batch: float
    """Mean number of classes in a run of `batch` samples."""
    classes_expected: float
    batch: int

    def __str__(self) -> str:
        return (
            f"rank correlation {self.rank_correlation:+.4f} [0]; neighbours of one class "
            f"{100 * self.same_class_neighbours:.2f} % [{100 * self.same_class_expected:.2f} %]; classes in {self.batch} samples "
            f"{self.classes_in_batch:.1f} [{self.classes_expected:.1f}]"
        )


def shuffle_quality(order: Order | WindowOrder, epoch: int, labels: np.ndarray, batch: int = 256) -> ShuffleQuality:
    """Measure how well an epoch's order mixes samples and classes.

    Parameters
    ----------
    order : Order or WindowOrder
    epoch : int
    labels : (N,) int64
        Class of each sample: `Store.targets`.
    batch : int
        Samples of a run in which classes are counted.

    Returns
    -------
    ShuffleQuality
        Prints as one line.

    Raises
    ------
    ValueError
        If there are not as many labels as samples.

    Examples
    --------
    Shards sorted by class, 20 of 500 samples and one class each: a window of 4 shards has 4 classes at a time.

    >>> labels, starts = np.repeat(np.arange(20), 500), np.arange(21) * 500
    >>> print(shuffle_quality(Order(10_000), 0, labels))  # doctest: +ELLIPSIS
    rank correlation -0.0... [0]; neighbours of one class 5... % [4.99 %]; classes in 256 samples 20.0 [20.0]
    >>> print(shuffle_quality(WindowOrder(starts, window=4), 0, labels))  # doctest: +ELLIPSIS
    rank correlation +0.3... [0]; neighbours of one class 25... % [4.99 %]; classes in 256 samples 4... [20.0]
    """
    if len(labels) != order.samples:
        raise ValueError(f"shuffle_quality: labels must be (N,) = ({order.samples},), got ({len(labels)},)")
    positions = np.arange(order.samples, dtype=np.int64)
    ids = order.sample_ids(epoch, positions)
    _, codes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    visited = codes[ids]
    batch = min(batch, order.samples)
    runs = visited[: len(visited) // batch * batch].reshape(-1, batch)
    share = counts / order.samples
    return ShuffleQuality(
        float(np.corrcoef(positions, ids)[0, 1]) if order.samples > 1 else 0.0,
        float((visited[1:] == visited[:-1]).mean()) if order.samples > 1 else 0.0,
        float((share * (counts - 1)).sum() / max(order.samples - 1, 1)),
        float(np.mean([len(np.unique(run)) for run in runs])),
        float((1 - (1 - share) ** batch).sum()),
        batch,
    )
