"""Walk the headers of a tar file in memory: where each regular file's name, data and size are.

Reads ustar and v7 headers, GNU long names, PAX headers (own and global, `path` and `size`) and base-256 sizes. Folders,
links and devices are passed over. Python's `tarfile` reads the same, at about eight times the cost a member.
"""

from __future__ import annotations

import mmap
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple, NoReturn

from .errors import ShardError

BLOCK = 512
"""Headers and data start at multiples of this [bytes]."""

_ZEROS = bytes(BLOCK)
_NO_DATA = frozenset(b"123456")  # links, devices, folders, pipes
_SPARSE = ord("S")
_MAGIC = {
    b"\x1f\x8b": "gzip -dc",
    b"\x28\xb5\x2f\xfd": "zstd -dc",
    b"\xfd7zXZ\x00": "xz -dc",
    b"BZh": "bzip2 -dc",
    b"\x04\x22\x4d\x18": "lz4 -dc",
}


class Member(NamedTuple):
    """One regular file in a tar."""

    name: bytes
    """Full name as stored; UTF-8 in practice."""
    offset: int
    """First byte of the data in the tar, a multiple of 512."""
    size: int
    """Length of the data [bytes]."""


@contextmanager
def open_tar(path: str) -> Iterator[mmap.mmap]:
    """Map a tar into memory for reading.

    Raises
    ------
    ShardError
        If there is no such file, or it is a folder, or empty.
    """
    if not os.path.exists(path):
        raise ShardError(f"{path}: the shard does not exist; check the path")
    if not os.path.isfile(path):
        raise ShardError(f"{path}: a shard must be a tar file, got a folder or device")
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            raise ShardError(f"{path}: the shard is empty (0 bytes); fetch or pack it again")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            yield data


def read_members(data: bytes | mmap.mmap, path: str, *, start: int = 0) -> tuple[list[Member], int]:
    """List the regular files of a tar by its headers alone.

    Parameters
    ----------
    data : bytes or mmap
        The whole tar.
    path : str
        Its name, for messages.
    start : int
        Byte of the first header to read, a multiple of 512.

    Returns
    -------
    list of Member
        In the tar's order.
    int
        Byte of the end-of-archive marker.

    Raises
    ------
    ShardError
        If the file is compressed, no tar, damaged, cut short, or holds sparse files.

    Notes
    -----
    The end-of-archive marker (a block of zeros) is required: without it a tar cut between two members looks whole.

    References
    ----------
    IEEE Std 1003.1-2017, pax, "ustar Interchange Format" and "pax Extended Header"; GNU tar manual, "Basic Tar Format".

    Examples
    --------
    >>> import io, tarfile
    >>> stream = io.BytesIO()
    >>> with tarfile.open(fileobj=stream, mode="w") as tar:
    ...     info = tarfile.TarInfo("cat.txt")
    ...     info.size = 5
    ...     tar.addfile(info, io.BytesIO(b"meow!"))
    >>> read_members(stream.getvalue(), "pets.tar")
    ([Member(name=b'cat.txt', offset=512, size=5)], 1024)
    """
    end, at = len(data), start
    members: list[Member] = []
    shared: dict[bytes, bytes] = {}  # of global PAX headers
    own: dict[bytes, bytes] = {}  # of the next member
    while True:
        block = data[at : at + BLOCK]
        if len(block) < BLOCK:
            _explain_end(block, path, at, end)
        if block == _ZEROS:
            return members, at
        if not checksum_matches(block):
            _explain_bad_header(block, path, at, members)
        kind, size = block[156], _size(block, path, at)
        at += BLOCK
        if kind in b"xXgLK":
            if at + size > end:
                raise ShardError(f"{path}: cut short in a header at byte {at} of {end}; fetch or pack the shard again")
            _extend(kind, data[at : at + size], shared, own, path, at)
            at += -(-size // BLOCK) * BLOCK
            continue
        name = header_name(block)
        if shared or own:
            known, own = {**shared, **own}, {}
            name = known.get(b"path") or known.get(b"L") or name
            size = _decimal(known[b"size"], path, at) if b"size" in known else size
            kind = _SPARSE if any(key.startswith(b"GNU.sparse.") for key in known) else kind
        if kind == _SPARSE:
            raise ShardError(f"{path}: {_text(name)} is stored sparse; pack the shard again without 'tar --sparse'")
        if kind in _NO_DATA or (kind == 0 and name.endswith(b"/")):
            continue
        if at + size > end:
            raise ShardError(
                f"{path}: cut short in {_text(name)}, which ends at byte {at + size} of {end}; "
                f"fetch or pack the shard again"
            )
        if kind in b"0\x007":
            members.append(Member(name, at, size))
        at += -(-size // BLOCK) * BLOCK


def checksum_matches(block: bytes) -> bool:
    """Tell whether a header's sum (512 bytes, its own field counted as blanks) is the stored one.

    Notes
    -----
    Adler-32's low half is 1 + the sum of the bytes mod 65521, at memory speed.
    """
    field = block[148:156]
    try:
        stored = int(field.split(b"\0", 1)[0].strip(), 8)
    except ValueError:
        return False
    total = (zlib.adler32(block) & 0xFFFF) - 1 - sum(field) + 256
    if (total - stored) % 65521 == 0:
        return True
    signed = sum(byte - 256 if byte > 127 else byte for byte in block[:148] + block[156:])
    return signed + 256 == stored  # some old writers summed signed bytes


def header_name(block: bytes) -> bytes:
    """Return the name in a 512-byte header, with the prefix that only POSIX ustar has."""
    name = block[:100].split(b"\0", 1)[0]
    if block[345] and block[257:263] == b"ustar\0":
        return block[345:500].split(b"\0", 1)[0] + b"/" + name
    return name


def header_size(block: bytes) -> int | None:
    """Return the size in a 512-byte header [bytes], None if the field is no number."""
    if block[124] & 0x80:
        return int.from_bytes(block[124:136], "big") & ((1 << 95) - 1) if block[124] == 0x80 else None
    try:
        text = block[124:136].split(b"\0", 1)[0].strip()
        size = int(text, 8) if text else 0
    except ValueError:
        return None
    return size if size >= 0 else None


def _size(block: bytes, path: str, at: int) -> int:
    size = header_size(block)
    if size is None:
        field = block[124:136]
        raise ShardError(f"{path}: bad size {field!r} in the header at byte {at}; fetch or pack the shard again")
    return size


def _decimal(text: bytes, path: str, at: int) -> int:
    if not text.isdigit():
        raise ShardError(f"{path}: bad PAX number {text!r} before byte {at}; fetch or pack the shard again")
    return int(text)


def _extend(kind: int, payload: bytes, shared: dict[bytes, bytes], own: dict[bytes, bytes], path: str, at: int) -> None:
    """Take in a header that describes the next member (or all that follow)."""
    if kind == 76:  # L: a long name; K, a long link target, does not matter
        own[b"L"] = payload.split(b"\0", 1)[0]
    elif kind != 75:
        records = _pax_records(payload, path, at)
        (shared if kind == 103 else own).update(records)


def _pax_records(payload: bytes, path: str, at: int) -> dict[bytes, bytes]:
    """Parse `<length> <key>=<value>\\n` records; a value may hold line ends."""
    records, start = {}, 0
    while start < len(payload) and payload[start]:
        blank = payload.find(b" ", start, start + 20)
        digits = payload[start : max(blank, start)]
        stop = start + int(digits) if digits.isdigit() else 0
        key, equals, value = payload[blank + 1 : max(stop - 1, 0)].partition(b"=")
        if not (blank < stop <= len(payload)) or payload[stop - 1] != 10 or not equals:
            raise ShardError(f"{path}: damaged PAX header at byte {at}; fetch or pack the shard again")
        records[key] = value
        start = stop
    return records


def _explain_end(block: bytes, path: str, at: int, end: int) -> NoReturn:
    if at == 0:
        _explain_start(block, path)
    if at == end:
        raise ShardError(
            f"{path}: cut short at byte {end}: no end-of-archive marker; fetch or pack the shard again, "
            f"or, if it is known to be whole, run 'truncate -s +1024 {path}'"
        )
    raise ShardError(f"{path}: cut short in a header at byte {min(at, end)} of {end}; fetch or pack the shard again")


def _explain_bad_header(block: bytes, path: str, at: int, members: list[Member]) -> NoReturn:
    if at == 0:
        _explain_start(block, path)
    after = f", after {_text(members[-1].name)}" if members else ""
    raise ShardError(f"{path}: damaged header at byte {at}{after}; fetch or pack the shard again")


def _explain_start(block: bytes, path: str) -> NoReturn:
    for magic, command in _MAGIC.items():
        if block.startswith(magic):
            raise ShardError(
                f"{path}: the shard must be a plain tar, got one compressed with {command.split()[0]}; "
                f"run '{command} {path} > plain.tar'"
            )
    raise ShardError(f"{path}: the shard must be a tar file, got bytes that are none ({block[:8]!r}...)")


def _text(name: bytes) -> str:
    return name.decode("utf-8", "replace")
