"""Are our views those of the papers' code? Same parameters, our pixels against Pillow's; and the draws against torchvision's.

    python -m figureground.bench parity [--images DIR] [--count 20] [--draws 20000] [--json PATH]

Each operation and whole recipes run with parameters from our plans, once by our kernels and once by Pillow, NumPy and SciPy (and
by torchvision, where it is installed). The first table says how far the pixels are apart, in grey levels, and why. The
second compares the distributions of drawn parameters with a sampler in plain Python. Exit code 1: a row is over its bound.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from figureground.bench.given import file_to_write
from figureground.bench.harness import write_json
from figureground.bench.parity_draws import DRAWN, LEAST_P, compare_draws, draw_table
from figureground.bench.parity_reference import PillowReference, make_view, references
from figureground.bench.photos import write_photos
from figureground.kernels.arrays import Ragged
from figureground.kernels.background import composite_views
from figureground.kernels.blur import gaussian_blur
from figureground.kernels.color import jitter_color, solarize
from figureground.kernels.normalize import normalize_views
from figureground.kernels.resample import Interpolation, full_rows, render_views
from figureground.pipeline import recipes
from figureground.pipeline.augment import Augmenter
from figureground.pipeline.plan import draw_plan
from figureground.pipeline.recipe import Recipe
from figureground.pipeline.tables import Slots

RECIPES = ("moco_v2", "simclr", "byol", "barlow_twins", "dino", "dinov2", "swav", "mae", "eval")
_NOISE = 1e-3  # grey levels that float32 normalisation alone may cost

# Largest and mean difference allowed [grey levels], and the reason, by row.
WHY = {
    "crop + resize": (1, 0.2, "Pillow rounds to 8 bits between its two passes; we keep 14 bits and round once"),
    "eval crop": (1, 0.2, "the same; the centre is cut before the resize instead of after it, which changes nothing more"),
    "crop + resize (bicubic)": (1, 0.2, "the same; both cut to 0..255 after each pass"),
    "flip": (0, 0, "a copy"),
    "brightness": (0, 0, "the same arithmetic"),
    "contrast": (0, 0, "the same arithmetic, and the same rounding of the view's mean grey"),
    "saturation": (0, 0, "the same arithmetic"),
    "hue": (0, 0, "the same 8-bit HSV, rounded where Pillow rounds"),
    "grayscale": (0, 0, "the same weights in 16-bit integers"),
    "blur": (1, 0.1, "a true Gaussian like torchvision's; weights have 16 bits and end at 4 sigma, so halves may round elsewhere"),
    "blur (box)": (60, 1.5, "Pillow approximates the Gaussian by three box blurs; torchvision and we do not"),
    "solarize": (0, 0, "the same arithmetic"),
    "normalise": (0, 0, "a table of torchvision's own float32 results"),
    "composite": (0, 0, "Pillow's rounding of the quotient by 255"),
    "recipe": (40, 0.25, "the resize's single levels, which contrast, saturation and the 8-bit hue then enlarge"),
    "recipe (plain)": (1, 0.2, "the resize's single levels"),
    "recipe (blur)": (80, 0.5, "the resize's single levels, and box blurs in the authors' code"),
}  # fmt: skip
AUTHORS = {
    "moco_v2": ("recipe (blur)", PillowReference(box_blur=True)),
    "swav": ("recipe (blur)", PillowReference(box_blur=True)),
    "barlow_twins": ("recipe (blur)", PillowReference(box_blur=True)),
    "dino": ("recipe (blur)", PillowReference(box_blur=True)),
}
"""Recipes whose authors' code asks Pillow for something that we replace (see `figureground.pipeline.recipes`)."""


@dataclass(frozen=True)
class Comparison:
    """One row of the first table; differences in grey levels, 0..255."""

    name: str
    against: str
    most: float
    mean: float
    differing: float
    """Share of pixels of which some channel differs."""
    bound_most: float
    bound_mean: float
    why: str

    @property
    def within(self) -> bool:
        """True if both differences are inside their bounds."""
        return self.most <= self.bound_most + _NOISE and self.mean <= self.bound_mean + _NOISE


def compare(name: str, against: str, why: str, got: np.ndarray, want: np.ndarray, scale: Any = 1.0) -> Comparison:
    """Measure how far two batches are apart.

    Parameters
    ----------
    name, against : str
    why : str
        A key of `WHY`.
    got, want : (N, 3, H, W) arrays
    scale : float or (3, 1, 1) array
        Grey levels per unit.

    Returns
    -------
    Comparison
    """
    apart = np.abs(got.astype(np.float64) - want) * scale
    bound_most, bound_mean, reason = WHY[why]
    differing = float((apart > _NOISE).any(1).mean())
    return Comparison(name, against, float(apart.max()), float(apart.mean()), differing, bound_most, bound_mean, reason)


def load_images(folder: str | Path, count: int) -> list[Image.Image]:
    """Open the first `count` images below a folder, by name, as RGB.

    Raises
    ------
    ValueError
        If there is none.
    """
    endings = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
    paths = sorted(p for p in Path(folder).rglob("*") if p.suffix.lower() in endings)[:count]
    if not paths:
        raise ValueError(f"parity: images must be a folder with images below it, got none in {folder}")
    return [Image.open(path).convert("RGB") for path in paths]


def _planar(images: Sequence[Any]) -> np.ndarray:
    return np.ascontiguousarray(np.stack([np.asarray(image) for image in images]).transpose(0, 3, 1, 2))


def _plan(recipe: Recipe, view: int, images: Sequence[Image.Image]) -> np.ndarray:
    sizes = np.array([(image.height, image.width) for image in images])
    return draw_plan(recipe, view, seed=0, epoch=0, samples=np.arange(len(images)), sizes=sizes)


def _batch(images: Sequence[Image.Image]) -> Ragged:
    return Ragged.from_arrays([np.ascontiguousarray(np.asarray(image)) for image in images])


def _rendered(
    images: Sequence[Image.Image], plan: np.ndarray, size: int, flip: bool = False, how: Interpolation = "bilinear"
) -> np.ndarray:
    batch = _batch(images)
    rows = full_rows(batch.sizes)
    rows["box"], rows["clip"], rows["flip"] = plan["crop"], plan["crop_clip"], flip
    views: np.ndarray = render_views(batch, rows, (size, size), interpolation=how)[0]
    return views


def compare_geometry(images: Sequence[Image.Image]) -> list[Comparison]:
    """Compare crop and resize, the evaluation crop and the flip."""
    plan, view = _plan(recipes.simclr(), 0, images), recipes.eval().views[0]
    plan_eval, size = _plan(recipes.eval(), 0, images), view.crop.size
    got, got_eval, rows = _rendered(images, plan, size), _rendered(images, plan_eval, size), []
    for reference in references():
        want = _planar([reference.crop(image, row, size) for image, row in zip(images, plan)])
        rows.append(compare("crop + resize", reference.name, "crop + resize", got, want))
        want = _planar([reference.center_crop(image, view.crop.resize, size) for image in images])
        rows.append(compare("eval crop", reference.name, "eval crop", got_eval, want))
        bicubic = replace(reference, bicubic=True)
        want = _planar([bicubic.crop(image, row, size) for image, row in zip(images, plan)])
        sharp = _rendered(images, plan, size, how="bicubic")
        rows.append(compare("crop + resize, bicubic", bicubic.name, "crop + resize (bicubic)", sharp, want))
    rows.append(compare("flip", "NumPy", "flip", _rendered(images, plan, size, flip=True), got[..., ::-1]))
    return rows


def compare_colors(images: Sequence[Image.Image]) -> list[Comparison]:
    """Compare each operation on finished crops, with the factors of SimCLR's plan and BYOL's thresholds."""
    plan = _plan(recipes.simclr(), 0, images)
    crops = [PillowReference().crop(image, row, 224) for image, row in zip(images, plan)]
    views, factors, sigma = _planar(crops), plan["jitter_factors"], plan["blur_sigma"]
    thresholds = _plan(recipes.byol(), 1, images)["solarize_threshold"]
    blurred, inverted = gaussian_blur(views, sigma), solarize(views, thresholds)
    every, box = np.ones(len(images), bool), PillowReference(box_blur=True)
    rows = []
    for reference in references():
        for step, name in enumerate(("brightness", "contrast", "saturation", "hue")):
            order = np.full((len(images), 4), 255, np.uint8)
            order[:, 0] = step
            want = [reference.adjust(crop, step, float(factor)) for crop, factor in zip(crops, factors[:, step])]
            rows.append(
                compare(name, reference.name, name, jitter_color(views, factors=factors, order=order), _planar(want))
            )
        gray = jitter_color(views, factors=factors, order=np.full_like(order, 255), grayscale=every)
        rows.append(
            compare("grayscale", reference.name, "grayscale", gray, _planar([reference.gray(c) for c in crops]))
        )
        want = [reference.blur(crop, float(s)) for crop, s in zip(crops, sigma)]
        exact = "SciPy" if reference.name == "Pillow" else reference.name
        rows.append(compare("blur", exact, "blur", blurred, _planar(want)))
        want = [reference.solarize(crop, int(threshold)) for crop, threshold in zip(crops, thresholds)]
        rows.append(compare("solarize", reference.name, "solarize", inverted, _planar(want)))
    want = [box.blur(crop, float(s)) for crop, s in zip(crops, sigma)]
    rows.append(compare("blur", box.name, "blur (box)", blurred, _planar(want)))
    return [*rows, _compare_normalize(views), _compare_composite(views)]


def _compare_normalize(views: np.ndarray) -> Comparison:
    import torch

    recipe = recipes.moco_v2()
    mean, std = (torch.tensor(values)[:, None, None] for values in (recipe.mean, recipe.std))
    want = torch.from_numpy(views).to(torch.float32).div(255).sub(mean).div(std).numpy()
    got = normalize_views(views, recipe.mean, recipe.std)
    return compare("normalise", "torch", "normalise", got, want, 255 * std.numpy().astype(np.float64))


def _compare_composite(views: np.ndarray) -> Comparison:
    masks = np.random.default_rng(0).integers(0, 256, (len(views), *views.shape[2:]), dtype=np.uint8)
    grounds = np.roll(views, 1, axis=0)
    images = [[Image.fromarray(np.ascontiguousarray(v.transpose(1, 2, 0))) for v in a] for a in (views, grounds)]
    want = _planar([Image.composite(f, g, Image.fromarray(m)) for f, g, m in zip(*images, masks)])
    return compare("composite", "Pillow", "composite", composite_views(views, grounds, masks), want)


def run_recipe(recipe: Recipe, images: Sequence[Image.Image]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Make all views of a recipe with our kernels.

    Parameters
    ----------
    recipe : Recipe
        Without a background.
    images : sequence of RGB images

    Returns
    -------
    plans : list of (N,) PLAN_DTYPE
    views : list of (N, 3, S, S) float32, normalised
    """
    count, views = len(images), range(len(recipe.views))
    plans = [_plan(recipe, view, images) for view in views]
    donors = np.full((len(views) + 1, count), -1, np.int32)
    slots = Slots(np.arange(count, dtype=np.int32), donors, np.zeros(count, bool), np.zeros(count))

    def empty(shape: tuple[int, ...], kind: str) -> np.ndarray:
        return np.empty(shape, np.float32 if kind == "view" else np.uint8)

    return plans, Augmenter(recipe).augment(_batch(images), None, plans, slots, empty)[0]


def compare_recipe(name: str, images: Sequence[Image.Image]) -> list[Comparison]:
    """Compare all views of a preset, against torchvision's transforms and, where it differs, its authors' code."""
    recipe = recipes.PRESETS[name]()
    plans, views = run_recipe(recipe, images)
    scale = 255 * np.array(recipe.std)[:, None, None]
    plain = all(view.jitter is None for view in recipe.views)
    cases = [("recipe (plain)" if plain else "recipe", reference) for reference in references()]
    rows = []
    for why, reference in [*cases, *([AUTHORS[name]] if name in AUTHORS else [])]:
        parts = []
        for view, plan, got in zip(recipe.views, plans, views):
            made = _planar([make_view(reference, image, row, view) for image, row in zip(images, plan)])
            parts.append(compare(name, reference.name, why, got, normalize_views(made, recipe.mean, recipe.std), scale))
        sizes = np.array([view.crop.size**2 for view in recipe.views], float)
        mean, differing = (
            float(np.average([getattr(p, f) for p in parts], weights=sizes)) for f in ("mean", "differing")
        )
        most = max(part.most for part in parts)
        of = f"{name}, {len(parts)} view{'s' * (len(parts) > 1)}"
        rows.append(Comparison(of, reference.name, most, mean, differing, *WHY[why]))
    return rows


def pixel_table(rows: Sequence[Comparison]) -> str:
    """Write the first table in Markdown."""
    lines = ["| operation | against | max | mean | pixels that differ | why |", "|---|---|---|---|---|---|"]
    for r in rows:
        mark = "" if r.within else " **over its bound**"
        lines.append(
            f"| {r.name} | {r.against} | {r.most:.3g}{mark} | {r.mean:.2g} | {100 * r.differing:.2g} % | {r.why} |"
        )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Compare, print both tables, write the JSON; returns 1 if something is over its bound."""
    parser = argparse.ArgumentParser("python -m figureground.bench parity")
    parser.add_argument("--images", type=Path, help="folder of images (default: scikit-image's photographs)")
    parser.add_argument("--count", type=int, default=20, help="images to compare")
    parser.add_argument("--draws", type=int, default=20_000, help="draws of each sampler")
    parser.add_argument("--json", type=file_to_write)
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        if args.images is None:
            write_photos(folder, count=args.count)
        try:
            images = load_images(args.images or folder, args.count)
        except ValueError as error:
            print(error, file=sys.stderr)
            return 2
    rows = compare_geometry(images) + compare_colors(images)
    for name in RECIPES:
        rows += compare_recipe(name, images)
    drawn = {f"{name} {view}": compare_draws(name, view, args.draws, seed) for seed, (name, view) in enumerate(DRAWN)}
    print(f"Pixels of {len(images)} images, in grey levels:\n\n{pixel_table(rows)}\n")
    print(f"{args.draws} draws against torchvision's definitions in plain Python:\n\n{draw_table(drawn)}")
    write_json(args.json, {"pixels": [asdict(row) for row in rows], "draws": drawn})
    chance = all(result["p"] >= LEAST_P for results in drawn.values() for result in results.values())
    return 0 if chance and all(row.within for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
