"""Read remote shards as local ones: their indexes at the start, their tars when needed or ahead."""

from __future__ import annotations

import logging
import mmap
import os
import threading
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np

from .ahead import ReadAhead
from .cache import MEND_INDEX, ShardCache
from .errors import ShardError
from .files import publish
from .index import index_text, load_index
from .index_text import ShardIndex, parse_index
from .locks import locked
from .maps import Maps
from .remote import RemoteFile
from .remote_errors import RemoteError
from .tar import open_tar, read_members
from .urls import beside, is_url, shown

log = logging.getLogger(__name__)

_THREADS = 16
T = TypeVar("T")
R = TypeVar("R")


class FetchedMaps(Maps):
    """As `Maps`, for shards of which some are fetched into a cache before they are mapped.

    Parameters
    ----------
    paths, status, limit
        As for `Maps`; of a remote shard the status is its size and 0.
    files : list of RemoteFile or None
        The remote shards, by number; None: a local file.
    cache : ShardCache

    Notes
    -----
    A map holds its shard's lease: what is mapped, or referenced by an array handed out, is not evicted. So, unless all
    shards fit into the cache, only what is needed (`need`) and an eighth of the cache is kept mapped; and where there is no
    room for a shard that is asked for, maps and shards read ahead make way.
    """

    def __init__(
        self,
        paths: list[str],
        status: np.ndarray,
        limit: int | None,
        files: list[RemoteFile | None],
        cache: ShardCache,
    ) -> None:
        super().__init__(paths, status, limit)
        self.files, self.cache = files, cache
        self._sizes = sorted((file.size for file in files if file is not None), reverse=True)
        self._require(2, "two shards")
        self._ahead_bytes = cache.max_bytes // 2
        self._most = self._limit
        if sum(self._sizes) > cache.max_bytes:
            self._limit = min(self._limit, max(1, cache.max_bytes // (8 * self._sizes[0])))
        self._ahead: ReadAhead | None = None
        self._needed: list[int] = []

    def _require(self, shards: int, what: str, otherwise: str = "") -> None:
        wanted = sum(self._sizes[:shards])
        if wanted > self.cache.max_bytes:
            raise ShardError(
                f"Store: max_bytes of the cache must hold {what}, {wanted} bytes, got {self.cache.max_bytes}; raise it{otherwise}"
            )

    def plan_windows(self, window: int, lanes: int = 1, node_lanes: int = 1) -> None:
        """Make sure that the cache can hold what an order of windows needs, and bound what is read ahead; see `Store`."""
        of_each, lower = (
            (f" for each of this node's {node_lanes} lanes", " or the lanes") if node_lanes > 1 else ("", "")
        )
        self._require(
            2 * window * node_lanes + 2,
            f"two windows of {window} shards{of_each} and two more",
            f" or lower the window{lower}",
        )
        share = self.cache.max_bytes * lanes // node_lanes
        self._ahead_bytes = max(share - sum(self._sizes[: window * lanes + 2]), 0)

    def keep_all(self, what: str) -> None:
        """Fetch all files now, in the background, and keep them; an error if the cache cannot hold them together."""
        self._require(len(self._sizes), what)
        self._ahead_bytes = self.cache.max_bytes
        self.need([number for number, file in enumerate(self.files) if file is not None])

    def __getstate__(self) -> Any:
        kept = self.files, self.cache, self._sizes, self._ahead_bytes, self._most
        return super().__getstate__(), kept

    def __setstate__(self, state: Any) -> None:
        parent, (self.files, self.cache, self._sizes, self._ahead_bytes, self._most) = state
        super().__setstate__(parent)
        self._ahead, self._needed = None, []

    def __getitem__(self, number: int) -> np.ndarray:
        """As `Maps`; a shard that is not in the cache is fetched first, while other threads go on reading others."""
        file = self.files[number]
        if file is None or self._closed or number in self._alive:
            return super().__getitem__(number)
        if self._ahead is not None:
            self._ahead.check(number)
        with self.cache.lease(file, make_way=self._make_way):
            return super().__getitem__(number)

    def _make_way(self) -> bool:
        return self._let_go() or (self._ahead is not None and self._ahead.give_way())

    def _let_go(self) -> bool:
        """Let go of the map used least recently; False: there is none."""
        with self._lock:
            for number in self._recent:
                if self.files[number] is not None:
                    del self._recent[number]
                    return True
        return False

    def _open(self, number: int) -> np.ndarray:
        file = self.files[number]
        if file is None:
            return super()._open(number)
        lease = self.cache.lease(file)
        try:
            handle = os.open(lease.path, os.O_RDONLY)
            try:
                array = np.frombuffer(mmap.mmap(handle, file.size, access=mmap.ACCESS_READ), np.uint8)
            finally:
                os.close(handle)
        except BaseException:
            lease.release()
            raise
        weakref.finalize(array, lease.release).atexit = False
        return array

    def need(self, numbers: Sequence[int]) -> None:
        """Fetch shards in this order, keep them, let go of all other remote ones."""
        if list(numbers) == self._needed:
            return
        if self._closed:
            raise RuntimeError("Store: is closed; open a new one")
        self._needed = list(numbers)
        if self._ahead is None:
            self._ahead = ReadAhead(self.cache, self.files, max_bytes=self._ahead_bytes)
            weakref.finalize(self, self._ahead.close)
        self._ahead.want(self._needed)
        keep = set(self._needed)
        with self._lock:
            self._limit = min(self._most, max(self._limit, len(keep)))
            for number in [n for n in self._recent if n not in keep and self.files[n] is not None]:
                del self._recent[number]

    def close(self) -> None:
        """Stop reading ahead and let all maps go; arrays handed out stay valid."""
        super().close()
        if self._ahead is not None:
            self._ahead.close()


def open_shards(
    found: Sequence[str], cache: ShardCache, mode: str, max_open: int | None
) -> tuple[list[ShardIndex], FetchedMaps]:
    """Load the indexes of shards of which some are URLs, and make their maps; as `Store` needs them.

    Parameters
    ----------
    found : sequence of str
        From `expand`.
    cache : ShardCache
    mode : {"auto", "require"}
        As for `Store`.
    max_open : int, optional
    """
    remote = [number for number, shard in enumerate(found) if is_url(shard)]
    files: list[RemoteFile | None] = [None] * len(found)
    for number, seen_file in zip(remote, look_at_all([found[number] for number in remote], cache), strict=True):
        files[number] = seen_file
    indexes: dict[int, ShardIndex] = {}
    status = np.zeros((len(found), 2), np.int64)
    for number, file in enumerate(files):
        if file is None:
            seen = os.stat(found[number])
            status[number] = seen.st_size, seen.st_mtime_ns
            indexes[number] = load_index(os.path.abspath(found[number]), mode)
        else:
            status[number] = file.size, 0
    paths = [shard if file else os.path.abspath(shard) for shard, file in zip(found, files, strict=True)]
    maps = FetchedMaps(paths, status, max_open, files, cache)
    fetched = load_remote_indexes([file for file in files if file is not None], cache, mode)
    indexes.update(zip(remote, fetched, strict=True))
    return [indexes[number] for number in range(len(found))], maps


def look_at_all(urls: Sequence[str], cache: ShardCache) -> list[RemoteFile]:
    """Ask for size and version of many remote shards, many at a time.

    Raises
    ------
    ShardError
        If some of them are not there, saying how many, or cannot be read.
    """

    def look(url: str, stop: threading.Event) -> RemoteFile | RemoteError:
        try:
            file = cache.remote.look(url, stop)
            if file.size == 0:
                raise ShardError(f"{shown(url)}: the shard is empty (0 bytes); upload it again")
            return file
        except RemoteError as error:
            if error.status == 404:
                return error
            raise

    found = each(look, urls)
    missing = [error for error in found if isinstance(error, RemoteError)]
    if len(missing) > 1:
        raise ShardError(f"{missing[0]} ({len(missing)} of {len(urls)} shards are not there)") from missing[0]
    if missing:
        raise missing[0]
    return [file for file in found if isinstance(file, RemoteFile)]


def load_remote_indexes(files: Sequence[RemoteFile], cache: ShardCache, mode: str = "auto") -> list[ShardIndex]:
    """Read the indexes of remote shards: those in the cache, else the `.idx` beside the shards, else made from the shards.

    Parameters
    ----------
    files : sequence of RemoteFile
    cache : ShardCache
    mode : {"auto", "require"}
        "require" raises where a shard has no `.idx`; "auto" fetches the whole shard then.

    Raises
    ------
    ShardError
        If an index is damaged or describes a larger shard, or there is none and `mode` is "require".
    """
    found = each(lambda file, stop: _load_index(file, cache, lambda: _beside(file, cache, stop)), files)
    bare = [number for number, index in enumerate(found) if index is None]
    if bare:
        first = shown(files[bare[0]].url)
        if mode == "require":
            raise ShardError(f"{first}: has no index beside it ({len(bare)} of {len(files)} shards); {MEND_INDEX}")
        log.warning(
            "%s: has no index beside it, so all of it is fetched now (%d of %d shards); to save this, %s",
            first, len(bare), len(files), MEND_INDEX,
        )  # fmt: skip
        texts = [files[number] for number in bare]
        made = each(lambda file, stop: _load_index(file, cache, lambda: _made(file, cache, stop)), texts)
        for number, index in zip(bare, made, strict=True):
            found[number] = index
    return [index for index in found if index is not None]


def _load_index(file: RemoteFile, cache: ShardCache, get: Callable[[], bytes | None]) -> ShardIndex | None:
    """Return the index that the cache has, else keep there what `get` returns; None if that is None."""
    path = cache.index_file(file)
    with locked(path + ".lock"):
        index = _kept_index(path)
        if index is None and (text := get()) is not None:
            index = _checked(text, file)
            try:
                with publish(path) as made:
                    made.write(text)
            except OSError as error:
                raise cache.disk_trouble(error, file) from error
    return index


def _kept_index(path: str) -> ShardIndex | None:
    try:
        with open(path, "rb") as kept:
            return parse_index(kept.read(), path)
    except FileNotFoundError:
        return None
    except ShardError as error:
        log.warning("%s; fetching it again", str(error).partition("; run ")[0])
        return None


def _beside(file: RemoteFile, cache: ShardCache, stop: threading.Event) -> bytes | None:
    try:
        return cache.remote.read(beside(file.url, ".idx"), stop)
    except RemoteError as error:
        if error.status in (403, 404):  # a store that may not be listed answers 403 for what is not there
            return None
        raise


def _made(file: RemoteFile, cache: ShardCache, stop: threading.Event) -> bytes:
    with cache.lease(file, stop=stop) as lease, open_tar(lease.path) as data:
        return index_text(read_members(data, shown(file.url))[0])


def _checked(text: bytes, file: RemoteFile) -> ShardIndex:
    try:
        index = parse_index(text, shown(file.url))
    except ShardError as error:
        raise ShardError(f"{str(error).partition('; run ')[0]}; {MEND_INDEX}") from None
    last = int((index.offset + index.size).max(initial=0))
    if last > file.size:
        raise ShardError(
            f"{shown(beside(file.url, '.idx'))}: stale: its last member ends at byte {last}, the tar has {file.size} "
            f"bytes; {MEND_INDEX}"
        )
    return index


def each(function: Callable[[T, threading.Event], R], values: Sequence[T]) -> list[R]:
    """Call a function on many values, 16 at a time (waiting for the network, mostly); the first error ends them all."""
    stop = threading.Event()
    with ThreadPoolExecutor(_THREADS) as pool:
        futures = [pool.submit(function, value, stop) for value in values]
        try:
            return [future.result() for future in futures]
        except BaseException:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
