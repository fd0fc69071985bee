"""The `.idx` file beside a tar: which components each sample has and where they lie.

DALI's text format, one line a sample, so that `fn.readers.webdataset` reads it as it is:

    v1.2 <samples>
    <ext> <offset> <size> <filename> <ext> <offset> <size> <filename> ...

The key of a sample is its path up to the first dot of the base name, the extension is the rest (webdataset's rule).
Members of one key make one sample even when others lie between them; a second member of the same key and extension
starts a new sample. Hidden files, names without an extension and `__meta__` members are left out, as webdataset does.
Blanks and control characters in names would break the format: they are written as `%20` and so on.

An index is stale when it does not describe its tar: a member ends beyond the tar, or the tar goes on after the last
member, or, looked at only when the index is older than its tar (a copy often is), the headers say something else.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

from .errors import ShardError
from .files import publish
from .index_text import ShardIndex, escape_name, parse_index
from .tar import BLOCK, Member, checksum_matches, header_name, header_size, open_tar, read_members

__all__ = [
    "IndexSummary", "ShardIndex", "index_is_fresh", "index_path", "index_text", "load_index", "read_index",
    "scan_index", "split_name", "stale_reason", "write_index",
]  # fmt: skip

log = logging.getLogger(__name__)

_META = re.compile(rb"__[^/]*__($|/)")
_SPOT_CHECKS = 8


@dataclass(frozen=True)
class IndexSummary:
    """What `write_index` found."""

    path: str
    """The index file."""
    samples: int
    components: int
    skipped: int
    """Regular files of the tar that belong to no sample."""


def index_path(tar: str) -> str:
    """Return the path of a tar's index: the same name, ending in `.idx`.

    Examples
    --------
    >>> index_path("shards/train-000.masks.tar")
    'shards/train-000.masks.idx'
    """
    stem, suffix = os.path.splitext(tar)
    if suffix == ".idx":
        raise ShardError(f"{tar}: a shard must be a tar file, got an index; name the tar itself")
    return stem + ".idx"


def split_name(name: bytes) -> tuple[bytes, bytes] | None:
    """Split a member's name into key and extension; None for one that belongs to no sample.

    Examples
    --------
    >>> split_name(b"a.b/dog.mask.png"), split_name(b"README"), split_name(b"a/.hidden"), split_name(b"dog.")
    ((b'a.b/dog', b'mask.png'), None, None, None)
    """
    start = name.rfind(b"/") + 1
    dot = name.find(b".", start)
    if dot <= start or dot == len(name) - 1 or (name.startswith(b"__") and _META.match(name)):
        return None
    return name[:dot], name[dot + 1 :]


def index_text(members: Sequence[Member]) -> bytes:
    """Render the index of a tar's members in DALI's format.

    Examples
    --------
    >>> members = [Member(b"a b.jpg", 512, 9), Member(b"c.jpg", 1536, 7), Member(b"a b.cls", 2560, 1)]
    >>> print(index_text(members).decode(), end="")
    v1.2 2
    jpg 512 9 a%20b.jpg cls 2560 1 a%20b.cls
    jpg 1536 7 c.jpg
    """
    samples: list[list[bytes]] = []
    latest: dict[bytes, tuple[set[bytes], list[bytes]]] = {}
    for name, offset, size in members:
        parts = split_name(name)
        if parts is None:
            continue
        key, ext = parts
        known = latest.get(key)
        folded = ext.lower()
        if known is None or folded in known[0]:
            known = latest[key] = (set(), [])
            samples.append(known[1])
        known[0].add(folded)
        known[1].append(b"%b %d %d %b" % (escape_name(ext), offset, size, escape_name(name)))
    return b"".join([b"v1.2 %d\n" % len(samples), *(b" ".join(sample) + b"\n" for sample in samples)])


def write_index(tar: str | os.PathLike[str]) -> IndexSummary:
    """Write the index beside a tar, replacing an old one; others see the old or the new one, nothing between.

    Parameters
    ----------
    tar : path
        A plain tar.

    Returns
    -------
    IndexSummary

    Raises
    ------
    ShardError
        If the tar is compressed, damaged, cut short or no tar.
    OSError
        If the folder cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     tar = os.path.join(folder, "none.tar")
    ...     _ = open(tar, "wb").write(bytes(1024))
    ...     summary = write_index(tar)
    ...     summary.samples, os.path.basename(summary.path)
    (0, 'none.idx')
    """
    path = os.fspath(tar)
    target = index_path(path)
    with open_tar(path) as data:
        members, _ = read_members(data, path)
    text = index_text(members)
    with publish(target) as file:
        file.write(text)
    components = sum(split_name(member.name) is not None for member in members)
    return IndexSummary(target, int(text[5 : text.index(b"\n")]), components, len(members) - components)


def scan_index(tar: str) -> ShardIndex:
    """Make a tar's index in memory from its headers, touching no file."""
    with open_tar(tar) as data:
        members, _ = read_members(data, tar)
    return parse_index(index_text(members), tar)


def read_index(tar: str | os.PathLike[str]) -> ShardIndex:
    """Read the index beside a tar and make sure that it describes the tar.

    Returns
    -------
    ShardIndex
        NumPy arrays; no Python object for a sample.

    Raises
    ------
    ShardError
        If there is no tar or no index, or the index is stale or damaged; the message has the command that mends it.
    """
    path = os.fspath(tar)
    index = _read(path)
    if index is None:
        raise ShardError(f"{path}: has no index; run 'figureground index {path}'")
    reason = stale_reason(path, index)
    if reason:
        raise ShardError(f"{index_path(path)}: stale: {reason}; run 'figureground index {path}'")
    return index


def index_is_fresh(tar: str | os.PathLike[str]) -> bool:
    """Tell whether a tar has an index that describes it.

    Raises
    ------
    ShardError
        If the tar itself is missing or damaged behind its last indexed member.
    """
    path = os.fspath(tar)
    try:
        index = _read(path)
    except ShardError:
        if not os.path.exists(path):
            raise
        return False
    return index is not None and stale_reason(path, index) is None


def load_index(tar: str, mode: str = "auto") -> ShardIndex:
    """Read a tar's index; where there is none, make it ("auto") or raise ("require").

    "auto" also writes it beside the tar; where that is not allowed it is kept in memory, and the log says so. A stale
    index is an error in both modes.
    """
    if mode == "require" or os.path.exists(index_path(tar)):
        return read_index(tar)
    try:
        write_index(tar)
    except OSError as error:
        log.warning("%s: index kept in memory, it cannot be written: %s", tar, error.strerror or error)
        return scan_index(tar)
    return read_index(tar)


def _read(tar: str) -> ShardIndex | None:
    with open_tar(tar):  # says what is wrong when it is missing or empty
        pass
    try:
        with open(index_path(tar), "rb") as file:
            text = file.read()
    except FileNotFoundError:
        return None
    return parse_index(text, tar)


def stale_reason(tar: str, index: ShardIndex) -> str | None:
    """Say why an index does not describe its tar, None if it does.

    Notes
    -----
    Costs one small read at the end of the tar. The modification times alone prove nothing (copying a folder often
    leaves the index older than the tar), so they only decide whether 8 headers over the shard are compared too; if
    one differs, all are.
    """
    file = os.open(tar, os.O_RDONLY)
    try:
        status = os.fstat(file)
        last = int((index.offset + index.size).max(initial=0))
        if last > status.st_size:
            return f"its last member ends at byte {last}, the tar has {status.st_size} bytes"
        tail = -(-last // BLOCK) * BLOCK
        if os.pread(file, BLOCK, tail) != bytes(BLOCK):
            with open_tar(tar) as data:
                more, _ = read_members(data, tar, start=tail)
            if any(split_name(member.name) for member in more):
                return f"the tar has more members after byte {tail}"
        older = os.stat(index_path(tar)).st_mtime_ns < status.st_mtime_ns
        if older and not _headers_match(file, index) and not _describes(tar, index):
            return "it is older than the tar and its offsets do not match the tar's headers"
    finally:
        os.close(file)
    return None


def _headers_match(file: int, index: ShardIndex) -> bool:
    """Compare up to 8 members, spread over the shard, with their headers in the tar."""
    rows = len(index.offset)
    for row in {rows * step // _SPOT_CHECKS for step in range(_SPOT_CHECKS)} | {rows - 1} if rows else ():
        block = os.pread(file, BLOCK, int(index.offset[row]) - BLOCK)
        if len(block) < BLOCK or not checksum_matches(block) or header_size(block) != index.size[row]:
            return False
        name = index.name(row)
        if len(name) <= 100 and name.isascii() and header_name(block) != name:
            return False
    return True


def _describes(tar: str, index: ShardIndex) -> bool:
    """Compare an index with the tar, header by header."""
    with open_tar(tar) as data:
        members, _ = read_members(data, tar)
    rows = [(index.name(row), int(index.offset[row]), int(index.size[row])) for row in range(len(index.offset))]
    return sorted(rows) == sorted(member for member in members if split_name(member.name))
