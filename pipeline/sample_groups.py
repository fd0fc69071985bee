"""Which samples belong together: ids of groups or clusters from a sidecar file, and tables of their members.

    groups.json    {"key": id, ...}
    groups.csv     key,id     one line a sample
    groups.npy     (N,) integers in the order of the samples

An id is a whole number or a text; a negative number, null or nothing means: in no group, as does a key that is missing.
"""

from __future__ import annotations

import csv
import hashlib
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numba
import numpy as np

from figureground.shards import Store

from .hashing import chain, splitmix64

log = logging.getLogger(__name__)

GroupSource = str | os.PathLike[str] | Mapping[str, Any] | np.ndarray
"""A file, or what it holds."""


@dataclass(frozen=True)
class GroupTable:
    """Groups of samples: the members of group g are members[starts[g]:starts[g + 1]]."""

    members: np.ndarray
    """(M,) int32 or int64 sample ids, group after group; in a group by id, or in time."""
    starts: np.ndarray
    """(G + 1,) int64."""
    place: np.ndarray
    """(N,) place of each sample in `members`, -1 for a sample in no group."""

    def group_of(self, samples: np.ndarray) -> np.ndarray:
        """Return the group of each sample, of the shape of `samples`; -1 for a sample in no group."""
        place = self.place[samples]
        return np.where(place < 0, -1, np.searchsorted(self.starts, place, side="right") - 1)

    @property
    def largest(self) -> int:
        """Samples of the largest group; 0 without groups."""
        return int(np.diff(self.starts).max(initial=0))


def group_members(labels: np.ndarray) -> GroupTable:
    """Make the table of groups from the group of each sample.

    Parameters
    ----------
    labels : (N,) int64
        Negative: in no group.

    Examples
    --------
    >>> table = group_members(np.array([5, -1, 2, 5]))
    >>> table.members.tolist(), table.starts.tolist(), table.place.tolist()
    ([2, 0, 3], [0, 1, 3], [1, -1, 0, 2])
    """
    kind = np.int32 if len(labels) < 2**31 else np.int64
    order = np.argsort(labels, kind="stable")
    members = order[np.searchsorted(labels, 0, sorter=order) :]
    _, first = np.unique(labels[members], return_index=True)
    place = np.full(len(labels), -1, kind)
    place[members] = np.arange(len(members), dtype=kind)
    return GroupTable(members.astype(kind), np.append(first, len(members)).astype(np.int64), place)


def group_clips(keys: np.ndarray, starts: np.ndarray) -> GroupTable:
    """Make the table of clips: samples whose keys have the same folder, in the order of their base names.

    Parameters
    ----------
    keys : (bytes,) uint8
        All keys in a row.
    starts : (N + 1,) int64
        The key of sample i is keys[starts[i]:starts[i + 1]].

    Returns
    -------
    GroupTable
        Members of a clip by the length of the key, then by its bytes: `9` before `10`, `009` before `010`. A key without
        a folder is in no clip.

    Examples
    --------
    >>> names = [b"a/10", b"b/1", b"a/9", b"alone"]
    >>> table = group_clips(np.frombuffer(b"".join(names), np.uint8), np.cumsum([0, *map(len, names)]))
    >>> table.members.tolist(), table.starts.tolist()
    ([2, 0, 1], [0, 2, 3])
    """
    folders = np.empty(len(starts) - 1, np.uint64)
    _hash_folders(keys, starts, folders)
    labels = np.full(len(folders), -1, np.int64)
    inside = folders != 0
    labels[inside] = _by_first(folders[inside])
    table = group_members(labels)
    _sort_frames(table.members, table.starts, keys, starts)
    table.place[table.members] = np.arange(len(table.members))
    return table


def read_groups(source: GroupSource, store: Store, name: str) -> np.ndarray:
    """Read the group of each sample.

    Parameters
    ----------
    source : path, dict or array
        See the top of this file.
    store : Store
        Whose samples and keys these are. A key that occurs in several shards names all its samples.
    name : str
        Of the loader's argument, for messages.

    Returns
    -------
    (N,) int64
        Groups are numbered in the order of their first samples; -1: in no group.

    Raises
    ------
    ValueError
        If the file cannot be read or is of another form, the array is not (N,) integers, or no key is one of the store's.
    """
    if not isinstance(source, Mapping | np.ndarray):
        source = _read_file(Path(source).expanduser(), name)
    if isinstance(source, np.ndarray):
        if source.shape != (len(store),) or source.dtype.kind not in "iu":
            raise ValueError(
                f"Loader: {name} must be ({len(store)},) integers, one for each sample, got {source.shape} {source.dtype}"
            )
        raw = source.astype(np.int64)
    else:
        raw = _look_up(source, store, name)
    labels = np.full(len(store), -1, np.int64)
    labels[raw >= 0] = _by_first(raw[raw >= 0])
    return labels


def groups_fingerprint(labels: np.ndarray) -> str:
    """Sixteen hex digits of a grouping as `read_groups` gives it."""
    return hashlib.sha256(np.ascontiguousarray(labels, "<i8").tobytes()).hexdigest()[:16]


def _by_first(values: np.ndarray) -> np.ndarray:
    """Number equal values alike, 0, 1, ... in the order in which they first occur."""
    _, first, inverse = np.unique(values, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[inverse.reshape(-1)]


def _look_up(table: Mapping[str, Any], store: Store, name: str) -> np.ndarray:
    codes: dict[Any, int] = {}
    raw, found = np.full(len(store), -1, np.int64), 0
    for sample in range(len(store)):
        key = store.key(sample)
        if key not in table:
            continue
        found += 1
        value = table[key]
        if isinstance(value, np.integer):
            value = int(value)
        if not isinstance(value, int | str | None) or isinstance(value, bool):
            raise ValueError(f"Loader: {name} must give whole numbers or texts, got {value!r:.60} for key {key!r}")
        if value is None or value == "" or (isinstance(value, int) and value < 0):
            continue
        raw[sample] = codes.setdefault(value, len(codes))
    if 0 < found < len(store) / 2:
        log.warning(
            "%s: only %d of %d samples are named, the others are in none; a key of the shards is %r", name, found, len(store),
            store.key(int(np.flatnonzero(raw < 0)[0])),
        )  # fmt: skip
    if not found:
        example = next(iter(table), None)
        raise ValueError(
            f"Loader: {name} must name keys of the shards, such as {store.key(0)!r}, got none of them in {len(table)} keys, "
            f"such as {example!r}"
        )
    return raw


def _read_file(path: Path, name: str) -> Mapping[str, Any] | np.ndarray:
    try:
        if path.suffix == ".npy":
            array: np.ndarray = np.load(path, allow_pickle=False)
            return array
        if path.suffix == ".csv":
            return _read_csv(path, name)
        if path.suffix == ".json":
            document = json.loads(path.read_text("utf-8-sig"))
            if isinstance(document, dict):
                return document
            raise ValueError(f"an object of keys and ids is wanted, there is a {type(document).__name__}")
    except (OSError, ValueError, csv.Error) as error:
        raise ValueError(f"Loader: {name} cannot be read from {path}: {error}") from error
    raise ValueError(f"Loader: {name} must be a .json, .csv or .npy file, a dict or an array, got {str(path)!r}")


def _read_csv(path: Path, name: str) -> dict[str, Any]:
    table: dict[str, Any] = {}
    with open(path, encoding="utf-8-sig", newline="") as file:  # spreadsheets put a mark before the first key
        for line in csv.reader(file):
            if not line or (not table and [cell.strip().lower() for cell in line] == ["key", "id"]):
                continue
            if len(line) != 2:
                raise ValueError(f"'key,id' is wanted in each line, there is {','.join(line)!r:.80}")
            key, text = line[0], line[1].strip()
            value = int(text) if text.removeprefix("-").isdecimal() else text
            if table.setdefault(key, value) != value:
                raise ValueError(f"key {key!r} has two ids, {table[key]!r} and {value!r}")
    return table


@numba.njit(nogil=True, cache=True)
def _hash_folders(keys, starts, out):  # type: ignore[no-untyped-def]
    """Hash what lies before the last slash of each key; 0 where there is nothing, or only a dot."""
    for i in range(len(starts) - 1):
        first, end = starts[i], starts[i] - 1
        for j in range(first, starts[i + 1]):
            if keys[j] == 47:
                end = j
        out[i] = 0
        if end > first and not (end == first + 1 and keys[first] == 46):
            h = splitmix64(np.uint64(end - first))
            for j in range(first, end):
                h = chain(h, keys[j])
            out[i] = h | np.uint64(1)


@numba.njit(nogil=True, cache=True)
def _after(a, b, keys, starts):  # type: ignore[no-untyped-def]
    """Does the key of sample a come after that of sample b: by length, then bytes, then sample id?"""
    size = starts[a + 1] - starts[a]
    if size != starts[b + 1] - starts[b]:
        return size > starts[b + 1] - starts[b]
    for j in range(size):
        left, right = keys[starts[a] + j], keys[starts[b] + j]
        if left != right:
            return left > right
    return a > b


@numba.njit(nogil=True, cache=True)
def _sort_frames(members, groups, keys, starts):  # type: ignore[no-untyped-def]
    """Sort each clip's members, in place; Shell's sort, so that frames that are in order already cost one pass a step."""
    for g in range(len(groups) - 1):
        first, count = groups[g], groups[g + 1] - groups[g]
        step = 1
        while step < count // 3:
            step = 3 * step + 1
        while step > 0:
            for i in range(step, count):
                moved, j = members[first + i], i
                while j >= step and _after(members[first + j - step], moved, keys, starts):
                    members[first + j] = members[first + j - step]
                    j -= step
                members[first + j] = moved
            step //= 3
