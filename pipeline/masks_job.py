"""Make the mask sidecars of many shards: plan, run, report.

A run does what is missing: finished sidecars that were made as asked are kept, so a run that was stopped, or killed, is
continued by the same command.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from figureground.shards import ShardError, Store, expand
from figureground.shards.masks import SidecarKind, read_manifest, sidecar_is_valid, sidecar_path

from .masks_bar import masks_bar
from .masks_engines import Engine, make_engine
from .masks_estimate import EstimateMasks
from .masks_import import ImportMasks, surplus_files
from .masks_leftovers import remove_leftovers
from .masks_work import BINS, EMPTY_BELOW, FULL_ABOVE, ShardReport, Task, code_version, kind_of, split_parameters

Shards = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
_BLOCKS = " ▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class MasksReport:
    """What a run did."""

    method: str
    shards: tuple[ShardReport, ...]
    """In the order of the shards."""
    seconds: float
    surplus: tuple[str, ...] = ()
    """Files of an imported folder that belong to no sample."""

    def count(self, status: str) -> int:
        """Return how many shards are "made", "kept" or "failed"."""
        return sum(shard.status == status for shard in self.shards)

    def total(self, name: str) -> int:
        """Return the sum of a count of `ShardReport` over all shards: "samples", "masks", "undecodable", ..."""
        return sum(getattr(shard, name) for shard in self.shards)

    @property
    def histogram(self) -> tuple[int, ...]:
        """Masks by the share of their figure, in ten bins."""
        return tuple(sum(shard.histogram[i] for shard in self.shards) for i in range(BINS))

    @property
    def made(self) -> int:
        """Samples of the shards that this run made."""
        return sum(shard.samples for shard in self.shards if shard.status == "made")

    def to_dict(self) -> dict[str, Any]:
        """Return all of it, ready for JSON."""
        names = ("samples", "masks", "undecodable", "missing", "empty", "full")
        return {
            "method": self.method,
            "seconds": round(self.seconds, 3),
            "images_per_s": round(self.made / self.seconds, 2) if self.seconds else 0.0,
            "sidecars": {status: self.count(status) for status in ("made", "kept", "failed")},
            **{name: self.total(name) for name in names},
            "histogram": list(self.histogram),
            "surplus": list(self.surplus),
            "shards": [shard.to_dict() for shard in self.shards],
        }

    def __str__(self) -> str:
        rate = f", {self.made / self.seconds:.1f} images/s" if self.made and self.seconds else ""
        lines = [
            f"{self.method}: {self.count('made')} sidecars made, {self.count('kept')} kept, {self.count('failed')} failed; "
            f"{self.total('masks')} masks of {self.total('samples')} images{rate}"
        ]
        without = Counter(note for shard in self.shards for _, note in shard.without)
        if without:
            reasons = ", ".join(f"{times} x {note}" for note, times in without.most_common(4))
            lines.append(f"without a mask: {sum(without.values())} ({reasons})")
        if self.surplus:
            lines.append(f"files that belong to no sample: {len(self.surplus)}, the first is {self.surplus[0]!a}")
        if self.total("masks"):
            lines.append(
                f"empty (figure below {EMPTY_BELOW:.0%}): {self.total('empty')}, full (above {FULL_ABOVE:.0%}): "
                f"{self.total('full')}"
            )
            lines.append(f"share of the figure, 0 to 1: [{_spark(self.histogram)}]")
        return "\n".join(lines)


def _spark(counts: Sequence[int]) -> str:
    most = max(counts)
    return "".join(_BLOCKS[-(-8 * count // most)] for count in counts)


def make_masks(
    shards: Shards,
    *,
    method: str = "fused",
    out: str | os.PathLike[str] | None = None,
    device: str = "cpu",
    batch_size: int = 64,
    size: int = 112,
    engine: str | Engine = "local",
    jobs: int = 1,
    threads: int | None = None,
    overwrite: bool = False,
    limit: int | None = None,
    progress: bool = True,
) -> MasksReport:
    """Estimate masks of all images and write them into sidecars.

    Parameters
    ----------
    shards : str, path or sequence of these
        As for `figureground.shards.expand`.
    method : str
        A key of `figureground.kernels.saliency.METHODS`.
    out : path, optional
        Folder of the sidecars; by default they lie beside their shards.
    device : str
        "cpu", "cuda" or "cuda:1".
    batch_size : int
        Images decoded at a time; changes the speed, not the masks.
    size : int
        Side of the masks [px], 16 to 1024.
    engine : {"local", "ray"} or Engine
        An engine of `masks_engines` or `masks_ray` for more options.
    jobs : int
        Shards at a time; with "local" and 1 all is done in this process. A script that asks for more must guard its
        start with `if __name__ == "__main__"`, as for every spawned process.
    threads : int, optional
        CPU threads a job; by default this process's processors shared out among the jobs (with "ray": 1).
    overwrite : bool
        Make all sidecars again, whatever is there.
    limit : int, optional
        Only the first so many shards.
    progress : bool
        Show a bar on stderr.

    Returns
    -------
    MasksReport
        A shard that cannot be read, or whose sidecar cannot be written, is reported as failed; the others are made.

    Raises
    ------
    ShardError
        If no shard is found, or a finished sidecar was made otherwise and `overwrite` is false: nothing is done then.
    ValueError
        If an argument is out of range.
    RuntimeError
        If the device or Ray is not there.

    Notes
    -----
    Interrupted at any moment, it leaves whole sidecars or none; the next run removes what was begun.

    Examples
    --------
    ::

        report = make_masks("shards/train-{000000..000099}.tar", out="masks", jobs=8)
        print(report)
    """
    if threads is None:
        threads = max(1, len(os.sched_getaffinity(0)) // max(1, jobs)) if engine == "local" else 1
    task = EstimateMasks(method, size, device, batch_size, threads)
    chosen = make_engine(engine, jobs=jobs) if isinstance(engine, str) else engine
    return run_task(task, shards, out=out, engine=chosen, overwrite=overwrite, limit=limit, progress=progress)


def import_masks(
    shards: Shards,
    folder: str | os.PathLike[str],
    *,
    method: str = "imported",
    out: str | os.PathLike[str] | None = None,
    engine: str | Engine = "local",
    jobs: int = 1,
    overwrite: bool = False,
    limit: int | None = None,
    progress: bool = True,
) -> MasksReport:
    """Write masks made elsewhere, `<folder>/<key>.png`, into sidecars.

    Parameters
    ----------
    shards, out, engine, jobs, overwrite, limit, progress
        As for `make_masks`.
    folder : path
        PNG files of any size; see `figureground.pipeline.masks_import.gray_mask` for what is a mask.
    method : str
        Name for the manifest.

    Returns
    -------
    MasksReport
        With samples that have no file, and (unless `limit` is given) files that belong to no sample.
    """
    task = ImportMasks(os.path.abspath(os.fspath(folder)), method)
    chosen = make_engine(engine, jobs=jobs) if isinstance(engine, str) else engine
    report = run_task(task, shards, out=out, engine=chosen, overwrite=overwrite, limit=limit, progress=progress)
    if limit is not None:
        return report
    return replace(report, surplus=tuple(surplus_files(task.folder, _keys(report))))


def _keys(report: MasksReport) -> Iterator[str]:
    for shard in report.shards:
        if shard.status != "failed":
            with Store([shard.shard]) as store:
                yield from (store.key(i) for i in range(len(store)))


def run_task(
    task: Task,
    shards: Shards,
    *,
    out: str | os.PathLike[str] | None,
    engine: Engine,
    overwrite: bool = False,
    limit: int | None = None,
    progress: bool = True,
) -> MasksReport:
    """Do with any task what `make_masks` does."""
    if limit is not None and limit < 1:
        raise ValueError(f"make_masks: limit must be at least 1 shard, got {limit}")
    began = time.perf_counter()
    paths = expand(shards)[:limit]
    folder = None if out is None else os.fspath(out)
    kind = kind_of(task)
    _check_names(paths, folder, kind)
    if folder is not None:
        os.makedirs(folder, exist_ok=True)
    remove_leftovers(sidecar_path(path, folder, kind) for path in paths)
    with ThreadPoolExecutor(8) as pool:
        plans = list(pool.map(lambda path: _plan(task, path, folder, overwrite), paths))
    _check_conflicts([plan.conflict for plan in plans if plan.conflict])
    todo = [plan for plan in plans if plan.report is None]
    reports = {plan.shard: plan.report for plan in plans if plan.report is not None}
    with masks_bar(progress, sum(plan.samples for plan in todo), len(plans) - len(todo), len(plans)) as bar:
        running = engine.run(task, [plan.shard for plan in todo], folder, bar.note)
        number_of = {plan.shard: number for number, plan in enumerate(todo)}
        try:
            for report in running:
                reports[report.shard] = report
                bar.finish(report, number_of[report.shard])
        finally:
            getattr(running, "close", lambda: None)()
            # Once more: workers of a run that was killed just before this one may have lived on for a moment.
            remove_leftovers(sidecar_path(path, folder, kind) for path in paths)
    return MasksReport(task.method, tuple(reports[path] for path in paths), time.perf_counter() - began)


@dataclass(frozen=True)
class _Plan:
    """What to do with a shard: nothing if there is a report, else make its masks, unless there is a conflict."""

    shard: str
    samples: int = 0
    report: ShardReport | None = None
    conflict: str = ""


def _plan(task: Task, shard: str, out: str | None, overwrite: bool) -> _Plan:
    kind = kind_of(task)
    sidecar = sidecar_path(shard, out, kind)
    try:
        with Store([shard]) as store:
            samples = len(store)
            if overwrite or not os.path.exists(sidecar) or not sidecar_is_valid(sidecar, shard, kind=kind):
                return _Plan(shard, samples)
            asked: dict[str, Any] = {"method": task.method, "version": code_version(), **task.parameters(store)}
    except (ShardError, OSError) as error:
        return _Plan(shard, report=ShardReport(shard, sidecar, "failed", error=str(error)))
    manifest = read_manifest(sidecar, kind)
    settings, result = split_parameters(manifest)
    there = {"method": manifest.method, "version": manifest.version, **settings}
    if there != asked:
        names = [name for name in {**there, **asked} if there.get(name) != asked.get(name)]
        return _Plan(shard, samples, conflict=f"{sidecar}: was made otherwise ({_difference(names, there, asked)})")
    without = tuple((key, note) for key, note in result.get("without", ()))
    counts = {name: result.get(name, 0) for name in ("samples", "masks", "empty", "full")}
    histogram = tuple(result.get("histogram", (0,) * BINS))
    return _Plan(shard, samples, ShardReport(shard, sidecar, "kept", **counts, histogram=histogram, without=without))


def _difference(names: Sequence[str], there: dict[str, Any], asked: dict[str, Any]) -> str:
    short = [name for name in names if not isinstance({**there, **asked}[name], dict)]
    values = [f"{name} {there.get(name)!r}, asked for {asked.get(name)!r}" for name in short]
    return "; ".join([*values, *(f"other {name}" for name in names if name not in short)])


def _check_conflicts(conflicts: list[str]) -> None:
    if conflicts:
        others = f" and {len(conflicts) - 1} more" if len(conflicts) > 1 else ""
        raise ShardError(f"{conflicts[0]}{others}; pass overwrite (--overwrite) or another folder (--out)")


def _check_names(paths: list[str], out: str | None, kind: SidecarKind) -> None:
    """Two shards of one name in different folders would share a sidecar."""
    seen: dict[str, str] = {}
    for path in paths:
        sidecar = os.path.abspath(sidecar_path(path, out, kind))
        if sidecar in seen:
            raise ShardError(
                f"{path} and {seen[sidecar]} would both write {sidecar}; run them with one folder (--out) each"
            )
        seen[sidecar] = path
