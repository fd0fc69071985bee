"""What identifies a shard: its size and its index."""

from __future__ import annotations

import hashlib
import os

from .errors import ShardError
from .index import load_index


def shard_fingerprint(path: str | os.PathLike[str]) -> str:
    """Return a SHA-256 of a shard's size and index: it survives a new name or place, not a new content.

    Notes
    -----
    Reads the index, not the images: images replaced by others of equal sizes go unnoticed.

    Raises
    ------
    ShardError
        If the shard is missing or damaged or its index is stale.
    """
    tar = os.fspath(path)
    size, _ = status_of(tar)
    return fingerprint(size, load_index(tar).digest)


def fingerprint(size: int, digest: bytes) -> str:
    """Return the SHA-256 of a shard's size [bytes] and its index's digest."""
    return hashlib.sha256(b"%d " % size + digest).hexdigest()


def status_of(path: str) -> tuple[int, int]:
    """Return size [bytes] and modification time [ns] of a shard; ShardError if it is missing."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        raise ShardError(f"{path}: the shard does not exist; check the path") from None
    return status.st_size, status.st_mtime_ns
