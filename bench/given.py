"""What a user gives a bench, checked and cut to size before any clock starts; what cannot be measured ends in one sentence."""

from __future__ import annotations

import argparse
import functools
import io
import json
import sys
import tarfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec

import numpy as np

from figureground.kernels.guard import OK, inspect_images
from figureground.pipeline.device import make_device
from figureground.pipeline.outputs import new_file, new_folder
from figureground.pipeline.quarantine import ErrorBudgetExceeded
from figureground.shards import MaskStore, Store
from figureground.shards.errors import ShardError
from figureground.shards.index import write_index
from figureground.shards.masks import MaskWriter

_P = ParamSpec("_P")
READ = ("jpg", "jpeg", "png")
"""Extensions that all peers look for."""
CUT_SHARDS = 8
"""Enough for peers that deal out whole shards to their workers."""


class Unfit(ValueError):
    """What was given cannot be measured; the message is one sentence."""


@dataclass(frozen=True)
class Given:
    """Shards to measure on."""

    shards: Any
    samples: int
    """Of these shards."""
    masked: int
    """Samples that have a mask of their own."""
    of: int
    """Samples of the shards that the user named."""
    first_read: dict[str, float] | None = None
    """How fast the chosen files came from where they lie, one by one; None if nothing was cut out."""


def file_to_write(text: str) -> Path:
    """Argument of a parser: a file, looked at before anything is measured; see `new_file`."""
    return _place(new_file, text)


def folder_to_write(text: str) -> Path:
    """Argument of a parser: a folder, likewise; see `new_folder`."""
    return _place(new_folder, text)


def _place(look: Callable[[str], Path], text: str) -> Path:
    try:
        return look(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def in_one_sentence(main: Callable[_P, int]) -> Callable[_P, int]:
    """Let a verb's `main` end with a sentence and exit code 2 where what was given cannot be used."""

    @functools.wraps(main)
    def wrapped(*args: _P.args, **options: _P.kwargs) -> int:
        try:
            return main(*args, **options)
        except (Unfit, ShardError, ErrorBudgetExceeded) as error:
            print(f"{main.__module__.rpartition('.')[2]}: {error}", file=sys.stderr)
            return 2
        except OSError as error:
            if error.filename is None:
                raise
            where = main.__module__.rpartition(".")[2]
            print(f"{where}: {error.filename} cannot be read or written: {error.strerror}", file=sys.stderr)
            return 2

    return wrapped


def check_counts(*given: Any) -> None:
    """Raise Unfit unless each of some arguments, name and value in turn, is at least 1.

    Examples
    --------
    >>> check_counts("--rounds", 3, "--size", 0)
    Traceback (most recent call last):
    ...
    figureground.bench.given.Unfit: --size must be at least 1, got 0
    """
    for name, value in zip(given[::2], given[1::2], strict=True):
        if value < 1:
            raise Unfit(f"{name} must be at least 1, got {value}")


def read_classes(path: str | None) -> list[int] | None:
    """Read the class of each output of a model; None without a path.

    Raises
    ------
    Unfit
        If the file cannot be read or is no JSON list of whole numbers.
    """
    if path is None:
        return None
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Unfit(f"--classes must be a JSON file, got {path} ({error})") from error
    if not isinstance(found, list) or not all(type(number) is int for number in found):
        raise Unfit(f"--classes must be a JSON list of whole numbers, one for each output, got {str(found)[:60]}")
    return found


def check_device(name: str) -> None:
    """Raise Unfit unless the device is there."""
    try:
        make_device(name)
    except (RuntimeError, ValueError) as error:
        raise Unfit(str(error)) from error


def take_shards(shards: Any, folder: str | Path, *, most: int, batch_size: int, device: str = "cpu") -> Given:
    """Look at a user's shards, and cut samples out of them if there are more than a bench needs.

    Parameters
    ----------
    shards : pattern or patterns
        Indexes that are missing are written beside them.
    folder : path
        Where cut shards go: an empty folder.
    most : int
        Samples that are enough; at least eight batches are taken. Of more samples so many, spread evenly over all, are copied
        with all their components and masks, so that a round takes seconds whatever the data set's size.
    batch_size : int
    device : str

    Raises
    ------
    Unfit
        If there are fewer samples than a batch takes, or no such device.
    ShardError
        If the shards cannot be read.
    """
    check_device(device)
    most = max(most, 8 * batch_size)
    with Store(shards) as store, MaskStore(store) as masks:
        samples = len(store)
        if samples < batch_size:
            raise Unfit(f"--batch-size (BATCH) must be at most the {samples} samples of the shards, got {batch_size}")
        if samples <= most:
            return Given(shards, samples, int(masks.present.sum()), samples)
        chosen = np.linspace(0, samples - 1, most).astype(np.int64)
        began, size = time.perf_counter(), 0
        files = []
        for sample in chosen.tolist():
            parts = [(ext, store.component(sample, ext)) for ext in store.exts]
            files.append([(ext, bytes(part)) for ext, part in parts if part is not None])
            size += sum(len(part) for _, part in files[-1])
        seconds = time.perf_counter() - began
        present = masks.present[chosen]
        for part in np.array_split(np.arange(most), CUT_SHARDS):
            pngs = [masks.mask(int(chosen[i])) if present[i] else None for i in part]
            _write_shard(Path(folder) / f"cut-{part[0]:06d}.tar", part.tolist(), files, pngs)
    read = {
        "files": most,
        "images_per_s": round(most / seconds, 1),
        "mb_per_s": round(size / seconds / 1e6, 1),
    }
    print(
        f"{most} of the {samples:,} samples are used, copied to a local folder; they came at {read['mb_per_s']:g} MB/s, one by one"
    )
    return Given(f"{folder}/cut-*[0-9].tar", most, int(present.sum()), samples, read)


def _write_shard(
    path: Path, numbers: list[int], files: list[list[tuple[str, bytes]]], pngs: Iterable[np.ndarray | None]
) -> None:
    """Write a tar, its index and, if there are masks, its sidecar; keys are numbers."""
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for number in numbers:
            for ext, data in files[number]:
                member = tarfile.TarInfo(f"{number:08d}.{ext}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    write_index(path)
    named = [(number, png) for number, png in zip(numbers, pngs, strict=True) if png is not None]
    if named:
        with MaskWriter(path, method="given") as writer:
            for number, png in named:
                writer.add(f"{number:08d}", bytes(png))


def check_files(shards: Any) -> None:
    """Raise Unfit unless every sample has an image that all peers can read."""
    with Store(shards) as store:
        count = len(store)
        images = store.images(np.arange(count))
        codes, _ = inspect_images(images.addresses, images.sizes)
        bad = [
            i for i in range(count) if codes[i] != OK or not any(store.component(i, ext) is not None for ext in READ)
        ]
        if bad:
            raise Unfit(
                f"all images must be intact JPEG or PNG files, since most peers read no others and stop at the first broken "
                f"one; {len(bad)} of {count} are not (first: {store.key(bad[0])} in {store.shards[store.shard_of(bad[0])]})"
            )


def say_masks(given: Given) -> None:
    """Say where masks will come from, if not all of them are there."""
    if given.masked < given.samples:
        print(
            f"{given.samples - given.masked} of {given.samples} samples have no mask: theirs are estimated on the way, as the "
            f"loader does by default; 'figureground masks' makes them beforehand"
        )
