"""Who makes the sidecars of many shards: this process, a pool of processes, or a Ray cluster.

An engine takes a task and shards and yields a report for each, as they are finished. A worker that dies (killed, out of
memory, crashed in a decoder) costs the shard it was at, which is made again; sidecars appear whole or not at all, so
nothing else can be lost.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol

from figureground.shards.masks import sidecar_path

from .masks_leftovers import remove_leftovers
from .masks_work import OpenTask, ShardReport, Task, kind_of, make_sidecar

log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
"""Gets the place of a shard in the list and how many of its samples are done."""
_POLL_S = 0.2


class Engine(Protocol):
    """Makes sidecars."""

    def run(self, task: Task, shards: Sequence[str], out: str | None, progress: Progress) -> Iterator[ShardReport]:
        """Yield a report for each shard, in the order in which they are finished."""


@dataclass(frozen=True)
class LocalEngine:
    """This machine: in this process for one job, else in processes started anew (spawn)."""

    jobs: int = 1
    """Shards at a time."""
    retries: int = 1
    """How often a shard is made again whose worker died."""

    def __post_init__(self) -> None:
        if self.jobs < 1:
            raise ValueError(f"LocalEngine: jobs must be at least 1, got {self.jobs}")
        if self.retries < 0:
            raise ValueError(f"LocalEngine: retries must not be negative, got {self.retries}")

    def run(self, task: Task, shards: Sequence[str], out: str | None, progress: Progress) -> Iterator[ShardReport]:
        """Yield a report for each shard."""
        return (
            _run_here(task, shards, out, progress) if self.jobs == 1 else _run_pool(self, task, shards, out, progress)
        )


def _run_here(task: Task, shards: Sequence[str], out: str | None, progress: Progress) -> Iterator[ShardReport]:
    opened = task.open() if shards else None
    try:
        for number, shard in enumerate(shards):
            assert opened is not None
            yield make_sidecar(task, opened, shard, out, lambda done, number=number: progress(number, done))  # type: ignore[misc]
    finally:
        if opened is not None:
            opened.close()


class _Process:
    """One worker process at a time, and the shard that it makes.

    Each worker has an executor of its own: if it dies, we know at which shard, and the others go on.
    """

    def __init__(self, task: Task, out: str | None, done: Any) -> None:
        self._arguments = (task, out, done)
        self._pool: ProcessPoolExecutor | None = None
        self.future: Future[ShardReport] | None = None
        self.number = -1

    def start(self, number: int, shard: str) -> None:
        if self._pool is None:
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(1, context, initializer=_begin, initargs=self._arguments)
        self.number, self.future = number, self._pool.submit(_make, number, shard)

    def take(self) -> ShardReport | None:
        """Return the finished report; None if the worker died."""
        future, self.future = self.future, None
        assert future is not None
        try:
            return future.result()
        except BrokenProcessPool:
            self.stop()
            return None

    def stop(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None


def _run_pool(
    engine: LocalEngine, task: Task, shards: Sequence[str], out: str | None, progress: Progress
) -> Iterator[ShardReport]:
    # One counter a shard, written by the worker that makes it: no locks that a killed worker could keep.
    done = multiprocessing.get_context("spawn").RawArray("q", max(1, len(shards)))
    waiting = deque(range(len(shards)))
    lost = [0] * len(shards)
    with _workers(_Process(task, out, done) for _ in range(min(engine.jobs, len(shards)))) as workers:
        while waiting or any(worker.future for worker in workers):
            for worker in workers:
                if worker.future is None and waiting:
                    number = waiting.popleft()
                    worker.start(number, shards[number])
            wait([w.future for w in workers if w.future], timeout=_POLL_S, return_when=FIRST_COMPLETED)
            for worker in workers:
                if worker.future is None:
                    continue
                number = worker.number
                if not worker.future.done():
                    progress(number, done[number])
                    continue
                report = worker.take()
                if report is None:
                    lost[number] += 1
                    done[number] = 0
                    report = _after_loss(task, shards[number], out, lost[number], engine.retries)
                    if report is None:
                        waiting.appendleft(number)
                        continue
                yield replace(report, attempts=report.attempts + lost[number]) if report.status == "made" else report


def _after_loss(task: Task, shard: str, out: str | None, lost: int, retries: int) -> ShardReport | None:
    """Clean up behind a dead worker; return the shard's report if it is given up, None if it is made again."""
    sidecar = sidecar_path(shard, out, kind_of(task))
    remove_leftovers([sidecar])
    if lost <= retries:
        log.warning(
            "%s: its worker died (killed, out of memory, or crashed in a decoder); the shard is made again", shard
        )
        return None
    error = f"{shard}: its worker died {lost} times (killed, out of memory, or crashed in a decoder); run again with one job"
    return ShardReport(shard, sidecar, "failed", error=error, attempts=lost)


@contextmanager
def _workers(made: Iterator[_Process]) -> Iterator[list[_Process]]:
    """Stop the processes at the end; if the end is an exception, at once."""
    others = set(multiprocessing.active_children())
    workers = list(made)
    try:
        yield workers
    except BaseException:
        for process in multiprocessing.active_children():
            if process not in others:
                process.terminate()
        raise
    finally:
        for worker in workers:
            worker.stop()


_task: tuple[Task, str | None, Any]
_opened: OpenTask | None = None


def _begin(task: Task, out: str | None, done: Any) -> None:
    """Prepare a worker process; what can go wrong waits for `_make`, which can say what."""
    global _task
    _task = (task, out, done)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group: the parent decides
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _make(number: int, shard: str) -> ShardReport:
    global _opened
    task, out, done = _task
    _opened = _opened or task.open()

    def progress(count: int) -> None:
        done[number] = count

    return make_sidecar(task, _opened, shard, out, progress)


def make_engine(
    name: str,
    *,
    jobs: int,
    address: str | None = None,
    gpus_per_worker: float | None = None,
    retries: int | None = None,
) -> Engine:
    """Return the engine called "local" or "ray".

    Parameters
    ----------
    name : {"local", "ray"}
    jobs : int
        Shards at a time.
    address, gpus_per_worker : optional
        For "ray": see `RayEngine`.
    retries : int, optional
        How often a shard is made again whose worker died; by default once, with Ray three times.

    Raises
    ------
    ValueError
        If there is no such engine, or an argument is out of range.
    RuntimeError
        If Ray is asked for and not installed.
    """
    if name == "local":
        return LocalEngine(jobs, 1 if retries is None else retries)
    if name != "ray":
        raise ValueError(f"make_masks: engine must be 'local' or 'ray', got {name!r}")
    from .masks_ray import RayEngine

    return RayEngine(jobs, address, gpus_per_worker, 3 if retries is None else retries)
