"""Data with a background shortcut: figures pasted on scenes, where the scene gives the class away in training but not in one test.

A class is a group of figures and has a kind of scene of its own. A training image shows its class's scene with probability `bias`,
else one of another class. The test sets show the same figures, posed anew, on scenes that training never saw:

`in_distribution` as in training; `swapped` always on a scene of another class; `mixed_same` on the scene of another image of
its class and `mixed_rand` on that of a random class (`choose_donors`, as in `figureground bgsets`); `only_scene` without figure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from figureground.pipeline.bgsets_donors import choose_donors
from figureground.shards import Store
from figureground.shards.masks import MaskWriter
from figureground.shards.writer import pack

FIGURE_SHARE = (0.6, 1.0)
"""Range of the longer side of a figure, before it is turned, in sides of the image."""
TEST_SETS = ("in_distribution", "swapped", "mixed_same", "mixed_rand", "only_scene")


@dataclass(frozen=True)
class Parts:
    """What images are composed of."""

    source: str
    """In a few words, for reports."""
    figures: list[list[np.ndarray]]
    """By class: (H, W, 4) uint8 RGBA, cut to the figure."""
    scenes: list[list[np.ndarray]]
    """By class: (H, W, 3) uint8 RGB, two at least; a part is kept for the tests."""


@dataclass(frozen=True)
class Composed:
    """A set of composed images."""

    images: np.ndarray
    """(N, S, S, 3) uint8 RGB."""
    masks: np.ndarray
    """(N, S, S) uint8, 255 = figure."""
    labels: np.ndarray
    """(N,) int64."""
    figures: np.ndarray
    """(N,) int64: which of the class's figures."""
    grounds: np.ndarray
    """(N,) int64: the class whose scene is shown."""


def draw_grounds(labels: np.ndarray, classes: int, bias: float, rng: np.random.Generator) -> np.ndarray:
    """Draw the class whose scene goes behind each figure: its own with probability `bias`, else another, each as likely.

    Parameters
    ----------
    labels : (N,) int64
    classes : int
        Two at least.
    bias : float
        0..1.
    rng : Generator

    Returns
    -------
    (N,) int64

    Examples
    --------
    >>> draw_grounds(np.array([0, 1, 1]), 2, 0.0, np.random.default_rng(0))
    array([1, 0, 0])
    """
    other = (labels + rng.integers(1, classes, len(labels))) % classes
    return np.where(rng.random(len(labels)) < bias, labels, other)


def derange(count: int, rng: np.random.Generator) -> np.ndarray:
    """Draw a permutation (count,) int64 without a fixed point: one cycle through all (Sattolo 1986).

    Raises
    ------
    ValueError
        If `count` is below 2.

    Examples
    --------
    >>> derange(2, np.random.default_rng(0))
    array([1, 0])
    """
    if count < 2:
        raise ValueError(f"derange: count must be at least 2, got {count}")
    order = np.arange(count)
    for last in range(count - 1, 0, -1):
        other = int(rng.integers(0, last))
        order[last], order[other] = order[other], order[last]
    return order


def compose_train(parts: Parts, count: int, *, size: int, bias: float, seed: int) -> Composed:
    """Compose the training set: the same number of images of each class, up to one.

    Parameters
    ----------
    parts : Parts
    count : int
        Number of images.
    size : int
        Side [px].
    bias : float
        Share on a scene of their own class, in expectation.
    seed : int

    Returns
    -------
    Composed
    """
    rng = np.random.default_rng([seed, 1])
    labels, figures = _choose_figures(parts, count, rng)
    grounds = draw_grounds(labels, len(parts.figures), bias, rng)
    scenes = _cut_scenes(_share(parts.scenes, test=False), grounds, size, rng)
    posed = _pose_all(parts, labels, figures, size, rng)
    return _paste(posed, scenes, labels, figures, grounds)


def compose_tests(parts: Parts, count: int, *, size: int, bias: float, seed: int) -> dict[str, Composed]:
    """Compose the test sets: the same posed figures in all, on other scenes (arguments as for `compose_train`).

    Returns
    -------
    dict of Composed by name of `TEST_SETS`
        `only_scene` has empty masks, and the label of its scene.
    """
    rng = np.random.default_rng([seed, 2])
    classes = len(parts.figures)
    labels, figures = _choose_figures(parts, count, rng)
    shelf = _share(parts.scenes, test=True)
    posed = _pose_all(parts, labels, figures, size, rng)
    own = _cut_scenes(shelf, labels, size, rng)
    sets = {}
    for name, share in (("in_distribution", bias), ("swapped", 0.0)):
        grounds = draw_grounds(labels, classes, share, rng)
        other = _cut_scenes(shelf, grounds, size, rng)
        sets[name] = _paste(posed, other, labels, figures, grounds)
    donors = choose_donors(np.arange(count), labels, seed=seed)
    for name, variant in (("mixed_same", "Mixed-Same"), ("mixed_rand", "Mixed-Rand")):
        sets[name] = _paste(posed, own[donors[variant]], labels, figures, labels[donors[variant]])
    sets["only_scene"] = _paste(np.zeros_like(posed), own, labels, figures, labels)
    return sets


def _choose_figures(parts: Parts, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    labels = rng.permutation(np.arange(count) % len(parts.figures))
    return labels, np.array([rng.integers(len(parts.figures[c])) for c in labels], np.int64)


def _share(scenes: list[list[np.ndarray]], *, test: bool) -> list[list[np.ndarray]]:
    """Every third scene, and at least one, is the tests'."""
    return [[s for i, s in enumerate(shelf) if (i % 3 == 1) == test] for shelf in scenes]


def _cut_scenes(
    shelf: list[list[np.ndarray]], grounds: np.ndarray, size: int, rng: np.random.Generator
) -> np.ndarray:  # fmt: skip
    """(N, S, S, 3): a square of 50 to 100 % of the shorter side, mirrored or not."""
    cut = np.empty((len(grounds), size, size, 3), np.uint8)
    for i, ground in enumerate(grounds):
        scene = shelf[ground][int(rng.integers(len(shelf[ground])))]
        side = max(2, int(min(scene.shape[:2]) * rng.uniform(0.5, 1.0)))
        y, x = (int(rng.integers(0, extent - side + 1)) for extent in scene.shape[:2])
        way = cv2.INTER_AREA if side > size else cv2.INTER_LINEAR
        square = cv2.resize(scene[y : y + side, x : x + side], (size, size), interpolation=way)
        cut[i] = square[:, ::-1] if rng.random() < 0.5 else square
    return cut


def _pose_all(
    parts: Parts, labels: np.ndarray, figures: np.ndarray, size: int, rng: np.random.Generator
) -> np.ndarray:  # fmt: skip
    """(N, S, S, 4) uint8, colours premultiplied by the alpha."""
    return np.stack([_pose(parts.figures[c][f], size, rng) for c, f in zip(labels, figures, strict=True)])


def _pose(figure: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """Scale, turn, mirror, place and tint a figure."""
    height, width = figure.shape[:2]
    scale = size * rng.uniform(*FIGURE_SHARE) / max(height, width)
    angle = np.deg2rad(rng.uniform(-25, 25))
    mirror = -1.0 if rng.random() < 0.5 else 1.0
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) @ np.diag([mirror, 1.0])
    half = np.abs(turn) @ (width / 2, height / 2)  # of the turned box; it stays inside where there is room
    centre = rng.uniform(np.minimum(half, size / 2), np.maximum(size - half, size / 2))
    shift = centre - turn @ (width / 2, height / 2)
    picture = figure.astype(np.float32)
    picture[..., :3] *= picture[..., 3:] / 255
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    if scale < 0.7:  # warpAffine does not average: shrink first
        small = max(1, round(width * scale)), max(1, round(height * scale))
        turn = turn @ np.diag([width / small[0], height / small[1]])
        picture = np.asarray(cv2.resize(picture, small, interpolation=way), np.float32)
    posed = cv2.warpAffine(picture, np.column_stack([turn, shift]), (size, size), flags=cv2.INTER_LINEAR)
    gain = rng.uniform(0.75, 1.2) * rng.uniform(0.93, 1.07, 3)
    posed[..., :3] = np.minimum(posed[..., :3] * gain.astype(np.float32), posed[..., 3:])
    return np.rint(posed.clip(0, 255)).astype(np.uint8)


def _paste(
    posed: np.ndarray, scenes: np.ndarray, labels: np.ndarray, figures: np.ndarray, grounds: np.ndarray
) -> Composed:  # fmt: skip
    alpha = posed[..., 3:].astype(np.float32) / 255
    images = np.rint(posed[..., :3] + (1 - alpha) * scenes).clip(0, 255).astype(np.uint8)
    return Composed(images, posed[..., 3].copy(), labels, figures, grounds)


def write_set(composed: Composed, folder: Path) -> str:
    """Pack a set into shards of JPEG files (quality 95, full colour resolution); returns their glob.

    The key of image i of class c is `c/i` in decimal digits.
    """
    files, shards = folder / "files", folder / "shards"
    flags = [cv2.IMWRITE_JPEG_QUALITY, 95, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    for i, (image, label) in enumerate(zip(composed.images, composed.labels, strict=True)):
        place = files / f"{label:03d}" / f"{i:06d}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(place), image[..., ::-1], flags)
    pack(files, shards, shard_size_mb=64, progress=False, shuffle_seed=0)
    return str(shards / "*.tar")


def write_masks(shards: str, masks: np.ndarray, folder: Path, *, method: str) -> Path:
    """Write sidecars of masks (N, S, S) uint8, by image; returns their folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with Store(shards) as store:
        for number, shard in enumerate(store.shards):
            with MaskWriter(shard, method=method, masks_dir=folder) as writer:
                for i in range(len(store)):
                    if store.shard_of(i) == number:
                        key = store.key(i)
                        writer.add(key, masks[place_of(key)])
    return folder


def place_of(key: str) -> int:
    """Return which image of its set a key names.

    Examples
    --------
    >>> place_of("003/000017")
    17
    """
    return int(key.rpartition("/")[2])


def count_own(grounds: Sequence[int] | np.ndarray, labels: Sequence[int] | np.ndarray) -> float:
    """Return the share of images on a scene of their own class, 0..1."""
    return float(np.mean(np.asarray(grounds) == np.asarray(labels)))
