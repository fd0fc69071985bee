"""What each technique of a recipe costs over its base recipe, in CPU microseconds a source image.

    python -m figureground.bench techniques [--count 64] [--size 224] [--rounds 7] [--json PATH]

The augmenter runs whole recipes on decoded photographs with masks, on one CPU thread: no decoding, no queue. Techniques are at
probability 1, so that a row is the price of using it; at p = 0.2 expect a fifth. All rows take turns within each round.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from figureground.bench.given import check_counts, file_to_write, in_one_sentence
from figureground.bench.harness import Timing, measure, print_table, write_json
from figureground.bench.photos import write_photos
from figureground.kernels.arrays import Ragged
from figureground.pipeline import recipes
from figureground.pipeline.anchors import anchor_crops, boxes_of
from figureground.pipeline.augment import Augmenter, estimate_masks
from figureground.pipeline.companions import find_companions
from figureground.pipeline.extras import Extras, hide_tokens
from figureground.pipeline.figure_crops import settle_crops
from figureground.pipeline.order import Order
from figureground.pipeline.plan import draw_plan
from figureground.pipeline.recipe import Recipe
from figureground.pipeline.tables import Slots

BASE = "moco_v2"
_KINDS = {"mask": np.uint8, "flag": np.bool_, "source": np.int8}


def techniques(size: int = 224) -> dict[str, Recipe]:
    """Return the base recipe first, then the base with one technique each."""
    base = recipes.moco_v2(size)

    def without(**fields: Any) -> Recipe:
        return replace(base, views=tuple(replace(view, **fields) for view in base.views))

    sharp = replace(base.views[0].crop, interpolation="bicubic")
    return {
        BASE: base,
        "bicubic": without(crop=sharp),
        "no jitter": without(jitter=None),
        "no blur": without(blur=None),
        "solarize": without(solarize_p=1.0),
        "background remove, grey": base.with_background("remove", p=1.0),
        "background remove, mean": base.with_background("remove", p=1.0, fill="mean"),
        "background remove, noise": base.with_background("remove", p=1.0, fill="noise"),
        "background random": base.with_background("random", p=1.0),
        "background random, inpainted": base.with_background("random", p=1.0, source="inpainted"),
        "background random, strip": base.with_background("random", p=1.0, source="strip"),
        "background swap, with its negative": base.with_background("swap", p=1.0),
        "patch shuffle": base.with_patch_shuffle(7, p=1.0),
        "patch shuffle, ground": base.with_patch_shuffle(7, p=1.0, region="ground"),
        "negatives, patch": base.with_negatives("patch"),
        "negatives, texture": base.with_negatives("texture"),
        "negatives, texture from a file": base.with_negatives("texture-file"),
        "figure crops, half of the figure": base.with_figure_crops(min_share=0.5),
        "object crops": base.with_object_crops(),
        "label augmentation": base.with_label_augmentation(),
        "token masks": base.with_token_masks(patch=max(size // 14, 1)),
        "block corruption": base.with_block_corruption(),
        "group mixing": base.with_group_mixing(group=4, patch=max(size // 14, 1)),
        "style transfer": base.with_style_transfer(block=8),
    }


def make_case(
    recipe: Recipe, images: Ragged, masks: Any, *, xp: Any = np, dtype: Any = np.float32, negatives: bool = True
) -> Callable[[], int]:
    """Return a callable that augments all images once, on their device, the donor of each being the next one.

    Parameters
    ----------
    recipe : Recipe
    images : Ragged
        On the device of `xp`.
    masks : (N, S, S) uint8, NumPy
    xp : module
        numpy or cupy.
    dtype : numpy dtype
        Of the views.
    negatives : bool
        Make the recipe's negatives.
    """
    count = len(images)
    donors = np.roll(np.arange(count), -1)
    slots = Slots(
        np.arange(count, dtype=np.int32), np.tile(donors.astype(np.int32), (len(recipe.views) + 1, 1)),
        np.ones(count, bool), masks.reshape(count, -1).mean(1) / 255,
        box=boxes_of(masks) * images.sizes[:, [1, 0, 1, 0]] if recipe.anchors else None,
        texture=np.arange(count, dtype=np.int32) if recipe.uses_textures else None,  # each image is its own texture
    )  # fmt: skip
    plans = [
        draw_plan(
            recipe, view, seed=0, epoch=0, samples=np.arange(count), sizes=images.sizes, donors=donors,
            donor_sizes=images.sizes[donors],
        )
        for view in range(len(recipe.views) + recipe.swaps)
    ]  # fmt: skip
    if recipe.uses_textures:
        plans[0]["texture"], plans[0]["texture_crop"] = 1, plans[0]["crop"]
    companions = find_companions(recipe, Order(count, shuffle=False), 0, np.arange(count))
    if companions is not None:
        companions.note(plans, np.arange(count))
    planes = Ragged.from_arrays([xp.asarray(mask) for mask in masks])
    augmenter = Augmenter(recipe, dtype=dtype, masks=False, negatives=negatives)
    buffers: list[Any] = []
    free: list[Any] = []

    def empty(shape: tuple[int, ...], kind: str) -> Any:
        if not free:  # the first time
            buffers.append(xp.empty(shape, dtype if kind == "view" else _KINDS[kind]))
            return buffers[-1]
        return free.pop(0)

    def case() -> int:
        free[:] = buffers
        extras = None if companions is None else Extras(recipe, companions)
        settle_crops(recipe, plans, planes, slots, augmenter.map_chunks)
        anchor_crops(recipe, plans, slots, seed=0)
        augmenter.augment(images, planes, plans, slots, empty, extras)
        if recipe.token_masks is not None:
            hide_tokens(recipe, plans, None, count, empty)
        return count

    return case


def over_base(timings: dict[str, Timing]) -> dict[str, dict[str, float]]:
    """Return microseconds a source image of each row, and the median over the rounds of its difference from the base."""
    base = np.array(timings[BASE].cpu_ms)
    table = {}
    for name, timing in timings.items():
        extra = np.array(timing.cpu_ms) - base
        low, high = np.percentile(extra, [25, 75])
        table[name] = {
            "us_per_image": round(1e3 * float(np.median(timing.cpu_ms)), 1),
            "over_base_us": round(1e3 * float(np.median(extra)), 1),
            "iqr_us": round(1e3 * float(high - low), 1),
        }
    return table


@in_one_sentence
def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the table, write the JSON; returns the exit code."""
    parser = argparse.ArgumentParser("python -m figureground.bench techniques")
    parser.add_argument("--count", type=int, default=64, help="photographs")
    parser.add_argument("--size", type=int, default=224, help="side of the views [px]")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=file_to_write)
    args = parser.parse_args(argv)
    check_counts("--count", args.count, "--size", args.size, "--rounds", args.rounds)
    with tempfile.TemporaryDirectory() as folder:
        write_photos(folder, count=args.count)
        paths = sorted(Path(folder).rglob("*.jpg"))
        images = Ragged.from_arrays([np.array(Image.open(path).convert("RGB")) for path in paths])
    masks = estimate_masks(images)
    cases = {name: make_case(recipe, images, masks) for name, recipe in techniques(args.size).items()}
    table = over_base(measure(cases, rounds=args.rounds))
    print_table(table, title=f"technique at p = 1, {len(images)} photographs, two views of {args.size} px")
    write_json(args.json, {"count": len(images), "size": args.size, "techniques": table})
    return 0
