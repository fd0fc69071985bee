"""The stages of the CPU path apart, each with its floor: every input byte read once, every output byte written once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from figureground.bench.given import Unfit
from figureground.bench.harness import Timing
from figureground.kernels.arrays import Ragged
from figureground.kernels.blur import gaussian_blur
from figureground.kernels.color import jitter_color
from figureground.kernels.normalize import normalize_views
from figureground.kernels.resample import RENDER_DTYPE, render_views
from figureground.pipeline import recipes
from figureground.pipeline.augment import SALIENCY_PX, estimate_masks
from figureground.pipeline.decode import Decoder
from figureground.pipeline.device import make_device
from figureground.pipeline.plan import draw_plan
from figureground.pipeline.screen import screen_files
from figureground.shards import MaskStore, Store

Case = Callable[[], int]
VIEW_BYTES, PAGE = 3 * 224 * 224, 4096


@dataclass(frozen=True)
class Stage:
    """One stage: `run` does it for all images; `moved` is its floor, bytes an image, None where it moves none of the pixels."""

    run: Case
    moved: float | None = None


def add_floor(row: Mapping[str, Any], moved: float | None, copy_gb_per_s: float) -> dict[str, Any]:
    """Add the GB/s that a row moves and its share of what a plain copy of these bytes would take.

    Examples
    --------
    >>> add_floor({"cpu_ms": 0.5}, 1_000_000, 10.0)
    {'cpu_ms': 0.5, 'gb_per_s': 2.0, 'of_floor': 0.2}
    """
    if moved is None or not row["cpu_ms"]:
        return dict(row)
    rate = moved / (1e6 * row["cpu_ms"])
    return {**row, "gb_per_s": round(rate, 2), "of_floor": round(rate / copy_gb_per_s, 3)}


def mask_decoding(timings: Mapping[str, Timing]) -> Timing:
    """Return decoding with masks less decoding without, round by round."""
    with_masks, without = timings["decode with masks"], timings["decode"]
    return Timing(
        [a - b for a, b in zip(with_masks.wall_ms, without.wall_ms, strict=True)],
        [a - b for a, b in zip(with_masks.cpu_ms, without.cpu_ms, strict=True)],
    )


def stage_cases(store: Store, masks: MaskStore, images: int, threads: int) -> dict[str, Stage]:
    """Return the CPU stages, each on the same samples: `images` of them, less those that cannot be decoded.

    Raises
    ------
    Unfit
        If none can be decoded.
    """
    ids = np.linspace(0, len(store) - 1, images).astype(int).tolist()
    plain, masked = Decoder(images, threads=threads), Decoder(images, threads=threads, masks=True)
    valid = masked.decode([store.image(i) for i in ids]).valid
    if not valid.all():
        print(f"{np.count_nonzero(~valid)} of {len(ids)} images cannot be decoded: left out of the stages")
    ids, images = [i for i, good in zip(ids, valid, strict=True) if good], int(valid.sum())
    if not ids:
        raise Unfit("none of the images that were looked at can be decoded; run 'figureground check' on the shards")
    encoded, encoded_masks, numbers = [store.image(i) for i in ids], [masks.mask(i) for i in ids], np.array(ids)
    decoded = masked.decode(encoded, encoded_masks)
    recipe = recipes.moco_v2().with_background("swap")
    plan = draw_plan(recipe, 0, seed=0, epoch=0, samples=np.array(ids), sizes=decoded.images.sizes)
    rows = np.zeros(images, RENDER_DTYPE)
    rows["image"], rows["mask"], rows["donor"], rows["box"], rows["clip"] = np.arange(images), -1, -1, plan["crop"], 1
    swapped = rows.copy()
    swapped["mask"], swapped["mode"], swapped["donor"] = (
        np.where(decoded.mask_valid, np.arange(images), -1),
        2,
        (np.arange(images) + 1) % images,
    )
    swapped["donor_box"] = rows["box"][swapped["donor"]]
    views, _ = render_views(decoded.images, rows, (224, 224))
    order = np.tile(np.arange(4, dtype=np.uint8), (images, 1))
    work, out = views.copy(), np.empty(views.shape, np.float32)
    chunk = [slice(a, min(a + 8, images)) for a in range(0, images, 8)]

    def each(run: Callable[[slice], Any]) -> Case:
        def case() -> int:
            for part in chunk:
                run(part)
            return images

        return case

    def read() -> int:
        for piece in (*store.images(numbers), *masks.masks(numbers)):
            if piece is not None:
                piece[::PAGE].sum()  # one byte of each page: what brings a mapped file in
        return images

    def decode(decoder: Decoder, *arguments: Any) -> Case:
        def case() -> int:
            decoder.submit(*arguments)
            return len(decoder.collect().valid)

        return case

    def draw() -> int:
        draw_plan(recipe, 0, seed=0, epoch=0, samples=np.array(ids), sizes=decoded.images.sizes)
        return images

    def small(part: slice) -> None:
        batch = decoded.images
        estimate_masks(Ragged(batch.addresses[part], batch.sizes[part], 3, batch.owner))

    pool, device = ThreadPoolExecutor(threads), make_device("cpu")

    def guard() -> int:
        screen_files("bench", encoded, pool)
        return images

    def hand_over() -> int:
        batch = {"views": [device.tensor(out, torch.float32)] * 2, "target": device.upload(np.array(ids, np.int64))}
        device.hand_over(batch)
        return images

    files = sum(len(e) for e in encoded) / images
    mask_files = sum(0 if m is None else len(m) for m in encoded_masks) / images
    pixels = 3 * float(decoded.images.sizes.prod(axis=1).mean())
    mask_pixels = 0.0 if decoded.masks is None else float(decoded.masks.sizes.prod(axis=1).mean())
    area = 3 * float((plan["crop"][:, 2] * plan["crop"][:, 3]).mean())
    return {
        "read": Stage(read, files + mask_files),
        "guard": Stage(guard),
        "decode": Stage(decode(plain, encoded), files + pixels),
        "decode with masks": Stage(decode(masked, encoded, encoded_masks), files + mask_files + pixels + mask_pixels),
        "plan, one view": Stage(draw),
        "crop and resize, one view": Stage(
            each(lambda p: render_views(decoded.images, rows[p], (224, 224), out=work[p])), area + VIEW_BYTES
        ),
        "the same + mask and swap": Stage(
            each(lambda p: render_views(decoded.images, swapped[p], (224, 224), masks=decoded.masks, out=work[p])),
            2 * area + mask_pixels + VIEW_BYTES,
        ),
        "jitter, all four, one view": Stage(
            each(lambda p: jitter_color(views[p], factors=plan["jitter_factors"][p], order=order[p], out=work[p])),
            2 * VIEW_BYTES,
        ),
        "blur, sigma 1.05, one view": Stage(
            each(lambda p: gaussian_blur(views[p], np.full(len(views[p]), 1.05, np.float32), out=work[p])),
            2 * VIEW_BYTES,
        ),
        "normalise to float32, one view": Stage(
            each(lambda p: normalize_views(views[p], recipe.mean, recipe.std, out=out[p])), 5 * VIEW_BYTES
        ),
        "saliency (fused, 112 px)": Stage(each(small), pixels + SALIENCY_PX**2),
        "hand-over to torch": Stage(hand_over),
    }
