"""What the saliency network learns from: a plan, the images of shards, small and in memory, and the draws of its training."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from figureground.kernels.arrays import Ragged
from figureground.kernels.render_rows import full_rows
from figureground.kernels.resample import render_views
from figureground.shards import Store

FIRST_SHARE = 0.7
"""Share of the epochs in phase 1 of the kind "alone"."""
KINDS = {"refine": (64, 24), "alone": (96, 64)}
"""What may be trained, each with its default size [px] and width: see `TrainPlan.kind`."""
_CHUNK = 64
_ORDER, _CROPS = 1, 2  # purposes of draws


@dataclass(frozen=True)
class TrainPlan:
    """What a training depends on, besides its images."""

    teachers: tuple[str, ...] = ("fused", "mb+", "cells", "rbd")
    """Methods of `figureground.kernels.saliency`."""
    epochs: int = 40
    """Of all phases together; at least 2."""
    size: int = KINDS["refine"][0]
    """Side of the crops [px]."""
    seed: int = 0
    batch_size: int = 16
    width: int = KINDS["refine"][1]
    """Channels of the network's first stage."""
    kind: str = "refine"
    """"refine": a network that corrects the first teacher's map (`saliency_refine_steps`); "alone": one that sees the image
    alone and learns the teachers' consensus (`saliency_steps`)."""

    @property
    def side(self) -> int:
        """Side at which images are kept [px]."""
        return 2 * self.size if self.kind == "refine" else round(self.size * 7 / 6)

    @property
    def seen(self) -> int:
        """Side at which the finished network sees images [px]."""
        return self.size * 3 // 2 if self.kind == "refine" else self.side

    @property
    def first(self) -> int:
        """Epochs of phase 1: all of the kind "refine", which has but one."""
        if self.kind == "refine":
            return self.epochs
        return min(self.epochs - 1, max(1, round(FIRST_SHARE * self.epochs)))


@dataclass(frozen=True)
class TrainImages:
    """Images to learn from."""

    pixels: np.ndarray
    """(N, 3, S, S) uint8: whole images."""
    unreadable: int
    """Samples that were passed over: no image, or none that can be decoded."""

    def digest(self) -> str:
        """SHA-256 of the pixels."""
        return hashlib.sha256(self.pixels.tobytes()).hexdigest()


def read_images(
    shards: str | os.PathLike[str] | Sequence[str | os.PathLike[str]], side: int, *, limit: int, threads: int = 1
) -> TrainImages:
    """Decode samples once and keep them small: 3 side^2 bytes each.

    Parameters
    ----------
    shards : str, path or sequence of these
        As for `Store`.
    side : int
        Images are resized to squares of this side [px].
    limit : int
        At most as many samples, spread evenly over all.
    threads : int
        Decoder threads.

    Raises
    ------
    ValueError
        If no image can be decoded.
    ShardError
        As `Store`.
    """
    from .decode import Decoder

    parts, unreadable = [np.empty((0, 3, side, side), np.uint8)], 0
    store, decoder = Store(shards), Decoder(_CHUNK, threads=threads)
    try:
        samples = np.unique(np.linspace(0, len(store) - 1, min(limit, len(store))).round().astype(int))
        for first in range(0, len(samples), _CHUNK):
            files = [store.image(int(i)) for i in samples[first : first + _CHUNK]]
            decoded = decoder.decode(files)
            valid = np.flatnonzero(decoded.valid)
            unreadable += len(files) - len(valid)
            if len(valid):
                images = decoded.images
                chosen = Ragged(images.addresses[valid], images.sizes[valid], images.channels, images.owner)
                parts.append(render_views(chosen, full_rows(chosen.sizes), (side, side))[0])
    finally:
        decoder.close()
        store.close()
    pixels = np.concatenate(parts)
    if not len(pixels):
        raise ValueError(f"read_images: shards must hold images that can be decoded, got {unreadable} that cannot")
    return TrainImages(pixels, unreadable)


@dataclass(frozen=True)
class Draws:
    """The random numbers of one batch of n images."""

    boxes: np.ndarray
    """(n, 2, 3) float32: affine maps from the crop's coordinates to the image's, both -1..1; the flip is in them."""
    gain: np.ndarray
    """(n, 1, 1, 1) float32: contrast."""
    offset: np.ndarray
    """(n, 3, 1, 1) float32: added to each color [levels]."""
    colors: np.ndarray
    """(n, 3) int64: order of the color channels; half of the images keep theirs."""


def draw_order(seed: int, epoch: int, count: int) -> np.ndarray:
    """Return the order of an epoch's images: (count,) int64, a pure function of its arguments."""
    return generator(seed, _ORDER, epoch, 0).permutation(count)


def draw_crops(seed: int, epoch: int, step: int, count: int, *, least: float) -> Draws:
    """Draw crops of a share `least` to 1 of the area, flips and colors, as a pure function of the arguments.

    Examples
    --------
    >>> draws = draw_crops(0, 1, 2, 4, least=0.25)
    >>> scale = np.abs(draws.boxes[:, 0, 0])
    >>> bool((scale >= 0.5).all() and (scale <= 1).all()), draws.colors.shape
    (True, (4, 3))
    """
    rng = generator(seed, _CROPS, epoch, step)
    scale = np.sqrt(rng.uniform(least, 1, count))
    boxes = np.zeros((count, 2, 3))
    boxes[:, 0, 0], boxes[:, 1, 1] = scale * rng.choice((-1, 1), count), scale
    boxes[:, :, 2] = (1 - scale)[:, None] * rng.uniform(-1, 1, (count, 2))
    gain, offset = rng.uniform(0.7, 1.3, (count, 1, 1, 1)), rng.uniform(-25, 25, (count, 3, 1, 1))
    colors = rng.permuted(np.tile(np.arange(3), (count, 1)), axis=1)
    colors[rng.random(count) < 0.5] = np.arange(3)
    return Draws(boxes.astype(np.float32), gain.astype(np.float32), offset.astype(np.float32), colors)


def generator(seed: int, purpose: int, epoch: int, step: int) -> np.random.Generator:
    """Return the generator of a purpose (1 order, 2 crops, 3 compositions), an epoch and a step."""
    key, counter = np.array([seed, purpose], np.uint64), np.array([0, 0, epoch, step], np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))
