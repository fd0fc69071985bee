"""The whole path on real photographs: pack, index, check, masks, two epochs of each background augmentation, a contact sheet.

    python -m figureground.bench demo --device cpu --out demo [--images FOLDER]

`make demo` runs it. It prints images/s of each stage and writes OUT/contact_sheet.png.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np

from figureground.bench.given import check_counts, check_device, folder_to_write, in_one_sentence
from figureground.bench.photos import write_photos
from figureground.kernels.guard import inspect_bytes
from figureground.pipeline import Loader, recipes
from figureground.pipeline.masks_job import make_masks
from figureground.pipeline.preview import Group, draw_sheet, source_group, views_group
from figureground.pipeline.textures_job import make_textures
from figureground.shards import Store
from figureground.shards.check import check
from figureground.shards.writer import pack

MODES: tuple[tuple[recipes.BackgroundMode, str], ...] = (
    ("remove", "BG_RM"),
    ("random", "BG_Random"),
    ("swap", "BG_Swaps"),
)
_WARM_UP = 16


@contextmanager
def _stage(name: str, images: int | None = None) -> Iterator[None]:
    began, cpu = time.perf_counter(), time.process_time()
    yield
    wall, cpu = time.perf_counter() - began, time.process_time() - cpu
    rate = f"{images / wall:9.1f} images/s  {1e3 * cpu / images:6.2f} ms CPU an image" if images else f"{wall:9.1f} s"
    print(f"  {name:<34}{rate}", flush=True)


def _stream(shards: str, recipe: recipes.Recipe, device: str, batch_size: int, name: str) -> None:
    with Loader(shards, recipe, batch_size=batch_size, device=device, drop_last=False) as loader:
        for _ in loader:  # compiles the kernels, fills the caches
            pass
        with _stage(f"{name}, 2 epochs", 2 * len(loader.dataset)):
            for epoch in range(2):
                loader.set_epoch(epoch)
                for _ in loader:
                    pass


def run_demo(images: str | None, out: Path, *, device: str, batch_size: int, rows: int) -> Path:
    """Run all stages; returns the path of the contact sheet.

    Raises
    ------
    ValueError
        If `images` is no folder or holds no image that can be read.
    """
    shards_dir = out / "shards"
    if shards_dir.is_dir():
        shutil.rmtree(shards_dir)
    out.mkdir(parents=True, exist_ok=True)
    if images is None:
        source = out / "photos"
        with _stage("cut photographs"):
            write_photos(source)
    else:
        source = Path(images).expanduser()
        if not source.is_dir():
            raise ValueError(f"demo: images must be a folder, got {images!r}")
    with _stage("pack"):
        report = pack(source, shards_dir, shard_size_mb=8, progress=False, shuffle_seed=0)
    print(f"  {report}")
    shards = str(shards_dir / "*.tar")
    with Store(shards) as store:
        count = len(store)
    with _stage("check", count):
        findings = check(shards, inspect=inspect_bytes)
    for finding in findings[:5]:
        print(f"  {finding}")
    make_masks(shards, method="fused", device=device, limit=min(_WARM_UP, count), out=out / "warm", progress=False)
    shutil.rmtree(out / "warm")
    with _stage("masks (fused saliency, 112 px)", count):
        make_masks(shards, method="fused", device=device, progress=False)
    with _stage("textures (quilting, 224 px)", count):
        make_textures(shards, progress=False)
    base = recipes.moco_v2()
    batch_size = min(batch_size, max(8, count))
    _stream(shards, base, device, batch_size, "moco_v2 views")
    for mode, name in MODES:
        _stream(shards, base.with_background(mode, p=0.2), device, batch_size, f"moco_v2 + {name} (p = 0.2)")
    with _stage("contact sheet"):
        sheet = draw_sheet(
            _groups(shards, count, rows, device, write_grounds(out / "grounds")),
            title="figureground: background augmentation, each view at p = 1",
        )
        path = out / "contact_sheet.png"
        sheet.save(path)
    return path


def _of_each_class(shards: str, rows: int) -> list[int]:
    """Choose samples of as many classes as there are rows."""
    with Store(shards) as store:
        targets = store.targets
    _, first = np.unique(targets, return_index=True)
    rest = np.setdiff1d(np.linspace(0, len(targets) - 1, min(4 * rows, len(targets))).astype(int), first)
    return [int(i) for i in [*first[np.linspace(0, len(first) - 1, min(rows, len(first))).astype(int)], *rest][:rows]]


def write_grounds(folder: Path) -> Path:
    """Write six plain patterns, as a user's own backgrounds: stripes, checks and a gradient in two colours each."""
    folder.mkdir(parents=True, exist_ok=True)
    y, x = np.mgrid[:300, :400]
    weights = {"stripes": (x + y) // 20 % 2, "checks": (x // 25 + y // 25) % 2, "gradient": x / 400}
    for name, weight in weights.items():
        for number, (one, two) in enumerate((((40, 90, 160), (235, 235, 225)), ((30, 120, 70), (240, 200, 90)))):
            picture = weight[..., None] * np.array(one) + (1 - weight[..., None]) * np.array(two)
            cv2.imwrite(str(folder / f"{name}-{number}.png"), picture.astype(np.uint8)[..., ::-1])
    return folder


def _groups(shards: str, count: int, rows: int, device: str, grounds: Path) -> list[Group]:
    samples = _of_each_class(shards, min(rows, count))
    base = recipes.moco_v2()
    groups = [source_group(shards, samples, None), views_group("MoCo-v2", shards, base, samples, device=device)]
    for mode, name in MODES:
        recipe = base.with_background(mode, p=1.0)
        groups.append(views_group(name, shards, recipe, samples, device=device))
    inpainted = base.with_background("random", p=1.0, source="inpainted")
    strip = base.with_background("random", p=1.0, source="strip")
    own = base.with_background("random", p=1.0)
    shuffled = base.with_patch_shuffle(7, p=1.0).with_negatives("patch")
    groups.append(views_group("BG_Random, donor inpainted", shards, inpainted, samples, device=device))
    groups.append(views_group("BG_Random, donor's strip tiled", shards, strip, samples, device=device))
    groups.append(views_group("BG_Random, own backgrounds", shards, own, samples, device=device, backgrounds=grounds))
    for name, low, high in (("crops with 0.8 of the figure", 0.8, 1.0), ("crops with 0.3 at most", 0.0, 0.3)):
        cropped = base.with_figure_crops(min_share=low, max_share=high, tries=20)
        groups.append(views_group(name, shards, cropped, samples, device=device))
    groups.append(views_group("patch shuffle, patch negative", shards, shuffled, samples, device=device))
    texture = views_group("texture", shards, base.with_negatives("texture"), samples, device=device)
    groups.append(Group("texture", ("negative",), [row[2:] for row in texture.cells]))
    return [*groups, *_technique_groups(shards, samples, count, device)]


def _technique_groups(shards: str, samples: list[int], count: int, device: str) -> list[Group]:
    base, one = recipes.moco_v2(), recipes.mae()
    with Store(shards) as store:
        classes = store.targets
    techniques: list[tuple[str, recipes.Recipe, int, tuple[str, ...]]] = [
        ("quilted texture", base.with_negatives("texture-file"), 2, ("negative",)),
        ("SiT / GMML", one.with_block_corruption(), 0, ("clean", "corrupted")),
        ("MixedAE", one.with_group_mixing(group=4), 1, ("mixed",)),
        ("MAE", one.with_token_masks(), 1, ("random",)),
        ("led by the figure", one.with_token_masks(by="figure"), 1, ("figure hidden",)),
        ("", one.with_token_masks(by="proportional", ratio=0.5), 1, ("by shares",)),
        ("", one.with_token_masks(by="block", ratio=0.5), 1, ("blocks",)),
        ("patch shuffle", one.with_patch_shuffle(14, p=1.0, region="figure"), 0, ("of the figure",)),
        ("", one.with_patch_shuffle(14, p=1.0, region="ground"), 0, ("of the ground",)),
        ("label augmentation", base.with_label_augmentation(), 0, ("query", "key")),
        ("crops by the object's box", base.with_object_crops(), 0, ("query", "key")),
        ("BSS, one style a view", base.with_style_transfer(block=max(2, count)), 0, ("query", "key")),
    ]
    if np.bincount(classes[classes >= 0], minlength=1).max() > 1:
        techniques.append(("pairs of a class", base.with_pairs("class"), 0, ("query", "key")))
    found = []
    for title, recipe, first, names in techniques:
        cells = views_group(title, shards, recipe, samples, device=device).cells
        found.append(Group(title, names, [row[first : first + len(names)] for row in cells]))
    return found


@in_one_sentence
def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line and run the demo; returns the exit code."""
    parser = argparse.ArgumentParser(
        "python -m figureground.bench demo", description=__doc__.splitlines()[0] if __doc__ else ""
    )
    parser.add_argument("--images", help="folder of your own images (default: photographs of scikit-image)")
    parser.add_argument("--out", type=folder_to_write, default=Path("demo"))
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N (default: cpu)")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--rows", type=int, default=10, help="rows of the contact sheet (default: 10)")
    args = parser.parse_args(argv)
    check_counts("--batch-size", args.batch_size, "--rows", args.rows)
    check_device(args.device)
    print(f"figureground demo on the {'CPU' if args.device == 'cpu' else 'GPU (' + args.device + ')'}")
    try:
        path = run_demo(args.images, args.out, device=args.device, batch_size=args.batch_size, rows=args.rows)
    except (ValueError, RuntimeError) as error:
        print(error, file=sys.stderr)
        return 2
    print(f"look at {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
