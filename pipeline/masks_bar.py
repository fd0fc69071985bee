"""The progress bar of the mask jobs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from .masks_work import ShardReport


class _Rate(ProgressColumn):
    """Images per second since the start."""

    def render(self, task: Task) -> Text:
        """Return the text of the column."""
        speed = task.finished_speed or task.speed
        return Text("- images/s" if speed is None else f"{speed:.0f} images/s", style="cyan")


class MasksBar:
    """Images done over all shards, images/s, time left."""

    def __init__(self, bar: Progress, task: Any, samples: Sequence[int], shards: int) -> None:
        self._bar, self._task, self._samples, self._shards = bar, task, list(samples), shards
        self._finished = shards - len(samples)
        self._done: dict[int, int] = {}
        self._show()

    def note(self, number: int, done: int) -> None:
        """Take note that `done` samples of shard `number` are done."""
        self._done[number] = done
        self._samples[number] = max(self._samples[number], done)  # 0 where the shard was not opened yet
        self._bar.update(self._task, completed=sum(self._done.values()), total=sum(self._samples))

    def finish(self, report: ShardReport, number: int) -> None:
        """Take note of a finished shard."""
        self._finished += 1
        self.note(number, report.samples)
        self._show()

    def _show(self) -> None:
        self._bar.update(self._task, description=f"{self._finished}/{self._shards} shards")


@contextmanager
def masks_bar(show: bool, samples: Sequence[int], shards: int) -> Iterator[MasksBar]:
    """Show a bar on stderr: the samples of each shard to do, and how many shards there are, with those finished before."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not show, speed_estimate_period=60) as bar:
        yield MasksBar(bar, bar.add_task("", total=sum(samples)), samples, shards)
