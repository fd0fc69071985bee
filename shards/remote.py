"""Files behind URLs: how big they are, which version, and their bytes, with patience for networks that fail.

Whatever fsspec opens: `s3://`, `gs://`, `https://`, `memory://`, `file://`. A failure that may pass (a broken
connection, HTTP 5xx, 429, a stall) is tried again with exponential backoff until a deadline; one that will not pass
(404, 403) is a `RemoteError` at once. Nothing here runs commands (`pipe:`), opens chained URLs (`simplecache::s3://`)
or loads pickles, and messages never show passwords or signatures of a URL.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from .errors import ShardError
from .remote_errors import GaveUp, RemoteError, explain
from .urls import protocol_of, shown, url_name

__all__ = ["Remote", "RemoteError", "RemoteFile", "Stopped"]

log = logging.getLogger(__name__)

_WRAPPERS = frozenset(
    ("blockcache", "cached", "dir", "filecache", "libarchive", "reference", "simplecache", "tar", "zip", "generic")
)
_FIRST_DELAY_S, _LONGEST_DELAY_S = 0.5, 30.0
_POLL_S = 0.1
_TOKENS = ("ETag", "etag", "generation", "Last-Modified", "LastModified", "mtime", "created")


class Stopped(Exception):
    """A request was given up because whoever made it is closing."""


@dataclass(frozen=True)
class RemoteFile:
    """One state of the file behind a URL."""

    url: str
    size: int
    """Length [bytes]."""
    version: str
    """What the store calls this state: ETag, generation or time of change; empty where it offers none."""
    md5: str = ""
    """Checksum in hex, where the store offers one."""

    @property
    def name(self) -> str:
        """Last part of the path."""
        return url_name(self.url)


class Remote:
    """Asks stores about files, and reads them.

    Parameters
    ----------
    storage_options : mapping, optional
        Options of fsspec's file systems by protocol, e.g. `{"s3": {"anon": True}}`.
    connections : int
        Requests in flight for one file.
    block_bytes : int
        Bytes of one request.
    timeout_s : float
        Time in which one request must be answered in full.
    deadline_s : float
        Time after the last success in which requests are tried again.

    Notes
    -----
    Any number of threads may use it. A pickled Remote opens its connections anew.
    """

    def __init__(
        self,
        storage_options: Mapping[str, Mapping[str, Any]] | None = None,
        *,
        connections: int = 4,
        block_bytes: int = 8 << 20,
        timeout_s: float = 60.0,
        deadline_s: float = 300.0,
    ) -> None:
        for name, value in (("connections", connections), ("block_bytes", block_bytes)):
            if value < 1:
                raise ValueError(f"Remote: {name} must be at least 1, got {value}")
        for name, seconds in (("timeout_s", timeout_s), ("deadline_s", deadline_s)):
            if seconds <= 0:
                raise ValueError(f"Remote: {name} must be positive, got {seconds}")
        self.storage_options = {name: dict(options) for name, options in (storage_options or {}).items()}
        self.connections, self.block_bytes = connections, block_bytes
        self.timeout_s, self.deadline_s = timeout_s, deadline_s
        self._clear()

    def _clear(self) -> None:
        self._lock = threading.Lock()
        self._systems: dict[str, Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("_lock", "_systems")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._clear()

    def _system(self, url: str) -> tuple[Any, str]:
        """Return fsspec's file system for a URL, and the path in it."""
        protocol = protocol_of(url)
        if protocol is None or protocol in _WRAPPERS:
            raise ShardError(f"{shown(url)}: a remote shard must be protocol://path of a store, e.g. s3://bucket/x.tar")
        with self._lock:
            if protocol not in self._systems:
                self._systems[protocol] = self._connect(protocol, url)
            system = self._systems[protocol]
        return system, system._strip_protocol(url)

    def path(self, url: str) -> str:
        """Return what the file system behind a URL calls it."""
        return str(self._system(url)[1])

    def _connect(self, protocol: str, url: str) -> Any:
        import fsspec  # here: local shards do without

        options = self.storage_options.get(protocol, {})
        try:
            return fsspec.filesystem(protocol, use_listings_cache=False, skip_instance_cache=True, **options)
        except ImportError as error:
            raise ImportError(
                f"{shown(url)}: {protocol}:// needs a package that is not installed ({error}); "
                f"run pip install 'figureground[remote]'"
            ) from error
        except (TypeError, ValueError) as error:
            raise ShardError(
                f"{shown(url)}: {protocol}:// cannot be opened: {error}; check the URL and storage_options"
            ) from error

    def look(self, url: str, stop: threading.Event | None = None) -> RemoteFile:
        """Ask for size and version of the file behind a URL.

        Raises
        ------
        RemoteError
            If there is none, or it may not be read, or the store does not answer by the deadline.
        ShardError
            If it is a folder or has no known size.
        """
        info = self.ask(url, "info", stop=stop)
        if info.get("type") == "directory":
            raise ShardError(f"{shown(url)}: a shard must be a tar file, got a folder; name its tars, e.g. with /*.tar")
        if info.get("size") is None:
            raise ShardError(f"{shown(url)}: the server must tell its size, got no Content-Length; serve a plain file")
        token = next((str(info[key]) for key in _TOKENS if info.get(key)), "")
        return RemoteFile(url, int(info["size"]), token.strip('"'), _md5(info))

    def find(self, url: str, stop: threading.Event | None = None) -> RemoteFile | None:
        """As `look`, None where there is none.

        Notes
        -----
        A store that may not be listed answers 403 for what is not there: that counts as none too.
        """
        try:
            return self.look(url, stop)
        except RemoteError as error:
            if error.status in (403, 404):
                return None
            raise

    def read(self, url: str, stop: threading.Event | None = None) -> bytes:
        """Read a small file whole."""
        return bytes(self.ask(url, "cat_file", stop=stop))

    def list(self, pattern: str) -> list[str]:
        """List the URLs that match a glob (`*`, `?`, `[...]`, `**`), sorted."""
        if pattern.startswith(("http://", "https://")):
            raise ShardError(
                f"{shown(pattern)}: a web server cannot be listed; write a brace pattern, e.g. {{000..099}}"
            )
        system, _ = self._system(pattern)
        return sorted(system.unstrip_protocol(path) for path in self.ask(pattern, "glob"))

    def blocks(
        self, file: RemoteFile, start: int = 0, end: int | None = None, stop: threading.Event | None = None
    ) -> Iterator[bytes]:
        """Yield the bytes of a file from `start` to `end`, in order, in pieces.

        Raises
        ------
        RemoteError
            If it cannot be read: at once where trying again is of no use, else at the deadline after the last piece.
        Stopped
            If `stop` was set.

        Notes
        -----
        A server that ignores ranges sends the whole file for the first piece: that takes its size in memory, once.
        """
        system, path = self._system(file.url)
        end = file.size if end is None else end
        flying: deque[tuple[int, int, Future[Any]]] = deque()
        asked = at = start
        width, patience = 1, _Patience(self, file.url, stop)
        try:
            while at < end:
                while asked < end and len(flying) < width:
                    last = min(asked + self.block_bytes, end)
                    flying.append((asked, last, _begin(system, "cat_file", path, start=asked, end=last)))
                    asked = last
                first, last, future = flying.popleft()
                try:
                    data = _result(future, self.timeout_s, stop)
                    if len(data) == file.size > last - first:
                        yield data[first:end]
                        return
                    if len(data) != last - first:
                        raise ConnectionError(f"got {len(data)} of {last - first} bytes")
                except Stopped:
                    raise
                except Exception as error:
                    patience.after(error)
                    flying.appendleft((first, last, _begin(system, "cat_file", path, start=first, end=last)))
                    continue
                width, patience = self.connections, _Patience(self, file.url, stop)
                at = last
                yield data
        finally:
            for _, _, future in flying:
                future.cancel()

    def ask(
        self,
        url: str,
        method: str,
        *arguments: Any,
        stop: threading.Event | None = None,
        blocks: int = 1,
        **options: Any,
    ) -> Any:
        """Call a method of the file system behind a URL with its path, again and again where it fails.

        Parameters
        ----------
        url : str
        method : str
            Of fsspec's file systems, e.g. "info"; it must do no harm to call it twice.
        *arguments, **options
            Of the method, after the path.
        stop : threading.Event, optional
            Give up when set.
        blocks : int
            How many requests' worth of bytes it moves: multiplies `timeout_s`.

        Raises
        ------
        RemoteError
            If it fails for good: at once where trying again is of no use, else at the deadline.
        """
        system, path = self._system(url)
        patience = _Patience(self, url, stop)
        while True:
            try:
                return _result(_begin(system, method, path, *arguments, **options), self.timeout_s * blocks, stop)
            except Stopped:
                raise
            except Exception as error:
                patience.after(error)


class _Patience:
    """Waits before the next try of a request, or raises when there shall be none."""

    def __init__(self, remote: Remote, url: str, stop: threading.Event | None) -> None:
        self._url, self._stop, self._tries = url, stop or threading.Event(), 0
        self._began = time.monotonic()
        self._end = self._began + remote.deadline_s

    def after(self, error: Exception) -> None:
        self._tries += 1
        name = shown(self._url)
        reason, final = explain(error, self._url, name)
        if final is not None:
            raise final from error
        delay = backoff_s(self._url, self._tries)
        if time.monotonic() + delay > self._end:
            raise GaveUp(
                f"{name}: gave up after {self._tries} tries in {time.monotonic() - self._began:.0f} s, the last failure: "
                f"{reason}; check the network and the server, or raise deadline_s"
            ) from error
        log.log(logging.INFO if self._tries < 3 else logging.WARNING, "%s: %s; again in %.1f s", name, reason, delay)
        if self._stop.wait(delay):
            raise Stopped


def backoff_s(url: str, tries: int) -> float:
    """Return the pause [s] after a number of failures: doubling, up to 30 s, times a factor in [0.5, 1).

    The factor is a hash of URL, try and process, so that clients part without a random state.

    Examples
    --------
    >>> [0.25 * 2**n <= backoff_s("s3://b/a.tar", n + 1) < 0.5 * 2**n for n in range(6)]
    [True, True, True, True, True, True]
    """
    spread = hashlib.blake2b(f"{url} {tries} {os.getpid()}".encode(), digest_size=4).digest()
    longest: float = min(_LONGEST_DELAY_S, _FIRST_DELAY_S * 2 ** (tries - 1))
    return longest * (0.5 + int.from_bytes(spread, "big") / 2**33)


def _begin(system: Any, method: str, *arguments: Any, **options: Any) -> Future[Any]:
    """Start a request; a file system without a loop of its own answers here and now."""
    if getattr(system, "async_impl", False):
        return asyncio.run_coroutine_threadsafe(getattr(system, "_" + method)(*arguments, **options), system.loop)
    future: Future[Any] = Future()
    try:
        future.set_result(getattr(system, method)(*arguments, **options))
    except Exception as error:
        future.set_exception(error)
    return future


def _result(future: Future[Any], timeout_s: float, stop: threading.Event | None) -> Any:
    """Wait for a request; one that takes too long or is no longer wanted is cancelled."""
    end = time.monotonic() + timeout_s
    try:
        while True:
            left = end - time.monotonic()
            try:
                return future.result(max(0.0, left if stop is None else min(left, _POLL_S)))
            except TimeoutError:
                if future.done():  # the request's own, or it came just now
                    return future.result()
            if stop is not None and stop.is_set():
                raise Stopped
            if left <= 0:
                raise TimeoutError(f"no answer within {timeout_s:g} s")
    finally:
        future.cancel()


def _md5(info: Mapping[str, Any]) -> str:
    """Return the MD5 a store offers, in hex; S3's ETag is none where parts or encryption are in play."""
    text = info.get("md5Hash") or info.get("Content-MD5")
    try:
        raw = base64.b64decode(text, validate=True) if text else b""
    except (binascii.Error, ValueError):
        return ""
    return raw.hex() if len(raw) == 16 else ""
