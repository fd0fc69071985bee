"""Locks on files that end with their process, however it ends (`flock`)."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

SHARED, EXCLUSIVE = fcntl.LOCK_SH, fcntl.LOCK_EX
_POLL_S = 0.05
T = TypeVar("T")


def open_lock(path: str) -> int:
    """Open a lock file, making it if need be; returns a file descriptor, whose closing ends any lock on it."""
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)


def try_lock(handle: int, kind: int) -> bool:
    """Take a lock (or change the one held) if that is possible at once."""
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def unlock(handle: int) -> None:
    """Give a lock up, keeping the file open."""
    fcntl.flock(handle, fcntl.LOCK_UN)


def wait_until(
    attempt: Callable[[], T | None],
    *,
    progress: Callable[[], Any],
    patience_s: float,
    stop: threading.Event | None = None,
) -> T | None:
    """Try again and again, as long as others who are in the way make progress.

    Parameters
    ----------
    attempt : callable
        Returns None if it was in vain.
    progress : callable
        What it returns changes while the others work.
    patience_s : float
        Time without progress after which to give up.
    stop : threading.Event, optional
        Give up when set.

    Returns
    -------
    What `attempt` returned; None: given up.
    """
    seen, since = progress(), time.monotonic()
    while (done := attempt()) is None:
        if (now := progress()) != seen:
            seen, since = now, time.monotonic()
        if time.monotonic() - since > patience_s:
            return None
        if stop is None:
            time.sleep(_POLL_S)
        elif stop.wait(_POLL_S):
            return None
    return done


@contextmanager
def locked(path: str) -> Iterator[None]:
    """Hold an exclusive lock for the moment that the block takes."""
    handle = open_lock(path)
    try:
        fcntl.flock(handle, EXCLUSIVE)
        yield
    finally:
        os.close(handle)
