"""Pictures whose true mask is known without a label: figures that all teachers agree on, pasted on grounds without them.

A figure is taken from an image where the teachers' masks cover each other, in one piece and off the border. A ground is either such
an image with its figure filled from around it, or a crop of any other. The figure's colors are drawn towards the ground's, its
place and size are drawn anew, and it may leave the frame in part. All draws are a pure function of (seed, epoch, step).
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .saliency_targets import generator

AGREEMENT = 0.7
"""Least overlap (intersection over union) of the teachers' masks of a figure."""
AREA = (0.03, 0.5)
"""Bounds of a figure's share of its image."""
BORDER = 0.08
"""Most of the border that may be a figure's."""
ONE_PIECE = 0.9
"""Least share of a figure that hangs together."""
FILLED = 0.8
"""Share of grounds that are images whose figure was filled; the rest are crops of images that gave none."""
_COMPOSE, _SPREAD, _LONGEST, _AWAY = 3, 4, (0.3, 1.25), 0.65  # purpose; px; of the frame; of half the frame


@dataclass(frozen=True)
class Figures:
    """Images whose figure is sure."""

    rows: np.ndarray
    """(F,) int64: which images."""
    boxes: np.ndarray
    """(F, 4) float64: middle x and y in -1..1, width and height as shares of the side."""


def find_figures(maps: np.ndarray) -> Figures:
    """Return the images on whose figure all teachers agree.

    Parameters
    ----------
    maps : (N, K, S, S) uint8
        A map of each image by each of K teachers; the first one's is the figure's mask.

    Examples
    --------
    >>> maps = np.zeros((2, 2, 20, 20), np.uint8)
    >>> maps[:, :, 4:12, 6:14] = 255
    >>> maps[1, 1] = 0  # on the second image they disagree
    >>> found = find_figures(maps)
    >>> found.rows.tolist(), [round(float(x), 2) for x in found.boxes[0]]
    ([0], [0.0, -0.2, 0.4, 0.4])
    """
    masks = maps > 127
    both, either = masks.all(1).sum((1, 2)), masks.any(1).sum((1, 2))
    first, side = masks[:, 0], maps.shape[-1]
    area = first.mean((1, 2))
    rim = np.concatenate([first[:, 0], first[:, -1], first[:, :, 0], first[:, :, -1]], 1).mean(1)
    sure = (both >= AGREEMENT * either) & (area > AREA[0]) & (area < AREA[1]) & (rim <= BORDER)
    rows, boxes = [], []
    for row in np.flatnonzero(sure):
        _, _, parts, _ = cv2.connectedComponentsWithStats(first[row].astype(np.uint8))
        x, y, width, height, size = parts[1 + parts[1:, 4].argmax()]
        if size >= ONE_PIECE * first[row].sum():
            rows.append(row)
            boxes.append([(2 * x + width) / side - 1, (2 * y + height) / side - 1, width / side, height / side])
    return Figures(np.array(rows, np.int64), np.array(boxes).reshape(-1, 4))


def fill_holes(images: Tensor, known: Tensor) -> Tensor:
    """Fill what is not known with the colors around it, coarser the deeper inside.

    Parameters
    ----------
    images : (N, 3, S, S) float
    known : (N, 1, S, S) float
        1 where a pixel is known, 0 where not.

    Returns
    -------
    (N, 3, S, S) float
        Equal to `images` where known.

    Notes
    -----
    Means of known pixels over squares of 2, 4, 8, ... px, laid down from the coarsest ("push-pull").

    Examples
    --------
    >>> images = torch.full((1, 3, 8, 8), 7.0)
    >>> images[..., 3:5, 3:5] = 99
    >>> filled = fill_holes(images, (images[:, :1] < 50).float())
    >>> round(float(filled.min()), 3), round(float(filled.max()), 3)
    (7.0, 7.0)
    """
    levels = [(images * known, known)]
    while levels[-1][0].shape[-1] > 1:
        levels.append(tuple(F.avg_pool2d(x, 2, ceil_mode=True) for x in levels[-1]))  # type: ignore[arg-type]
    filled = levels[-1][0] / levels[-1][1].clamp(min=1e-6)
    for depth, (total, weight) in reversed(list(enumerate(levels[:-1]))):
        coarse = F.interpolate(filled, total.shape[2:], mode="bilinear", align_corners=False)
        share = (weight * (4 if depth else 1)).clamp(max=1)
        filled = total / weight.clamp(min=1e-6) * share + coarse * (1 - share)
    return filled


@dataclass(frozen=True)
class PasteDraws:
    """The random numbers of n compositions."""

    figures: np.ndarray
    """(n,) int64: of `Figures`."""
    figure_boxes: np.ndarray
    """(n, 2, 3) float32: affine maps from the picture's coordinates to the figure's image, both -1..1."""
    filled: np.ndarray
    """(n,) bool: the ground is a filled image."""
    grounds: np.ndarray
    """(n,) float64 in 0..1: which ground."""
    ground_boxes: np.ndarray
    """(n, 2, 3) float32."""
    toward: np.ndarray
    """(n, 1, 1, 1) float32 in 0..1: how far the figure's mean color goes to the ground's; 0 for half of them."""
    gains: np.ndarray
    """(2, n, 1, 1, 1) float32: contrast of figure and ground."""
    offsets: np.ndarray
    """(2, n, 3, 1, 1) float32 [levels]."""
    soften: np.ndarray
    """(n, 1, 1, 1) float32, 0 or 0.5: share of a 3x3 mean."""
    noise: np.ndarray
    """(n, 3, side, side) float32 [levels]."""


def draw_pastes(seed: int, epoch: int, step: int, count: int, boxes: np.ndarray, side: int) -> PasteDraws:
    """Draw compositions of figures with these boxes, as a pure function of the arguments.

    Examples
    --------
    >>> boxes = np.array([[0.0, 0.0, 0.5, 0.25]])
    >>> draws = draw_pastes(0, 1, 2, 4, boxes, 32)
    >>> draws.figures.tolist(), draws.figure_boxes.shape, draws.noise.shape
    ([0, 0, 0, 0], (4, 2, 3), (4, 3, 32, 32))
    """
    rng = generator(seed, _COMPOSE, epoch, step)
    figures = rng.integers(0, len(boxes), count)
    x, y, width, height = boxes[figures].T
    length = np.exp(rng.uniform(np.log(_LONGEST[0]), np.log(_LONGEST[1]), count))
    scale, squeeze = np.clip(np.maximum(width, height) / length, 0.25, 3), np.exp(rng.uniform(-0.2, 0.2, count))
    away = np.clip(rng.normal(0, 0.25, (2, count)), -_AWAY, _AWAY)
    figure_boxes = np.zeros((count, 2, 3), np.float32)
    figure_boxes[:, 0, 0], figure_boxes[:, 1, 1] = scale * squeeze * rng.choice((-1, 1), count), scale / squeeze
    figure_boxes[:, 0, 2] = x - figure_boxes[:, 0, 0] * away[0]
    figure_boxes[:, 1, 2] = y - figure_boxes[:, 1, 1] * away[1]
    crop = rng.uniform(0.4, 1, count)
    ground_boxes = np.zeros((count, 2, 3), np.float32)
    ground_boxes[:, 0, 0], ground_boxes[:, 1, 1] = crop * rng.choice((-1, 1), count), crop
    ground_boxes[:, :, 2] = (1 - crop)[:, None] * rng.uniform(-1, 1, (count, 2))
    one = (count, 1, 1, 1)
    return PasteDraws(
        figures,
        figure_boxes,
        rng.random(count) < FILLED,
        rng.random(count),
        ground_boxes,
        np.where(rng.random(one) < 0.5, rng.random(one), 0).astype(np.float32),
        rng.uniform(0.8, 1.2, (2, *one)).astype(np.float32),
        rng.uniform(-12, 12, (2, count, 3, 1, 1)).astype(np.float32),
        np.where(rng.random(one) < 0.5, 0.5, 0).astype(np.float32),
        rng.normal(0, 3, (count, 3, side, side)).astype(np.float32),
    )


class Composer:
    """Composes pictures of the images it was given.

    Parameters
    ----------
    images : (N, 3, S, S) uint8 tensor
    maps : (N, K, S, S) uint8 tensor
        The teachers' maps.

    Raises
    ------
    ValueError
        If no image has a figure that the teachers agree on.
    """

    def __init__(self, images: Tensor, maps: Tensor) -> None:
        self.figures = find_figures(maps.cpu().numpy())
        if not len(self.figures.rows):
            raise ValueError(
                f"Composer: the teachers must agree on the figure of at least one image, got none of {len(images)}; "
                f"give more images, or fewer teachers"
            )
        rows = torch.from_numpy(self.figures.rows).to(images.device)
        self._images = images
        self._masks = maps[:, :1]
        holes = F.max_pool2d((maps[rows].amax(1, keepdim=True) > 50).float(), 2 * _SPREAD + 1, 1, _SPREAD)
        others = np.setdiff1d(np.arange(len(images)), self.figures.rows)
        self._filled = fill_holes(images[rows].float(), 1 - holes).round().to(torch.uint8)
        self._others = images[torch.from_numpy(others).to(images.device)]

    def compose(self, draws: PasteDraws) -> tuple[Tensor, Tensor]:
        """Return pictures (n, 3, side, side) uint8 and their masks (n, 1, side, side) in 0..1."""
        device, side = self._images.device, draws.noise.shape[-1]
        toward, gains, offsets, soften, noise = (
            torch.from_numpy(a).to(device)
            for a in (draws.toward, draws.gains, draws.offsets, draws.soften, draws.noise)
        )
        rows = torch.from_numpy(self.figures.rows[draws.figures]).to(device)
        figure = _sample(self._images[rows], draws.figure_boxes, side, "border")
        mask = _sample(self._masks[rows], draws.figure_boxes, side, "zeros") / 255
        mask = ((mask - 0.5) * 1.6 + 0.5).clamp(0, 1)
        ground = _sample(self._grounds(draws), draws.ground_boxes, side, "reflection")
        middle = (figure * mask).sum((2, 3), keepdim=True) / mask.sum((2, 3), keepdim=True).clamp(min=1)
        figure = figure + toward * (ground.mean((2, 3), keepdim=True) - middle)
        parts = [_recolored(x, gains[i], offsets[i]) for i, x in enumerate((figure, ground))]
        picture = F.avg_pool2d(parts[0] * mask + parts[1] * (1 - mask), 2).clamp(0, 255)
        blurred = F.avg_pool2d(F.pad(picture, (1, 1, 1, 1), mode="replicate"), 3, 1)
        picture = (picture + soften * (blurred - picture) + noise).clamp(0, 255)
        return picture.round().to(torch.uint8), F.avg_pool2d(mask, 2)

    def _grounds(self, draws: PasteDraws) -> Tensor:
        filled, others = (len(x) for x in (self._filled, self._others))
        chosen = []
        for is_filled, share in zip(draws.filled, draws.grounds):
            bank, count = (self._filled, filled) if is_filled or not others else (self._others, others)
            chosen.append(bank[int(share * count)])
        return torch.stack(chosen)


def _sample(images: Tensor, boxes: np.ndarray, side: int, padding: str) -> Tensor:
    """Sample uint8 images at twice the side, so that a mean of 2x2 is left to smooth them."""
    grid = F.affine_grid(
        torch.from_numpy(boxes).to(images.device), [len(images), 1, 2 * side, 2 * side], align_corners=False
    )
    return F.grid_sample(images.float(), grid, padding_mode=padding, align_corners=False)


def _recolored(images: Tensor, gain: Tensor, offset: Tensor) -> Tensor:
    middle = images.mean((1, 2, 3), keepdim=True)
    return (images - middle) * gain + middle + offset
