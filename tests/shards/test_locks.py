"""Locks of the cache: who waits, and for how long."""

from __future__ import annotations

import os
import threading

from figureground.shards.locks import EXCLUSIVE, SHARED, open_lock, try_lock, unlock, wait_until


def test_locks_wait_while_there_is_progress(tmp_path):
    holder, waiter, ticks = open_lock(str(tmp_path / "l")), open_lock(str(tmp_path / "l")), iter(range(10**6))
    assert try_lock(holder, EXCLUSIVE)
    threading.Timer(0.4, unlock, [holder]).start()
    assert wait_until(lambda: try_lock(waiter, SHARED) or None, progress=lambda: next(ticks), patience_s=0.1)
    assert wait_until(lambda: None, progress=lambda: 0, patience_s=0.1) is None
    os.close(holder)
    os.close(waiter)
