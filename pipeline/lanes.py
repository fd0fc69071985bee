"""Lanes: equal runs of an epoch's order, of which a node reads its own; and the positions that each rank takes.

Where each rank takes a run of each global batch, every node visits every shard in every epoch, and fetches it from a store.
With L lanes, positions l N // L to (l + 1) N // L of the epoch's order are lane l. A global batch takes the same number of samples
from the front of every lane, and the ranks share that list, lane after lane. So ranks that follow one another, those of a node,
read a few lanes, other shards each epoch, and the batch that all ranks make together still depends on nothing but its size:

    lanes = 4, global batch of 8          1 rank    2 ranks, 2 nodes    8 ranks, 4 nodes
    lane 0   0  1 | 2  3 | ...            rank 0    rank 0              ranks 0, 1
    lane 1  10 11 |12 13 | ...            rank 0    rank 0              ranks 2, 3
    lane 2  20 21 |22 23 | ...            rank 0    rank 1              ranks 4, 5
    lane 3  30 31 |32 33 | ...            rank 0    rank 1              ranks 6, 7

Any number of ranks will do; where it is no divisor or multiple of the lanes, two ranks share a lane and both need its shards. What
works in blocks of positions (donors, styles, mixing) or looks back (`donors="past"`) counts from its lane's start and stays in it.

This is what MosaicML Streaming calls canonical nodes (`num_canonical_nodes`, there by default the nodes of the first run). Without
shuffling a batch takes samples from the front of each lane too, so they do not come in their order.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np

LEAST_SAMPLES = 8
"""Of a lane: a whole block of donors."""


@numba.njit(nogil=True, cache=True, inline="always")
def lane_of(position, samples, lanes):  # type: ignore[no-untyped-def]
    """Return the lane of a position."""
    return ((position + 1) * lanes - 1) // samples


def lane_starts(samples: int, lanes: int) -> np.ndarray:
    """Return (lanes + 1,) int64: lane l is positions starts[l] to starts[l + 1].

    Examples
    --------
    >>> lane_starts(10, 4).tolist()
    [0, 2, 5, 7, 10]
    """
    return np.arange(lanes + 1, dtype=np.int64) * samples // lanes


def lanes_of_ranks(first: int, end: int, world_size: int, lanes: int) -> range:
    """Return the lanes that ranks `first` to `end` (not included) of `world_size` take full batches from.

    Examples
    --------
    >>> lanes_of_ranks(8, 16, 64, 16), lanes_of_ranks(1, 2, 3, 4)  # 8 ranks of 64; the middle one of three shares both of its lanes
    (range(2, 4), range(1, 3))
    """
    return range(first * lanes // world_size, -(-end * lanes // world_size))


@dataclass(frozen=True)
class Split:
    """Which positions each rank takes of each global batch, a run of positions or, with lanes, a run of each lane.

    All ranks have the same number of batches. With `drop_last` the samples beyond the last full global batch are left out
    of the epoch (another shuffle leaves out others); without it the last batch of every rank is shorter, and at most
    world_size - 1 samples are repeated to make the ranks equal: those from the start of the epoch or, with lanes, the last one
    of each rank that has one less than others.

    Examples
    --------
    >>> [Split(40, 4, rank, 2, lanes=4).positions(0).tolist() for rank in range(2)]
    [[0, 1, 10, 11], [20, 21, 30, 31]]
    """

    samples: int
    batch_size: int
    rank: int = 0
    world_size: int = 1
    drop_last: bool = True
    lanes: int = 1

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"Loader: batch_size must be at least 1, got {self.batch_size}")
        if not 0 <= self.rank < self.world_size:
            raise ValueError(f"Loader: rank must be in [0, world_size = {self.world_size}), got {self.rank}")
        if self.drop_last and self.samples < self.step:
            raise ValueError(
                f"Loader: drop_last=True needs at least batch_size x world_size = {self.batch_size} x {self.world_size} "
                f"samples, got {self.samples}; lower batch_size or pass drop_last=False"
            )
        if self.step % self.lanes:
            raise ValueError(
                f"Loader: batch_size x world_size must be a multiple of lanes = {self.lanes} (each lane gives a batch as many "
                f"samples), got {self.batch_size} x {self.world_size} = {self.step}; change batch_size, or lanes for the whole run"
            )

    @property
    def step(self) -> int:
        """Positions that one batch of all ranks takes."""
        return self.batch_size * self.world_size

    @property
    def lane_step(self) -> int:
        """Positions of each lane that one batch of all ranks takes."""
        return self.step // self.lanes

    def batches(self, start: int = 0) -> int:
        """Return the number of batches from position `start` to the end of the epoch; the same on every rank."""
        left = max(self.samples - start, 0)
        return left // self.step if self.drop_last else -(-left // self.step)

    def check_start(self, start: int) -> None:
        """Make sure that an epoch can go on after `start` samples: as many of each lane, or all.

        Raises
        ------
        ValueError
            If not.
        """
        if start > self.samples or (start < self.samples and start % self.lanes):
            multiple = f", a multiple of lanes = {self.lanes} or all of them" if self.lanes > 1 else ""
            raise ValueError(
                f"Loader: position of a state must be at most {self.samples}, the samples of an epoch{multiple}, got {start}"
            )

    def positions(self, batch: int, start: int = 0) -> np.ndarray:
        """Return the positions (B,) int64 of this rank's batch number `batch`, after the first `start` samples of the epoch."""
        if self.lanes > 1:
            return self._of_lanes(batch, start)
        first = start + batch * self.step
        size = self.batch_size
        if first + self.step > self.samples:
            size = -(-(self.samples - first) // self.world_size)
        begin = first + self.rank * size
        return np.arange(begin, begin + size, dtype=np.int64) % self.samples

    def _of_lanes(self, batch: int, start: int) -> np.ndarray:
        depth, starts = self.depth(batch, start), lane_starts(self.samples, self.lanes)
        left = np.minimum(np.diff(starts) - depth, self.lane_step)  # of each lane in this batch
        ends = np.cumsum(left)
        total = int(ends[-1])
        # Lanes differ by one sample at most, and so do equal shares of ranks: they end where lanes do, in the last batch too.
        first, end = self.rank * total // self.world_size, (self.rank + 1) * total // self.world_size
        places = np.minimum(first + np.arange(-(-total // self.world_size)), max(end - 1, first))
        lane = np.searchsorted(ends, places, side="right")
        found: np.ndarray = starts[lane] + depth + places - (ends - left)[lane]
        return found

    def depth(self, batch: int, start: int = 0) -> int:
        """Return how many samples of each lane come before batch number `batch`."""
        return start // self.lanes + batch * self.lane_step

    def lanes_read(self, batch: int, start: int = 0) -> range:
        """Return the lanes that this rank's batch lies in."""
        if self.depth(batch, start) + self.lane_step <= self.samples // self.lanes:
            return lanes_of_ranks(self.rank, self.rank + 1, self.world_size, self.lanes)
        last = self.positions(batch, start)
        lanes = np.searchsorted(lane_starts(self.samples, self.lanes), last[[0, -1]], side="right") - 1
        return range(int(lanes[0]), int(lanes[1]) + 1)

    def cut_runs(self, block: int) -> int:
        """Return how many runs of a batch may begin and end within aligned blocks of so many positions, at least 1."""
        if self.lanes == 1 or self.lane_step % block == 0:
            return 1
        return len(lanes_of_ranks(self.rank, self.rank + 1, self.world_size, self.lanes))
