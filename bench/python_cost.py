"""What Python itself costs per batch: decoding and kernels are stubbed, all else is the loader's own code.

    python -m figureground.bench python_cost [--batch-size 256] [--batches 40] [--json PATH]

On a GPU decoding and kernels run elsewhere, so the producer thread's own work (order, reading, the guard, plans, tables,
targets, tensors) bounds the loader: 2 ms a batch of 256 lets one core feed 128 000 images/s. The engine here takes the GPU's
path (one call per kernel and view for the whole batch) with kernels that do nothing. What DALI's calls cost the thread (handing
files over, taking pixels back) is measured beside it, by the real decoder; what CuPy's launches cost is not. CPU time of the
thread, medians; the parts are measured apart and do not add up to the whole exactly.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from contextlib import AbstractContextManager
from typing import Any
from unittest import mock

import numpy as np
import torch

from figureground.bench.given import check_counts, file_to_write, in_one_sentence
from figureground.bench.harness import print_table, write_json
from figureground.bench.throughput import default_shards
from figureground.kernels.arrays import Ragged
from figureground.pipeline import augment as augment_module
from figureground.pipeline import recipes
from figureground.pipeline.assemble import Assembler
from figureground.pipeline.augment import Augmenter
from figureground.pipeline.decode import Decoder
from figureground.pipeline.decoded import Decoded
from figureground.pipeline.device import make_device
from figureground.pipeline.engine import Engine
from figureground.pipeline.lanes import Split
from figureground.pipeline.mask_files import MaskFiles
from figureground.pipeline.masking import Masker
from figureground.pipeline.order import Order
from figureground.pipeline.plan import draw_plan
from figureground.pipeline.quarantine import Quarantine
from figureground.pipeline.screen import as_pieces, screen_files
from figureground.pipeline.tables import settle_backgrounds
from figureground.shards import MaskStore, Store

GOAL_MS = 2.0
"""Per batch of 256."""
HEIGHT, WIDTH = 375, 500


class Idle(Executor):
    """Threads that do nothing: what they would do is not this thread's work."""

    def submit(self, *arguments: Any, **options: Any) -> Future[Any]:
        """Take a call, never to be made."""
        return Future()


def guard_masks(masks: Sequence[np.ndarray | None]) -> None:
    """Do with encoded masks what a decoder's `submit` does in its thread."""
    MaskFiles(as_pieces("masks", masks), Idle())


class StubDecoder:
    """Takes encoded files as `Decoder` does, the guard included, and gives prepared batches at once.

    Addresses are zero and the batch says that it lies on a GPU: nothing may read its pixels.
    """

    depth, max_batch = 2, 1 << 30

    def __init__(self, *, guard: bool = True) -> None:
        self._guard = guard
        self._flight: deque[tuple[int, bool]] = deque()

    def submit(self, images: Sequence[np.ndarray], masks: Sequence[np.ndarray | None] | None = None) -> None:
        """Judge the files, remember how many there are."""
        if self._guard:
            screen_files("images", images, Idle())
            if masks is not None:
                guard_masks(masks)
        self._flight.append((len(images), masks is not None))

    def collect(self) -> Decoded:
        """Return a batch of images of one size, all valid."""
        count, masked = self._flight.popleft()
        sizes = np.tile(np.array([[HEIGHT, WIDTH]], np.int32), (count, 1))
        images = Ragged(np.zeros(count, np.int64), sizes, 3, None, True)
        masks = Ragged(np.zeros(count, np.int64), np.full((count, 2), 112, np.int32), 1, None, True)
        yes = np.ones(count, bool)
        return Decoded(images, masks if masked else None, yes, yes & masked, np.full(count, 0.3), [None] * count)


def stubbed_kernels() -> AbstractContextManager[Any]:
    """Return a context in which the augmenter's kernels do nothing and return arrays of the right kind."""
    views = np.zeros((1, 3, 224, 224), np.uint8)

    def render(*arguments: Any, **options: Any) -> Any:
        return views, None

    def nothing(*arguments: Any, **options: Any) -> Any:
        return views

    # Plain functions: a mock that records its calls costs more than what is measured.
    return mock.patch.multiple(
        augment_module, render_views=render, jitter_color=nothing, gaussian_blur=nothing, normalize_views=nothing
    )


class Rig:
    """The loader's engine over real shards, with a stub for the decoder."""

    def __init__(self, shards: Any, batch_size: int, *, guard: bool = True) -> None:
        self.recipe = recipes.moco_v2().with_background("swap", p=0.2)
        self.store = Store(shards)
        self.masks = MaskStore(self.store)
        self.device = make_device("cpu")
        self.decoder = StubDecoder(guard=guard)
        samples = len(self.store)
        self.order, self.split = Order(samples, 0), Split(samples, min(batch_size, samples), drop_last=False)
        quarantine = Quarantine(self.store, self.store.shards, budget=0.0, samples=samples)
        decoder: Any = self.decoder
        self.assembler = Assembler(
            self.store, decoder, self.recipe, self.order, self.split, quarantine, masks=self.masks, negatives=False
        )
        self.augmenter = Augmenter(self.recipe, negatives=False)
        masker = Masker(self.recipe, "sidecar", method="fused", all_samples=False)
        self.engine = Engine(
            self.recipe, self.store, self.assembler, masker, self.augmenter, self.device, dtype=torch.float32,
            channels_last=False,
        )  # fmt: skip
        self.number = 0

    def batch(self) -> None:
        """Make a batch from beginning to end."""
        self.number += 1
        self.assembler.submit(self.number, 0, 0)
        self.engine.make(self.assembler.collect())

    def parts(self) -> dict[str, Callable[[], Any]]:
        """Return the pieces of a batch, each over the samples of one batch."""
        positions = self.split.positions(0)
        ids = self.order.sample_ids(1, positions)
        images, masks = self.store.images(ids), self.masks.masks(ids)
        sizes = np.tile(np.array([[HEIGHT, WIDTH]], np.int32), (len(ids), 1))

        def augment() -> Any:
            self.assembler.submit(1, 0, 0)
            made = self.assembler.collect()
            began = time.thread_time()
            settle_backgrounds(self.recipe, made.plans, made.slots)
            self.augmenter.augment(made.images, made.masks, made.plans, made.slots, self._empty)
            return time.thread_time() - began

        return {
            "order: sample ids, donors": lambda: (
                self.order.sample_ids(1, positions),
                self.order.donors(1, positions, 3),
            ),
            "read the images": lambda: self.store.images(ids),
            "read the masks": lambda: self.masks.masks(ids),
            "guard the images": lambda: screen_files("images", images, Idle()),
            "guard the masks": lambda: guard_masks(masks),
            "plan two views": lambda: [
                draw_plan(self.recipe, v, seed=0, epoch=1, samples=ids, sizes=sizes) for v in range(2)
            ],
            "tables and calls of the kernels": augment,
            "targets": lambda: self.store.targets_of(ids),
            "keys": lambda: self.store.keys(ids),
        }

    def _empty(self, shape: tuple[int, ...], kind: str) -> Any:
        return self.device.empty(shape, torch.float32 if kind == "view" else torch.uint8)

    def close(self) -> None:
        """Let the shards go."""
        self.masks.close()
        self.store.close()


def thread_ms(run: Callable[[], Any], repeats: int) -> float:
    """Return the median CPU milliseconds of this thread over some calls; a float that `run` returns is its own seconds."""
    run()
    times = []
    for _ in range(repeats):
        began = time.thread_time()
        own = run()
        times.append(own if isinstance(own, float) else time.thread_time() - began)
    return 1e3 * float(np.median(times))


def dali_ms(rig: Rig, repeats: int) -> float:
    """Return what the decoder's calls cost this thread a batch [CPU ms], less the guard's; DALI decodes in threads of its own."""
    ids = rig.order.sample_ids(1, rig.split.positions(0))
    wanted = np.arange(len(ids)) % 25 < 9  # 36 %: two views at p = 0.2
    images, masks = rig.store.images(ids), rig.masks.masks(ids, wanted)
    decoder = Decoder(len(ids), masks=True)

    def calls() -> None:
        decoder.submit(images, masks)
        decoder.collect()

    whole = thread_ms(calls, repeats)

    def guard() -> None:
        screen_files("images", images, Idle())
        guard_masks(masks)

    judged = thread_ms(guard, repeats)
    decoder.close()
    return max(whole - judged, 0.0)


def measure_python(shards: Any, batch_size: int, batches: int) -> dict[str, Any]:
    """Measure whole batches and their parts.

    Returns
    -------
    dict
        "python_ms": CPU ms of the producer thread a batch, guard included; "without_guard_ms"; "batch"; "parts": ms of each;
        "dali_ms": what the decoder's calls add.
    """
    document: dict[str, Any] = {}
    with stubbed_kernels():
        for name, guard in (("python_ms", True), ("without_guard_ms", False)):
            rig = Rig(shards, batch_size, guard=guard)
            document[name] = round(thread_ms(rig.batch, batches), 3)
            document["batch"] = rig.split.batch_size
            if guard:
                document["parts"] = {part: round(thread_ms(run, batches), 3) for part, run in rig.parts().items()}
                document["dali_ms"] = round(dali_ms(rig, min(batches, 15)), 3)
            rig.close()
    return document


def verdict(document: dict[str, Any]) -> str:
    """Say in a sentence whether the goal is met, and what dominates."""
    parts, total, batch = document["parts"], document["python_ms"], document["batch"]
    largest = max(parts, key=lambda name: parts[name])
    goal = GOAL_MS * batch / 256
    return (
        f"Python takes {total:.2f} ms of one core a batch of {batch} ({1e3 * batch / total:,.0f} images/s), "
        f"{'within' if total <= goal else 'above'} the goal of {goal:.2f} ms; the largest part is "
        f"'{largest}' with {100 * parts[largest] / total:.0f} %." + _with_dali(document)
    )


def _with_dali(document: dict[str, Any]) -> str:
    if "dali_ms" not in document:
        return ""
    both = document["python_ms"] + document["dali_ms"]
    rate = 1e3 * document["batch"] / both
    return f" With DALI's calls the thread takes {both:.2f} ms ({rate:,.0f} images/s)."


@in_one_sentence
def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the table, write the JSON; returns the exit code."""
    parser = argparse.ArgumentParser("python -m figureground.bench python_cost")
    parser.add_argument("--shards", nargs="+", help="shards with mask sidecars (default: made of photographs)")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--batches", type=int, default=40)
    parser.add_argument("--json", type=file_to_write)
    args = parser.parse_args(argv)
    check_counts("--batch-size", args.batch_size, "--batches", args.batches)
    with tempfile.TemporaryDirectory() as folder:
        document = measure_python(args.shards or default_shards(folder), args.batch_size, args.batches)
    total = document["python_ms"]
    parts = {**document["parts"], "the rest": round(total - sum(document["parts"].values()), 3)}
    rows: dict[str, dict[str, Any]] = {
        name: {"ms": ms, "share": f"{100 * ms / total:.0f} %"} for name, ms in parts.items()
    }
    rows["whole batch"] = {"ms": total, "share": "100 %"}
    rows["whole batch, without guard"] = {"ms": document["without_guard_ms"], "share": ""}
    rows["DALI's calls, beside it"] = {"ms": document["dali_ms"], "share": ""}
    print_table(rows, title=f"CPU ms a batch of {document['batch']}")
    print(verdict(document))
    write_json(args.json, {"python_cost": document})
    return 0


if __name__ == "__main__":
    sys.exit(main())
