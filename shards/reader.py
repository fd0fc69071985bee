"""Random access to the samples of many shards, without copies and without a Python object for a sample."""

from __future__ import annotations

import bisect
import hashlib
import itertools
import logging
import operator
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, Self

import numpy as np

from .classes import READERS
from .fingerprint import fingerprint, shard_fingerprint, status_of
from .index import index_path, load_index
from .index_text import ShardIndex, unescape_name
from .maps import Maps
from .patterns import expand
from .pieces import Pieces, cut_pieces, find_rows, slim, slim_type
from .urls import is_url, shown, url_name

if TYPE_CHECKING:
    from .cache import ShardCache
    from .fetched import FetchedMaps

__all__ = ["IMAGE_EXTS", "Store", "expand", "shard_fingerprint"]

log = logging.getLogger(__name__)

IMAGE_EXTS = ("jpg", "jpeg", "png", "webp", "bmp", "tif", "tiff", "jp2", "pnm", "ppm", "pgm", "pbm", "gif", "jpe", "jfif", "mpo",
              "apng", "j2k", "avif")  # fmt: skip
"""Extensions that are looked for as a sample's image, the first one present wins."""

_NOTHING = np.frombuffer(b"", np.uint8)  # read-only


class Store:
    """All samples of a list of shards, by number.

    The number of a sample (its id) is its place in the sorted list of shards, then in its tar.

    Parameters
    ----------
    shards : str, path or sequence of these
        As for `expand`.
    index : {"auto", "require"}
        "auto" writes an index where there is none (or keeps it in memory where the folder cannot be written);
        "require" raises.
    image_exts : sequence of str
        Extensions of images without the dot, lower case; the first one a sample has is its image.
    max_open : int, optional
        Shards kept mapped at a time, by default 8192; a mapped shard takes no file descriptor. Of remote shards those needed
        (see `need`) and an eighth of what the cache can hold.
    cache : ShardCache, optional
        Where shards of stores (`s3://`, `gs://`, `https://` ...) are kept; needed for URLs. Their indexes are fetched now,
        a shard when one of its samples is first asked for, or ahead of it (see `need`).

    Raises
    ------
    ShardError
        If a shard is missing, damaged, compressed or no tar, or its index is stale, or it is a URL and there is no cache,
        or one that cannot hold two shards.
    ValueError
        If `index` or `image_exts` is not legal.

    Notes
    -----
    Memory, for shards below 4 GiB: 9 bytes a component, 8 bytes and the key a sample. Any number of threads may read
    at a time. A pickled Store carries its arrays and opens its shards anew.

    Examples
    --------
    >>> import io, tarfile, tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> with tarfile.open(folder.name + "/pets-000000.tar", "w") as tar:
    ...     for name, data in (("cat.jpg", b"meow"), ("cat.cls", b"7"), ("dog.txt", b"no image")):
    ...         info = tarfile.TarInfo(name)
    ...         info.size = len(data)
    ...         tar.addfile(info, io.BytesIO(data))
    >>> store = Store(folder.name)
    >>> len(store), store.key(0), bytes(store.image(0)), bytes(store.component(1, "txt"))
    (2, 'cat', b'meow', b'no image')
    >>> store.image(1).size, store.targets.tolist()
    (0, [7, -1])
    >>> store.close()
    >>> folder.cleanup()
    """

    def __init__(
        self,
        shards: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        *,
        index: Literal["auto", "require"] = "auto",
        image_exts: Sequence[str] = IMAGE_EXTS,
        max_open: int | None = None,
        cache: ShardCache | None = None,
    ) -> None:
        if index not in ("auto", "require"):
            raise ValueError(f"Store: index must be 'auto' or 'require', got {index!r}")
        if isinstance(image_exts, str) or not image_exts:
            raise ValueError(f"Store: image_exts must be a sequence of extensions, got {image_exts!r}")
        if max_open is not None and max_open < 1:
            raise ValueError(f"Store: max_open must be at least 1, got {max_open}")
        found = expand(shards, None if cache is None else cache.remote)
        self._paths = [shown(shard) if is_url(shard) else os.path.abspath(shard) for shard in found]
        self._names = [url_name(shard) if is_url(shard) else os.path.basename(shard) for shard in found]
        self._fetched: FetchedMaps | None = None
        if cache is not None and any(map(is_url, found)):
            from .fetched import open_shards  # local shards do without

            indexes, self._fetched = open_shards(found, cache, index, max_open)
            self._maps: Maps = self._fetched
        else:
            status = np.array([status_of(path) for path in self._paths], np.int64).reshape(-1, 2)
            indexes = _load_indexes(self._paths, index)
            self._maps = Maps(self._paths, status, max_open)
        self._digests = [found.digest for found in indexes]
        self._starts = [0, *np.cumsum([len(each) for each in indexes], dtype=np.int64).tolist()]
        self._join(indexes)
        self.image_exts = tuple(ext.lower().lstrip(".") for ext in image_exts)
        self._image_ranks = self._ranks(self.image_exts)
        self._targets: np.ndarray | None = None
        if len(self) and not self.has_images:
            log.warning(
                "%s: no sample has an image (looked for %s, found %s)",
                self._paths[0], ", ".join(self.image_exts), ", ".join(sorted(self._numbers)[:8]),
            )  # fmt: skip

    def _join(self, indexes: list[ShardIndex]) -> None:
        """Join the shards' arrays, emptying the list; extensions get one table, in lower case."""
        self._numbers: dict[str, int] = {}
        tables = []
        for found in indexes:
            names = [name.decode("utf-8", "surrogateescape").lower() for name in found.exts]
            tables.append(np.array([self._numbers.setdefault(name, len(self._numbers)) for name in names], np.int64))
        samples, rows = sum(map(len, indexes)), sum(len(found.offset) for found in indexes)
        self._keys = b"".join([found.keys for found in indexes])
        self._ext = np.empty(rows, np.uint8 if len(self._numbers) <= 256 else np.int64)
        self._first = np.zeros(samples + 1, np.uint32 if rows < 1 << 32 else np.int64)
        self._key_at = np.zeros(samples + 1, np.uint32 if len(self._keys) < 1 << 32 else np.int64)
        self._offset = np.empty(rows, np.result_type(np.uint32, *{slim_type(found.offset) for found in indexes}))
        self._size = np.empty(rows, np.result_type(np.uint32, *{slim_type(found.size) for found in indexes}))
        sample = row = letter = 0
        for place, table in enumerate(tables):
            found, indexes[place] = indexes[place], _NO_INDEX  # what is taken over need not be held twice
            own, mine = slice(sample + 1, sample + len(found) + 1), slice(row, row + len(found.offset))
            self._first[own] = found.first[1:].astype(np.int64) + row
            self._key_at[own] = found.key_at[1:].astype(np.int64) + letter
            self._ext[mine] = table[found.ext] if len(table) else 0
            self._offset[mine], self._size[mine] = found.offset, found.size
            sample, row, letter = own.stop - 1, mine.stop, letter + len(found.keys)
        self._escaped = b"%" in self._keys
        self._starts_at = np.array(self._starts, np.int64)

    def _ranks(self, exts: Sequence[str]) -> np.ndarray:
        """Rank the store's extensions by their place in `exts`; -1: not in it."""
        ranks = np.full(len(self._numbers), -1, np.int64)
        for rank, ext in reversed(list(enumerate(exts))):
            if ext in self._numbers:
                ranks[self._numbers[ext]] = rank
        return ranks

    def _many(self, samples: Sequence[int] | np.ndarray) -> np.ndarray:
        numbers = np.ascontiguousarray(samples, np.int64)
        if len(numbers) and not (numbers.min() >= 0 and numbers.max() < len(self)):
            raise IndexError(f"Store: samples must be in 0..{len(self) - 1}, got {numbers.min()}..{numbers.max()}")
        return numbers

    def _cut(self, samples: np.ndarray, ranks: np.ndarray) -> Pieces:
        """Cut out the component of each sample that ranks first."""
        rows = find_rows(samples, self._first, self._ext, ranks)
        files = np.searchsorted(self._starts_at, samples, side="right") - 1
        offsets = np.where(rows >= 0, self._offset[rows].astype(np.int64), -1)
        return cut_pieces(self._maps, files, offsets, self._size[rows].astype(np.int64))

    def __len__(self) -> int:
        return self._starts[-1]

    def __repr__(self) -> str:
        return f"Store({len(self)} samples in {len(self._paths)} shards, {self._paths[0]} ...)"

    @property
    def shards(self) -> list[str]:
        """Absolute paths of the shards, in order; URLs without passwords and signatures."""
        return list(self._paths)

    @property
    def is_remote(self) -> bool:
        """Tell whether some shards are fetched: visit them in windows, and say what is needed (`need`)."""
        return self._fetched is not None

    @property
    def fetched(self) -> FetchedMaps | None:
        """What fetches the remote shards; None if all are local."""
        return self._fetched

    def plan_windows(self, window: int, *, lanes: int = 1, node_lanes: int = 1) -> None:
        """Make sure, before training, that the cache can hold what an order of windows of so many shards needs: this process reads
        `lanes` windows at a time, all that share its cache read `node_lanes`. Local shards need nothing.

        Raises
        ------
        ShardError
            If it cannot hold two windows of each lane, and two shards more.
        """
        if self._fetched is not None:
            self._fetched.plan_windows(window, lanes, node_lanes)

    def need(self, shards: Sequence[int]) -> None:
        """Say which shards are needed from now on, the next one first: remote ones are fetched ahead and kept.

        All other remote shards may be evicted. Local shards need nothing.

        Raises
        ------
        RuntimeError
            If a store with remote shards was closed.
        """
        if self._fetched is not None:
            self._fetched.need(shards)

    @property
    def starts(self) -> np.ndarray:
        """(shards + 1,) int64: samples starts[s] to starts[s + 1] lie in shard s."""
        return np.array(self._starts, np.int64)

    @property
    def exts(self) -> tuple[str, ...]:
        """Extensions of all components, lower case, sorted."""
        return tuple(sorted(self._numbers))

    @property
    def has_images(self) -> bool:
        """Tell whether any sample has an image."""
        return bool((self._image_ranks[self._ext] >= 0).any())

    def has(self, ext: str) -> bool:
        """Tell whether any sample has a component with this extension."""
        return ext.lower().lstrip(".") in self._numbers

    def _number(self, sample: int) -> int:
        number = operator.index(sample)
        if not 0 <= number < self._starts[-1]:
            raise IndexError(f"Store: a sample must be in 0..{len(self) - 1}, got {number}")
        return number

    def key(self, sample: int) -> str:
        """Return a sample's key; bytes that are no UTF-8 come as lone surrogates."""
        number = self._number(sample)
        raw = self._keys[self._key_at[number] : self._key_at[number + 1]]
        return unescape_name(raw).decode("utf-8", "surrogateescape")

    def keys(self, samples: Sequence[int] | np.ndarray) -> list[str]:
        """Return the keys of many samples."""
        numbers = self._many(samples)
        if self._escaped:
            return [self.key(number) for number in numbers.tolist()]
        cuts = zip(self._key_at[numbers].tolist(), self._key_at[numbers + 1].tolist(), strict=True)
        return [self._keys[a:b].decode("utf-8", "surrogateescape") for a, b in cuts]

    def key_bytes(self) -> tuple[np.ndarray, np.ndarray]:
        """Return all keys in a row, (bytes,) uint8, escaped as in the indexes, and where each starts, (N + 1,) int64."""
        return np.frombuffer(self._keys, np.uint8), self._key_at.astype(np.int64)

    def shard_keys(self, shard: int) -> list[bytes]:
        """Return the keys of a shard's samples, escaped as in its index."""
        cuts = self._key_at[self._starts[shard] : self._starts[shard + 1] + 1].tolist()
        return [self._keys[a:b] for a, b in itertools.pairwise(cuts)]

    def shard_of(self, sample: int) -> int:
        """Return the number of the shard that holds a sample."""
        return bisect.bisect_right(self._starts, self._number(sample)) - 1

    def _view(self, sample: int, row: int) -> np.ndarray:
        shard = self._maps[bisect.bisect_right(self._starts, sample) - 1]
        start = self._offset.item(row)
        return shard[start : start + self._size.item(row)]

    def image(self, sample: int) -> np.ndarray:
        """Return a sample's encoded image.

        Returns
        -------
        (bytes,) uint8
            A read-only view of the mapped file, valid as long as it is referenced; empty if the sample has no image.

        Raises
        ------
        IndexError
            If there is no such sample.
        ShardError
            If the shard was changed since its index was read.
        """
        number = self._number(sample)
        row, best = -1, len(self.image_exts)
        for candidate in range(self._first.item(number), self._first.item(number + 1)):
            rank = self._image_ranks.item(self._ext.item(candidate))
            if 0 <= rank < best:
                row, best = candidate, rank
        return self._view(number, row) if row >= 0 else _NOTHING

    def images(self, samples: Sequence[int] | np.ndarray) -> Pieces:
        """Return the encoded images of many samples, as `image` does."""
        numbers = self._many(samples)
        pieces = self._cut(numbers, self._image_ranks)
        pieces.arrays = [_NOTHING if array is None else array for array in pieces.arrays]
        return pieces

    def component(self, sample: int, ext: str) -> np.ndarray | None:
        """Return any component of a sample as `image` does, None if the sample has none of this extension."""
        number = self._number(sample)
        wanted = self._numbers.get(ext.lower().lstrip("."))
        if wanted is not None:
            for row in range(self._first.item(number), self._first.item(number + 1)):
                if self._ext.item(row) == wanted:
                    return self._view(number, row)
        return None

    def target(self, sample: int) -> int:
        """Return a sample's class: the integer in its `.cls`, else `"label"` of its `.json`, else -1.

        Reads one small member that lies beside the image: cheaper, batch by batch, than `targets` at the start.
        """
        return int(self.targets_of([sample])[0])

    def targets_of(self, samples: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return the classes of many samples, (N,) int64, as `target` does."""
        numbers = self._many(samples)
        targets = np.full(len(numbers), -1, np.int64)
        known = np.zeros(len(numbers), bool)
        for ext, read in READERS:
            rest = np.flatnonzero(~known)
            if not len(rest) or ext not in self._numbers:
                continue
            chosen = numbers[rest]
            pieces = self._cut(chosen, self._ranks([ext]))
            for i, piece in zip(rest.tolist(), pieces.arrays, strict=True):
                value = None if piece is None else read(piece.tobytes())
                if value is not None:
                    targets[i], known[i] = value, True
        return targets

    @property
    def targets(self) -> np.ndarray:
        """(N,) int64 classes of all samples, -1 for none; read on first use (touches every sample), then kept."""
        if self._targets is None:
            targets = self.targets_of(np.arange(len(self)))
            targets.flags.writeable = False
            self._targets = targets
        return self._targets

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the shards' names, sizes and indexes: the same wherever the folder lies."""
        digest = hashlib.sha256()
        for number, name in enumerate(self._names):
            digest.update(os.fsencode(name) + b"\0" + self.shard_fingerprint(number).encode())
        return digest.hexdigest()

    def shard_fingerprint(self, shard: int) -> str:
        """Return `shard_fingerprint` of one shard, from what is known already."""
        return fingerprint(int(self._maps.status[shard, 0]), self._digests[shard])

    def close(self) -> None:
        """Let the shards go; arrays handed out stay valid."""
        self._maps.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


_NO_INDEX = ShardIndex(
    np.zeros(1, np.int64), np.empty(0, np.int32), (), np.empty(0, np.int64), np.empty(0, np.int64), np.zeros(1, np.int64), b"", b""
)  # fmt: skip


def _slimmed(index: ShardIndex) -> ShardIndex:
    """Return an index in the smallest types, for a list of very many."""
    first, offset, size, key_at = (
        slim(each, np.uint32) for each in (index.first, index.offset, index.size, index.key_at)
    )
    return replace(index, ext=slim(index.ext, np.uint8), first=first, offset=offset, size=size, key_at=key_at)


def _load_indexes(paths: list[str], mode: str) -> list[ShardIndex]:
    missing = [path for path in paths if not os.path.exists(index_path(path))]
    if mode == "auto" and len(missing) > 1:
        log.info("writing the indexes of %d shards", len(missing))
        with ThreadPoolExecutor(8) as pool:  # waiting for the disk, mostly
            made = dict(zip(missing, map(_slimmed, pool.map(load_index, missing)), strict=True))
        return [made[path] if path in made else _slimmed(load_index(path)) for path in paths]
    return [_slimmed(load_index(path, mode)) for path in paths]
