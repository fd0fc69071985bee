"""Where a cache keeps one shard, and the plain file work around it."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass

from .cache_room import LOCK, PART_ENDING, TAR_ENDING
from .remote import RemoteFile

_UNSAFE = re.compile(r"[^A-Za-z0-9._+=@-]")


@dataclass(frozen=True)
class Place:
    """Where the cache keeps one state of one shard."""

    folder: str
    file: RemoteFile

    @property
    def tar(self) -> str:
        """The shard, once it is complete; a name that no store can lead out of the folder."""
        name = _UNSAFE.sub("_", self.file.name)[-100:].lstrip(".") or "shard"
        return os.path.join(self.folder, name if name.endswith(TAR_ENDING) else name + TAR_ENDING)

    @property
    def part(self) -> str:
        """What came of it so far."""
        return f"{self.tar}.{self.file.size}{PART_ENDING}"

    @property
    def lock(self) -> str:
        """Shared: in use; exclusive: being fetched or evicted; its time: last use."""
        return os.path.join(self.folder, LOCK)

    def is_complete(self) -> bool:
        """Tell whether all of it is here."""
        return size_of(self.tar) == self.file.size

    def received(self) -> int:
        """Bytes of its unfinished download."""
        return max(0, size_of(self.part))


def size_of(path: str) -> int:
    """Size of a file [bytes], -1 if there is none."""
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return -1


def write_all(handle: int, data: bytes) -> None:
    """Write all of some bytes; a write may take less than it is given."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(handle, rest) :]


def md5_of(path: str) -> str:
    """MD5 of a file, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
