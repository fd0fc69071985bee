"""The progress bar of the mask jobs, and what takes its place in a log: a line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from .masks_work import ShardReport

LINES_S = 30.0
"""Where stderr is no terminal: seconds from one line to the next."""


class Lines:
    """Prints a line on stderr every `LINES_S` seconds at most; none on a terminal, where a bar moves.

    Parameters
    ----------
    show : bool
        Whether to print any.
    """

    def __init__(self, show: bool) -> None:
        self._show = show and not Console(stderr=True).is_terminal
        self._last = time.monotonic()

    def due(self) -> bool:
        """Tell whether it is time for a line."""
        return self._show and time.monotonic() - self._last >= LINES_S

    def write(self, text: str) -> None:
        """Print a line."""
        print(text, file=sys.stderr, flush=True)
        self._last = time.monotonic()


class _Rate(ProgressColumn):
    """Images per second since the start."""

    def render(self, task: Task) -> Text:
        """Return the text of the column."""
        speed = task.finished_speed or task.speed
        return Text("- images/s" if speed is None else f"{speed:.0f} images/s", style="cyan")


class MasksBar:
    """Images done over all shards, images/s, time left."""

    def __init__(self, bar: Progress, task: Any, lines: Lines, samples: Sequence[int], shards: int) -> None:
        self._bar, self._task, self._lines, self._samples, self._shards = bar, task, lines, list(samples), shards
        self._finished = shards - len(samples)
        self._done: dict[int, int] = {}
        self._show()

    def note(self, number: int, done: int) -> None:
        """Take note that `done` samples of shard `number` are done."""
        self._done[number] = done
        self._samples[number] = max(self._samples[number], done)  # 0 where the shard was not opened yet
        self._bar.update(self._task, completed=sum(self._done.values()), total=sum(self._samples))
        if self._lines.due():
            task = self._bar.tasks[0]
            speed, left = task.speed, task.time_remaining
            self._lines.write(
                f"{task.description}, {task.completed:.0f}/{task.total:.0f} images"
                + ("" if speed is None else f", {speed:.0f} images/s")
                + ("" if left is None else f", {left / 60:.0f} minutes left")
            )

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
        yield MasksBar(bar, bar.add_task("", total=sum(samples)), Lines(show), samples, shards)
