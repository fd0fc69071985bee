"""What the loader costs: stages apart, end to end with backgrounds and for each preset, and what a trainer waits for.

    python -m figureground.bench throughput --device cpu [--shards "shards/*.tar"] [--batch-size 64] [--json PATH]

Without --shards it cuts photographs of scikit-image to ImageNet's usual size (500 px, JPEG quality 92). Stages are measured
apart, on the same decoded images; end to end the loader runs whole epochs. "ideal" is reading and decoding alone: what is above it
is the price of the augmentation. `of_floor` is the share that a plain copy of the bytes would take (each input byte read once, each
output byte written once, at the copy bandwidth measured here). All cases of a table take turns within each round.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from figureground.bench.harness import measure, print_table, write_json
from figureground.bench.kernels import copy_bandwidth, time_cpu
from figureground.bench.stages import Case, add_floor, mask_decoding, stage_cases
from figureground.bench.stall import measure_stalls
from figureground.bench.workload import default_shards
from figureground.pipeline import Loader, recipes
from figureground.pipeline.decode import Decoder
from figureground.pipeline.recipe import Recipe
from figureground.shards import MaskStore, Store

__all__ = ["default_shards", "main"]

IDEAL = "ideal: read and decode"


def _epoch(loader: Loader) -> Case:
    return lambda: sum(len(batch[1]) for batch in loader)


def epoch_cases(
    shards: Any, variants: dict[str, Recipe], device: str, batch_size: int, threads: int | None
) -> tuple[dict[str, Case], list[Loader]]:
    """Return whole epochs of each recipe, and their loaders."""
    loaders: list[Loader] = []
    cases: dict[str, Case] = {}
    for name, recipe in variants.items():
        loader = Loader(
            shards, recipe, batch_size=batch_size, device=device, format="lightly", threads=threads, masks="sidecar"
        )
        loaders.append(loader)
        cases[name] = _epoch(loader)
    return cases, loaders


def background_recipes() -> dict[str, Recipe]:
    """Return MoCo-v2 with each background augmentation."""
    base = recipes.moco_v2()
    return {
        "moco_v2": base,
        "moco_v2 + remove p=0.2": base.with_background("remove"),
        "moco_v2 + random p=0.2": base.with_background("random"),
        "moco_v2 + swap p=0.2": base.with_background("swap"),
        "moco_v2 + swap p=1": base.with_background("swap", p=1.0),
    }


def preset_recipes() -> dict[str, Recipe]:
    """Return the presets; those that differ in name alone share a row.

    Examples
    --------
    >>> [name for name in preset_recipes() if "simsiam" in name]
    ['moco_v2, simsiam']
    """
    groups: dict[Recipe, list[str]] = {}
    for name, preset in recipes.PRESETS.items():
        groups.setdefault(replace(preset(), name=""), []).append(name)
    return {", ".join(names): recipe for recipe, names in groups.items()}


def ideal_case(store: Store, decoder: Decoder, batch_size: int) -> Case:
    """Return an epoch of reading and decoding alone, one batch ahead as in the loader."""
    ids = list(range(len(store)))
    runs = [ids[a : a + batch_size] for a in range(0, len(ids), batch_size)]

    def ideal() -> int:
        for number, run in enumerate(runs):
            decoder.submit([store.image(i) for i in run])
            if number:
                decoder.collect()
        decoder.collect()
        return len(ids)

    return ideal


def end_to_end(
    store: Store, variants: dict[str, Recipe], args: argparse.Namespace, shards: Any, floor: tuple[float, float] | None
) -> dict[str, dict[str, Any]]:
    """Measure epochs of the recipes and the ideal; `floor` is bytes read an image and the copy's GB/s, None on a GPU."""
    decoder = Decoder(args.batch_size, device=args.device, threads=args.threads)
    cases, loaders = epoch_cases(shards, variants, args.device, args.batch_size, args.threads)
    timings = measure({IDEAL: ideal_case(store, decoder, args.batch_size), **cases}, rounds=args.rounds)
    rows: dict[str, dict[str, Any]] = {}
    for name, timing in timings.items():
        rows[name] = {
            **timing.summary(),
            "of_ideal": round(float(np.median(np.array(timings[IDEAL].wall_ms) / np.array(timing.wall_ms))), 3),
        }
        if floor is not None and name != IDEAL:
            written = 4 * sum(view.crop.size**2 * 3 for view in variants[name].views)
            rows[name] = add_floor(rows[name], floor[0] + written, floor[1])
    for loader in loaders:
        loader.close()
    decoder.close()
    return rows


def measure_throughput(shards: Any, args: argparse.Namespace) -> dict[str, Any]:
    """Measure and print all parts; returns the document."""
    with Store(shards) as store, MaskStore(store) as masks:
        size = float(np.mean([len(store.image(i)) for i in range(len(store))]))
        print(f"{len(store)} images, {size / 1e3:.0f} kB each; {int(masks.present.sum())} masks")
        copy = copy_bandwidth(np, time_cpu)
        print(f"a plain copy reads and writes {copy:.1f} GB/s")
        document: dict[str, Any] = {"images": len(store), "batch_size": args.batch_size, "device": args.device}
        document |= {"threads": args.threads, "rounds": args.rounds, "copy_gb_per_s": round(copy, 1)}
        stages = stage_cases(store, masks, min(128, len(store)), args.threads)
        timings = measure({name: stage.run for name, stage in stages.items()}, rounds=args.rounds)
        document["stages"] = {
            name: add_floor(timing.summary(), stages[name].moved, copy) for name, timing in timings.items()
        }
        document["stages"]["mask decode (difference)"] = mask_decoding(timings).summary()
        print_table(document["stages"], title="stage, per image")
        floor = (size, copy) if args.device == "cpu" else None
        document["epochs"] = end_to_end(store, background_recipes(), args, shards, floor)
        print_table(document["epochs"], title="end to end, per source image")
        if not args.no_presets:
            document["presets"] = end_to_end(store, preset_recipes(), args, shards, floor)
            print_table(document["presets"], title="presets, per source image")
    if args.steps:
        document["stalls"] = measure_stalls(
            shards, args.steps, args.step_kind, args.device, args.batch_size, args.threads, args.seconds
        )
        print_table(document["stalls"], title="a trainer's step")
    return document


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the tables, write the JSON; returns the exit code."""
    parser = argparse.ArgumentParser("python -m figureground.bench throughput")
    parser.add_argument("--shards", nargs="+", help="shards with mask sidecars (default: made of photographs)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--no-presets", action="store_true", help="leave the presets out")
    parser.add_argument(
        "--steps", type=float, nargs="*", default=[10, 50, 200], help="trainer's steps [ms]; none: leave out"
    )
    parser.add_argument("--step-kind", choices=("sleep", "busy"), default="sleep", help="busy: the step computes")
    parser.add_argument("--seconds", type=float, default=3.0, help="for each of --steps")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(argv)
    bad = [name for name in ("batch_size", "threads", "rounds") if getattr(args, name) < 1]
    if bad or args.seconds <= 0 or any(step <= 0 for step in args.steps):
        rule = "--batch-size, --threads and --rounds must be at least 1, --seconds and --steps more than 0"
        print(f"throughput: {rule}, got {vars(args)}", file=sys.stderr)
        return 2
    photos = 256 if args.device == "cpu" else max(256, 8 * args.batch_size)
    with tempfile.TemporaryDirectory() as folder:
        document = measure_throughput(args.shards or default_shards(folder, photos), args)
    write_json(args.json, document)
    return 0


if __name__ == "__main__":
    sys.exit(main())
