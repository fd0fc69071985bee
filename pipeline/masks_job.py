"""Make the mask sidecars of many shards: plan and run.

A run does what is missing: finished sidecars that were made as asked are kept, so a run that was stopped, or killed, is
continued by the same command.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Literal

from figureground.shards import ShardError, expand
from figureground.shards.cache import ShardCache
from figureground.shards.masks import MASKS, SidecarKind
from figureground.shards.remote import Remote
from figureground.shards.remote_errors import GaveUp
from figureground.shards.upload import UploadRefused
from figureground.shards.urls import is_url

from .masks_bar import masks_bar
from .masks_engines import Engine, LocalEngine, make_engine
from .masks_estimate import EstimateMasks
from .masks_import import ImportMasks, surplus_files
from .masks_leftovers import remove_leftovers, remove_old_folders
from .masks_target import TEMPORARY, Present, Target, plain
from .masks_totals import MasksReport
from .masks_work import BINS, ShardReport, Task, code_version, kind_of, label_of
from .processors import job_processors

Overwrite = bool | Literal["changed"]
Shards = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


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
    overwrite: Overwrite = False,
    limit: int | None = None,
    progress: bool = True,
    max_pixels: int = 2**27,
    cache: ShardCache | None = None,
    storage_options: Mapping[str, Mapping[str, Any]] | None = None,
) -> MasksReport:
    """Estimate masks of all images and write them into sidecars.

    Parameters
    ----------
    shards : str, path or sequence of these
        As for `figureground.shards.expand`; URLs too (`s3://`, `gs://`, `https://` ...), with `cache`.
    method : str
        A key of `figureground.kernels.saliency.METHODS`, "net:FILE", "vit:FILE" or "vit-ncut:FILE".
    out : path, optional
        Folder of the sidecars, or its URL in a store that can be written (`s3://bucket/masks`, `gs://` ...); by default they
        lie beside their shards.
    device : str
        "cpu", "cuda" or "cuda:1".
    batch_size : int
        Images decoded at a time; changes the speed, not the masks.
    size : int
        Side of the masks [px], 16 to 256; of methods that are files at least 32.
    engine : {"local", "ray"} or Engine
        An engine of `masks_engines` or `masks_ray` for more options.
    jobs : int
        Shards at a time; with "local" and 1 all is done in this process. A script that asks for more must guard its
        start with `if __name__ == "__main__"`, as for every spawned process.
    threads : int, optional
        CPU threads a job; by default this process's processors (`own_processors`) shared out among the jobs (with "ray": 1).
    overwrite : bool or "changed"
        True: make all sidecars again, whatever is there. "changed": those that were made otherwise, and keep the others: what
        to use after another method or version, since a run that was stopped is then continued by the same call.
    limit : int, optional
        Only the first so many shards.
    progress : bool
        Show a bar on stderr.
    max_pixels : int
        Images with more pixels count as undecodable.
    cache : ShardCache, optional
        Where shards given as URLs are kept while they are worked on; the next one is fetched meanwhile.
    storage_options : mapping, optional
        Of the store of the sidecars, by protocol, as for `ShardCache`; by default those of `cache`, and the credentials that
        the environment offers.

    Returns
    -------
    MasksReport
        A shard that cannot be read, or whose sidecar cannot be written, is reported as failed; the others are made.

    Raises
    ------
    ShardError
        If no shard is found, the folder cannot be made or written, or a finished sidecar was made otherwise and `overwrite` is
        false: nothing is done then. If the store of the sidecars takes none (no permission, no such bucket, a web server): what is
        finished is kept.
    ValueError
        If an argument is out of range.
    RuntimeError
        If the device or Ray is not there.

    Notes
    -----
    Interrupted at any moment, it leaves whole sidecars or none; the next run removes what was begun. For a store a sidecar
    is made in a temporary folder and put there whole, its index after it.

    Examples
    --------
    ::

        report = make_masks("shards/train-{000000..000099}.tar", out="masks", jobs=8)
        print(report)
    """
    chosen = make_engine(engine, jobs=jobs) if isinstance(engine, str) else engine
    if threads is None:
        threads = job_processors(chosen.jobs) if isinstance(chosen, LocalEngine) else 1
    task = EstimateMasks(method, size, device, batch_size, threads, max_pixels)
    return run_task(
        task, shards, out=out, engine=chosen, overwrite=overwrite, limit=limit, progress=progress, cache=cache,
        storage_options=storage_options,
    )  # fmt: skip


def import_masks(
    shards: Shards,
    folder: str | os.PathLike[str],
    *,
    method: str = "imported",
    size: int | None = None,
    out: str | os.PathLike[str] | None = None,
    engine: str | Engine = "local",
    jobs: int = 1,
    overwrite: Overwrite = False,
    limit: int | None = None,
    progress: bool = True,
    cache: ShardCache | None = None,
    storage_options: Mapping[str, Mapping[str, Any]] | None = None,
) -> MasksReport:
    """Write masks made elsewhere, `<folder>/<key>.png`, into sidecars.

    Parameters
    ----------
    shards, out, engine, jobs, overwrite, limit, progress, cache, storage_options
        As for `make_masks`.
    folder : path
        PNG files of any size; see `figureground.pipeline.masks_import.gray_mask` for what is a mask.
    method : str
        Name for the manifest.
    size : int, optional
        Side that all masks get [px], 16 to 1024; by default each keeps its own.

    Returns
    -------
    MasksReport
        With samples that have no file, and (unless `limit` is given) files that belong to no sample.
    """
    task = ImportMasks(os.path.abspath(os.fspath(folder)), method, size)
    chosen = make_engine(engine, jobs=jobs) if isinstance(engine, str) else engine
    target = _target(out, cache, storage_options)
    paths = expand(shards, None if cache is None else cache.remote)[:limit]
    report = run_task(
        task, paths, out=out, engine=chosen, overwrite=overwrite, limit=limit, progress=progress, cache=cache,
        storage_options=storage_options,
    )  # fmt: skip
    if limit is not None:
        return report
    failed = {shard.shard for shard in report.shards if shard.status == "failed"}
    keys = _keys([path for path in paths if plain(path) not in failed], target)
    return replace(report, surplus=tuple(surplus_files(task.folder, keys)))


def _keys(shards: Sequence[str], target: Target) -> Iterator[str]:
    for shard in shards:
        with target.open(shard) as store:
            yield from (store.key(i) for i in range(len(store)))


def _target(
    out: str | os.PathLike[str] | None,
    cache: ShardCache | None,
    storage_options: Mapping[str, Mapping[str, Any]] | None,
    kind: SidecarKind = MASKS,
) -> Target:
    remote = cache.remote if cache is not None and storage_options is None else Remote(storage_options)
    return Target(None if out is None else os.fspath(out), cache, remote, kind)


def run_task(
    task: Task,
    shards: Shards,
    *,
    out: str | os.PathLike[str] | None,
    engine: Engine,
    overwrite: Overwrite = False,
    limit: int | None = None,
    progress: bool = True,
    cache: ShardCache | None = None,
    storage_options: Mapping[str, Mapping[str, Any]] | None = None,
) -> MasksReport:
    """Do with any task what `make_masks` does."""
    if limit is not None and limit < 1:
        raise ValueError(f"make_masks: limit must be at least 1 shard, got {limit}")
    began = time.perf_counter()
    target = _target(out, cache, storage_options, kind_of(task))
    paths = expand(shards, None if cache is None else cache.remote)[:limit]
    sidecars = _sidecars(paths, target)
    if target.out is not None and not is_url(target.out):
        _make_folder(target.out)
    for folder in sorted({os.path.dirname(os.path.abspath(path)) for path in sidecars if not is_url(path)}):
        if os.path.isdir(folder) and not os.access(folder, os.W_OK):
            raise ShardError(
                f"{folder}: sidecars cannot be written there (no permission); choose another folder (--out)"
            )
    present = Present(target, paths)
    remove_leftovers(sidecars, target.remote)
    remove_old_folders(TEMPORARY)
    with ThreadPoolExecutor(8) as pool:
        plans = list(pool.map(lambda path: _plan(task, path, target, present, overwrite), paths))
    _check_conflicts([plan.conflict for plan in plans if plan.conflict])
    todo = [plan for plan in plans if plan.report is None]
    reports = {plain(plan.shard): plan.report for plan in plans if plan.report is not None}
    with masks_bar(progress, [plan.samples for plan in todo], len(plans)) as bar:
        running = engine.run(task, [plan.shard for plan in todo], target, bar.note)
        number_of = {plain(plan.shard): number for number, plan in enumerate(todo)}
        try:
            for report in running:
                reports[report.shard] = report
                bar.finish(report, number_of[report.shard])
        finally:
            getattr(running, "close", lambda: None)()
            # Once more: workers of a run that was killed just before this one may have lived on for a moment.
            remove_leftovers(sidecars, target.remote)
    return MasksReport(label_of(task), tuple(reports[plain(path)] for path in paths), time.perf_counter() - began)


@dataclass(frozen=True)
class _Plan:
    """What to do with a shard: nothing if there is a report, else make its masks, unless there is a conflict."""

    shard: str
    samples: int = 0
    """0 also where they are not known yet: a shard in a store without an index."""
    report: ShardReport | None = None
    conflict: str = ""


def _make_folder(path: str) -> None:
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as error:
        raise ShardError(
            f"{path}: no folder of sidecars can be made there ({error.strerror}); choose another (--out)"
        ) from error


def _plan(task: Task, shard: str, target: Target, present: Present, overwrite: Overwrite) -> _Plan:
    name, sidecar = plain(shard), plain(target.sidecar(shard))
    there = overwrite is not True and present.has(shard)
    try:
        # A shard that is to be fetched anyway is not fetched now just to count its samples.
        with target.open(shard, index="require" if is_url(shard) and not there else "auto") as store:
            samples = len(store)
            manifest = present.manifest(shard, store.shard_fingerprint(0)) if there else None
            if manifest is None:
                return _Plan(shard, samples)
            asked: dict[str, Any] = {"method": label_of(task), "version": code_version(), **task.parameters(store)}
    except (UploadRefused, GaveUp):
        raise
    except (ShardError, OSError) as error:
        if is_url(shard) and not there:  # what is wrong with it is said when it is its turn
            return _Plan(shard)
        return _Plan(shard, report=ShardReport(name, sidecar, "failed", error=str(error)))
    made = {"method": manifest.method, "version": manifest.version, **manifest.parameters}
    if made != asked:
        if overwrite:
            return _Plan(shard, samples)
        names = [key for key in {**made, **asked} if made.get(key) != asked.get(key)]
        return _Plan(shard, samples, conflict=f"{sidecar}: was made otherwise ({_difference(names, made, asked)})")
    result = manifest.result
    without, unusable = (tuple(map(tuple, result.get(name, ()))) for name in ("without", "unusable"))
    counts = {key: result.get(key, 0) for key in ("samples", "masks", "empty", "full")}
    histogram = tuple(result.get("histogram", (0,) * BINS))
    return _Plan(
        shard,
        samples,
        ShardReport(name, sidecar, "kept", **counts, histogram=histogram, without=without, unusable=unusable),
    )


def _difference(names: Sequence[str], there: dict[str, Any], asked: dict[str, Any]) -> str:
    short = [name for name in names if not isinstance({**there, **asked}[name], dict) and name not in ("code", "files")]
    values = [f"{name} {there.get(name)!r}, asked for {asked.get(name)!r}" for name in short]
    return "; ".join([*values, *(f"other {name}" for name in names if name not in short)])


def _check_conflicts(conflicts: list[str]) -> None:
    if conflicts:
        others = f" and {len(conflicts) - 1} more" if len(conflicts) > 1 else ""
        raise ShardError(
            f"{conflicts[0]}{others}; pass overwrite (--overwrite all anew, --update only these) or another folder (--out)"
        )


def _sidecars(paths: Sequence[str], target: Target) -> list[str]:
    """Name the sidecars; two shards of one name in different folders would share one, which is an error."""
    seen: dict[str, str] = {}
    sidecars = []
    for path in paths:
        sidecars.append(target.sidecar(path))
        place = plain(sidecars[-1]) if is_url(sidecars[-1]) else os.path.abspath(sidecars[-1])
        if place in seen:
            raise ShardError(
                f"{plain(path)} and {seen[place]} would both write {place}; run them with one folder (--out) each"
            )
        seen[place] = plain(path)
    return sidecars
