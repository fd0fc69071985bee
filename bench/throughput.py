"""What the loader costs: stages apart, end to end with backgrounds and for each preset, and what a trainer waits for.

    python -m figureground.bench throughput --device cpu [--shards "shards/*.tar"] [--batch-size 64] [--json PATH]

Without --shards it cuts photographs of scikit-image to ImageNet's usual size (500 px, JPEG quality 92); of larger data sets than
--images an even choice is copied to a local folder. Stages are measured apart, on the same decoded images; end to end the
loader runs whole epochs. "ideal" is reading and decoding alone: what is above it is the price of the augmentation. `of_floor` is
the share that a plain copy of the bytes would take (each input byte read once, each output byte written once, at the copy bandwidth
measured here). All cases of a table take turns within each round; `over_moco_v2_%` is the median over the rounds of the CPU
time's ratio within each.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from figureground.bench.given import (
    Given,
    Unfit,
    check_counts,
    check_device,
    file_to_write,
    in_one_sentence,
    say_masks,
    take_shards,
)
from figureground.bench.harness import Timing, measure, print_table, write_json
from figureground.bench.kernels import copy_bandwidth, time_cpu
from figureground.bench.stages import Case, add_floor, mask_decoding, stage_cases
from figureground.bench.stall import measure_stalls
from figureground.bench.workload import default_shards, repeat_shards
from figureground.pipeline import Loader, recipes
from figureground.pipeline.decode import Decoder
from figureground.pipeline.processors import own_processors
from figureground.pipeline.recipe import Recipe
from figureground.shards import MaskStore, Store

__all__ = ["default_shards", "main"]

IDEAL, BASE = "ideal: read and decode", "moco_v2"
OVER = "over_moco_v2_%"
_PHOTOS, _LONG, _LONGER = 256, 16, 64
"""Photographs to make; the least number of batches in an epoch, and in one under a trainer's steps: the shards are repeated, so
that the start of an epoch, when nothing overlaps yet, does not weigh."""


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
            shards, recipe, batch_size=batch_size, device=device, format="lightly", threads=threads, masks="auto"
        )
        loaders.append(loader)
        cases[name] = _epoch(loader)
    return cases, loaders


def background_recipes() -> dict[str, Recipe]:
    """Return MoCo-v2 with each background augmentation."""
    base = recipes.moco_v2()
    return {
        BASE: base,
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


def over_base(timings: Mapping[str, Timing]) -> dict[str, float]:
    """Return by how much [%] each recipe's CPU time is above that of `BASE`: the median of the rounds' ratios; empty without it.

    Examples
    --------
    >>> over_base({"moco_v2": Timing([], [1.0, 2.0, 4.0]), "swap": Timing([], [1.1, 2.1, 4.8])})
    {'swap': 10.0}
    """
    if BASE not in timings:
        return {}
    base = np.array(timings[BASE].cpu_ms)
    return {
        name: round(100 * float(np.median(np.array(timing.cpu_ms) / base) - 1), 1)
        for name, timing in timings.items()
        if name not in (IDEAL, BASE)
    }


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
    over = over_base(timings)
    for name, timing in timings.items():
        rows[name] = {
            **timing.summary(),
            "of_ideal": round(float(np.median(np.array(timings[IDEAL].wall_ms) / np.array(timing.wall_ms))), 3),
        }
        if name in over:
            rows[name][OVER] = over[name]
        if floor is not None and name != IDEAL:
            written = 4 * sum(view.crop.size**2 * 3 for view in variants[name].views)
            rows[name] = add_floor(rows[name], floor[0] + written, floor[1])
    for loader in loaders:
        loader.close()
    decoder.close()
    return rows


def measure_throughput(given: Given, steps_on: Any, args: argparse.Namespace) -> dict[str, Any]:
    """Measure and print all parts; returns the document. `steps_on`: shards for the trainer's steps."""
    shards = given.shards
    with Store(shards) as store, MaskStore(store) as masks:
        size = float(store.images(np.arange(len(store))).sizes.mean())
        print(f"{len(store)} images, {size / 1e3:.0f} kB each; {given.masked} masks")
        say_masks(given)
        copy = copy_bandwidth(np, time_cpu)
        print(f"a plain copy reads and writes {copy:.1f} GB/s")
        document: dict[str, Any] = {"images": len(store), "batch_size": args.batch_size, "device": args.device}
        document |= {"threads": args.threads, "rounds": args.rounds, "copy_gb_per_s": round(copy, 1)}
        document |= {"masks": given.masked, "images_of_the_data_set": given.of, "image_kb": round(size / 1e3, 1)}
        if given.first_read is not None:
            document["first_read"] = given.first_read
        stages = stage_cases(store, masks, min(128, len(store)), args.threads)
        timings = measure({name: stage.run for name, stage in stages.items()}, rounds=args.rounds)
        document["stages"] = {
            name: add_floor(timing.summary(), stages[name].moved, copy) for name, timing in timings.items()
        }
        document["stages"]["mask decode (difference)"] = mask_decoding(timings).summary()
        for row in document["stages"].values():
            row["us_per_image"] = round(1e3 * row["wall_ms"], 2)
        print_table(document["stages"], title="stage, per image")
        floor = (size, copy) if args.device == "cpu" else None
        document["epochs"] = end_to_end(store, background_recipes(), args, shards, floor)
        print_table(document["epochs"], title="end to end, per source image")
        if not args.no_presets:
            document["presets"] = end_to_end(store, preset_recipes(), args, shards, floor)
            print_table(document["presets"], title="presets, per source image")
    if args.steps:
        kind = args.step_kind or ("sleep" if args.device == "cpu" else "busy")
        document["stalls"] = measure_stalls(
            steps_on, args.steps, kind, args.device, args.batch_size, args.threads, args.seconds
        )
        print_table(document["stalls"], title="a trainer's step")
    return document


@in_one_sentence
def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the tables, write the JSON; returns the exit code."""
    parser = argparse.ArgumentParser("python -m figureground.bench throughput")
    parser.add_argument("--shards", nargs="+", help="your shards (default: made of photographs, with masks)")
    parser.add_argument("--images", type=int, default=2048, help="samples of --shards that are enough")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch-size", type=int, help="default: 64, on a GPU 256")
    parser.add_argument("--threads", type=int, default=own_processors(), help="default: all processors")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--no-presets", action="store_true", help="leave the presets out")
    parser.add_argument(
        "--steps", type=float, nargs="*", default=[10, 50, 200], help="trainer's steps [ms]; none: leave out"
    )
    parser.add_argument(
        "--step-kind", choices=("sleep", "busy"), help="busy: the step computes (default on a GPU, where it shares it)"
    )
    parser.add_argument("--seconds", type=float, default=3.0, help="for each of --steps")
    parser.add_argument("--json", type=file_to_write)
    args = parser.parse_args(argv)
    if args.batch_size is None:
        args.batch_size = 64 if args.device == "cpu" else 256
    check_counts(
        "--batch-size", args.batch_size, "--threads", args.threads, "--rounds", args.rounds, "--images", args.images
    )
    for name, value in (("--seconds", args.seconds), *(("--steps", step) for step in args.steps)):
        if not value > 0:
            raise Unfit(f"{name} must be more than 0, got {value}")
    with tempfile.TemporaryDirectory() as folder:
        if args.shards is None:
            check_device(args.device)
            made, times = (
                default_shards(folder, _PHOTOS),
                [-(-n * args.batch_size // _PHOTOS) for n in (_LONG, _LONGER)],
            )
            longer = repeat_shards(made, f"{folder}/long", times[0])
            given = take_shards(longer, folder, most=_PHOTOS * times[0], batch_size=args.batch_size)
            steps_on = repeat_shards(made, f"{folder}/longer", times[1]) if args.steps else None
        else:
            given = take_shards(args.shards, folder, most=args.images, batch_size=args.batch_size, device=args.device)
            steps_on = given.shards
        document = measure_throughput(given, steps_on, args)
    write_json(args.json, document)
    return 0


if __name__ == "__main__":
    sys.exit(main())
