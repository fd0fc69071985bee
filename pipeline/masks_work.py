"""The masks of one shard: make them, count what came out, publish the sidecar.

A task (`EstimateMasks`, `ImportMasks`) says how masks are made: it is small, frozen and travels to
worker processes. Opened, it keeps its decoder and threads warm from shard to shard. What a sidecar holds depends on the
task's method and parameters alone: not on batches, threads, engines or restarts.
"""

from __future__ import annotations

import importlib.metadata
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, NamedTuple, Protocol

import cv2
import numpy as np

from figureground.shards import ShardError, Store
from figureground.shards.masks import MASKS, SidecarKind
from figureground.shards.upload import UploadRefused

from .config import Background
from .masks_target import Lookahead, Target, plain

EMPTY_BELOW = Background.min_area
"""A mask whose figure has a smaller share of the image counts as empty: by default recipes leave such an image alone."""
FULL_ABOVE = Background.max_area
"""A mask whose figure has a larger share counts as full."""
BINS = 10
"""Bins of the histogram of shares, from 0 to 1."""
NO_FILE = "no file"
"""Why an imported sample has no mask: there is none in the folder."""
_DUPLICATE = "its key is not the only one of this name in the shard"
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


class Result(NamedTuple):
    """What became of one sample."""

    key: str
    png: bytes | None
    """The mask; None if there is none."""
    area: float | None
    """Share of the figure: mean of the mask, 0..1; None for what is no mask."""
    note: str
    """Why there is no mask."""


class OpenTask(Protocol):
    """A task with its decoder and threads at work."""

    def results(self, store: Store) -> Iterator[Sequence[Result]]:
        """Make the masks of a store of one shard, in tar order, a batch at a time."""

    def close(self) -> None:
        """Free what was opened."""


class Task(Protocol):
    """How masks are made; a task that makes something else says so by an attribute `kind`, see `kind_of`; one whose method is a
    path names it for people by an attribute `label`, see `label_of`."""

    @property
    def method(self) -> str:
        """Name of the method."""

    def parameters(self, store: Store) -> dict[str, Any]:
        """Return what the masks of a shard depend on, besides its images and the method: fit for JSON."""

    def open(self) -> OpenTask:
        """Start decoder and threads."""


@dataclass(frozen=True)
class ShardReport:
    """What became of one shard."""

    shard: str
    sidecar: str
    status: Literal["made", "kept", "failed"]
    """"kept": a finished sidecar was there already."""
    samples: int = 0
    masks: int = 0
    empty: int = 0
    """Masks whose figure has a share below `EMPTY_BELOW`."""
    full: int = 0
    """Masks whose figure has a share above `FULL_ABOVE`."""
    histogram: tuple[int, ...] = (0,) * BINS
    """Masks by the share of their figure."""
    without: tuple[tuple[str, str], ...] = ()
    """Key and reason of each sample without a mask."""
    error: str = ""
    """Why the shard failed."""
    attempts: int = 1
    """More than one: a worker was lost while it made this shard."""
    seconds: float = 0.0
    """Time that making it took; not in the sidecar, whose bytes shall not depend on it."""
    unusable: tuple[tuple[str, str], ...] = ()
    """Key of each sample whose mask is "empty" or "full", and which."""

    @property
    def missing(self) -> int:
        """Samples without a file in an imported folder."""
        return sum(note == NO_FILE for _, note in self.without)

    @property
    def undecodable(self) -> int:
        """Samples whose image, or imported mask, could not be read."""
        return len(self.without) - self.missing

    def to_dict(self) -> dict[str, Any]:
        """Return all of it, ready for JSON."""
        return {**asdict(self), "missing": self.missing, "undecodable": self.undecodable}


def code_version() -> str:
    """Return the package's version, for manifests."""
    try:
        return importlib.metadata.version("figureground")
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def result_of(report: ShardReport) -> dict[str, Any]:
    """Return what a manifest says of how the masks of a shard turned out: what a report of a kept sidecar needs."""
    result = report.to_dict()
    kept = ("samples", "masks", "undecodable", "missing", "empty", "full", "histogram", "without", "unusable")
    return {name: result[name] for name in kept}


class Tally:
    """Count the results of a shard.

    Examples
    --------
    >>> tally = Tally()
    >>> tally.add([Result("a", b"", 0.25, ""), Result("b", b"", 1.0, ""), Result("c", None, 0.0, "truncated")])
    >>> report = tally.report("x.tar", "x.masks.tar")
    >>> report.masks, report.full, report.histogram, report.without, report.unusable
    (2, 1, (0, 0, 1, 0, 0, 0, 0, 0, 0, 1), (('c', 'truncated'),), (('b', 'full'),))
    """

    def __init__(self) -> None:
        self._histogram = [0] * BINS
        self.samples = 0
        self._without: list[tuple[str, str]] = []
        self._unusable: list[tuple[str, str]] = []

    def add(self, results: Sequence[Result]) -> None:
        """Count some samples."""
        self.samples += len(results)
        for result in results:
            if result.png is None:
                self._without.append((result.key, _ADDRESS.sub("", result.note)))
                continue
            if result.area is None:
                continue
            self._histogram[min(BINS - 1, int(result.area * BINS))] += 1
            if result.area < EMPTY_BELOW or result.area > FULL_ABOVE:
                self._unusable.append((result.key, "empty" if result.area < EMPTY_BELOW else "full"))

    def report(self, shard: str, sidecar: str) -> ShardReport:
        """Return the counts."""
        empty = sum(kind == "empty" for _, kind in self._unusable)
        return ShardReport(
            shard, sidecar, "made", self.samples, self.samples - len(self._without), empty, len(self._unusable) - empty,
            tuple(self._histogram), tuple(self._without), unusable=tuple(self._unusable),
        )  # fmt: skip


def kind_of(task: Task) -> SidecarKind:
    """Return what a task makes: masks, unless it says otherwise."""
    kind: SidecarKind = getattr(task, "kind", MASKS)
    return kind


def label_of(task: Task) -> str:
    """Return the name of a task's method for manifests and reports."""
    label: str = getattr(task, "label", task.method)
    return label


def make_sidecar(
    task: Task,
    opened: OpenTask,
    shard: str,
    target: Target,
    progress: Callable[[int], None],
    *,
    open_shard: Callable[[str], Store] | None = None,
) -> ShardReport:
    """Make and publish the masks of one shard.

    Parameters
    ----------
    task, opened : Task, OpenTask
        How, and the same at work.
    shard : str
        Path or URL.
    target : Target
        Where the sidecar goes.
    progress : callable
        Gets the number of samples done so far.
    open_shard : callable, optional
        In place of `Target.open`.

    Returns
    -------
    ShardReport
        "failed" if the shard cannot be read or the sidecar not be written.

    Raises
    ------
    UploadRefused
        If the sidecar's store will not take any.

    Notes
    -----
    The masks wait in memory (about 2 kB each), because the manifest says how they turned out, and to be in the
    temporary file for a moment only.
    """
    name, sidecar = plain(shard), plain(target.sidecar(shard))
    tally, pngs = Tally(), []
    began = time.perf_counter()
    try:
        with (open_shard or target.open)(shard) as store:
            settings, source = task.parameters(store), store.shard_fingerprint(0)
            for results in opened.results(store):
                tally.add(results)
                pngs += [(result.key, result.png) for result in results if result.png is not None]
                progress(tally.samples)
        report = tally.report(name, sidecar)
        about = {"parameters": settings, "result": result_of(report), "version": code_version(), "source": source}
        with target.writer(shard, method=label_of(task), **about) as writer:
            for key, png in pngs:
                writer.add(key, png)
    except UploadRefused:
        raise
    except (ShardError, OSError) as error:
        return ShardReport(name, sidecar, "failed", tally.samples, error=str(error))
    return replace(report, seconds=round(time.perf_counter() - began, 3))


class Worker:
    """Makes one sidecar after the other: decoder and threads stay warm, the next shard of a store is fetched meanwhile.

    Parameters
    ----------
    task : Task
    target : Target
    """

    def __init__(self, task: Task, target: Target) -> None:
        self._task, self._target = task, target
        self._lookahead = Lookahead(target)
        self._opened: OpenTask | None = None

    def make(self, shard: str, progress: Callable[[int], None], following: str | None = None) -> ShardReport:
        """Make a sidecar; `following` is the shard that this worker will get next, if that is known."""
        self._opened = self._opened or self._task.open()

        def opened_shard(path: str) -> Store:
            store = self._lookahead.open(path)
            self._lookahead.fetch(following)
            return store

        return make_sidecar(self._task, self._opened, shard, self._target, progress, open_shard=opened_shard)

    def close(self) -> None:
        """Free what was opened."""
        self._lookahead.close()
        if self._opened is not None:
            self._opened.close()


def usable_samples(store: Store) -> tuple[list[int], list[Result]]:
    """Split the samples of a one-shard store into those that can have a mask, and results for those that cannot.

    A mask belongs to a key, so samples that share one get none.
    """
    keys = store.shard_keys(0)
    times = Counter(keys)
    shared = [i for i, key in enumerate(keys) if times[key] > 1]
    return [i for i, key in enumerate(keys) if times[key] == 1], [
        Result(store.key(i), None, 0.0, _DUPLICATE) for i in shared
    ]


def resize_mask(mask: np.ndarray, width: int, height: int) -> np.ndarray:
    """Return a (H, W) uint8 mask at another size: means of areas where it shrinks, else linear."""
    if mask.shape == (height, width):
        return mask
    shrinks = mask.shape[0] >= height and mask.shape[1] >= width
    return cv2.resize(mask, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def mean_share(mask: np.ndarray) -> float:
    """Return the share of the figure: the mean of a (H, W) uint8 mask, 0..1, from exact integers."""
    return int(mask.sum(dtype=np.int64)) / (255 * mask.size)
