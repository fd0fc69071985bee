"""Encoded files of a whole batch, where they lie in the mapped shards: what a loader reads, without Python for each byte."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, overload

import numpy as np

from .maps import Maps


class Pieces(Sequence[np.ndarray | None]):
    """Encoded files, one after the other, with their addresses.

    Behaves as a list of (size,) uint8 arrays, None where there is no file. The arrays are read-only views of mapped files,
    valid as long as they are referenced.

    Parameters
    ----------
    arrays : list of N arrays (size,) uint8 or None
    addresses : (N,) int64
        Where each array begins in memory; 0 for None.
    sizes : (N,) int64
        Length of each [bytes]; 0 for None.
    """

    def __init__(self, arrays: list[np.ndarray | None], addresses: np.ndarray, sizes: np.ndarray) -> None:
        self.arrays, self.addresses, self.sizes = arrays, addresses, sizes

    @classmethod
    def of(cls, arrays: Sequence[np.ndarray | None]) -> Pieces:
        """Take arrays from anywhere.

        Examples
        --------
        >>> Pieces.of([np.zeros(3, np.uint8), None]).sizes.tolist()
        [3, 0]
        """
        places = [(0, 0) if array is None else (array.ctypes.data, array.size) for array in arrays]
        table = np.array(places, np.int64).reshape(-1, 2)
        return cls(list(arrays), table[:, 0].copy(), table[:, 1].copy())

    def pick(self, places: Sequence[int]) -> Pieces:
        """Return the pieces at some places, in their order."""
        chosen = np.asarray(places, np.int64)
        return Pieces([self.arrays[i] for i in chosen.tolist()], self.addresses[chosen], self.sizes[chosen])

    def joined(self, more: Pieces) -> Pieces:
        """Return these pieces and others behind them.

        Examples
        --------
        >>> len(Pieces.of([None]).joined(Pieces.of([None, np.zeros(3, np.uint8)])).pick([2, 0]))
        2
        """
        addresses, sizes = [self.addresses, more.addresses], [self.sizes, more.sizes]
        return Pieces(self.arrays + more.arrays, np.concatenate(addresses), np.concatenate(sizes))

    def __len__(self) -> int:
        return len(self.arrays)

    @overload
    def __getitem__(self, i: int) -> np.ndarray | None: ...
    @overload
    def __getitem__(self, i: slice) -> Pieces: ...
    def __getitem__(self, i: int | slice) -> np.ndarray | Pieces | None:
        if isinstance(i, slice):
            return Pieces(self.arrays[i], self.addresses[i], self.sizes[i])
        return self.arrays[i]

    def __iter__(self) -> Iterator[np.ndarray | None]:
        return iter(self.arrays)


def cut_pieces(maps: Maps, files: np.ndarray, offsets: np.ndarray, sizes: np.ndarray) -> Pieces:
    """Cut pieces out of mapped files.

    Parameters
    ----------
    maps : Maps
    files : (N,) int64
        Number of the file of each piece.
    offsets : (N,) int64
        First byte; -1 where there is no piece.
    sizes : (N,) int64
        Length [bytes].

    Returns
    -------
    Pieces

    Raises
    ------
    ShardError
        If a file was changed since its index was read.
    """
    present = np.flatnonzero(offsets >= 0)
    if len(present) == len(offsets):
        mapped, bases = maps.many(files.tolist())
        cuts = zip(mapped, offsets.tolist(), (offsets + sizes).tolist(), strict=True)
        return Pieces([array[a:b] for array, a, b in cuts], np.array(bases, np.int64) + offsets, sizes)
    arrays: list[np.ndarray | None] = [None] * len(offsets)
    addresses, lengths = np.zeros(len(offsets), np.int64), np.zeros(len(offsets), np.int64)
    found = cut_pieces(maps, files[present], offsets[present], sizes[present])
    for i, array in zip(present.tolist(), found.arrays, strict=True):
        arrays[i] = array
    addresses[present], lengths[present] = found.addresses, found.sizes
    return Pieces(arrays, addresses, lengths)


def find_rows(samples: np.ndarray, first: np.ndarray, ext: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    """Find, for each sample, the row of its component whose extension ranks first.

    Parameters
    ----------
    samples : (N,) int64
    first : (samples + 1,) int
        Components of sample i are rows first[i] to first[i + 1].
    ext : (rows,) int
        Number of each row's extension.
    ranks : (extensions,) int64
        Rank of each extension, the lowest wins; below 0: not wanted.

    Returns
    -------
    (N,) int64
        -1 where a sample has none. Of several components of one extension, the first.

    Examples
    --------
    >>> find_rows(np.array([1, 0]), np.array([0, 2, 3]), np.array([1, 0, 2]), np.array([0, 1, -1])).tolist()
    [-1, 1]
    """
    begin, end = first[samples].astype(np.int64), first[samples + 1].astype(np.int64)
    found, best = np.full(len(samples), -1, np.int64), np.full(len(samples), np.iinfo(np.int64).max)
    for k in range(int((end - begin).max(initial=0))):
        here = np.flatnonzero(begin + k < end)
        rows = begin[here] + k
        rank = ranks[ext[rows]]
        better = (rank >= 0) & (rank < best[here])
        found[here[better]], best[here[better]] = rows[better], rank[better]
    return found


def slim_type(values: np.ndarray, small: type[np.unsignedinteger[Any]] = np.uint32) -> type[np.integer[Any]]:
    """Return `small` if it holds all of some non-negative integers, else int64."""
    return small if int(values.max(initial=0)) <= np.iinfo(small).max else np.int64


def slim(values: np.ndarray, small: type[np.unsignedinteger[Any]]) -> np.ndarray:
    """Return non-negative integers as `small` if it holds them all, else as int64.

    Examples
    --------
    >>> slim(np.array([3, 300]), np.uint16).dtype, slim(np.array([3, 1 << 40]), np.uint32).dtype
    (dtype('uint16'), dtype('int64'))
    """
    return values.astype(slim_type(values, small))
