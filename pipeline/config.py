"""What each view of a sample goes through: frozen dataclasses of distributions, never of draws (`plan` makes those).

`recipe.Recipe` puts views together; presets are in `recipes`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

BackgroundMode = Literal["remove", "random", "swap"]
Fill = Literal["constant", "grey", "mean", "noise"]
Source = Literal["whole", "inpainted"]
Region = Literal["all", "figure", "ground"]
NegativeKind = Literal["patch", "texture"]
Interpolation = Literal["bilinear", "bicubic"]


def _probability(owner: str, **values: float) -> None:
    for name, value in values.items():
        if not 0.0 <= value <= 1.0:
            raise ValueError(f"{owner}: {name} must be in [0, 1], got {value}")


def _range(owner: str, name: str, low_high: tuple[float, float], lowest: float, highest: float) -> None:
    low, high = low_high
    if not lowest <= low <= high <= highest:
        raise ValueError(f"{owner}: {name} must be (low, high) within [{lowest}, {highest}], got {low_high}")


@dataclass(frozen=True)
class Crop:
    """Where a view looks: torchvision's RandomResizedCrop, or a resize and centre crop."""

    size: int = 224
    """Side of the square view [px]."""
    scale: tuple[float, float] = (0.08, 1.0)
    """Range of the crop's share of the image's area."""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Range of the crop's width / height; drawn uniformly in its logarithm."""
    resize: int = 0
    """0: random crop. Else: the shorter side is resized to this many px and the centre `size` px are cut out."""
    interpolation: Interpolation = "bilinear"
    """Pillow's filter of that name, antialiased, for the image and its background donor; masks are always bilinear."""

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"Crop: size must be at least 1 px, got {self.size}")
        if self.resize and self.resize < self.size:
            raise ValueError(f"Crop: resize must be 0 or at least size = {self.size} px, got {self.resize}")
        if self.interpolation not in ("bilinear", "bicubic"):
            raise ValueError(f"Crop: interpolation must be 'bilinear' or 'bicubic', got {self.interpolation!r}")
        _range("Crop", "scale", self.scale, 1e-6, 1.0)
        _range("Crop", "ratio", self.ratio, 1e-3, 1e3)


@dataclass(frozen=True)
class Jitter:
    """torchvision's ColorJitter on 8-bit images, the four steps in a random order, applied with probability `p`."""

    brightness: float = 0.4
    """Factor range is [max(0, 1 - b), 1 + b]."""
    contrast: float = 0.4
    """As brightness."""
    saturation: float = 0.4
    """As brightness."""
    hue: float = 0.1
    """Shift range is [-h, h] turns, at most 0.5."""
    p: float = 0.8
    """Probability of the whole step."""

    def __post_init__(self) -> None:
        _probability("Jitter", p=self.p)
        for name in ("brightness", "contrast", "saturation"):
            if getattr(self, name) < 0:
                raise ValueError(f"Jitter: {name} must not be negative, got {getattr(self, name)}")
        _range("Jitter", "hue", (self.hue, self.hue), 0.0, 0.5)


@dataclass(frozen=True)
class Blur:
    """Gaussian blur with a standard deviation drawn uniformly."""

    sigma: tuple[float, float] = (0.1, 2.0)
    """Range of the standard deviation [px of the view]."""
    p: float = 0.5
    """Probability."""

    def __post_init__(self) -> None:
        _probability("Blur", p=self.p)
        _range("Blur", "sigma", self.sigma, 0.0, 8.0)


@dataclass(frozen=True)
class Background:
    """Background augmentation of a view (Ryali, Schwab and Morcos 2021: BG_RM, BG_Random, BG_Swaps).

    The paper's exact probabilities and grey levels are not published in its abstract and no code was released; the range of
    `p` (0.1 to 0.3; always-on hurts) is second-hand, so everything is a parameter.
    """

    mode: BackgroundMode = "swap"
    """"remove": a fill; "random": another image; "swap": another image, a different one for each view, and one more
    negative that shows the query's background with another image inside the query's figure."""
    p: float = 0.2
    """Probability, drawn for each view on its own."""
    fill: Fill = "grey"
    """For "remove": "constant" colour, one random "grey" level a view, the view's "mean" colour, or "noise"."""
    color: tuple[int, int, int] = (124, 116, 104)
    """For fill="constant": RGB, 0..255. The default is ImageNet's mean, that is zero after normalisation."""
    min_area: float = 0.02
    """A mask whose mean is below this share of the image leaves the image alone."""
    max_area: float = 0.95
    """A mask whose mean is above this share leaves the image alone: there is no background."""
    source: Source = "whole"
    """What of the other image becomes the ground: all of it, or its "inpainted" background, whose figure is filled from around it
    (as in the paper's BG_Random); needs the donor's mask, without which the whole image is taken."""
    other_class: bool = False
    """Take donors of another class where labels are known and the sample's block of the order has one (as Whac-A-Mole's BG Aug
    does with ImageNet's labels); else any donor."""

    def __post_init__(self) -> None:
        _probability("Background", p=self.p, min_area=self.min_area, max_area=self.max_area)
        if self.mode not in ("remove", "random", "swap"):
            raise ValueError(f"Background: mode must be 'remove', 'random' or 'swap', got {self.mode!r}")
        if self.fill not in ("constant", "grey", "mean", "noise"):
            raise ValueError(f"Background: fill must be 'constant', 'grey', 'mean' or 'noise', got {self.fill!r}")
        if self.source not in ("whole", "inpainted"):
            raise ValueError(f"Background: source must be 'whole' or 'inpainted', got {self.source!r}")
        if len(self.color) != 3 or not all(0 <= c <= 255 for c in self.color):
            raise ValueError(f"Background: color must be three values in 0..255, got {self.color}")
        if self.min_area >= self.max_area:
            raise ValueError(f"Background: min_area must be below max_area, got {self.min_area} and {self.max_area}")


@dataclass(frozen=True)
class PatchShuffle:
    """Permute the cells of a grid over a view."""

    grid: int = 7
    """Cells along each side; pixels beyond the last whole cell stay."""
    p: float = 0.2
    """Probability."""
    fraction: float = 1.0
    """Share of the cells that are permuted among themselves."""
    region: Region = "all"
    """"figure" or "ground": only cells whose mean mask is at least, or below, one half (a view without a mask: no cell)."""

    def __post_init__(self) -> None:
        _probability("PatchShuffle", p=self.p, fraction=self.fraction)
        if not 2 <= self.grid <= 64:
            raise ValueError(f"PatchShuffle: grid must be 2..64 cells, got {self.grid}")
        if self.region not in ("all", "figure", "ground"):
            raise ValueError(f"PatchShuffle: region must be 'all', 'figure' or 'ground', got {self.region!r}")


@dataclass(frozen=True)
class Negatives:
    """Extra negatives made of the augmented query (Ge et al. 2021, "Robust contrastive learning using negative samples with
    diminished semantics"). The loss's weight alpha belongs to the trainer."""

    kind: NegativeKind = "patch"
    """"patch": square patches of the query, drawn with replacement, tiled; "texture": the query's own spectrum with random
    phase (Galerne, Gousseau and Morel 2011), in place of the paper's offline texture synthesis."""
    count: int = 1
    """Negatives per query."""
    side: tuple[int, int] = (16, 72)
    """For "patch": range of the patches' side [px], both ends included. The paper's code has 16..72, 16..56 and 16..48 in three
    places; the experiments' is the default. Ends above the view are cut to it."""

    def __post_init__(self) -> None:
        if self.kind not in ("patch", "texture"):
            raise ValueError(f"Negatives: kind must be 'patch' or 'texture', got {self.kind!r}")
        if self.count < 1:
            raise ValueError(f"Negatives: count must be at least 1, got {self.count}")
        if not 1 <= self.side[0] <= self.side[1]:
            raise ValueError(f"Negatives: side must be (low, high) with 1 <= low <= high [px], got {self.side}")


@dataclass(frozen=True)
class View:
    """One view: crop, flip, background, then colour jitter, grayscale, blur, patch shuffle, solarize, in this order."""

    crop: Crop = field(default_factory=Crop)
    flip_p: float = 0.5
    """Probability of a horizontal flip."""
    jitter: Jitter | None = None
    grayscale_p: float = 0.0
    """Probability of grayscale (three equal channels)."""
    blur: Blur | None = None
    solarize_p: float = 0.0
    """Probability of solarization."""
    solarize_threshold: int = 128
    """Values at or above it are inverted, 0..255."""
    background: Background | None = None
    patch_shuffle: PatchShuffle | None = None

    def __post_init__(self) -> None:
        _probability("View", flip_p=self.flip_p, grayscale_p=self.grayscale_p, solarize_p=self.solarize_p)
        if not 0 <= self.solarize_threshold <= 256:
            raise ValueError(f"View: solarize_threshold must be in 0..256, got {self.solarize_threshold}")
