"""The producer: a thread that assembles batches and runs the kernels while the trainer works, and the queue between them.

The thread knows the engine alone, never the loader or its iterator: so leaving a loop early, an exception in the trainer,
Ctrl-C and the end of the process all drop the iterator, and its finalizer stops the thread.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import queue
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from figureground.shards import Store

from .anchors import anchor_crops
from .assemble import Assembled, Assembler
from .augment import Augmenter
from .device import Device
from .extras import Extras, hide_tokens
from .figure_crops import settle_crops
from .left_alone import LeftAlone
from .masking import Masker
from .negatives import negative_params
from .other_class import OtherClass
from .recipe import Recipe
from .tables import settle_backgrounds

log = logging.getLogger(__name__)

_KINDS = {"mask": torch.uint8, "flag": torch.bool, "source": torch.int8}
_POLL_S = 0.1
_WARN_BATCHES, _WARN_SHARE = 20, 0.1

_LIVE: dict[threading.Thread, Callable[[], object]] = {}
"""What stops each producer thread that runs."""


@atexit.register
def _stop_all() -> None:
    """Stop the threads before DALI's own exit handler deletes its pipelines: handlers run in reverse order of registration."""
    for stop in list(_LIVE.values()):
        stop()


class Engine:
    """Makes batches: everything between the shards and the queue. One producer thread uses it at a time."""

    def __init__(
        self,
        recipe: Recipe,
        store: Store,
        assembler: Assembler,
        masker: Masker,
        augmenter: Augmenter,
        device: Device,
        *,
        dtype: torch.dtype,
        channels_last: bool,
    ) -> None:
        self._recipe, self._store = recipe, store
        self.assembler, self._masker, self._augmenter, self.device = assembler, masker, augmenter, device
        self._dtype, self._channels_last = dtype, channels_last
        self.seconds = assembler.seconds
        self.counts = {"batches": 0, "samples": 0}
        self._other_class, self._left_alone = OtherClass(recipe, store.targets_of), LeftAlone(recipe)
        self.waited_s, self.full_s = 0.0, 0.0
        self.steady_s, self.steady_samples = 0.0, 0  # without the first batch of each iteration
        self.warned = False
        """Has the trainer been told that it waits for data? Once is enough."""

    def make(self, assembled: Assembled) -> dict[str, Any]:
        """Turn an assembled batch into tensors."""
        began = time.perf_counter()
        with self.device.span("saliency"):
            masks, slots = self._masker.complete(assembled, self._augmenter)
        self.seconds["saliency"] += time.perf_counter() - began
        began = time.perf_counter()
        settle_crops(self._recipe, assembled.plans, masks, slots, self._augmenter.map_chunks)
        if self._recipe.anchors:
            anchor_crops(self._recipe, assembled.plans, slots, self.assembler.seed)
        settle_backgrounds(self._recipe, assembled.plans, slots)
        companions, count = assembled.companions, assembled.count
        self._other_class.count([rows[:count] for rows in assembled.plans])
        self._left_alone.count(assembled.plans, slots, count)
        extras = None if companions is None else Extras(self._recipe, companions)
        with self.device.span("augment"):
            views, view_masks, negatives = self._augmenter.augment(
                assembled.images, masks, assembled.plans, slots, self._empty, extras
            )
        device, samples = self.device, assembled.samples[:count]
        batch = {
            "views": [self._tensor(view[:count]) for view in views],
            "masks": None if view_masks is None else [device.tensor(m[:count]).float().div_(255.0) for m in view_masks],
            "mask_valid": device.upload(slots.masked[:count]),
            "target": device.upload(self._store.targets_of(samples)),
            "index": device.upload(samples),
            "key": self._store.keys(samples),
            "params": [rows[:count] for rows in assembled.plans[: len(self._recipe.views)]],
            "negatives": None if negatives is None else self._tensor(negatives[:count]),
            "negative_params": self._negative_params(assembled),
            **self._beside(assembled, view_masks, extras),
        }
        device.finish()
        self.seconds["augment"] += time.perf_counter() - began
        return batch

    def _negative_params(self, assembled: Assembled) -> np.ndarray | None:
        """Return NEGATIVE_DTYPE rows (B,) of the swap negatives; None if there are none."""
        more = assembled.plans[len(self._recipe.views) :]
        return negative_params(more[0][: assembled.count]) if more else None

    def _beside(self, assembled: Assembled, view_masks: list[Any] | None, extras: Extras | None) -> dict[str, Any]:
        """Return what the recipe's techniques add to a batch."""
        recipe = self._recipe
        beside: dict[str, Any] = {}
        if recipe.token_masks is not None:
            beside["token_masks"] = self._tensors(
                hide_tokens(recipe, assembled.plans, view_masks, assembled.count, self._empty)
            )
        if extras is not None and recipe.corruption is not None:
            beside["corrupted"] = [None if v is None else self._tensor(v) for v in extras.corrupted]
            beside["corruption_mask"] = self._tensors(extras.corruption_masks)
        if extras is not None and recipe.mixing is not None and assembled.companions is not None:
            beside["mixed"] = [None if v is None else self._tensor(v) for v in extras.mixed]
            beside["mixing_source"] = self._tensors(extras.mixing_sources)
            beside["mixing_members"] = self.device.upload(assembled.companions.members(assembled.samples))
        return beside

    def _tensors(self, arrays: list[Any]) -> list[torch.Tensor | None]:
        return [None if array is None else self.device.tensor(array) for array in arrays]

    def _empty(self, shape: tuple[int, ...], kind: str) -> Any:
        return self.device.empty(shape, self._dtype if kind == "view" else _KINDS[kind])

    def _tensor(self, view: Any) -> torch.Tensor:
        tensor = self.device.tensor(view, self._dtype)
        return tensor.movedim(-1, -3) if self._channels_last else tensor

    def stats(self) -> dict[str, Any]:
        """Return the counters of `Loader.stats`."""
        seconds = {name: round(value, 4) for name, value in self.seconds.items()}
        busiest = max(seconds, key=lambda name: seconds[name], default="nothing yet")
        if self.full_s > self.waited_s:
            verdict = f"the trainer: finished batches waited {self.full_s:.1f} s for it"
        else:
            verdict = (
                f"the loader: the trainer waited {self.waited_s:.1f} s, and the loader spent most time on: {busiest}"
            )
        return {
            "seconds": seconds,
            "trainer_waited_s": round(self.waited_s, 4),
            "queue_full_s": round(self.full_s, 4),
            **self.counts,
            "backgrounds_drawn": self._left_alone.drawn,
            "backgrounds_left_alone": self._left_alone.total,
            "other_class_unmet": self._other_class.unmet,
            "samples_per_s": round(self.steady_samples / self.steady_s, 2) if self.steady_s else 0.0,
            "bottleneck": verdict,
        }

    def close(self) -> None:
        """Stop the threads of the kernels."""
        self._augmenter.close()


class Epoch:
    """One pass over an epoch: the trainer's end of the queue.

    Parameters
    ----------
    engine : Engine
    form : callable
        Turns the dictionary of a batch into what the trainer gets.
    epoch, start : int
        Epoch and first position.
    prefetch : int
        Capacity of the queue.
    note : callable (epoch, position, over)
        Told after each batch, and once at the end.
    """

    def __init__(
        self,
        engine: Engine,
        form: Callable[[dict[str, Any]], Any],
        epoch: int,
        start: int,
        prefetch: int,
        note: Callable[[int, int, bool], None],
    ) -> None:
        self._engine, self._form, self._note, self._prefetch = engine, form, note, prefetch
        self._taken, self._over, self._closed_by, self._process = 0, False, "", os.getpid()
        self._began, self._last, self._waited_s = 0.0, 0.0, 0.0
        self._begin(epoch, start)

    def _begin(self, epoch: int, start: int) -> None:
        self._epoch, self._start = epoch, start
        self._batches = self._engine.assembler.split.batches(start)
        self._queue: queue.Queue[Any] = queue.Queue(self._prefetch)
        stop = threading.Event()
        thread = threading.Thread(
            target=_produce,
            args=(self._engine, epoch, start, self._batches, self._queue, stop),
            name="figureground-loader",
            daemon=True,
        )
        self._finalizer = weakref.finalize(self, _stop_thread, thread, self._queue, stop)
        _LIVE[thread] = self._finalizer
        thread.start()

    @property
    def untouched(self) -> bool:
        """True if no batch was handed out yet, and the pass is open."""
        return not self._taken and not self._over

    def restart(self, epoch: int, start: int) -> None:
        """Make an untouched pass one over another epoch, or from another position."""
        self._finalizer()
        self._begin(epoch, start)

    def __iter__(self) -> Epoch:
        return self

    def __len__(self) -> int:
        return self._batches

    @property
    def waiting(self) -> int:
        """Finished batches in the queue."""
        return self._queue.qsize()

    @property
    def is_open(self) -> bool:
        """True until the end, or `close`."""
        return not self._over

    def __next__(self) -> Any:
        if self._closed_by:
            raise RuntimeError(
                f"Loader: this iteration was closed by {self._closed_by} before its end; make a new one with iter(loader)"
            )
        if self._over:
            raise StopIteration
        check_process(self._process)
        if self._taken == self._batches:
            self.close()
            self._note(self._epoch, 0, True)
            raise StopIteration
        began = time.perf_counter()
        item = self._queue.get()
        waited = time.perf_counter() - began
        if isinstance(item, BaseException):
            self.close()
            raise item
        self._taken += 1
        split = self._engine.assembler.split
        self._note(self._epoch, min(self._start + self._taken * split.step, split.samples), False)
        self._account(waited, len(item["key"]))
        self._engine.device.hand_over(item)
        return self._form(item)

    def _account(self, waited: float, samples: int) -> None:
        engine = self._engine
        engine.waited_s += waited
        engine.counts["batches"] += 1
        engine.counts["samples"] += samples
        now = time.perf_counter()
        if self._taken == 1:  # the first batch is start-up
            self._began = self._last = now
            return
        engine.steady_s += now - self._last
        engine.steady_samples, self._last = engine.steady_samples + samples, now
        self._waited_s += waited
        share = self._waited_s / max(now - self._began, 1e-9)
        if not engine.warned and self._taken >= _WARN_BATCHES and share > _WARN_SHARE:
            engine.warned = True
            log.warning(
                "the trainer waited for data %.0f %% of the time; %s", 100 * share, engine.stats()["bottleneck"]
            )

    def close(self, by: str = "") -> None:
        """Stop the producer thread and wait for it; `by` says who ends an open pass, which a further `next` then reports."""
        if not self._over:
            self._closed_by = by
        self._over = True
        self._finalizer()


def check_process(made_in: int) -> None:
    """Raise RuntimeError if this process is another one than `made_in`, that is, was forked from it: it has none of its threads."""
    if os.getpid() != made_in:
        raise RuntimeError(
            f"Loader: made in process {made_in} and used in {os.getpid()}, which was forked from it and has none of its threads; "
            f"make the loader in each process, and start processes by 'spawn'"
        )


def _stop_thread(thread: threading.Thread, results: queue.Queue[Any], stop: threading.Event) -> None:
    _LIVE.pop(thread, None)
    stop.set()
    while thread.is_alive():
        with contextlib.suppress(queue.Empty):
            results.get_nowait()
        thread.join(_POLL_S / 10)


def _put(engine: Engine, results: queue.Queue[Any], item: Any, stop: threading.Event) -> None:
    began = time.perf_counter()
    while not stop.is_set():
        try:
            results.put(item, timeout=_POLL_S)
            break
        except queue.Full:
            continue
    engine.full_s += time.perf_counter() - began


def _produce(
    engine: Engine, epoch: int, start: int, batches: int, results: queue.Queue[Any], stop: threading.Event
) -> None:
    assembler, submitted = engine.assembler, 0
    try:
        with engine.device.producing():
            for _ in range(batches):
                while submitted < batches and assembler.in_flight < assembler.depth and not stop.is_set():
                    assembler.submit(epoch, submitted, start)
                    submitted += 1
                if stop.is_set():
                    break
                with engine.device.span("collect"):
                    assembled = assembler.collect()
                _put(engine, results, engine.make(assembled), stop)
    except BaseException as error:
        _put(engine, results, error, stop)
    finally:
        try:
            with engine.device.producing():
                assembler.discard()
        except Exception as error:
            log.warning("the decoder failed while it was being stopped: %s", error)
