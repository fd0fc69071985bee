"""What the loader costs, stage by stage and end to end.

    python -m figureground.bench throughput --device cpu [--shards "shards/*.tar"] [--batch-size 64] [--json PATH]

Without --shards it cuts photographs of scikit-image to ImageNet's usual size (500 px, JPEG quality 92). Stages are measured
apart, on the same decoded images; end to end the loader runs whole epochs. "ideal" is reading and decoding alone: what is above it
is the price of the augmentation. All cases take turns within each round.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from figureground.bench.harness import measure, print_table, write_json
from figureground.bench.photos import write_photos
from figureground.kernels.arrays import Ragged
from figureground.kernels.blur import gaussian_blur
from figureground.kernels.color import jitter_color
from figureground.kernels.normalize import normalize_views
from figureground.kernels.resample import RENDER_DTYPE, render_views
from figureground.pipeline import Loader, recipes
from figureground.pipeline.augment import estimate_masks
from figureground.pipeline.decode import Decoder
from figureground.pipeline.masks_job import make_masks
from figureground.pipeline.plan import draw_plan
from figureground.shards import MaskStore, Store
from figureground.shards.writer import pack

Case = Callable[[], int]


def default_shards(folder: str, count: int = 256) -> str:
    """Make shards of photographs, with masks, in a folder; returns their glob."""
    write_photos(f"{folder}/photos", count=count)
    pack(f"{folder}/photos", f"{folder}/shards", shard_size_mb=32, progress=False, shuffle_seed=0)
    shards = f"{folder}/shards/*.tar"
    make_masks(shards, device="cpu", progress=False)
    return shards


def stage_cases(store: Store, masks: MaskStore, images: int, threads: int) -> dict[str, Case]:
    """Return the CPU stages, each on the same `images` samples."""
    ids = np.linspace(0, len(store) - 1, images).astype(int).tolist()
    encoded, encoded_masks = [store.image(i) for i in ids], [masks.mask(i) for i in ids]
    plain, masked = Decoder(images, threads=threads), Decoder(images, threads=threads, masks=True)
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
        return sum(int(store.image(i)[-1] >= 0) for i in ids)

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

    return {
        "read": read,
        "decode": decode(plain, encoded),
        "decode with masks": decode(masked, encoded, encoded_masks),
        "plan, one view": draw,
        "crop and resize, one view": each(lambda p: render_views(decoded.images, rows[p], (224, 224), out=work[p])),
        "the same + mask and swap": each(
            lambda p: render_views(decoded.images, swapped[p], (224, 224), masks=decoded.masks, out=work[p])
        ),
        "jitter, all four, one view": each(
            lambda p: jitter_color(views[p], factors=plan["jitter_factors"][p], order=order[p], out=work[p])
        ),
        "blur, sigma 1.05, one view": each(
            lambda p: gaussian_blur(views[p], np.full(len(views[p]), 1.05, np.float32), out=work[p])
        ),
        "normalise to float32, one view": each(
            lambda p: normalize_views(views[p], recipe.mean, recipe.std, out=out[p])
        ),
        "saliency (fused, 112 px)": each(small),
    }


def _epoch(loader: Loader) -> Case:
    return lambda: sum(len(target) for _, target in loader)


def epoch_cases(shards: Any, device: str, batch_size: int, threads: int | None) -> tuple[dict[str, Case], list[Loader]]:
    """Return whole epochs of MoCo-v2 with each background augmentation, and their loaders."""
    base = recipes.moco_v2()
    variants = {
        "moco_v2": base,
        "moco_v2 + remove p=0.2": base.with_background("remove"),
        "moco_v2 + random p=0.2": base.with_background("random"),
        "moco_v2 + swap p=0.2": base.with_background("swap"),
        "moco_v2 + swap p=1": base.with_background("swap", p=1.0),
    }
    loaders: list[Loader] = []
    cases: dict[str, Case] = {}
    for name, recipe in variants.items():
        loader = Loader(
            shards, recipe, batch_size=batch_size, device=device, format="moco", threads=threads, masks="sidecar"
        )
        loaders.append(loader)
        cases[name] = _epoch(loader)
    return cases, loaders


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the tables, write the JSON; returns the exit code."""
    parser = argparse.ArgumentParser("python -m figureground.bench throughput")
    parser.add_argument("--shards", nargs="+", help="shards with mask sidecars (default: made of photographs)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        shards = args.shards or default_shards(folder)
        with Store(shards) as store:
            masks = MaskStore(store)
            sizes = [len(store.image(i)) for i in range(len(store))]
            print(f"{len(store)} images, {np.mean(sizes) / 1e3:.0f} kB each; {int(masks.present.sum())} masks")
            document: dict[str, Any] = {"images": len(store), "batch_size": args.batch_size, "device": args.device}
            document["threads"] = args.threads or 2
            stages = measure(stage_cases(store, masks, min(128, len(store)), args.threads or 2), rounds=args.rounds)
            document["stages"] = {name: timing.summary() for name, timing in stages.items()}
            print_table(document["stages"], title="stage, per image")
            cases, loaders = epoch_cases(shards, args.device, args.batch_size, args.threads)
            ids = list(range(len(store)))
            decoder = Decoder(args.batch_size, threads=args.threads or 2)

            def ideal() -> int:
                runs = [ids[a : a + args.batch_size] for a in range(0, len(ids), args.batch_size)]
                for run in runs:
                    decoder.submit([store.image(i) for i in run])
                    decoder.collect()
                return len(ids)

            epochs = measure({"ideal: read and decode": ideal, **cases}, rounds=args.rounds)
            document["epochs"] = {name: timing.summary() for name, timing in epochs.items()}
            print_table(document["epochs"], title="end to end, per source image")
            for loader in loaders:
                loader.close()
            decoder.close()
    write_json(args.json, document)
    return 0


if __name__ == "__main__":
    sys.exit(main())
