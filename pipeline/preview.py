"""Contact sheets: what the loader hands to a trainer, for a person to look at.

Views come from `Loader.replay`, so a sheet shows what training sees, not a second implementation of it.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from figureground.kernels.arrays import Ragged
from figureground.kernels.turns import CHANNEL_ORDERS
from figureground.shards import MaskStore, Store
from figureground.shards.cache import ShardCache
from figureground.shards.cli import open_cache

from .arguments import check_samples
from .augment import estimate_masks
from .fallback import decode_on_host
from .loader import Loader
from .negatives import describe_negative, holds_figure
from .order import DONOR_BLOCK
from .outputs import new_file
from .plan import BACKGROUND_MODES
from .recipe import Recipe
from .whole_numbers import as_integer

_CELL, _GAP, _GROUP_GAP, _TOP, _LEFT = 132, 4, 16, 64, 16
_INK, _SOFT, _PAPER = (28, 30, 34), (110, 114, 122), (250, 250, 248)


@dataclass(frozen=True)
class Group:
    """A group of columns of a sheet."""

    title: str
    columns: tuple[str, ...]
    cells: list[list[np.ndarray]]
    """For each row of the sheet, one (H, W, 3) uint8 image per column."""


def draw_sheet(groups: Sequence[Group], *, title: str, cell: int = _CELL) -> Image.Image:
    """Lay out groups of labelled columns.

    Parameters
    ----------
    groups : sequence of Group
        All with the same number of rows.
    title : str
    cell : int
        Side of a cell [px]; images are fitted into it.

    Returns
    -------
    PIL.Image.Image, RGB
    """
    rows = len(groups[0].cells)
    columns = sum(len(group.columns) for group in groups)
    width = 2 * _LEFT + columns * (cell + _GAP) + (len(groups) - 1) * _GROUP_GAP
    sheet = Image.new("RGB", (width, _TOP + 30 + rows * (cell + _GAP) + _LEFT), _PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((_LEFT, 14), title, _INK, ImageFont.load_default(18))
    heading, small = ImageFont.load_default(15), ImageFont.load_default(12)
    x = _LEFT
    for group in groups:
        draw.text((x, _TOP - 18), group.title, _INK, heading)
        group_width = len(group.columns) * (cell + _GAP) - _GAP
        draw.line((x, _TOP + 3, x + group_width, _TOP + 3), _SOFT, 1)
        for c, name in enumerate(group.columns):
            left = x + c * (cell + _GAP)
            draw.text((left, _TOP + 8), name, _SOFT, small)
            for r in range(rows):
                picture = Image.fromarray(group.cells[r][c])
                picture.thumbnail((cell, cell), Image.Resampling.LANCZOS)
                top = _TOP + 28 + r * (cell + _GAP)
                sheet.paste(picture, (left + (cell - picture.width) // 2, top + (cell - picture.height) // 2))
        x += group_width + _GROUP_GAP
    return sheet


def _originals(store: Store, samples: Sequence[int]) -> list[np.ndarray]:
    pictures = []
    for sample in samples:
        picture = decode_on_host(store.image(sample))
        pictures.append(np.zeros((8, 8, 3), np.uint8) if isinstance(picture, str) else picture)
    return pictures


def _masks(
    store: Store,
    samples: Sequence[int],
    pictures: list[np.ndarray],
    masks_dir: str | Path | None,
    cache: ShardCache | None,
) -> list[np.ndarray]:
    """The sidecar mask of each sample, else the kernel's, resized to its picture."""
    sidecars = MaskStore(store, masks_dir, cache=cache)
    made = []
    for sample, picture in zip(samples, pictures, strict=True):
        encoded = sidecars.mask(sample)
        mask = None if encoded is None or not encoded.size else cv2.imdecode(encoded, cv2.IMREAD_GRAYSCALE)
        if mask is None:
            mask = estimate_masks(Ragged.from_arrays([np.ascontiguousarray(picture)]))[0]
        made.append(cv2.resize(mask, (picture.shape[1], picture.shape[0]), interpolation=cv2.INTER_LINEAR))
    sidecars.close()
    return made


def _cut_out(picture: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The figure on a checkerboard."""
    y, x = np.indices(mask.shape)
    board = np.where((y // 16 + x // 16) % 2, 235, 205)[..., None].astype(np.float32)
    m = mask[..., None].astype(np.float32) / 255
    return (picture * m + board * (1 - m) + 0.5).astype(np.uint8)


def source_group(
    shards: Any, samples: Sequence[int], masks_dir: str | Path | None, cache: ShardCache | None = None
) -> Group:
    """Return the columns original, saliency and mask."""
    with Store(shards, cache=cache) as store:
        pictures = _originals(store, samples)
        masks = _masks(store, samples, pictures, masks_dir, cache)
    heat = [np.ascontiguousarray(cv2.applyColorMap(mask, cv2.COLORMAP_INFERNO)[..., ::-1]) for mask in masks]
    cells = [[p, h, _cut_out(p, m)] for p, h, m in zip(pictures, heat, masks, strict=True)]
    return Group("source", ("original", "saliency", "mask"), cells)


def to_pictures(views: Any, recipe: Recipe) -> np.ndarray:
    """Undo the normalisation of (N, 3, S, S) views: (N, S, S, 3) uint8."""
    array = views.float().cpu().numpy().transpose(0, 2, 3, 1)
    values = (array * np.array(recipe.std, np.float32) + np.array(recipe.mean, np.float32)) * 255
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def _room(samples: int, lanes: int = 1) -> int:
    """Return a batch size for so many samples, a multiple of the order's blocks, groups and lanes."""
    return DONOR_BLOCK * lanes * max(1, -(-samples // (DONOR_BLOCK * lanes)))


def views_group(
    title: str, shards: Any, recipe: Recipe, samples: Sequence[int], *, epoch: int = 0, **options: Any
) -> Group:
    """Return one column for each view of a recipe, for the negatives, and for what its techniques add.

    `options` go to `Loader` (device, seed, masks_dir, ...).
    """
    room = _room(len(samples), options.get("lanes", 1))
    with Loader(shards, recipe, batch_size=room, drop_last=False, **options) as loader:
        batch = loader.replay(list(samples), epoch=epoch)
    columns = [to_pictures(view, recipe) for view in batch["views"]]
    names = ["query", "key"] if len(columns) == 2 else [f"view {i}" for i in range(len(columns))]
    if batch["negatives"] is not None:
        for k in range(batch["negatives"].shape[1]):
            columns.append(to_pictures(batch["negatives"][:, k], recipe))
            names.append("negative")
    for name, pictures in _beside(batch, columns, recipe):
        names.append(name)
        columns.append(pictures)
    return Group(title, tuple(names), [[column[i] for column in columns] for i in range(len(samples))])


def _beside(batch: dict[str, Any], views: list[np.ndarray], recipe: Recipe) -> Iterator[tuple[str, np.ndarray]]:
    """Yield a column for each thing that the recipe's techniques make of the first view."""
    for name in ("corrupted", "mixed"):
        if batch.get(name) and batch[name][0] is not None:
            yield name, to_pictures(batch[name][0], recipe)
    if batch.get("token_masks") and batch["token_masks"][0] is not None:
        hidden = batch["token_masks"][0].cpu().numpy()
        side = math.isqrt(hidden.shape[1])
        patch = views[0].shape[1] // side
        covered = hidden.reshape(-1, side, side).repeat(patch, 1).repeat(patch, 2)
        yield "tokens left", np.where(covered[..., None], np.uint8(128), views[0])


def show_views(args: argparse.Namespace, recipe: Recipe) -> int:
    """`figureground show views`: write a sheet of some samples and print their parameters; returns the exit code."""
    try:
        out = new_file(args.out)
    except ValueError as error:
        raise ValueError(f"show: --out {error}") from error
    if out.suffix.lower() not in Image.registered_extensions():
        raise ValueError(f"show: --out must end in .png, .jpg or another picture's ending, got {args.out}")
    samples, cache = args.index, open_cache(args, args.masks)
    with Store(args.shards, cache=cache) as store:
        check_samples(store)
        as_integer("show: --rows", args.rows, 1)
        as_integer("show: --lanes", args.lanes, 1)
        samples = samples or np.linspace(0, len(store) - 1, min(args.rows, len(store))).astype(int).tolist()
        if not 0 <= min(samples) <= max(samples) < len(store):
            raise ValueError(f"show: --index must be in 0..{len(store) - 1}, got {min(samples)}..{max(samples)}")
    title = recipe.name if recipe.views[0].background is None else f"{recipe.name} + {recipe.views[0].background.mode}"
    options = {
        "device": args.device, "seed": args.seed, "masks_dir": args.masks, "cache": cache, "window": args.window,
        "lanes": args.lanes, "error_budget": 1.0,
    }  # fmt: skip
    groups = [
        source_group(args.shards, samples, args.masks, cache),
        views_group(title, args.shards, recipe, samples, epoch=args.epoch, **options),
    ]
    draw_sheet(groups, title=f"figureground: {title}, epoch {args.epoch}, seed {args.seed}").save(_made(out))
    room = _room(len(samples), args.lanes)
    with Loader(args.shards, recipe, batch_size=room, drop_last=False, **options) as loader:
        batch = loader.replay(samples, epoch=args.epoch)
    background, negatives = recipe.views[0].background, batch["negative_params"]
    if background is not None and negatives is not None:
        replaced = holds_figure(batch["masks"][0].cpu().numpy(), background.min_area)
    for i, key in enumerate(batch["key"]):
        shown = int(batch["index"][i])
        if shown != samples[i]:
            print(f"sample {samples[i]} cannot be decoded: sample {shown} ({key}) takes its place")
        for view, rows in enumerate(batch["params"]):
            print(f"sample {shown} ({key}), view {view}: {describe(rows[i])}")
        if negatives is not None:
            print(f"sample {shown} ({key}), negative: {describe_negative(negatives[i], alone=not replaced[i])}")
    print(f"wrote {args.out}")
    return 0


def _made(path: Path) -> Path:
    """Return a path whose folder is there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def describe(row: np.void) -> str:
    """Say in words what a plan row does, e.g. "crop 232x281+92+53 of 500x375, flip, blur 1.39 px"."""
    x, y, w, h = (float(v) for v in row["crop"])
    steps = [f"crop {w:.0f}x{h:.0f}+{x:.0f}+{y:.0f} of {row['size'][1]}x{row['size'][0]}"]
    if row["figure_share"] >= 0:
        steps.append(
            f"which is crop {row['crop_try']} of those drawn, with {100 * row['figure_share']:.0f} % of the figure"
        )
    if row["source"] != row["sample"]:
        steps.insert(0, f"image of sample {row['source']}")
    if row["flip"]:
        steps.append("flip")
    if row["background"]:
        name = BACKGROUND_MODES[int(row["background"])]
        steps.append(f"background {name}" + (f" from sample {row['donor']}" if name in ("random", "swap") else ""))
    if row["jitter"]:
        names = ("brightness", "contrast", "saturation", "hue")
        steps.append("jitter " + " ".join(f"{names[k]} {row['jitter_factors'][k]:.2f}" for k in row["jitter_order"]))
    if row["grayscale"]:
        steps.append("grayscale")
    if row["blur"]:
        steps.append(f"blur {row['blur_sigma']:.2f} px")
    if row["rotation"]:
        steps.append(f"turned {90 * int(row['rotation'])} degrees to the left")
    if row["channel_order"]:
        steps.append("channels " + "".join("RGB"[c] for c in CHANNEL_ORDERS[int(row["channel_order"])]))
    if row["style"] >= 0:
        steps.append(f"style of sample {row['style']}")
    if row["patch_shuffle"]:
        steps.append("patches shuffled")
    if row["solarize"]:
        steps.append(f"solarize from {row['solarize_threshold']}")
    if row["texture"]:
        steps.append("its texture " + ("from a file" if row["texture"] == 1 else "by random phase"))
    if row["partner"] >= 0:
        steps.append(f"its corrupted copy with blocks of sample {row['partner']}")
    return ", ".join(steps)
