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
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol

from figureground.shards.urls import is_url

from .masks_leftovers import remove_leftovers
from .masks_queue import ShardQueue
from .masks_target import Target, plain
from .masks_work import ShardReport, Task, Worker

log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
"""Gets the place of a shard in the list and how many of its samples are done."""
_POLL_S = 0.2


class Engine(Protocol):
    """Makes sidecars."""

    def run(self, task: Task, shards: Sequence[str], target: Target, progress: Progress) -> Iterator[ShardReport]:
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

    def run(self, task: Task, shards: Sequence[str], target: Target, progress: Progress) -> Iterator[ShardReport]:
        """Yield a report for each shard."""
        if self.jobs == 1:
            return _run_here(task, shards, target, progress)
        return _run_pool(self, task, shards, target, progress)


def _run_here(task: Task, shards: Sequence[str], target: Target, progress: Progress) -> Iterator[ShardReport]:
    worker = Worker(task, target)
    try:
        for number, shard in enumerate(shards):
            following = shards[number + 1] if number + 1 < len(shards) else None
            yield worker.make(shard, lambda done, number=number: progress(number, done), following)  # type: ignore[misc]
    finally:
        worker.close()


class _Process:
    """One worker process at a time, and the shard that it makes.

    Each worker has an executor of its own: if it dies, we know at which shard, and the others go on.
    """

    def __init__(self, task: Task, target: Target, done: Any) -> None:
        self._arguments = (task, target, done)
        self._pool: ProcessPoolExecutor | None = None
        self.future: Future[ShardReport] | None = None
        self.number = -1

    def start(self, number: int, shard: str, following: str | None) -> None:
        if self._pool is None:
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(1, context, initializer=_begin, initargs=self._arguments)
        self.number, self.future = number, self._pool.submit(_make, number, shard, following)

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
    engine: LocalEngine, task: Task, shards: Sequence[str], target: Target, progress: Progress
) -> Iterator[ShardReport]:
    # One counter a shard, written by the worker that makes it: no locks that a killed worker could keep.
    done = multiprocessing.get_context("spawn").RawArray("q", max(1, len(shards)))
    count = min(engine.jobs, len(shards))
    queue = ShardQueue(len(shards), workers=count, ahead=any(map(is_url, shards)))
    lost = [0] * len(shards)
    with _workers(_Process(task, target, done) for _ in range(count)) as workers:
        while queue or any(worker.future for worker in workers):
            for worker in workers:
                if worker.future is None and (taken := queue.take(worker)) is not None:
                    number, following = taken
                    worker.start(number, shards[number], None if following is None else shards[following])
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
                    report = _after_loss(shards[number], target, lost[number], engine.retries)
                    if report is None:
                        queue.give_back(number)
                        continue
                yield replace(report, attempts=report.attempts + lost[number]) if report.status == "made" else report


def _after_loss(shard: str, target: Target, lost: int, retries: int) -> ShardReport | None:
    """Clean up behind a dead worker; return the shard's report if it is given up, None if it is made again."""
    remove_leftovers([target.sidecar(shard)], target.remote)
    shard, sidecar = plain(shard), plain(target.sidecar(shard))
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


_worker: Worker
_done: Any


def _begin(task: Task, target: Target, done: Any) -> None:
    """Prepare a worker process; what can go wrong waits for `_make`, which can say what."""
    global _worker, _done
    _worker, _done = Worker(task, target), done
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group: the parent decides
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _make(number: int, shard: str, following: str | None) -> ShardReport:
    def progress(count: int) -> None:
        _done[number] = count

    return _worker.make(shard, progress, following)


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
