"""Each kernel alone: time, images/s, GB/s and the share of the device's copy bandwidth.

    python -m figureground.bench kernels [--device cpu|cuda] [--views 64] [--json PATH]

The floor of a kernel is each input byte read once and each output byte written once; GB/s counts those bytes. On a GPU times are
those of events, the device is kept waiting until the host has put all launches on the stream, the L2 cache is overwritten before
every repeat, and the copy bandwidth is measured in the same run; then the goals for an H200 are compared.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from figureground.bench.given import check_counts, check_device, file_to_write, in_one_sentence
from figureground.bench.harness import print_table, write_json
from figureground.bench.techniques import make_case
from figureground.kernels.arrays import Ragged
from figureground.kernels.background import composite_views
from figureground.kernels.blocks import corrupt_blocks
from figureground.kernels.blur import gaussian_blur
from figureground.kernels.color import jitter_color, solarize
from figureground.kernels.fourier import randomize_phase, transfer_amplitude
from figureground.kernels.ground import inpaint_figures
from figureground.kernels.ground_share import figure_share
from figureground.kernels.ground_strips import tile_ground
from figureground.kernels.normalize import normalize_views
from figureground.kernels.patches import mix_patches, shuffle_patches
from figureground.kernels.quilt import quilt_textures
from figureground.kernels.resample import RENDER_DTYPE, render_views
from figureground.kernels.saliency import METHODS, estimate_saliency
from figureground.kernels.tiles import tile_patches
from figureground.kernels.token_masks import patch_masks
from figureground.kernels.turns import turn_views
from figureground.pipeline import recipes
from figureground.pipeline.methods import HOST_ONLY
from figureground.pipeline.plan import draw_plan

SOURCE, VIEW, MASK = (375, 500), 224, 112
_FLUSH_BYTES = 256 << 20
VIEWS_CASE, BOTH_CASE = "the same, masks, swap p=0.2", "two MoCo-v2 views, swap p=0.2, float16"
_WAIT = """extern "C" __global__ void figureground_wait(long long ns) {
    long long start, now;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(start));
    do asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now)); while (now - start < ns);
}"""


@dataclass(frozen=True)
class Case:
    """One kernel call: `run` does it, `moved` bytes is its floor, `items` images or views it handles."""

    run: Callable[[], Any]
    moved: int
    items: int


def make_cases(xp: Any, count: int) -> dict[str, Case]:
    """Return the cases on the device of `xp`, with `count` source images and views."""
    rng = np.random.default_rng(0)
    images = Ragged.from_arrays([xp.asarray(rng.integers(0, 256, (*SOURCE, 3), dtype=np.uint8)) for _ in range(count)])
    masks = Ragged.from_arrays([xp.asarray(rng.integers(0, 256, (MASK, MASK), dtype=np.uint8)) for _ in range(count)])
    recipe = recipes.moco_v2().with_background("swap")
    plan = draw_plan(recipe, 0, seed=0, epoch=0, samples=np.arange(count), sizes=images.sizes)
    rows = np.zeros(count, RENDER_DTYPE)
    rows["image"], rows["mask"], rows["donor"], rows["box"], rows["clip"] = np.arange(count), -1, -1, plan["crop"], 1
    swapped = rows.copy()
    swapped["mask"], swapped["mode"] = np.arange(count), np.where(np.arange(count) % 5 == 0, 2, 0)
    swapped["donor"] = np.where(swapped["mode"] == 2, (np.arange(count) + 1) % count, -1)
    swapped["donor_box"] = rows["box"][(np.arange(count) + 1) % count]
    views, _ = render_views(images, rows, (VIEW, VIEW))
    out, view_masks = xp.empty_like(views), xp.asarray(rng.integers(0, 256, (count, VIEW, VIEW), dtype=np.uint8))
    floats = {dtype: xp.empty(views.shape, dtype) for dtype in (np.float32, np.float16)}
    small = views[:, :, : VIEW // 2, : VIEW // 2].copy()
    order, sigma = np.tile(np.arange(4, dtype=np.uint8), (count, 1)), plan["blur_sigma"]
    thresholds = np.full(count, 128, np.int32)
    area = int((rows["box"][:, 2] * rows["box"][:, 3]).sum()) * 3
    pixels, mask_bytes = views.size, MASK * MASK * count
    donors = int((swapped["donor_box"][:, 2] * swapped["donor_box"][:, 3])[swapped["mode"] == 2].sum()) * 3
    cases = {
        "crop and resize": Case(lambda: render_views(images, rows, (VIEW, VIEW), out=out), area + pixels, count),
        VIEWS_CASE: Case(
            lambda: render_views(images, swapped, (VIEW, VIEW), masks=masks, out=out, masks_out=view_masks),
            area + donors + mask_bytes + pixels + pixels // 3,
            count,
        ),
        "crop and resize, bicubic": Case(
            lambda: render_views(images, rows, (VIEW, VIEW), interpolation="bicubic", out=out), area + pixels, count
        ),
        "jitter, all four": Case(
            lambda: jitter_color(views, factors=plan["jitter_factors"], order=order, out=out), 2 * pixels, count
        ),
        "blur, sigma 0.1..2": Case(lambda: gaussian_blur(views, sigma, out=out), 2 * pixels, count),
        "solarize": Case(lambda: solarize(views, thresholds, out=out), 2 * pixels, count),
        "composite": Case(lambda: composite_views(views, views, view_masks, out=out), 3 * pixels + pixels // 3, count),
        "normalise to float32": Case(
            lambda: normalize_views(views, recipe.mean, recipe.std, out=floats[np.float32]), 5 * pixels, count
        ),
        "normalise to float16": Case(
            lambda: normalize_views(views, recipe.mean, recipe.std, dtype=np.float16, out=floats[np.float16]),
            3 * pixels,
            count,
        ),
    }
    seeds = np.arange(count, dtype=np.uint64)
    styles, boxes = np.zeros(count, np.int32), np.tile(np.array([0.1, 0.1, 0.8, 0.8], np.float32), (count, 10, 1))
    cases |= {
        "patch shuffle, grid 7": Case(lambda: shuffle_patches(views, seeds=seeds, grid=7, out=out), 2 * pixels, count),
        "patch negatives": Case(lambda: tile_patches(views, seeds=seeds), 2 * pixels, count),
        "turns, colour orders": Case(
            lambda: turn_views(views, rotation=styles + 1, channel_order=styles + 3, out=out), 2 * pixels, count
        ),
        "group mixing, 2": Case(
            lambda: mix_patches(views, seeds=seeds[: count // 2], group=2, out=out), 2 * pixels, count
        ),
        "block corruption, noise": Case(
            lambda: corrupt_blocks(views, seeds=seeds, out=out), 2 * pixels + pixels // 3, count
        ),
        "token masks, figure": Case(
            lambda: patch_masks(view_masks, seeds=seeds, grid=(14, 14), ratio=0.5, policy="figure"), pixels // 3, count
        ),
        "amplitude transfer": Case(lambda: transfer_amplitude(views, style=styles, out=out), 2 * pixels, count),
        "random phase": Case(lambda: randomize_phase(views, seeds=seeds, out=out), 2 * pixels, count),
        "inpaint figures": Case(lambda: inpaint_figures(views, view_masks, out=out), 2 * pixels + pixels // 3, count),
        "tile the ground": Case(lambda: tile_ground(views, view_masks, out=out), 2 * pixels + pixels // 3, count),
        "figure shares, 10 boxes": Case(lambda: figure_share(view_masks, boxes), pixels // 3, count),
    }
    both, area_of_both = _two_views(xp, images, count)
    cases[BOTH_CASE] = Case(both, area_of_both + 2 * 2 * pixels, count)
    if xp is np:  # an offline job's kernel: on the CPU alone
        exemplars = np.stack([views[:1, :, :96, :96], views[:1, :, -96:, -96:]], axis=1)
        quilt = partial(quilt_textures, exemplars, seeds=seeds[:1])
        cases["quilted texture, of two 96 px"] = Case(quilt, exemplars.size + 3 * VIEW * VIEW, 1)
    for method in METHODS:
        if xp is not np and method in HOST_ONLY:
            continue
        run = partial(estimate_saliency, small, method=method)
        cases[f"saliency {method}, {MASK} px"] = Case(run, small.size + small.size // 3, count)
    return cases


def _two_views(xp: Any, images: Ragged, count: int) -> tuple[Callable[[], Any], int]:
    """Return the whole augmentation of a batch, without negatives, and the bytes of the crops that it reads, about."""
    masks = np.zeros((count, MASK, MASK), np.uint8)
    masks[:, MASK // 4 : 3 * MASK // 4, MASK // 4 : 3 * MASK // 4] = 255
    recipe = recipes.moco_v2(VIEW).with_background("swap", p=0.2)
    crops = [
        draw_plan(recipe, view, seed=0, epoch=0, samples=np.arange(count), sizes=images.sizes)["crop"]
        for view in range(2)
    ]
    area = sum(int((crop[:, 2] * crop[:, 3]).sum()) * 3 for crop in crops)
    return make_case(recipe, images, masks, xp=xp, dtype=np.float16, negatives=False), area


def time_cpu(case: Case, repeats: int) -> list[float]:
    """Return the thread's CPU milliseconds of each repeat."""
    case.run()
    times = []
    for _ in range(repeats):
        began = time.thread_time()
        case.run()
        times.append(1e3 * (time.thread_time() - began))
    return times


def time_cuda(case: Case, repeats: int) -> list[float]:
    """Return the milliseconds between two events around each repeat, with a cold L2 cache. Not yet run on a GPU.

    The stream waits for as long as the host needs for the launches, and as long again, so that no gap between launches counts.
    """
    import cupy

    flush, wait = cupy.empty(_FLUSH_BYTES, np.uint8), cupy.RawKernel(_WAIT, "figureground_wait")
    case.run()
    began = time.perf_counter()
    case.run()
    head_start = np.int64(2e9 * (time.perf_counter() - began) + 1e5)
    times = []
    for _ in range(repeats):
        wait((1,), (1,), (head_start,))
        flush.fill(0)
        start, end = cupy.cuda.Event(), cupy.cuda.Event()
        start.record()
        case.run()
        end.record()
        end.synchronize()
        times.append(float(cupy.cuda.get_elapsed_time(start, end)))
    return times


def goals_of(table: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Compare with the goals for an H200: the views' kernel, both views of a batch of 256, the saliency of an image.

    Examples
    --------
    >>> rows = {VIEWS_CASE: {"of_copy": 0.7}, BOTH_CASE: {"us_per_image": 2.5}, f"saliency fused, {MASK} px": {"us_per_image": 9.0}}
    >>> {name: row["met"] for name, row in goals_of(rows).items()}
    {'views kernel, share of copy': 'yes', 'both views of 256 images [ms]': 'no', 'saliency of an image [us]': 'yes'}
    """
    share, both = table[VIEWS_CASE]["of_copy"], round(256e-3 * table[BOTH_CASE]["us_per_image"], 3)
    saliency = table[f"saliency fused, {MASK} px"]["us_per_image"]
    return {
        "views kernel, share of copy": {"value": share, "goal": ">= 0.6", "met": "yes" if share >= 0.6 else "no"},
        "both views of 256 images [ms]": {"value": both, "goal": "<= 0.5", "met": "yes" if both <= 0.5 else "no"},
        "saliency of an image [us]": {"value": saliency, "goal": "<= 20", "met": "yes" if saliency <= 20 else "no"},
    }


def copy_bandwidth(xp: Any, clock: Callable[[Case, int], list[float]]) -> float:
    """Return the GB/s (bytes read plus bytes written) of a plain copy of 256 MB."""
    source = xp.full(_FLUSH_BYTES, 1, np.uint8)  # not zeros: untouched pages are one page, which stays in the cache
    target = xp.empty_like(source)

    def copy() -> None:
        target[...] = source

    return 2 * _FLUSH_BYTES / (float(np.median(clock(Case(copy, 0, 1), 9))) * 1e6)


@in_one_sentence
def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the table, write the JSON; returns the exit code."""
    parser = argparse.ArgumentParser("python -m figureground.bench kernels")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--views", type=int, help="views a call (default: 8 on the CPU, 256 on a GPU)")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--json", type=file_to_write)
    args = parser.parse_args(argv)
    check_counts("--views", 1 if args.views is None else args.views, "--repeats", args.repeats)
    check_device(args.device)
    if args.device == "cuda":
        import cupy as xp

        clock = time_cuda
    else:
        xp, clock = np, time_cpu
    bandwidth = copy_bandwidth(xp, clock)
    print(f"copy bandwidth: {bandwidth:.1f} GB/s")
    table: dict[str, dict[str, Any]] = {}
    for name, case in make_cases(xp, args.views or (256 if args.device == "cuda" else 8)).items():
        times = clock(case, args.repeats)
        median = float(np.median(times))
        rate = case.moved / (median * 1e6)
        table[name] = {
            "us_per_image": round(1e3 * median / case.items, 3),
            "iqr_us": round(1e3 * float(np.subtract(*np.percentile(times, [75, 25]))) / case.items, 3),
            "images_per_s": round(1e3 * case.items / median),
            "gb_per_s": round(rate, 2),
            "of_copy": round(rate / bandwidth, 3),
        }
    print_table(table, title=f"kernel ({args.device})")
    document: dict[str, Any] = {"device": args.device, "copy_gb_per_s": round(bandwidth, 1), "kernels": table}
    if args.device == "cuda":
        document["goals"] = goals_of(table)
        print_table(document["goals"], title="goals for an H200")
    write_json(args.json, document)
    return 0


if __name__ == "__main__":
    sys.exit(main())
