"""Sets of transformed images of one object, by the library's own kernels, for `figureground.bench.invariance`."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from figureground.kernels.arrays import Ragged
from figureground.kernels.background import composite_views
from figureground.kernels.blocks import ZERO, corrupt_blocks
from figureground.kernels.color import jitter_color
from figureground.kernels.ground import inpaint_figures
from figureground.kernels.patches import shuffle_patches
from figureground.kernels.render_rows import full_rows
from figureground.kernels.resample import render_views
from figureground.pipeline.squares import SquareReader
from figureground.shards import MaskStore, Store

KINDS = ("crop", "color", "background", "patches", "occlusion", "illumination")
"""Transformations that `make_sets` knows."""
GRID = 4
"""Cells along a side for "patches"."""
RAMP, GAMMA = 0.6, 0.5
"""For "illumination": the gain goes from 1 - RAMP to 1 + RAMP across the image, the exponent from 2**-GAMMA to 2**GAMMA."""
_CHUNK = 64
_FIGURE = 51  # as the box of `tile_ground`


@dataclass
class Objects:
    """Images that sets are made of."""

    views: np.ndarray
    """(N, 3, size, size) uint8."""
    masks: np.ndarray
    """(N, size, size) uint8."""
    classes: np.ndarray
    """(N,) int64."""
    keys: list[str]


def read_objects(
    shards: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    masks_dir: str | os.PathLike[str] | None = None,
    size: int = 96,
    limit: int = 400,
    need_masks: bool = True,
) -> Objects:
    """Read centre squares of samples that have a class (and a mask), spread evenly over the shards.

    Raises
    ------
    ValueError
        If there are none.
    """
    if limit < 1:
        raise ValueError(f"read_objects: limit must be at least 1, got {limit}")
    with Store(shards) as store, MaskStore(store, masks_dir) as masks, SquareReader(store, masks, size=size) as reader:
        usable = np.flatnonzero((store.targets >= 0) & (masks.present | (not need_masks)))
        if not len(usable):
            what = "a class and a mask" if need_masks else "a class"
            raise ValueError(f"read_objects: shards must have samples with {what}, got none of {len(store)}")
        return _read(store, reader, usable[_spread(len(usable), limit)], need_masks=need_masks)


def read_sets(
    shards: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    pattern: str,
    *,
    size: int = 96,
    limit: int = 400,
    count: int | None = None,
) -> tuple[Objects, np.ndarray]:
    """Read centre squares of whole sets: the samples with a class whose keys agree in the first group of a pattern.

    Parameters
    ----------
    shards : as for `Store`
    pattern : str
        See `sets_of_keys`.
    size : int
        Side of the squares [px].
    limit : int
        Sets, spread evenly over those in the shards.
    count : int, optional
        Images of a set at most, spread evenly over it (default: all).

    Returns
    -------
    Objects
    sets : (N,) int64
        Which set each image belongs to.

    Raises
    ------
    ValueError
        If there is no sample with a class, or the pattern does not fit a key.
    """
    for name, value in (("limit", limit), ("count", 1 if count is None else count)):
        if value < 1:
            raise ValueError(f"read_sets: {name} must be at least 1, got {value}")
    with Store(shards) as store, SquareReader(store, None, size=size) as reader:
        usable = np.flatnonzero(store.targets >= 0)
        if not len(usable):
            raise ValueError(f"read_sets: shards must have samples with a class, got none of {len(store)}")
        group = sets_of_keys([store.key(i) for i in usable.tolist()], pattern)
        members = [usable[group == s] for s in _spread(int(group.max()) + 1, limit)]
        chosen = np.concatenate([m if count is None else m[_spread(len(m), count)] for m in members])
        objects = _read(store, reader, chosen, need_masks=False)
        return objects, sets_of_keys(objects.keys, pattern)


def _spread(count: int, limit: int) -> np.ndarray:
    """Places of at most `limit` of `count` things, evenly spread."""
    return np.linspace(0, count - 1, min(limit, count)).round().astype(np.int64)


def _read(store: Store, reader: SquareReader, chosen: np.ndarray, *, need_masks: bool) -> Objects:
    """Read samples, a few at a time: decoded images are large. Those that cannot be used are left out."""
    views, masks, good = [], [], []
    for first in range(0, len(chosen), _CHUNK):
        squares = reader.read(chosen[first : first + _CHUNK].tolist())
        usable = squares.valid & (squares.mask_valid | (not need_masks))
        views.append(squares.views[usable])
        masks.append(squares.masks[usable])
        good.append(usable)
    kept = chosen[np.concatenate(good)]
    keys = [store.key(i) for i in kept.tolist()]
    return Objects(np.concatenate(views), np.concatenate(masks), store.targets[kept], keys)


def sets_of_keys(keys: Sequence[str], pattern: str) -> np.ndarray:
    """Number the sets of samples whose keys agree in the first group of a pattern.

    Parameters
    ----------
    keys : sequence of str
    pattern : str
        Regular expression with a group, found anywhere in the key.

    Returns
    -------
    (n,) int64

    Raises
    ------
    ValueError
        If the pattern is none, has no group, or a key does not match.

    Examples
    --------
    >>> sets_of_keys(["clip7-000", "clip7-001", "clip2-000"], "(clip[0-9]+)-")
    array([1, 1, 0])
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"sets_of_keys: pattern must be a regular expression, got {pattern!r}: {error}") from None
    if compiled.groups < 1:
        raise ValueError(f"sets_of_keys: pattern must have a group, got {pattern!r}; put round brackets around the id")
    names = []
    for key in keys:
        match = compiled.search(key)
        if match is None or match[1] is None:
            raise ValueError(f"sets_of_keys: pattern must match every key, got {pattern!r} and {key!r}")
        names.append(match[1])
    return np.unique(names, return_inverse=True)[1].astype(np.int64)


def make_sets(views: np.ndarray, masks: np.ndarray, kind: str, *, count: int = 8, seed: int = 0) -> np.ndarray:
    """Transform each view in several ways of one kind.

    Parameters
    ----------
    views : (N, 3, H, W) uint8
    masks : (N, H, W) uint8
        255 is figure.
    kind : str
        "crop": a box of 0.5 to 1 of the area, aspect 3/4 to 4/3, resized; "color": brightness, contrast and saturation
        times 0.6 to 1.4, hue within 0.1 turns; "background": the inpainted ground of another view (N at least 2);
        "patches": a 4 x 4 grid permuted; "occlusion": image i has (i + 1) / (2 * count) of the figure's box covered by blocks
        of ImageNet's mean colour; "illumination": light from one side, image i from a direction in the i-th part of the
        circle: a linear ramp of gains, 0.4 to 1.6 from corner to corner, after a gamma of 0.71 to 1.41.
    count : int
        Images a set.
    seed : int

    Returns
    -------
    (N, count, 3, H, W) uint8

    Raises
    ------
    ValueError
        If an argument is out of range.

    Examples
    --------
    >>> views = np.zeros((2, 3, 8, 8), np.uint8)
    >>> make_sets(views, np.zeros((2, 8, 8), np.uint8), "color", count=3).shape
    (2, 3, 3, 8, 8)
    """
    if kind not in KINDS:
        raise ValueError(f"make_sets: kind must be one of {', '.join(KINDS)}, got {kind!r}")
    if count < 1:
        raise ValueError(f"make_sets: count must be at least 1, got {count}")
    if kind == "background" and len(views) < 2:
        raise ValueError(f"make_sets: views must be at least 2 for new backgrounds, got {len(views)}")
    views, masks = np.ascontiguousarray(views), np.ascontiguousarray(masks)
    rng = np.random.default_rng([seed, KINDS.index(kind)])
    out = np.empty((len(views), count, *views.shape[1:]), np.uint8)
    images = Ragged.from_arrays([np.ascontiguousarray(v.transpose(1, 2, 0)) for v in views]) if len(views) else None
    grounds = inpaint_figures(views, masks) if kind == "background" else None
    for i in range(count):
        if images is None:
            break
        if kind == "crop":
            out[:, i] = _crops(images, views.shape[2:], rng)
        elif kind == "color":
            out[:, i] = _colors(views, rng)
        elif grounds is not None:
            other = (np.arange(len(views)) + rng.integers(1, len(views), len(views))) % len(views)
            out[:, i] = composite_views(views, grounds[other], masks)
        elif kind == "patches":
            out[:, i] = shuffle_patches(views, seeds=_seeds(rng, len(views)), grid=GRID)[0]
        elif kind == "illumination":
            out[:, i] = _lit(views, (i + rng.random(len(views))) / count, rng)
        else:
            out[:, i] = _occluded(views, masks, (i + 1) / (2 * count), rng)
    return out


def _seeds(rng: np.random.Generator, count: int) -> np.ndarray:
    return rng.integers(0, 2**63, count, np.uint64)


def _crops(images: Ragged, size: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    rows = full_rows(images.sizes)
    wide = images.sizes[:, ::-1].astype(np.float64)
    aspect = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3), len(rows)))
    area = rng.uniform(0.5, 1, len(rows)) * wide.prod(1)
    box = np.minimum(np.stack([np.sqrt(area * aspect), np.sqrt(area / aspect)], 1), wide)
    rows["box"][:, :2] = rng.random((len(rows), 2)) * (wide - box)
    rows["box"][:, 2:] = box
    return render_views(images, rows, (size[0], size[1]))[0]


def _colors(views: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    factors = np.empty((len(views), 4), np.float32)
    factors[:, :3] = rng.uniform(0.6, 1.4, (len(views), 3))
    factors[:, 3] = rng.uniform(-0.1, 0.1, len(views))
    order = rng.permuted(np.tile(np.arange(4, dtype=np.uint8), (len(views), 1)), axis=1)
    return jitter_color(views, factors=factors, order=order)


def _lit(views: np.ndarray, turns: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Light each view from a direction [turns]: 255 * (v / 255) ** gamma * (1 + RAMP * p), p linear, -1 and 1 in two corners."""
    height, width = views.shape[2:]
    y, x = ((2 * np.arange(side) + 1) / side - 1 for side in (height, width))
    gamma = 2 ** rng.uniform(-GAMMA, GAMMA, len(views))
    out = np.empty_like(views)
    for n, angle in enumerate(2 * np.pi * turns):
        place = (np.sin(angle) * y[:, None] + np.cos(angle) * x) / (abs(np.sin(angle)) + abs(np.cos(angle)))
        levels = 255 * (np.arange(256) / 255) ** gamma[n]
        out[n] = np.minimum(np.rint(levels[views[n]] * (1 + RAMP * place)), 255)
    return out


def _occluded(views: np.ndarray, masks: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Cover a share of each figure's box (of the whole view where there is no figure) with blocks."""
    height, width = views.shape[2:]
    blank = np.zeros((len(views), 3, height, width), np.uint8)
    blocks = corrupt_blocks(blank, seeds=_seeds(rng, len(views)), max_share=share, fill="zero")[1]
    covers = np.zeros_like(masks)
    for n, mask in enumerate(masks):
        ys, xs = np.nonzero(mask >= _FIGURE)
        top, left, bottom, right = (
            (ys.min(), xs.min(), ys.max() + 1, xs.max() + 1) if len(ys) else (0, 0, height, width)
        )
        box = int(right - left), int(bottom - top)
        covers[n, top:bottom, left:right] = cv2.resize(blocks[n], box, interpolation=cv2.INTER_NEAREST)
    flat = np.broadcast_to(np.array(ZERO, np.uint8)[:, None, None], views.shape)
    return composite_views(np.ascontiguousarray(flat), views, covers)
