"""Sidecars by a Ray cluster: an actor a worker, a shard a call.

Shards and sidecars must have the same paths on all nodes (a shared file system), or be behind URLs; a cache folder is each
node's own. Actors keep decoder and kernels warm;
the driver hands out one shard at a time, so a lost node costs the shards that it was at.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from figureground.shards.urls import is_url

from .masks_leftovers import remove_leftovers
from .masks_queue import ShardQueue
from .masks_target import Target, plain
from .masks_work import ShardReport, Task, Worker

log = logging.getLogger(__name__)

_POLL_S = 0.3
_OBJECT_STORE_BYTES = 100 * 2**20


class ShardActor:
    """Makes one shard's sidecar at a time, and tells meanwhile how far it is."""

    def __init__(self, task: Task, target: Target) -> None:
        self._worker = Worker(task, target)
        self._done = 0

    def make(self, shard: str, following: str | None = None) -> ShardReport:
        """Make a sidecar; see `Worker.make`."""
        self._done = 0
        return self._worker.make(shard, self._note, following)

    def _note(self, done: int) -> None:
        self._done = done

    def done(self) -> int:
        """Return how many samples of the shard are done; answers while `make` runs."""
        return self._done

    def pid(self) -> int:
        """Return the process number."""
        return os.getpid()


@dataclass(frozen=True)
class RayEngine:
    """A Ray cluster that exists, or a local one for the time of the run."""

    jobs: int = 1
    """Actors: shards at a time."""
    address: str | None = None
    """Of the cluster: "auto", "ray://host:port", "host:port"; None starts a local one (or uses the one that this
    process is connected to)."""
    gpus_per_worker: float | None = None
    """Share of a GPU an actor reserves; by default 1 for a task on a GPU."""
    retries: int = 3
    """How often a shard is made again whose actor was lost."""
    watch: Callable[[list[Any]], None] | None = field(default=None, compare=False)
    """Gets the actors when they change."""

    def __post_init__(self) -> None:
        if self.jobs < 1:
            raise ValueError(f"RayEngine: jobs must be at least 1, got {self.jobs}")
        if self.retries < 0:
            raise ValueError(f"RayEngine: retries must not be negative, got {self.retries}")
        if self.gpus_per_worker is not None and self.gpus_per_worker < 0:
            raise ValueError(f"RayEngine: gpus_per_worker must not be negative, got {self.gpus_per_worker}")
        _import_ray()

    def run(
        self, task: Task, shards: Sequence[str], target: Target, progress: Callable[[int, int], None]
    ) -> Iterator[ShardReport]:
        """Yield a report for each shard, in the order in which they are finished.

        Raises
        ------
        RuntimeError
            If the local cluster that it starts has too few processors or GPUs for a worker.
        """
        if not shards:
            return
        ray = _import_ray()
        ours = not ray.is_initialized()
        if ours:
            self._connect(ray, task)
        run = _Run(ray, self, task, [_absolute(shard) for shard in shards], _everywhere(target))
        try:
            self._check_room(ray, task, final=ours and self.address is None)
            for report in run.reports(progress):
                shard = shards[run.number_of[report.shard]]
                yield replace(report, shard=plain(shard), sidecar=plain(target.sidecar(shard)))
        finally:
            run.stop()
            if ours:
                ray.shutdown()

    def _connect(self, ray: Any, task: Task) -> None:
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if self.address is not None:
            ray.init(address=self.address, **quiet)
            return
        ray.init(
            num_cpus=self.jobs * _threads(task), object_store_memory=_OBJECT_STORE_BYTES, include_dashboard=False, **quiet
        )  # fmt: skip

    def _check_room(self, ray: Any, task: Task, *, final: bool) -> None:
        """Say it if no node is large enough for an actor, which would wait for ever; an error if no node can come (`final`)."""
        wanted = self.resources(task)
        for node in ray.nodes():
            has = node["Resources"] if node["Alive"] else {}
            if has.get("CPU", 0) >= wanted["num_cpus"] and has.get("GPU", 0) >= wanted["num_gpus"]:
                return
        needs = f"a Ray worker needs {wanted['num_cpus']:g} CPU and {wanted['num_gpus']:g} GPU, and no node has as many"
        if final:
            raise RuntimeError(f"make_masks: {needs}; pass device='cpu', a smaller share of a GPU, or fewer threads")
        log.warning("%s: waiting for one to join the cluster", needs)

    def resources(self, task: Task) -> dict[str, float]:
        """Return what an actor reserves."""
        gpu = getattr(task, "device", "cpu") != "cpu"
        gpus = self.gpus_per_worker if self.gpus_per_worker is not None else float(gpu)
        return {"num_cpus": _threads(task), "num_gpus": gpus}


def _threads(task: Task) -> int:
    return int(getattr(task, "threads", 1))


def _import_ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise RuntimeError(
            f"make_masks: engine='ray' needs Ray ({error}); install figureground[ray], or use engine='local'"
        ) from error
    return ray


def _absolute(path: str) -> str:
    return path if is_url(path) else os.path.abspath(path)


def _everywhere(target: Target) -> Target:
    return target if target.out is None else replace(target, out=_absolute(target.out))


class _Run:
    """The actors of a run, and who is at what."""

    def __init__(self, ray: Any, engine: RayEngine, task: Task, shards: list[str], target: Target) -> None:
        self._ray, self._engine, self._shards, self._target = ray, engine, shards, target
        self.number_of = {plain(shard): number for number, shard in enumerate(shards)}
        self._queue = ShardQueue(
            len(shards), workers=min(engine.jobs, len(shards)), ahead=any(map(is_url, shards))
        )  # fmt: skip
        self._lost = [0] * len(shards)
        self._task = ray.put(task)
        # Two calls at a time: `make`, and `done` beside it.
        self._class = ray.remote(ShardActor).options(max_concurrency=2, max_restarts=0, **engine.resources(task))
        self._busy: dict[Any, tuple[Any, int]] = {}
        self._asked: dict[Any, int] = {}
        self._idle: list[Any] = []

    def _actors(self) -> list[Any]:
        return [*self._idle, *(actor for actor, _ in self._busy.values())]

    def _hand_out(self) -> None:
        while self._queue and (self._idle or len(self._busy) < self._engine.jobs):
            fresh = not self._idle
            actor = self._class.remote(self._task, self._target) if fresh else self._idle.pop()
            taken = self._queue.take(actor)
            if taken is None:
                return
            number, following = taken
            ahead = None if following is None else self._shards[following]
            self._busy[actor.make.remote(self._shards[number], ahead)] = (actor, number)
            if fresh and self._engine.watch is not None:
                self._engine.watch(self._actors())

    def reports(self, progress: Callable[[int, int], None]) -> Iterator[ShardReport]:
        self._hand_out()
        while self._busy:
            finished, _ = self._ray.wait(list(self._busy), num_returns=1, timeout=_POLL_S)
            for call in finished:
                report = self._take(call, progress)
                if report is not None:
                    yield report
            self._ask(progress)
            self._hand_out()

    def _take(self, call: Any, progress: Callable[[int, int], None]) -> ShardReport | None:
        actor, number = self._busy.pop(call)
        shard = self._shards[number]
        try:
            report: ShardReport = self._ray.get(call)
        except self._ray.exceptions.RayActorError:
            self._lost[number] += 1
            progress(number, 0)
            remove_leftovers([self._target.sidecar(shard)], self._target.remote)
            self._queue.forget(actor)
            shard, sidecar = plain(shard), plain(self._target.sidecar(shard))
            if self._lost[number] <= self._engine.retries:
                log.warning("%s: its Ray actor died; the shard is made again", shard)
                self._queue.give_back(number)
                return None
            error = f"{shard}: its Ray actor died {self._lost[number]} times; look at the cluster's logs"
            return ShardReport(shard, sidecar, "failed", error=error, attempts=self._lost[number])
        except self._ray.exceptions.RayTaskError as error:
            raise (error.cause if isinstance(error.cause, ValueError) else error.as_instanceof_cause()) from None
        self._idle.append(actor)
        return replace(report, attempts=1 + self._lost[number])

    def _ask(self, progress: Callable[[int, int], None]) -> None:
        """Take the answers to the last questions, and ask each actor how far it is."""
        answered, _ = (
            self._ray.wait(list(self._asked), num_returns=len(self._asked), timeout=0) if self._asked else ([], [])
        )
        for question in answered:
            number = self._asked.pop(question)
            try:
                done = self._ray.get(question)
            except self._ray.exceptions.RayError:  # the call of `make` says what happened
                continue
            if number in (n for _, n in self._busy.values()):
                progress(number, done)
        pending = set(self._asked.values())
        for actor, number in self._busy.values():
            if number not in pending:
                self._asked[actor.done.remote()] = number

    def stop(self) -> None:
        for actor in self._actors():
            self._ray.kill(actor)
