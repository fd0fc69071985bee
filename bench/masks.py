"""What `figureground masks` costs an image, stage by stage and end to end, and the share spent decoding.

    python -m figureground.bench masks "shards/*.tar"
    python -m figureground.bench masks --images photographs/ --samples 2000 --json masks.json
    python -m figureground.bench masks --method net:model.pt --size 112

Without shards or --images it cuts photographs of scikit-image to ImageNet's usual size. Fewer images than --samples are gone
through again and again. CPU time is that of the whole process, all threads; stages are measured apart, on the same batches,
in the job's own chunks; end to end the job runs as `figureground masks` with one job does. The goal: estimating (resize and
saliency, after decode) costs at most 1 ms of CPU time an image with the default method at 112 px.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from figureground.bench.given import file_to_write
from figureground.bench.harness import Timing, print_table, write_json
from figureground.bench.photos import write_photos
from figureground.kernels.arrays import Ragged
from figureground.kernels.render_rows import full_rows
from figureground.kernels.resample import render_views
from figureground.pipeline.decode import Decoder
from figureground.pipeline.masks_job import make_masks
from figureground.pipeline.masks_work import mean_share
from figureground.pipeline.methods import resolve_method
from figureground.pipeline.processors import own_processors
from figureground.shards import Store
from figureground.shards.masks import MaskWriter, encode_mask
from figureground.shards.writer import pack

GOAL_MS = 1.0
STAGES = ("decode", "resize", "saliency", "PNG", "write")
_CHUNK = 8
"""Images at a time after the decoder, as in the job."""


class Costs:
    """CPU and wall seconds by stage."""

    def __init__(self) -> None:
        self.cpu_s = dict.fromkeys(STAGES, 0.0)
        self.wall_s = dict.fromkeys(STAGES, 0.0)

    @contextmanager
    def of(self, stage: str) -> Iterator[None]:
        """Count the block to a stage."""
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self.cpu_s[stage] += time.process_time() - cpu
        self.wall_s[stage] += time.perf_counter() - wall


def stage_costs(
    store: Store, *, method: str = "fused", size: int = 112, samples: int = 1000, batch_size: int = 64, threads: int = 1
) -> Costs:
    """Make the masks of `samples` images, one stage after the other, and count what each costs.

    Parameters
    ----------
    store : Store
        Gone through again and again if it has fewer samples.
    method : str
        See `figureground.pipeline.methods`.
    size : int
        Side of the masks [px].
    samples, batch_size, threads : int
        As for `make_masks`; the stages after the decoder run in one thread.

    Returns
    -------
    Costs
        Of all `samples` images.
    """
    estimate, costs = resolve_method(method), Costs()
    side = estimate.side or size
    decoder = Decoder(batch_size, threads=threads)
    try:
        with tempfile.TemporaryDirectory() as folder:
            for first in range(0, samples, batch_size):
                ids = [i % len(store) for i in range(first, min(first + batch_size, samples))]
                with costs.of("decode"):
                    decoder.submit([store.image(i) for i in ids])
                    decoded = decoder.collect()
                pngs: list[bytes] = []
                for start in range(0, len(ids), _CHUNK):
                    rows = np.arange(start, min(start + _CHUNK, len(ids)))
                    rows = rows[decoded.valid[rows]]
                    if len(rows):
                        pngs += _masks(decoded.images, rows, estimate, side, size, costs)
                with (
                    costs.of("write"),
                    MaskWriter("batch.tar", method=method, masks_dir=folder, source="none") as writer,
                ):
                    for number, png in enumerate(pngs):
                        writer.add(f"{number:06d}", png)
    finally:
        decoder.close()
    return costs


def _masks(images: Ragged, rows: np.ndarray, estimate: Any, side: int, size: int, costs: Costs) -> list[bytes]:
    chosen = Ragged(images.addresses[rows], images.sizes[rows], images.channels, images.owner, images.cuda)
    with costs.of("resize"):
        small, _ = render_views(chosen, full_rows(chosen.sizes), (side, side))
    with costs.of("saliency"):
        masks = estimate(small, size)
    with costs.of("PNG"):
        pngs = [encode_mask(mask) for mask in masks]
        for mask in masks:
            mean_share(mask)
    return pngs


def measure_job(shards: Any, *, samples: int, rounds: int, **options: Any) -> Timing:
    """Run the job over the shards, again and again up to `samples` images a round; one value a round."""
    timing = Timing([], [])
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as out:
            wall, cpu, done = time.perf_counter(), time.process_time(), 0
            while done < samples:
                report = make_masks(shards, out=out, overwrite=True, progress=False, **options)
                if report.count("failed") or not report.made:
                    raise ValueError(f"masks: {report.shards[0].error or 'the shards hold no sample'}")
                done += report.made
            timing.wall_ms.append(1e3 * (time.perf_counter() - wall) / done)
            timing.cpu_ms.append(1e3 * (time.process_time() - cpu) / done)
    return timing


def run_bench(shards: Any, args: argparse.Namespace) -> dict[str, Any]:
    """Measure stages and job in turn; returns what the JSON holds."""
    cpu: dict[str, list[float]] = {stage: [] for stage in STAGES}
    wall: dict[str, list[float]] = {stage: [] for stage in STAGES}
    options = {"method": args.method, "size": args.size, "batch_size": args.batch_size, "threads": args.threads}
    job = Timing([], [])
    with Store(shards) as store:
        count, size_kb = len(store), float(np.mean([store.image(i).size for i in range(len(store))])) / 1e3
        stage_costs(store, **{**options, "samples": min(args.samples, args.batch_size)})  # compiles, fills caches
        for _ in range(args.rounds):
            costs = stage_costs(store, samples=args.samples, **options)
            for stage in STAGES:
                cpu[stage].append(1e3 * costs.cpu_s[stage] / args.samples)
                wall[stage].append(1e3 * costs.wall_s[stage] / args.samples)
            whole = measure_job(shards, samples=args.samples, rounds=1, **options)
            job.wall_ms.extend(whole.wall_ms)
            job.cpu_ms.extend(whole.cpu_ms)
    stages = {stage: Timing(wall[stage], cpu[stage]).summary() for stage in STAGES}
    total = sum(stage["cpu_ms"] for stage in stages.values())
    estimate_ms = round(stages["resize"]["cpu_ms"] + stages["saliency"]["cpu_ms"], 4)
    return {
        **options, "images": count, "image_kb": round(size_kb, 1), "samples": args.samples, "rounds": args.rounds,
        "stages": stages, "job": job.summary(), "decode_share": round(stages["decode"]["cpu_ms"] / total, 3),
        "estimate_ms": estimate_ms, "goal_ms": GOAL_MS, "within_goal": estimate_ms <= GOAL_MS,
    }  # fmt: skip


def verdict(result: Mapping[str, Any]) -> str:
    """Say in words what the numbers of `run_bench` say.

    Examples
    --------
    >>> verdict({"decode_share": 0.5, "estimate_ms": 0.61, "goal_ms": 1.0, "method": "fused", "size": 112})
    'Decoding is 50 % of the CPU time; resize and saliency (fused, 112 px) cost 0.61 ms an image, within the goal of 1 ms.'
    """
    within = "within the goal of" if result["estimate_ms"] <= result["goal_ms"] else "more than the goal of"
    return (
        f"Decoding is {100 * result['decode_share']:.0f} % of the CPU time; resize and saliency ({result['method']}, "
        f"{result['size']} px) cost {result['estimate_ms']:.2f} ms an image, {within} {result['goal_ms']:g} ms."
    )


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m figureground.bench masks", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("shards", nargs="*", metavar="SHARDS", help="local shards (default: made of photographs)")
    parser.add_argument("--images", metavar="DIR", help="a folder of images, packed for this run")
    parser.add_argument("--samples", type=int, default=1000, metavar="N", help="images a round (default: 1000)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N")
    parser.add_argument("--method", default="fused", metavar="NAME")
    parser.add_argument("--size", type=int, default=112, metavar="PX")
    parser.add_argument("--batch-size", type=int, default=64, metavar="N")
    parser.add_argument("--threads", type=int, default=own_processors(), metavar="N")
    parser.add_argument("--json", type=file_to_write, metavar="PATH")
    return parser.parse_args(argv)


def main(argv: Sequence[str]) -> int:
    """Measure, print the table, write the JSON; returns the exit code."""
    args = _parse(argv)
    if args.samples < 1 or args.rounds < 1:
        print("masks: --samples and --rounds must be at least 1", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        try:
            shards: Any = args.shards
            if not shards:
                if args.images is None:
                    write_photos(f"{folder}/photos", count=min(args.samples, 1000))
                pack(args.images or f"{folder}/photos", f"{folder}/shards", progress=False)
                shards = f"{folder}/shards/*.tar"
            result = run_bench(shards, args)
        except (ValueError, RuntimeError) as error:
            print(f"masks: {error}", file=sys.stderr)
            return 2
    title = f"{result['images']} images of {result['image_kb']:.0f} kB, {args.samples} a round"
    print_table({**result["stages"], "the job": result["job"]}, title=title)
    print(verdict(result))
    write_json(args.json, {"masks": result})
    return 0
