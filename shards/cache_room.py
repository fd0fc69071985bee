"""Make room in a cache folder: what was used least recently goes, what is in use stays."""

from __future__ import annotations

import os
import re
import shutil
from contextlib import suppress
from dataclasses import dataclass

from .locks import EXCLUSIVE, open_lock, try_lock

LOCK = "lock"
INDEX_ENDING, PART_ENDING, TAR_ENDING = ".idx", ".part", ".tar"
_RESERVED = re.compile(r"\.(\d+)\.part$")


@dataclass(frozen=True)
class Kept:
    """What the cache keeps of one shard."""

    folder: str
    last_use_ns: int
    tar_bytes: int
    """Of the tar, or what its unfinished download has reserved."""
    index_bytes: int
    there_bytes: int
    """Bytes that are there of the tar."""


def kept_shards(folder: str) -> list[Kept]:
    """List what a cache folder holds, least recently used first."""
    found = []
    with os.scandir(folder) as entries:
        folders = [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    for path in folders:
        with suppress(FileNotFoundError):  # removed by hand in the meantime
            found.append(_kept(path))
    return sorted(found, key=lambda kept: (kept.last_use_ns, kept.folder))


def _kept(folder: str) -> Kept:
    last_use, tar, index, there = 0, 0, 0, 0
    with os.scandir(folder) as entries:
        for entry in entries:
            status = entry.stat(follow_symlinks=False)
            reserved = _RESERVED.search(entry.name)
            if entry.name == LOCK:
                last_use = status.st_mtime_ns
            elif reserved:
                tar += int(reserved[1])
                there += status.st_size
            elif entry.name.endswith(INDEX_ENDING):
                index += status.st_size
            elif entry.name.endswith(TAR_ENDING):
                tar += status.st_size
                there += status.st_size
    return Kept(folder, last_use, tar, index, there)


def used_bytes(folder: str) -> int:
    """Bytes that a cache folder holds or has reserved."""
    return sum(kept.tar_bytes + kept.index_bytes for kept in kept_shards(folder))


def make_room(folder: str, own: str, needed: int, on_disk: int, max_bytes: int) -> tuple[int, int, int]:
    """Evict shards that are not in use until a new one fits.

    Parameters
    ----------
    folder : str
        The cache; its lock is held by the caller.
    own : str
        The new shard's folder, which stays.
    needed : int
        Bytes to be added to what the cache holds.
    on_disk : int
        Bytes that the disk must have free.
    max_bytes : int
        What the cache may hold.

    Returns
    -------
    tuple of int
        Bytes still missing in the cache, bytes still missing on the disk, number of shards evicted.

    Notes
    -----
    Indexes, small and needed at every start, go only when all tars that may go are gone.
    """
    shards = kept_shards(folder)
    missing = sum(kept.tar_bytes + kept.index_bytes for kept in shards) + needed - max_bytes
    evicted = 0
    for endings in ((TAR_ENDING, PART_ENDING), (INDEX_ENDING,)):
        for kept in shards:
            lacking = on_disk - shutil.disk_usage(folder).free
            if missing <= 0 and lacking <= 0:
                return missing, lacking, evicted
            size = kept.index_bytes if endings == (INDEX_ENDING,) else kept.tar_bytes
            if size and kept.folder != own and _evict(kept.folder, endings):
                missing -= size
                evicted += 1
    return missing, on_disk - shutil.disk_usage(folder).free, evicted


def _evict(folder: str, endings: tuple[str, ...]) -> bool:
    """Remove files of one shard unless it is in use or being fetched."""
    handle = open_lock(os.path.join(folder, LOCK))
    try:
        if not try_lock(handle, EXCLUSIVE):
            return False
        for name in os.listdir(folder):
            if name.endswith(endings):
                with suppress(FileNotFoundError):
                    os.unlink(os.path.join(folder, name))
        return True
    finally:
        os.close(handle)
