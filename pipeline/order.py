"""Which sample comes next: a pure function of (seed, epoch, position).

An epoch visits positions 0 .. N-1. With shuffling, `Order.sample_ids` maps a position to a sample id by a keyed bijection
(a Feistel network with cycle walking, Black and Rogaway 2002), so a shuffle of any size costs no memory, starts at any
position at once, and has an inverse. Ranks take runs of each global batch (`Split`), hence the sample at a position, and
everything planned for it, does not depend on batch size or the number of ranks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np

from .hashing import chain, splitmix64
from .lanes import LEAST_SAMPLES, lane_of

DONOR_BLOCK = 8
"""Donors of a sample are drawn from its aligned block of this many positions; see `Order.donors`."""
_ROUNDS = 6


@numba.njit(nogil=True, cache=True)
def _permute(positions, samples, key, inverse, out):  # type: ignore[no-untyped-def]
    bits = 2
    while (1 << bits) < samples:
        bits += 1
    low = bits // 2
    high = bits - low
    for i in range(len(positions)):
        x = np.uint64(positions[i])
        while True:
            # An unbalanced Feistel network: halves of `low` and `high` bits are masked in turn.
            left, right = x >> np.uint64(low), x & np.uint64((1 << low) - 1)
            for step in range(_ROUNDS):
                r = _ROUNDS - 1 - step if inverse else step
                if r % 2 == 0:
                    left ^= chain(key + np.uint64(r), right) & np.uint64((1 << high) - 1)
                else:
                    right ^= chain(key + np.uint64(r), left) & np.uint64((1 << low) - 1)
            x = (left << np.uint64(low)) | right
            if x < np.uint64(samples):
                break
        out[i] = x


@numba.njit(nogil=True, cache=True)
def _draw_donors(positions, samples, lanes, key, count, block, out):  # type: ignore[no-untyped-def]
    ring = np.empty(2 * block, np.int64)
    begin = end = 0  # of the lane
    for i in range(len(positions)):
        p = positions[i]
        if not begin <= p < end:
            lane = lane_of(p, samples, lanes)
            begin, end = lane * samples // lanes, (lane + 1) * samples // lanes
        first = begin + (p - begin) // block * block
        last = min(first + block, end)
        if last - first < block and first - begin >= block:
            # The last, partial block draws from the one before it too: every sample has a choice of donors.
            first -= block
        others = 0
        for q in range(first, last):
            if q != p:
                ring[others] = q
                others += 1
        h = chain(key, p)
        for k in range(count):
            if others == 0:
                out[i, k] = p
                continue
            # Fisher-Yates: the donors of one sample differ while there are enough others.
            j = k % others
            pick = j + np.int64(chain(h, k) % np.uint64(others - j))
            ring[j], ring[pick] = ring[pick], ring[j]
            out[i, k] = ring[j]


@numba.njit(nogil=True, cache=True)
def _order_key(seed, epoch, purpose):  # type: ignore[no-untyped-def]
    return chain(chain(splitmix64(seed), epoch), purpose)


@numba.njit(nogil=True, cache=True)
def _stand_in(key, position, attempt, samples):  # type: ignore[no-untyped-def]
    return np.int64(chain(chain(key, position), attempt) % np.uint64(samples))


@dataclass(frozen=True)
class Order:
    """The visiting order of an epoch.

    Examples
    --------
    >>> order = Order(samples=10, seed=3)
    >>> sorted(order.sample_ids(0, np.arange(10)).tolist()) == list(range(10))
    True
    >>> order.positions(0, order.sample_ids(0, np.arange(10))).tolist()
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    """

    samples: int
    """Number of samples N, at least 1."""
    seed: int = 0
    """Any integer; taken modulo 2**64."""
    shuffle: bool = True
    """False: position p is sample p in every epoch."""
    lanes: int = 1
    """Runs of the epoch in each of which blocks are counted anew; see `figureground.pipeline.lanes`."""

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise ValueError(f"Order: samples must be at least 1, got {self.samples}; are the shards empty?")
        if self.lanes < 1 or (self.lanes > 1 and self.samples // self.lanes < LEAST_SAMPLES):
            raise ValueError(
                f"Loader: lanes must be 1 to {max(self.samples // LEAST_SAMPLES, 1)}, so that each of them holds at least "
                f"{LEAST_SAMPLES} of the {self.samples} samples, got {self.lanes}"
            )

    def _key(self, epoch: int, purpose: int) -> np.uint64:
        return np.uint64(_order_key(np.uint64(self.seed % 2**64), epoch, purpose))

    def _mapped(self, epoch: int, values: np.ndarray, inverse: bool) -> np.ndarray:
        values = np.ascontiguousarray(values, np.int64)
        if values.size and (values.min() < 0 or values.max() >= self.samples):
            what = "sample ids" if inverse else "positions"
            raise ValueError(
                f"Order: {what} must be in [0, {self.samples}), got {int(values.min())} .. {int(values.max())}"
            )
        if not self.shuffle or self.samples == 1:
            return values.copy()
        out = np.empty_like(values)
        _permute(values, self.samples, self._key(epoch, 1), inverse, out)
        return out

    def sample_ids(self, epoch: int, positions: np.ndarray) -> np.ndarray:
        """Return the sample ids (P,) int64 at `positions` (P,) int64 of an epoch."""
        return self._mapped(epoch, positions, False)

    def positions(self, epoch: int, sample_ids: np.ndarray) -> np.ndarray:
        """Return the positions (P,) int64 of `sample_ids` (P,) int64: the inverse of `sample_ids`."""
        return self._mapped(epoch, sample_ids, True)

    def donors(self, epoch: int, positions: np.ndarray, count: int) -> np.ndarray:
        """Return the positions (P, count) int64 of `count` donors for each position.

        A donor is another sample of the same block of `DONOR_BLOCK` positions, aligned with its lane. Blocks are made anew by each
        epoch's shuffle, so over epochs any sample meets any other; and since a block lies in one batch whenever the batch
        size is a multiple of `DONOR_BLOCK`, donors cost no further decoding, yet they depend on neither batch nor rank.
        The donors of one sample differ from it and from each other as far as the block reaches. A data set of one sample
        gives the sample itself.
        """
        positions = np.ascontiguousarray(positions, np.int64)
        out = np.empty((len(positions), count), np.int64)
        _draw_donors(positions, self.samples, self.lanes, self._key(epoch, 2), count, DONOR_BLOCK, out)
        return out

    def replacement(self, epoch: int, position: int, attempt: int) -> int:
        """Return the sample id that stands in for the sample at `position` when that one cannot be decoded."""
        return int(_stand_in(self._key(epoch, 3), position, attempt, self.samples))
