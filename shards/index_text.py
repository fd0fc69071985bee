"""Parse the text of an index into NumPy arrays, fast enough for a thousand shards at start-up."""

from __future__ import annotations

import functools
import hashlib
import os
import re
from dataclasses import dataclass

import numpy as np

from .errors import ShardError

_UNSAFE = re.compile(rb"[\x00-\x20\x7f]|%(?=[0-9A-Fa-f]{2})")
_ESCAPED = re.compile(rb"%([0-9A-Fa-f]{2})")


@dataclass(frozen=True, eq=False)
class ShardIndex:
    """Where the components of a shard's samples lie: n samples, c components in all."""

    first: np.ndarray
    """(n + 1,) int64: components of sample i are rows first[i] to first[i + 1]."""
    ext: np.ndarray
    """(c,) int32: number of the extension in `exts`."""
    exts: tuple[bytes, ...]
    """Extensions as stored (upper case kept), without the dot."""
    offset: np.ndarray
    """(c,) int64: first byte in the tar."""
    size: np.ndarray
    """(c,) int64: length [bytes]."""
    key_at: np.ndarray
    """(n + 1,) int64: the key of sample i is keys[key_at[i]:key_at[i + 1]], escaped."""
    keys: bytes
    """All keys in a row."""
    digest: bytes
    """SHA-256 of the index's text."""

    def __len__(self) -> int:
        return len(self.first) - 1

    def key(self, sample: int) -> bytes:
        """Return a sample's key as stored in the tar."""
        return unescape_name(self.keys[self.key_at[sample] : self.key_at[sample + 1]])

    def name(self, row: int) -> bytes:
        """Return a member's full name as stored in the tar."""
        sample = int(np.searchsorted(self.first, row, side="right")) - 1
        return self.key(sample) + b"." + self.exts[self.ext[row]]

    def find(self, key: bytes, ext: bytes) -> int | None:
        """Return the row of a component, None if there is none; walks the keys from the last one."""
        for sample in reversed(range(len(self))):
            if self.key(sample) == key:
                for row in range(int(self.first[sample]), int(self.first[sample + 1])):
                    if self.exts[self.ext[row]] == ext:
                        return row
        return None


def escape_name(name: bytes) -> bytes:
    """Write blanks and control characters as `%XX`, and a `%` that would read as one of these.

    Examples
    --------
    >>> escape_name(b"two dogs"), escape_name(b"50%.jpg"), escape_name(b"a%20b")
    (b'two%20dogs', b'50%.jpg', b'a%2520b')
    """
    if _UNSAFE.search(name) is None:
        return name
    return _UNSAFE.sub(lambda match: b"%%%02X" % match[0][0], name)


def unescape_name(name: bytes) -> bytes:
    """Undo `escape_name`.

    Examples
    --------
    >>> unescape_name(b"a%2520b"), unescape_name(b"50%.jpg")
    (b'a%20b', b'50%.jpg')
    """
    if b"%" not in name:
        return name
    return _ESCAPED.sub(lambda match: bytes([int(match[1], 16)]), name)


def parse_index(text: bytes, tar: str) -> ShardIndex:
    """Parse the text of an index.

    Parameters
    ----------
    text : bytes
        Contents of the `.idx` file.
    tar : str
        The shard it belongs to, for messages.

    Returns
    -------
    ShardIndex

    Raises
    ------
    ShardError
        If the version is not v1.2, or a line cannot be read, or the number of lines is not the promised one.

    Examples
    --------
    >>> index = parse_index(b"v1.2 1\\njpg 512 9 cat.jpg cls 1536 1 cat.cls\\n", "pets.tar")
    >>> len(index), index.key(0), index.exts, index.offset.tolist(), index.size.tolist()
    (1, b'cat', (b'cls', b'jpg'), [512, 1536], [9, 1])
    """
    fail = functools.partial(_fail, tar)
    version, _, count = text[: text.find(b"\n") + 1].strip().partition(b" ")
    if version != b"v1.2" or not count.isdigit():
        raise fail(f"must start with 'v1.2 <samples>', got {text[:20]!r}")
    body = text[text.find(b"\n") + 1 :]
    bytes_ = np.frombuffer(body, np.uint8)
    stop = np.flatnonzero(bytes_ <= 32)
    if len(body) and (not len(stop) or stop[-1] != len(body) - 1):
        raise fail("the last line is cut short")
    start = np.concatenate([np.zeros(1, np.int64), stop + 1])[:-1]
    if len(stop) % 4 or (start == stop).any():
        raise fail(_odd_line(body))
    start, stop = start.reshape(-1, 4), stop.reshape(-1, 4)
    ends_line = bytes_[stop] == 10
    if ends_line[:, :3].any() or (len(ends_line) and not ends_line[-1, 3]):
        raise fail(_odd_line(body))
    first = np.concatenate([np.zeros(1, np.int64), np.flatnonzero(ends_line[:, 3]) + 1])
    if len(first) - 1 != int(count):
        raise fail(f"promises {int(count)} samples, has {len(first) - 1}")
    offset = _integers(bytes_, start[:, 1], stop[:, 1])
    size = _integers(bytes_, start[:, 2], stop[:, 2])
    if offset is None or size is None:
        raise fail(_odd_line(body))
    ext, exts = _extensions(body, bytes_, start[:, 0], stop[:, 0])
    key_at, keys = _keys(body, bytes_, start, stop, first)
    if keys is None:
        raise fail("a file name does not end in its extension")
    exts = tuple(unescape_name(name) for name in exts)
    return ShardIndex(first, ext, exts, offset, size, key_at, keys, hashlib.sha256(text).digest())


def _integers(text: np.ndarray, start: np.ndarray, stop: np.ndarray) -> np.ndarray | None:
    """Read decimal numbers of up to 18 digits, all at once; None if one is no number."""
    width = stop - start
    longest = int(width.max(initial=0))
    value = np.zeros(len(start), np.int64)
    if longest > 18:
        return None
    for place in range(longest):
        inside = place < width
        digit = text[np.where(inside, start + place, start)].astype(np.int64) - 48
        if ((digit < 0) | (digit > 9)).any():
            return None
        value = np.where(inside, value * 10 + digit, value)
    return value


def _extensions(
    body: bytes, text: np.ndarray, start: np.ndarray, stop: np.ndarray
) -> tuple[np.ndarray, tuple[bytes, ...]]:
    """Number the extensions, in their sorted order."""
    width = stop - start
    if int(width.max(initial=0)) > 8:
        names = [body[a:b] for a, b in zip(start.tolist(), stop.tolist(), strict=True)]
        exts = sorted(set(names))
        number = {name: i for i, name in enumerate(exts)}
        return np.array([number[name] for name in names], np.int32), tuple(exts)
    code = np.zeros(len(start), np.uint64)
    for place in range(8):
        inside = place < width
        byte = np.where(inside, text[np.where(inside, start + place, start)], 0)
        code = (code << np.uint64(8)) | byte.astype(np.uint64)
    codes, ext = np.unique(code, return_inverse=True)
    return ext.astype(np.int32), tuple(int(c).to_bytes(8, "big").rstrip(b"\0") for c in codes)


def _keys(
    body: bytes, text: np.ndarray, start: np.ndarray, stop: np.ndarray, first: np.ndarray
) -> tuple[np.ndarray, bytes | None]:
    """Cut the keys out of the file names: a name is key, dot, extension."""
    rows = first[:-1]
    key_start = start[rows, 3]
    key_stop = stop[rows, 3] - (stop[rows, 0] - start[rows, 0]) - 1
    length = key_stop - key_start
    if (length <= 0).any() or (text[key_stop] != ord(".")).any():
        return first, None
    key_at = np.concatenate([np.zeros(1, np.int64), np.cumsum(length)])
    return key_at, b"".join([body[a:b] for a, b in zip(key_start.tolist(), key_stop.tolist(), strict=True)])


def _odd_line(body: bytes) -> str:
    """Find the first line that does not consist of `ext offset size filename` groups."""
    for number, line in enumerate(body.splitlines(), start=2):
        tokens = line.split(b" ")
        good = tokens[0] and len(tokens) % 4 == 0 and all(b.isdigit() for b in tokens[1::4] + tokens[2::4])
        if not good:
            return f"line {number} must be 'ext offset size filename' groups, got {line[:60]!r}"
    return "lines must be 'ext offset size filename' groups parted by single blanks"


def _fail(tar: str, what: str) -> ShardError:
    return ShardError(f"{os.path.splitext(tar)[0]}.idx: {what}; run 'figureground index --force {tar}'")
