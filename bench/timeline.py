"""What overlaps in a few batches, as a picture: reading, decoding, plans, kernels on each thread, hand-over, the trainer's step.

    python -m figureground.bench timeline [--device cpu] [--batches 6] [--step 30] [--out timeline.svg] [--json PATH]

Spans are taken around the loader's own calls, by name, while it runs. A decoding span lasts from the hand-in of a batch to DALI
until its pixels are asked for and there, so it holds DALI's queue too. On a GPU the kernels' spans are those of CUDA events on
the loader's stream (not yet run on a GPU); on the CPU each worker thread has a lane.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from figureground.bench.charts import lanes
from figureground.bench.given import check_device, file_to_write, in_one_sentence, say_masks, take_shards
from figureground.bench.harness import print_table, write_json
from figureground.bench.style import STYLE
from figureground.bench.workload import default_shards
from figureground.pipeline import Loader, recipes
from figureground.pipeline import augment as augment_module
from figureground.pipeline import engine as engine_module
from figureground.pipeline.assemble import Assembler
from figureground.pipeline.decode import Decoder
from figureground.pipeline.device import CudaDevice, HostDevice
from figureground.pipeline.engine import Engine
from figureground.pipeline.processors import own_processors

WAIT = "waits"
PRODUCER, DECODER, TRAINER, STREAM = "producer", "DALI", "trainer", "GPU stream"
KERNELS = {
    "render_views": "crop, composite",
    "jitter_color": "colour",
    "gaussian_blur": "blur",
    "normalize_views": "normalise",
}
"""Kernels of the augmenter by the names of their spans."""


class Recorder:
    """Collects spans (lane, start, end, name) [s] from any thread."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.clock = clock
        self.spans: list[tuple[str, float, float, str]] = []
        self.events: list[tuple[Any, Any, str]] = []
        """CUDA events around launches, with their names; resolved by `resolve`."""
        self._submitted: list[float] = []

    def wrap(self, function: Callable[..., Any], name: str, lane: str | None = None) -> Callable[..., Any]:
        """Return a function that does the same and leaves a span; without a lane it is the thread's."""

        def timed(*arguments: Any, **options: Any) -> Any:
            began = self.clock()
            try:
                return function(*arguments, **options)
            finally:
                self.spans.append((lane or thread_lane(), began, self.clock(), name))

        return timed

    def launches(self, function: Callable[..., Any], name: str) -> Callable[..., Any]:
        """Return a function that does the same between two CUDA events. Not yet run on a GPU."""
        import cupy

        def timed(*arguments: Any, **options: Any) -> Any:
            start, end = cupy.cuda.Event(), cupy.cuda.Event()
            start.record()
            result = function(*arguments, **options)
            end.record()
            self.events.append((start, end, name))
            return result

        return timed

    def resolve(self, elapsed_ms: Callable[[Any, Any], float], base: Any, base_s: float) -> None:
        """Turn events into spans of the stream's lane; `base` is an event that happened at `base_s` of the clock.

        Examples
        --------
        >>> recorder = Recorder()
        >>> recorder.events.append((1000.0, 3000.0, "blur"))
        >>> recorder.resolve(lambda a, b: b - a, 500.0, 10.0)
        >>> recorder.spans
        [('GPU stream', 10.5, 12.5, 'blur')]
        """
        for start, end, name in self.events:
            began = elapsed_ms(base, start) / 1e3
            self.spans.append((STREAM, base_s + began, base_s + began + elapsed_ms(start, end) / 1e3, name))
        self.events.clear()

    def submit(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap `Decoder.submit`: a decoding span begins when it returns."""

        def timed(*arguments: Any, **options: Any) -> Any:
            result = function(*arguments, **options)
            self._submitted.append(self.clock())
            return result

        return timed

    def collect(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap `Decoder.collect`: the oldest decoding span ends when it returns."""

        def timed(*arguments: Any, **options: Any) -> Any:
            began = self.clock()
            result = function(*arguments, **options)
            ended = self.clock()
            self.spans.append((PRODUCER, began, ended, WAIT))
            if self._submitted:
                number = sum(lane.startswith(DECODER) for lane, *_ in self.spans) % 2
                self.spans.append((f"{DECODER} {number + 1}", self._submitted.pop(0), ended, "decode"))
            return result

        return timed


def thread_lane() -> str:
    """Return the lane of the calling thread."""
    name = threading.current_thread().name
    if name.startswith("figureground-augment"):
        return f"kernels {int(name.rpartition('_')[2]) + 1}"
    return PRODUCER if name == "figureground-loader" else TRAINER


@contextlib.contextmanager
def recording(recorder: Recorder, cuda: bool) -> Iterator[None]:
    """Leave spans of all that a loader does while the context lasts."""
    wrap = recorder.launches if cuda else recorder.wrap
    kernels: dict[str, Any] = {name: wrap(getattr(augment_module, name), words) for name, words in KERNELS.items()}
    with (
        mock.patch.multiple(augment_module, **kernels),
        mock.patch.object(Assembler, "submit_positions", recorder.wrap(Assembler.submit_positions, "read, guard")),
        mock.patch.object(Assembler, "_plan", recorder.wrap(Assembler._plan, "plan")),
        mock.patch.object(Decoder, "submit", recorder.submit(Decoder.submit)),
        mock.patch.object(Decoder, "collect", recorder.collect(Decoder.collect)),
        mock.patch.object(Engine, "make", recorder.wrap(Engine.make, "make views")),
        mock.patch.object(engine_module, "_put", recorder.wrap(engine_module._put, WAIT)),
        mock.patch.object(HostDevice, "hand_over", recorder.wrap(HostDevice.hand_over, "hand over")),
        mock.patch.object(CudaDevice, "hand_over", recorder.wrap(CudaDevice.hand_over, "hand over")),
    ):
        yield


def record(shards: Any, device: str, batch_size: int, threads: int, batches: int, step_ms: float) -> Recorder:
    """Run a loader under a trainer that sleeps, and return the spans of `batches` batches behind a warm-up of two."""
    cuda, recorder = device != "cpu", Recorder()
    loader = Loader(
        shards, recipes.moco_v2().with_background("swap", p=0.2), batch_size=batch_size, device=device, threads=threads,
        format="moco", masks="auto",
    )  # fmt: skip
    for _ in loader:  # compiles and allocates
        pass
    base: Any = None
    with recording(recorder, cuda):
        loader.set_epoch(1)
        source = iter(loader)
        if cuda:
            import cupy

            base = cupy.cuda.Event()
            base.record()
            base.synchronize()
        base_s = recorder.clock()
        following, step = recorder.wrap(lambda: next(source, None), WAIT), recorder.wrap(time.sleep, "step")
        taken = 0
        while taken < batches and following() is not None:
            step(step_ms / 1e3)
            taken += 1
    loader.close()
    if cuda:
        recorder.resolve(cupy.cuda.get_elapsed_time, base, base_s)
    return recorder


def by_lane(spans: Sequence[tuple[str, float, float, str]]) -> dict[str, list[tuple[float, float, str]]]:
    """Sort spans into lanes, from the trainer down to the kernels, in ms since the first; containers lie under their parts.

    Examples
    --------
    >>> by_lane([("producer", 1.0, 1.5, "plan"), ("trainer", 1.25, 1.5, "step")])
    {'trainer': [(250.0, 500.0, 'step')], 'producer': [(0.0, 500.0, 'plan')]}
    """
    if not spans:
        return {}
    first = min(start for _, start, _, _ in spans)
    order = [TRAINER, PRODUCER, DECODER, STREAM, "kernels"]
    names = sorted({lane for lane, *_ in spans}, key=lambda lane: (order.index(_family(lane)), lane))
    return {
        name: [
            (round(1e3 * (start - first), 3), round(1e3 * (end - first), 3), kind)
            for lane, start, end, kind in sorted(spans, key=lambda span: (span[1], -span[2]))
            if lane == name
        ]
        for name in names
    }


def _family(lane: str) -> str:
    return lane if lane in (TRAINER, PRODUCER, STREAM) else lane.rpartition(" ")[0]


def shares(rows: Mapping[str, Sequence[tuple[float, float, str]]]) -> dict[str, dict[str, float]]:
    """Return by lane and kind the share of the whole time, overlaps within a lane counted twice.

    Examples
    --------
    >>> shares({"trainer": [(0.0, 30.0, "step"), (30.0, 40.0, "wait for data")]})
    {'trainer': {'step': 0.75, 'wait for data': 0.25}}
    """
    total = max((end for row in rows.values() for _, end, _ in row), default=0.0) or 1.0
    found: dict[str, dict[str, float]] = {}
    for lane, row in rows.items():
        sums: dict[str, float] = {}
        for start, end, kind in row:
            sums[kind] = sums.get(kind, 0.0) + end - start
        found[lane] = {kind: round(value / total, 3) for kind, value in sums.items()}
    return found


@in_one_sentence
def main(argv: Sequence[str] | None = None) -> int:
    """Record, write the picture and the JSON; returns the exit code."""
    parser = argparse.ArgumentParser("python -m figureground.bench timeline")
    parser.add_argument("--shards", nargs="+", help="your shards (default: made of photographs, with masks)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--threads", type=int, default=own_processors())
    parser.add_argument("--batches", type=int, default=6)
    parser.add_argument("--step", type=float, default=30, help="the trainer's [ms]")
    parser.add_argument("--out", type=file_to_write, default=Path("timeline.svg"))
    parser.add_argument("--json", type=file_to_write)
    args = parser.parse_args(argv)
    if min(args.batch_size, args.threads, args.batches) < 1 or args.step < 0:
        print(
            "timeline: --batch-size, --threads and --batches must be at least 1, --step not negative", file=sys.stderr
        )
        return 2
    with tempfile.TemporaryDirectory() as folder:
        check_device(args.device)
        images = 2 * args.batches * args.batch_size
        given = take_shards(
            args.shards or default_shards(folder, images), folder, most=images, batch_size=args.batch_size
        )
        say_masks(given)
        shards = given.shards
        recorder = record(shards, args.device, args.batch_size, args.threads, args.batches, args.step)
    last = max(end for lane, _, end, _ in recorder.spans if lane == TRAINER)
    rows = by_lane([(lane, start, min(end, last), kind) for lane, start, end, kind in recorder.spans if start < last])
    picture = lanes("time line", "ms", rows)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    head, body = picture.split(">", 1)
    style = f"<style>{STYLE} svg {{ background: var(--paper); font-family: sans-serif; }}</style>"
    args.out.write_text(f'{head} xmlns="http://www.w3.org/2000/svg">{style}{body}\n')
    print_table(shares(rows), title="share of the time")
    print(f"wrote {args.out}", file=sys.stderr)
    document = {name: getattr(args, name) for name in ("device", "batch_size", "threads", "batches")}
    write_json(args.json, {**document, "step_ms": args.step, "timeline": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
