"""How the loader scales: with threads, batch size, image size, and with the probability of the background augmentation.

    python -m figureground.bench scaling [--device cpu] [--axes threads batch_size image_px p] [--rounds 3] [--json PATH]

MoCo-v2 with swaps at p = 0.2 and sidecar masks, whole epochs; one setting changes at a time, the others stay at --batch-size,
--threads and 500 px. All points of an axis take turns within each round and are compared with the axis' first point.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from figureground.bench.given import check_device, file_to_write, in_one_sentence, say_masks, take_shards
from figureground.bench.harness import Timing, measure, print_table, write_json
from figureground.bench.workload import default_shards, repeat_shards
from figureground.pipeline import Loader, recipes
from figureground.pipeline.processors import own_processors

BATCHES, PIXELS, CHANCES = (16, 32, 64, 128, 256, 512), (250, 500, 1000), (0.0, 0.1, 0.2, 0.5, 1.0)
USUAL_PX, USUAL_P = 500, 0.2
AXES = ("threads", "batch_size", "image_px", "p")


def thread_counts(cores: int) -> list[int]:
    """Return 1, 2, 4, ... and the number of cores.

    Examples
    --------
    >>> thread_counts(6), thread_counts(1)
    ([1, 2, 4, 6], [1])
    """
    powers = [1 << i for i in range(cores.bit_length()) if 1 << i < cores]
    return [*powers, cores]


def axis_points(axis: str, cores: int, images: int) -> list[float]:
    """Return the values of an axis; batches larger than the data set are left out."""
    points: dict[str, Sequence[float]] = {
        "threads": thread_counts(cores),
        "batch_size": [size for size in BATCHES if size <= images],
        "image_px": PIXELS,
        "p": CHANCES,
    }
    return list(points[axis])


def axis_rows(timings: Mapping[str, Timing], by: str) -> dict[str, dict[str, Any]]:
    """Return medians, and the median ratio to the first point: of wall time ("speedup") or of CPU time ("cpu_ratio").

    Examples
    --------
    >>> rows = axis_rows({"1": Timing([4.0], [4.0]), "2": Timing([2.0], [5.0])}, "speedup")
    >>> rows["2"]["speedup"], axis_rows({"0": Timing([4.0], [4.0]), "1": Timing([2.0], [5.0])}, "cpu_ratio")["1"]["cpu_ratio"]
    (2.0, 1.25)
    """
    first = next(iter(timings.values()))
    rows: dict[str, dict[str, Any]] = {}
    for name, timing in timings.items():
        if by == "speedup":
            ratio = np.array(first.wall_ms) / np.array(timing.wall_ms)
        else:
            ratio = np.array(timing.cpu_ms) / np.array(first.cpu_ms)
        rows[name] = {**timing.summary(), by: round(float(np.median(ratio)), 3)}
    return rows


def make_loader(shards: Any, device: str, *, batch_size: int, threads: int, p: float) -> Loader:
    """Return the loader of one point."""
    recipe = recipes.moco_v2().with_background("swap", p=p) if p > 0 else recipes.moco_v2()
    return Loader(shards, recipe, batch_size=batch_size, device=device, threads=threads, format="moco", masks="auto")


def measure_axis(axis: str, points: Sequence[float], shards: Mapping[float, Any], args: argparse.Namespace) -> Any:
    """Measure the points of one axis; `shards` by image size."""
    loaders = []

    def case(loader: Loader) -> Callable[[], int]:
        return lambda: sum(len(target) for _, target in loader)

    cases = {}
    for point in points:
        loader = make_loader(
            shards[point] if axis == "image_px" else shards[USUAL_PX],
            args.device,
            batch_size=int(point) if axis == "batch_size" else args.batch_size,
            threads=int(point) if axis == "threads" else args.threads,
            p=point if axis == "p" else USUAL_P,
        )
        loaders.append(loader)
        cases[f"{point:g}"] = case(loader)
    rows = axis_rows(measure(cases, rounds=args.rounds), "cpu_ratio" if axis == "p" else "speedup")
    for loader in loaders:
        loader.close()
    return rows


@in_one_sentence
def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the tables, write the JSON; returns the exit code."""
    cores = own_processors()
    parser = argparse.ArgumentParser("python -m figureground.bench scaling")
    parser.add_argument("--shards", nargs="+", help="your shards (default: made, with masks); then no image sizes")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--axes", nargs="+", choices=AXES, default=list(AXES))
    parser.add_argument(
        "--images", type=int, default=128, help="photographs of each size, or an eighth of what is taken of --shards"
    )
    parser.add_argument("--repeat", type=int, default=4, help="each made shard this many times, for long epochs")
    parser.add_argument("--batch-size", type=int, help="default: 64, on a GPU 256")
    parser.add_argument("--threads", type=int, default=cores)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=file_to_write)
    args = parser.parse_args(argv)
    if args.batch_size is None:
        args.batch_size = 64 if args.device == "cpu" else 256
    for name in ("images", "repeat", "batch_size", "threads", "rounds"):
        if getattr(args, name) < 1:
            print(f"scaling: --{name.replace('_', '-')} must be at least 1, got {getattr(args, name)}", file=sys.stderr)
            return 2
    document: dict[str, Any] = {name: getattr(args, name) for name in ("device", "batch_size", "threads", "rounds")}
    document["scaling"] = {}
    axes = [axis for axis in args.axes if not (axis == "image_px" and args.shards)]
    with tempfile.TemporaryDirectory() as folder:
        shards: dict[float, Any] = {USUAL_PX: args.shards}
        for pixels in sorted({USUAL_PX, *(PIXELS if "image_px" in axes else ())}) if args.shards is None else ():
            made = default_shards(f"{folder}/{pixels}", args.images, long_side=pixels)
            shards[pixels] = repeat_shards(made, f"{folder}/{pixels}/repeated", args.repeat)
        most = 8 * args.images
        if args.shards is None:
            check_device(args.device)
            most = args.repeat * args.images
        given = take_shards(shards[USUAL_PX], f"{folder}", most=most, batch_size=args.batch_size, device=args.device)
        say_masks(given)
        shards[USUAL_PX], document["images"] = given.shards, given.samples
        for axis in axes:
            rows = measure_axis(axis, axis_points(axis, cores, document["images"]), shards, args)
            document["scaling"][axis] = rows
            print_table(rows, title=axis)
    write_json(args.json, document)
    return 0


if __name__ == "__main__":
    sys.exit(main())
