"""Pack a folder of images and videos into WebDataset shards: the same bytes for the same folder, however many threads work."""

from __future__ import annotations

import json
import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

from .errors import ShardError
from .files import publish
from .folder import Source, list_images
from .index import index_path, write_index
from .pictures import prepare_image
from .video import FrameOptions, Prepared, frame_jobs

LABELS = "labels.json"
"""Beside the shards: the list of class names; a sample's `.cls` is a place in it."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_HEADER = 512


@dataclass
class PackReport:
    """What `pack` did."""

    shards: list[str] = field(default_factory=list)
    """Paths of the tars."""
    samples: int = 0
    image_bytes: int = 0
    """Sum of the images' lengths [bytes]."""
    classes: list[str] = field(default_factory=list)
    """Class names, as in `labels.json`."""
    skipped: list[tuple[str, str]] = field(default_factory=list)
    """Files that were left out: path relative to the source, and why."""

    def __str__(self) -> str:
        return (
            f"{self.samples} samples of {len(self.classes)} classes in {len(self.shards)} shards, "
            f"{self.image_bytes / 1e6:.1f} MB of images, {len(self.skipped)} files left out"
        )


def pack(
    src: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    shard_size_mb: float = 256,
    image_ext: Literal["keep", "jpg", "png"] = "keep",
    jobs: int = 1,
    progress: bool = True,
    name: str = "shard",
    limit: int | None = None,
    shuffle_seed: int | None = None,
    every: int = 1,
    frame_size: int | None = None,
    frame_quality: int = 95,
) -> PackReport:
    """Pack a folder of images and videos into shards `<name>-000000.tar`, ... with their indexes.

    Parameters
    ----------
    src : path
        Folder of images and videos, of any depth. The class of a file is the path of its folder, from `src` on. A folder
        of frames `clip/00001.jpg` and a video `clip.mp4` give the same kind of keys: `clip/...`, in time.
    out : path
        Folder of the shards; made if there is none.
    shard_size_mb : float
        A shard is closed before it would grow beyond this [10^6 bytes].
    image_ext : {"keep", "jpg", "png"}
        "keep" stores every file that DALI decodes as it is; "jpg" and "png" re-encode files of other formats. Frames of
        videos become JPEG files, with "png" PNG files.
    jobs : int
        Threads that read and decode.
    progress : bool
        Show a bar on stderr.
    name : str
        Letters, digits, `-` and `_`.
    limit : int, optional
        Stop after this many samples.
    shuffle_seed : int, optional
        Store the samples in a random order given by this number; by default in the order of their paths, class after
        class. Shuffle for readers that stream. Frames of a video stay together.
    every : int
        Take every so many-th frame of a video.
    frame_size : int, optional
        The shorter side of larger frames of videos is reduced to this [px].
    frame_quality : int
        Of the JPEG files of a video's frames, 1..100.

    Returns
    -------
    PackReport

    Raises
    ------
    ValueError
        If an argument is out of its range.
    ShardError
        If `src` is no folder or holds no image, or `out` has shards of this name already.

    Notes
    -----
    Each image is decoded once to prove that it is one; files that are none are left out and reported; so is the rest of a
    video that breaks off. Components of a sample are its image and, where it has a class, `.cls`: the place of its class in
    the sorted list of classes, which is written to `labels.json`. Shards appear one by one, each of them whole.
    """
    _check_arguments(shard_size_mb, image_ext, jobs, name, limit)
    frames = FrameOptions(every, frame_size, frame_quality)
    target = os.path.abspath(os.fspath(out))
    found = list_images(os.fspath(src), leave_out=target, shuffle_seed=shuffle_seed)
    _check_target(target, name)
    report = PackReport(classes=found.classes, skipped=list(found.skipped))
    with ExitStack() as stack:
        bar = stack.enter_context(_bar(progress))
        task = bar.add_task(f"packing {os.fspath(src)}", total=len(found.sources))
        shards = stack.enter_context(_Shards(target, name, int(shard_size_mb * 1e6), report))
        last = ""
        for source, result in _prepare(found.sources, image_ext, jobs, frames):
            if isinstance(result, str):
                report.skipped.append((source.relative, result))
            else:
                shards.add(source, *result)
            bar.advance(task, source.path != last)
            last = source.path
            if report.samples == limit:
                break
    if report.samples == 0:
        raise ShardError(f"{os.fspath(src)}: none of its images can be read; the first: {': '.join(report.skipped[0])}")
    if found.classes:
        with publish(os.path.join(target, LABELS)) as file:
            file.write((json.dumps(found.classes, ensure_ascii=False, indent=0) + "\n").encode("utf-8", "replace"))
    return report


class _Shards:
    """Write samples into one shard after the other."""

    def __init__(self, folder: str, name: str, limit: int, report: PackReport) -> None:
        self._folder, self._name, self._limit, self._report = folder, name, limit, report
        self._stack = ExitStack()
        self._tar: Any = None
        self._path = ""
        self._filled = 0

    def __enter__(self) -> _Shards:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: Any) -> None:
        if kind is None:
            self._close()
        elif self._tar is not None:
            with suppress(OSError):  # a full disk, say: the file is thrown away
                self._tar.close()
            self._stack.__exit__(kind, *rest)

    def _open(self) -> None:
        import webdataset  # imports torch where it is installed

        self._path = os.path.join(self._folder, f"{self._name}-{len(self._report.shards):06d}.tar")
        file = self._stack.enter_context(publish(self._path, replaces=(index_path(self._path),)))
        self._tar = webdataset.TarWriter(file, encoder=False, mtime=0, format="GNU_FORMAT")
        self._filled = 0

    def _close(self) -> None:
        if self._tar is not None:
            with self._stack:
                tar, self._tar = self._tar, None
                tar.close()
            write_index(self._path)
            self._report.shards.append(self._path)

    def add(self, source: Source, image: bytes, ext: str) -> None:
        """Add one sample, in a new shard if this one would grow too big."""
        sample = {"__key__": source.key, ext: image}
        if source.number is not None:
            sample["cls"] = b"%d" % source.number
        size = sum(_HEADER + -(-len(part) // 512) * 512 for ext, part in sample.items() if ext != "__key__")
        if self._tar is not None and self._filled + size > self._limit:
            self._close()
        if self._tar is None:
            self._open()
        self._tar.write(sample)
        self._filled += size
        self._report.samples += 1
        self._report.image_bytes += len(image)


def _jobs(
    sources: Iterable[Source], image_ext: str, frames: FrameOptions
) -> Iterator[tuple[Source, Callable[[], Prepared]]]:
    """Yield each image, and each frame of a video, with the work that makes its file."""
    for source in sources:
        if source.video:
            yield from frame_jobs(source, image_ext, frames)
        else:
            yield source, partial(_read, source, image_ext)


def _prepare(
    sources: Iterable[Source], image_ext: str, jobs: int, frames: FrameOptions
) -> Iterator[tuple[Source, Prepared]]:
    """Read and check files with threads, in order, a few ahead; a text in place of an image says what is wrong."""
    waiting: deque[tuple[Source, Future[Prepared]]] = deque()
    pool = ThreadPoolExecutor(jobs)
    try:
        for source, work in _jobs(sources, image_ext, frames):
            waiting.append((source, pool.submit(work)))
            if len(waiting) > 4 * jobs:
                head, future = waiting.popleft()
                yield head, future.result()
        while waiting:
            head, future = waiting.popleft()
            yield head, future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _read(source: Source, image_ext: str) -> Prepared:
    try:
        with open(source.path, "rb") as file:
            return prepare_image(file.read(), image_ext)
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    except ValueError as error:
        return str(error)


def _bar(show: bool) -> Progress:
    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), disable=not show)


def _check_arguments(shard_size_mb: float, image_ext: str, jobs: int, name: str, limit: int | None) -> None:
    if not shard_size_mb > 0:
        raise ValueError(f"pack: shard_size_mb must be greater than 0, got {shard_size_mb}")
    if image_ext not in ("keep", "jpg", "png"):
        raise ValueError(f"pack: image_ext must be 'keep', 'jpg' or 'png', got {image_ext!r}")
    if jobs < 1:
        raise ValueError(f"pack: jobs must be at least 1, got {jobs}")
    if limit is not None and limit < 1:
        raise ValueError(f"pack: limit must be at least 1, got {limit}")
    if not _NAME.fullmatch(name):
        raise ValueError(f"pack: name must be letters, digits, '-' and '_', got {name!r}")


def _check_target(target: str, name: str) -> None:
    os.makedirs(target, exist_ok=True)
    taken = re.compile(re.escape(name) + r"-\d{6}\.tar")
    old = sorted(entry for entry in os.listdir(target) if taken.fullmatch(entry))
    if old:
        raise ShardError(f"{target}: has shards named {name} already ({old[0]}); remove them or choose another name")
