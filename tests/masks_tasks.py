"""Mask tasks without a decoder, for tests of the jobs; importable by worker processes."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from figureground.pipeline.masks_work import Result, mean_share, usable_samples
from figureground.shards import Store
from figureground.shards.masks import encode_mask


@dataclass(frozen=True)
class PlainTask:
    """A mask that depends on the image's bytes alone."""

    method: str = "plain"
    setting: int = 1
    batch: int = 16
    pause_s: float = 0.0
    """After each batch."""
    crash: str = ""
    """Path: the worker kills itself in the middle of a shard of this name, as long as this counter file says more than 0."""

    def parameters(self, store: Store) -> dict[str, Any]:
        return {"setting": self.setting}

    def open(self) -> PlainWork:
        return PlainWork(self)


class PlainWork:
    """The same at work."""

    def __init__(self, task: PlainTask) -> None:
        self._task = task

    def close(self) -> None:
        return None

    def results(self, store: Store) -> Iterator[Sequence[Result]]:
        samples, without = usable_samples(store)
        for first in range(0, len(samples), self._task.batch):
            yield [self._result(store, i) for i in samples[first : first + self._task.batch]]
            time.sleep(self._task.pause_s)
            self._maybe_crash(store)
        yield without

    def _result(self, store: Store, sample: int) -> Result:
        total = int(store.image(sample).sum(dtype=np.int64)) * self._task.setting
        if total % 7 == 0:
            return Result(store.key(sample), None, 0.0, f"no luck <object at {hex(id(store))}>")
        mask = np.full((16, 16), total % 256, np.uint8)
        mask[: total % 16] = 255
        return Result(store.key(sample), encode_mask(mask), mean_share(mask), "")

    def _maybe_crash(self, store: Store) -> None:
        counter = Path(self._task.crash)
        if not self._task.crash or counter.name not in store.shards[0]:
            return
        left = int(counter.read_text())
        if left > 0:
            counter.write_text(str(left - 1))
            os.kill(os.getpid(), signal.SIGKILL)
