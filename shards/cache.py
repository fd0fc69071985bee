"""A bounded folder of shards fetched from stores, shared by the processes of a machine.

    <folder>/lock                               held for the moment in which room is made
    <folder>/<hash of URL, size, version>/
        lock                                    shared: in use; exclusive: being fetched or evicted; its time: last use
        <name>.tar                              there is no half of it: written under another name, fsynced, renamed
        <name>.tar.<size>.part                  what came so far; a later fetch goes on behind it
        <name>.idx                              the index; it stays when the tar is evicted

A shard that changes in its store gets another folder, so nothing is ever out of date here; what is old goes by its last
use. Locks are `flock`s: they end with the process that holds them, also after `kill -9`.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Self

from .cache_place import Place, md5_of, size_of, write_all
from .cache_room import LOCK, kept_shards, make_room, used_bytes
from .errors import ShardError
from .files import _sync_folder
from .index import index_path, stale_reason
from .index_text import parse_index
from .locks import EXCLUSIVE, SHARED, locked, open_lock, try_lock, unlock, wait_until
from .remote import Remote, RemoteFile, Stopped
from .urls import beside, shown

__all__ = ["CacheFull", "Lease", "ShardCache"]

log = logging.getLogger(__name__)

MEND_INDEX = "run 'figureground index' where the shard was made and upload the .idx"
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_SPARE_BYTES = 1 << 24
_ROOM_POLL_S = 0.2


class CacheFull(ShardError):
    """No room: all that the cache holds is in use."""


class Lease:
    """A shard that stays in the cache as long as this is held; a context manager."""

    def __init__(self, path: str, handle: int) -> None:
        self.path = path
        """The tar on this machine."""
        self._handle: int | None = handle

    def release(self) -> None:
        """Allow the shard to be evicted; may be called more than once."""
        handle, self._handle = self._handle, None
        if handle is not None:
            os.close(handle)

    def __del__(self) -> None:
        self.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


class ShardCache:
    """Shards of stores (`s3://`, `gs://`, `https://` ...) in a local folder of bounded size.

    Any number of threads and processes of a machine may share a folder; each shard is fetched once. What was used least
    recently goes first; what is leased stays.

    Parameters
    ----------
    folder : path
        On a local disk; made if need be. Nothing else may lie in it.
    max_bytes : int
        What it may hold [bytes]. Training needs room for two windows of shards (see `WindowOrder`), of each of its lanes.
    storage_options : mapping, optional
        Options of fsspec's file systems by protocol, e.g. `{"s3": {"anon": True}}`.
    connections, block_bytes : int
        Requests in flight for one shard, and bytes of one request.
    timeout_s : float
        Time in which one request must be answered in full.
    deadline_s : float
        Time without success in which broken requests are tried again, and without any change of the folder in which room
        is waited for.

    Raises
    ------
    ShardError
        If the folder cannot be made or written.
    ValueError
        If a number is out of range.

    Notes
    -----
    A broken download goes on where it stopped, also in another process. Size and version are asked for again after it,
    an MD5 is compared where the store offers one (Google's `md5Hash`, `Content-MD5` of the web; S3 offers none), and the
    tar is held against its index.

    Examples
    --------
    >>> import fsspec, tempfile
    >>> fsspec.filesystem("memory").pipe_file("/pets/a.tar", bytes(1024))
    >>> folder = tempfile.TemporaryDirectory()
    >>> cache = ShardCache(folder.name, 10_000)
    >>> with cache.lease("memory://pets/a.tar") as lease:
    ...     os.path.basename(lease.path), os.path.getsize(lease.path), cache.used_bytes
    ('a.tar', 1024, 1024)
    >>> folder.cleanup()
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        max_bytes: int,
        *,
        storage_options: Mapping[str, Mapping[str, Any]] | None = None,
        connections: int = 4,
        block_bytes: int = 8 << 20,
        timeout_s: float = 60.0,
        deadline_s: float = 300.0,
    ) -> None:
        if max_bytes < 1:
            raise ValueError(f"ShardCache: max_bytes must be at least 1, got {max_bytes}")
        self.folder, self.max_bytes = os.path.abspath(os.path.expanduser(folder)), int(max_bytes)
        self.remote = Remote(
            storage_options,
            connections=connections,
            block_bytes=block_bytes,
            timeout_s=timeout_s,
            deadline_s=deadline_s,
        )
        try:
            os.makedirs(self.folder, exist_ok=True)
            os.close(open_lock(self._lock))
        except OSError as error:
            raise ShardError(
                f"ShardCache: folder must be writable, got {self.folder} ({error.strerror}); choose another"
            ) from error
        self._clear()

    def _clear(self) -> None:
        self._counts: Counter[str] = Counter()
        self._counting = threading.Lock()

    def __getstate__(self) -> tuple[str, int, Remote]:
        return self.folder, self.max_bytes, self.remote

    def __setstate__(self, state: tuple[str, int, Remote]) -> None:
        self.folder, self.max_bytes, self.remote = state
        self._clear()

    def __repr__(self) -> str:
        return f"ShardCache({self.folder!r}, {self.max_bytes})"

    @property
    def _lock(self) -> str:
        return os.path.join(self.folder, LOCK)

    @property
    def used_bytes(self) -> int:
        """What the folder holds, with what unfinished downloads have reserved [bytes]."""
        return used_bytes(self.folder)

    def stats(self) -> dict[str, int]:
        """Return what this process did: shards and bytes fetched, shards evicted."""
        with self._counting:
            return {name: self._counts[name] for name in ("fetched", "fetched_bytes", "evicted")}

    def _count(self, **amounts: int) -> None:
        with self._counting:
            self._counts.update(amounts)

    def _place(self, file: RemoteFile) -> Place:
        state = f"{file.url}\0{file.size}\0{file.version}".encode("utf-8", "surrogateescape")
        return Place(os.path.join(self.folder, hashlib.sha256(state).hexdigest()[:24]), file)

    def lease(
        self,
        file: RemoteFile | str,
        *,
        wait: bool = True,
        stop: threading.Event | None = None,
        make_way: Callable[[], bool] | None = None,
    ) -> Lease:
        """Have a shard here, fetched if need be, and keep it until the lease is released.

        Parameters
        ----------
        file : RemoteFile or str
            From `ShardCache.remote.look`, or a URL to look at now.
        wait : bool
            Wait for room where all is in use; else raise `CacheFull`.
        stop : threading.Event, optional
            Give up when set.
        make_way : callable, optional
            Called where there is no room: lets something go and returns True, or False if there is nothing.

        Returns
        -------
        Lease

        Raises
        ------
        RemoteError
            If the shard cannot be read.
        CacheFull
            If all that the cache holds stays in use.
        ShardError
            If the shard was changed since it was looked at, does not fit its index, or the disk is full.
        Stopped
            If `stop` was set.

        Notes
        -----
        No lock is held while waiting for room: who waits for the same shard finds out that there is none, and makes way.
        """
        place = self._place(self.remote.look(file, stop) if isinstance(file, str) else file)
        self._make_folder(place)
        seen, since = None, time.monotonic()
        while True:
            try:
                return self._lease(place, stop)
            except CacheFull:
                if make_way is not None and make_way():
                    continue
                if (now := kept_shards(self.folder)) != seen:  # others are at work: room may come
                    seen, since = now, time.monotonic()
                if not wait or time.monotonic() - since > self.remote.deadline_s:
                    raise
            if (stop or threading.Event()).wait(_ROOM_POLL_S):
                raise Stopped

    def _lease(self, place: Place, stop: threading.Event | None) -> Lease:
        patience_s = self.remote.deadline_s + self.remote.timeout_s
        lease = wait_until(
            lambda: self._try_lease(place, stop), progress=place.received, patience_s=patience_s, stop=stop
        )
        if lease is not None:
            return lease
        if stop is not None and stop.is_set():
            raise Stopped
        raise ShardError(
            f"{shown(place.file.url)}: another process has held {place.lock} for {patience_s:.0f} s without progress; "
            f"end it, or use another cache folder"
        )

    def _try_lease(self, place: Place, stop: threading.Event | None) -> Lease | None:
        """Lease a shard, or fetch it if nobody else does; None: another is at it, or it was evicted just now."""
        handle = open_lock(place.lock)
        try:
            shared = try_lock(handle, SHARED)
            if shared and not place.is_complete():
                unlock(handle)  # two that hold it shared would wait for each other
                if try_lock(handle, EXCLUSIVE):
                    if not place.is_complete():
                        self._fetch(place, stop)
                    shared = try_lock(handle, SHARED)
                else:
                    shared = False
            if shared and place.is_complete():
                used = time.time_ns()  # the kernel's own stamp is some milliseconds coarse
                os.utime(handle, ns=(used, used))
                return Lease(place.tar, handle)
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)
        return None

    def _make_folder(self, place: Place) -> None:
        try:
            os.makedirs(place.folder, exist_ok=True)
        except OSError as error:
            raise self.disk_trouble(error, place.file) from error

    def _fetch(self, place: Place, stop: threading.Event | None) -> None:
        """Fetch a shard; its lock is held."""
        file = place.file
        if file.size == 0:
            raise ShardError(f"{shown(file.url)}: the shard is empty (0 bytes); upload it again")
        self._reserve(place)
        log.info("%s: fetching %d bytes from byte %d", shown(file.url), file.size, place.received())
        for attempt in (1, 2):
            self._download(place, stop)
            now = self.remote.look(file.url, stop)
            if (now.size, now.version) != (file.size, file.version) or size_of(place.part) != file.size:
                os.unlink(place.part)
                raise ShardError(
                    f"{shown(file.url)}: the shard was changed while it was being read; open the Store again"
                )
            if not file.md5 or (got := md5_of(place.part)) == file.md5:
                break
            if attempt == 2:
                os.unlink(place.part)
                raise ShardError(f"{shown(file.url)}: MD5 must be {file.md5}, got {got} twice; upload the shard again")
            log.warning("%s: wrong checksum; fetching it once more", shown(file.url))
            os.truncate(place.part, 0)
        os.replace(place.part, place.tar)
        _sync_folder(place.folder)
        self._count(fetched=1)
        self._check_index(place)

    def _download(self, place: Place, stop: threading.Event | None) -> None:
        """Append to the part what is missing of a shard."""
        try:
            with open(place.part, "ab", buffering=0) as part:
                for block in self.remote.blocks(place.file, part.tell(), stop=stop):
                    write_all(part.fileno(), block)
                    self._count(fetched_bytes=len(block))
                os.fsync(part.fileno())
        except OSError as error:
            if error.errno in _DISK_FULL:
                os.unlink(place.part)
            raise self.disk_trouble(error, place.file) from error

    def _reserve(self, place: Place) -> None:
        """Make room for a shard, and mark it as taken by an empty part."""
        size, name = place.file.size, shown(place.file.url)
        if size > self.max_bytes:
            raise ShardError(
                f"{name}: has {size} bytes, max_bytes of the cache must be more, got {self.max_bytes}; raise it"
            )
        with locked(self._lock):
            there = os.path.exists(place.part)
            needed, on_disk = 0 if there else size, size - place.received() + _SPARE_BYTES
            missing, lacking, evicted = make_room(self.folder, place.folder, needed, on_disk, self.max_bytes)
            self._count(evicted=evicted)
            if lacking > 0:
                raise ShardError(
                    f"{name}: the disk of {self.folder} must have {on_disk} bytes free, lacks {lacking}; free some, "
                    f"lower max_bytes, or choose another cache folder"
                )
            if missing > 0 and not there:
                raise CacheFull(
                    f"{name}: all of the cache {self.folder} is in use, {missing} bytes are missing; raise max_bytes "
                    f"({self.max_bytes}) or lower the window"
                )
            os.close(os.open(place.part, os.O_CREAT | os.O_WRONLY, 0o666))

    def index_file(self, file: RemoteFile) -> str:
        """Return where the index of a shard is kept, there or not."""
        place = self._place(file)
        self._make_folder(place)
        return index_path(place.tar)

    def _check_index(self, place: Place) -> None:
        """Hold a new tar against the index that came before it."""
        path = index_path(place.tar)
        if size_of(path) < 0:
            return
        try:
            with open(path, "rb") as file:
                reason = stale_reason(place.tar, parse_index(file.read(), place.tar))
        except ShardError as error:  # what should follow the last member is no tar
            reason = str(error).partition("; ")[0]
        if reason:
            os.unlink(place.tar)
            os.unlink(path)
            raise ShardError(f"{shown(beside(place.file.url, '.idx'))}: does not fit its tar: {reason}; {MEND_INDEX}")

    def disk_trouble(self, error: OSError, file: RemoteFile) -> ShardError:
        """Say in one sentence why a shard cannot be written here."""
        full = error.errno in _DISK_FULL
        return ShardError(
            f"{shown(file.url)}: {self.folder} must take {file.size} bytes, got "
            f"'{error.strerror}'; {'free some space, lower max_bytes, or ' if full else ''}choose another cache folder"
        )
