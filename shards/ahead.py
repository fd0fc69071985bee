"""Fetch shards before they are needed."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence

from .cache import CacheFull, Lease, ShardCache
from .remote import RemoteFile, Stopped
from .urls import shown

log = logging.getLogger(__name__)

_FULL_PAUSE_S = 0.5
_WAY_PAUSE_S = 2.0


class ReadAhead:
    """Fetches wanted shards into a cache, in their order, and keeps them there as long as they are wanted.

    Parameters
    ----------
    cache : ShardCache
    files : sequence of RemoteFile, str or None
        The shards, by number; None for one that needs no fetching. A URL is looked at now.
    threads : int
        Shards fetched at a time, at least 1.
    max_bytes : int, optional
        Shards kept for later, at most [bytes]; by default half of the cache.

    Notes
    -----
    Where the cache is full of shards in use it pauses until one is let go; meanwhile none that is needed later goes
    before. A shard that cannot be fetched stops none of the others; `check` raises the reason when its turn has come. The
    threads end with `close`, at the latest 0.2 s after it, in the middle of a download too, which a later one goes on with.

    Examples
    --------
    >>> import fsspec, tempfile
    >>> fsspec.filesystem("memory").pipe({"/ahead/a.tar": bytes(1024), "/ahead/b.tar": bytes(1024)})
    >>> folder = tempfile.TemporaryDirectory()
    >>> cache = ShardCache(folder.name, 10_000)
    >>> ahead = ReadAhead(cache, ["memory://ahead/a.tar", "memory://ahead/b.tar"])
    >>> ahead.want([1, 0])
    >>> ahead.wait_for([1, 0], timeout_s=10)
    True
    >>> ahead.close(), cache.stats()["fetched"]
    (None, 2)
    >>> folder.cleanup()
    """

    def __init__(
        self,
        cache: ShardCache,
        files: Sequence[RemoteFile | str | None],
        *,
        threads: int = 2,
        max_bytes: int | None = None,
    ) -> None:
        if threads < 1:
            raise ValueError(f"ReadAhead: threads must be at least 1, got {threads}")
        self._cache = cache
        self._files = [cache.remote.look(file) if isinstance(file, str) else file for file in files]
        self._max_bytes = cache.max_bytes // 2 if max_bytes is None else max_bytes
        self._changed = threading.Condition()
        self._stop = threading.Event()
        self._wanted: tuple[int, ...] = ()
        self._held: dict[int, Lease] = {}
        self._busy: set[int] = set()
        self._failed: dict[int, Exception] = {}
        self._blocked: set[int] = set()
        self._paused_until = 0.0
        self._threads = [threading.Thread(target=self._work, name="read-ahead", daemon=True) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    def want(self, numbers: Sequence[int]) -> None:
        """Say which shards are needed from now on, the next one first; all others are let go."""
        with self._changed:
            self._wanted = tuple(numbers)
            for number in self._held.keys() - set(self._wanted):
                self._held.pop(number).release()
            for number in self._failed.keys() - set(self._wanted):
                del self._failed[number]
            self._changed.notify_all()

    def give_way(self) -> bool:
        """Let go of the shard that is needed last, for one that is needed at once, and pause; False: there is none."""
        with self._changed:
            self._paused_until = time.monotonic() + _WAY_PAUSE_S
            for number in reversed(self._wanted):
                if number in self._held:
                    self._held.pop(number).release()
                    return True
        return False

    def check(self, number: int) -> None:
        """Raise why a wanted shard could not be fetched, once; it is tried again afterwards."""
        with self._changed:
            error = self._failed.pop(number, None)
        if error is not None:
            raise error

    def wait_for(self, numbers: Sequence[int], timeout_s: float) -> bool:
        """Wait until shards are here or have failed; tells whether they are, or have, in time."""
        with self._changed:
            return self._changed.wait_for(
                lambda: all(number in self._held or number in self._failed for number in numbers), timeout_s
            )

    @property
    def held(self) -> list[int]:
        """Numbers of the shards that are here and kept."""
        with self._changed:
            return sorted(self._held)

    def close(self) -> None:
        """Stop fetching and let all shards go."""
        self._stop.set()
        self.want(())
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(timeout=2.0)

    def _next(self) -> int | None:
        """Choose the first wanted shard that is not here yet, if there is room for it."""
        taken = 0
        if time.monotonic() < self._paused_until:
            return None
        for number in self._wanted:
            file = self._files[number]
            if file is None or number in self._failed:
                continue
            taken += file.size
            if taken > self._max_bytes or number in self._blocked:
                return None
            if number not in self._held and number not in self._busy:
                return number
        return None

    def _work(self) -> None:
        while True:
            with self._changed:
                while (number := self._next()) is None and not self._stop.is_set():
                    pause_s = self._paused_until - time.monotonic()
                    self._changed.wait(pause_s if pause_s > 0 else None)
                if number is None or self._stop.is_set():
                    return
                self._busy.add(number)
            lease, failure = self._fetch(number)
            with self._changed:
                self._busy.discard(number)
                self._blocked.discard(number)
                if lease is not None and number in self._wanted and time.monotonic() >= self._paused_until:
                    self._held[number] = lease
                elif lease is not None:
                    lease.release()
                if failure is not None and number in self._wanted:
                    self._failed[number] = failure
                self._changed.notify_all()

    def _fetch(self, number: int) -> tuple[Lease | None, Exception | None]:
        """Return the lease of a shard, or why there is none; neither if it is no longer wanted."""
        file = self._files[number]
        while file is not None and number in self._wanted:
            try:
                return self._cache.lease(file, wait=False, stop=self._stop), None
            except Stopped:
                break
            except CacheFull:
                log.debug("%s: not fetched ahead, all of the cache is in use", shown(file.url))
                if not self._prefer(number) and self._stop.wait(_FULL_PAUSE_S):
                    break
            except Exception as error:  # its consumer raises it
                log.warning("%s: could not be fetched ahead: %s", shown(file.url), error)
                error.add_note("(raised while reading ahead)")
                return None, error
        return None, None

    def _prefer(self, number: int) -> bool:
        """Begin none that is needed later than a shard without room, and let go of one of those; False: there is none."""
        with self._changed:
            self._blocked.add(number)
            for other in reversed(self._wanted):
                if other == number:
                    return False
                if other in self._held:
                    self._held.pop(other).release()
                    return True
        return False
