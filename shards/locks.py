"""Locks on files that end with their process, however it ends (`flock`)."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

SHARED, EXCLUSIVE = fcntl.LOCK_SH, fcntl.LOCK_EX
_POLL_S = 0.05


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


def wait_lock(
    handle: int, kind: int, *, progress: Callable[[], Any], patience_s: float, stop: threading.Event | None = None
) -> bool:
    """Wait for a lock as long as its holder makes progress.

    Parameters
    ----------
    handle : int
        From `open_lock`. A lock held on it is given up before waiting for an exclusive one.
    kind : {SHARED, EXCLUSIVE}
    progress : callable
        What it returns changes while the holder works.
    patience_s : float
        Time without progress after which to give up.
    stop : threading.Event, optional
        Give up when set.

    Returns
    -------
    bool
        False: given up.
    """
    if kind == EXCLUSIVE:
        fcntl.flock(handle, fcntl.LOCK_UN)  # two that hold it shared would wait for each other
    seen, since = progress(), time.monotonic()
    while not try_lock(handle, kind):
        now = progress()
        if now != seen:
            seen, since = now, time.monotonic()
        if time.monotonic() - since > patience_s:
            return False
        if stop is None:
            time.sleep(_POLL_S)
        elif stop.wait(_POLL_S):
            return False
    return True


@contextmanager
def locked(path: str) -> Iterator[None]:
    """Hold an exclusive lock for the moment that the block takes."""
    handle = open_lock(path)
    try:
        fcntl.flock(handle, EXCLUSIVE)
        yield
    finally:
        os.close(handle)
