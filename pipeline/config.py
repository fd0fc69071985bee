"""What each view of a sample goes through: frozen dataclasses of distributions, never of draws (`plan` makes those).

`recipe.Recipe` puts views together; presets are in `recipes`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from numbers import Integral
from typing import Literal

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

BackgroundMode = Literal["remove", "random", "swap"]
Fill = Literal["constant", "grey", "mean", "noise"]
Source = Literal["whole", "inpainted", "strip"]
Donors = Literal["block", "past", "store"]
Region = Literal["all", "figure", "ground"]
NegativeKind = Literal["patch", "texture", "texture-file"]
PairKind = Literal["clip", "class", "group"]
Anchor = Literal["image", "object"]
Interpolation = Literal["bilinear", "bicubic"]


def _probability(owner: str, **values: float) -> None:
    for name, value in values.items():
        if not 0.0 <= value <= 1.0:
            raise ValueError(f"{owner}: {name} must be in [0, 1], got {value}")


def whole_numbers(owner: str, **values: object) -> None:
    """Raise ValueError if a value is no integer."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, Integral):
            raise ValueError(f"{owner}: {name} must be a whole number, got {value!r}")


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
    figure: tuple[float, float] | None = None
    """Range of the share of the figure (of the mask's mass) that lies inside the crop; None: any. See `figure_crops`."""
    tries: int = 10
    """With `figure`: random crops that are drawn, 1..100; the first in the range is taken, else the nearest to it."""
    anchor: Anchor = "image"
    """"object": a random crop's centre lies in the box of the object; see `figureground.pipeline.anchors`."""
    interpolation: Interpolation = "bilinear"
    """Pillow's filter of that name, antialiased, for the image and its background donor; masks are always bilinear."""

    def __post_init__(self) -> None:
        whole_numbers("Crop", size=self.size, resize=self.resize, tries=self.tries)
        if self.size < 1:
            raise ValueError(f"Crop: size must be at least 1 px, got {self.size}")
        if self.resize and self.resize < self.size:
            raise ValueError(f"Crop: resize must be 0 or at least size = {self.size} px, got {self.resize}")
        if self.anchor not in ("image", "object") or (self.resize and self.anchor == "object"):
            raise ValueError(f"Crop: anchor must be 'image', or 'object' with resize 0, got {self.anchor!r}")
        if self.interpolation not in ("bilinear", "bicubic"):
            raise ValueError(f"Crop: interpolation must be 'bilinear' or 'bicubic', got {self.interpolation!r}")
        _range("Crop", "scale", self.scale, 1e-6, 1.0)
        _range("Crop", "ratio", self.ratio, 1e-3, 1e3)
        if self.figure is not None:
            _range("Crop", "figure", self.figure, 0.0, 1.0)
            if self.resize:
                raise ValueError(
                    f"Crop: figure must be None for a centre crop (resize = {self.resize}), got {self.figure}"
                )
            if self.anchor == "object":
                raise ValueError(
                    f"Crop: figure must be None for anchor='object', which moves the crop, got {self.figure}"
                )
        if not 1 <= self.tries <= 100:
            raise ValueError(f"Crop: tries must be 1..100, got {self.tries}")


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
    taps: int | None = None
    """Weights along each axis, odd: torchvision's `kernel_size`, where it is so small that it cuts the bell; None: all of it."""

    def __post_init__(self) -> None:
        _probability("Blur", p=self.p)
        _range("Blur", "sigma", self.sigma, 0.0, 8.0)
        if self.taps is not None:
            whole_numbers("Blur", taps=self.taps)
            if self.taps < 1 or self.taps % 2 == 0:
                raise ValueError(f"Blur: taps must be an odd number of at least 1, or None, got {self.taps}")


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
    """What of the other image becomes the ground: all of it; its "inpainted" background, whose figure is filled from around it
    (as in the paper's BG_Random); or its background with the largest "strip" beside the figure's box tiled over that box (Mo et
    al. 2021). The last two need the donor's mask, without which, or without any strip, the whole image is taken."""
    other_class: bool = False
    """Take donors of another class where labels are known and one of the candidates (the sample's block of the order; of "past" and
    "store" seven that are drawn) is of one (as Whac-A-Mole's BG Aug does with ImageNet's labels); else any donor, as for a sample
    without a label: `Loader.stats()["other_class_unmet"]` counts these. No label at all is an error. Donors of samples
    with partners (`Recipe.with_pairs`) are of another clip, class or group in any case, where a candidate is."""
    donors: Donors = "block"
    """Where other images come from: the sample's "block" of eight in the epoch's order, which costs no further decoding; the `past`
    positions before it; or anywhere in the "store". The last two decode one more image a view that is drawn; see `donors`."""
    past: int = 256
    """For donors="past": how many positions back, at least 1."""

    def __post_init__(self) -> None:
        _probability("Background", p=self.p, min_area=self.min_area, max_area=self.max_area)
        if self.mode not in ("remove", "random", "swap"):
            raise ValueError(f"Background: mode must be 'remove', 'random' or 'swap', got {self.mode!r}")
        if self.fill not in ("constant", "grey", "mean", "noise"):
            raise ValueError(f"Background: fill must be 'constant', 'grey', 'mean' or 'noise', got {self.fill!r}")
        if self.source not in ("whole", "inpainted", "strip"):
            raise ValueError(f"Background: source must be 'whole', 'inpainted' or 'strip', got {self.source!r}")
        if self.donors not in ("block", "past", "store"):
            raise ValueError(f"Background: donors must be 'block', 'past' or 'store', got {self.donors!r}")
        whole_numbers("Background", past=self.past)
        if self.past < 1:
            raise ValueError(f"Background: past must be at least 1 position, got {self.past}")
        levels = self.color if isinstance(self.color, Sequence) else ()
        if len(levels) != 3 or not all(isinstance(c, Integral) and 0 <= c <= 255 for c in levels):
            raise ValueError(f"Background: color must be three values in 0..255, whole numbers, got {self.color}")
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
        whole_numbers("PatchShuffle", grid=self.grid)
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
    phase (Galerne, Gousseau and Morel 2011), in place of the paper's offline texture synthesis; "texture-file": the paper's, from
    the sidecars of `figureground textures`, with the same random numbers as the query (its crop, drawn for the texture's size, its
    flip, colours and blur). A sample whose texture is missing gets one by random phase; `params` say so (`texture`)."""
    count: int = 1
    """Negatives per query."""
    side: tuple[int, int] = (16, 72)
    """For "patch": range of the patches' side [px], both ends included. The paper's code has 16..72, 16..56 and 16..48 in three
    places; the experiments' is the default. Ends above the view are cut to it."""

    def __post_init__(self) -> None:
        if self.kind not in ("patch", "texture", "texture-file"):
            raise ValueError(f"Negatives: kind must be 'patch', 'texture' or 'texture-file', got {self.kind!r}")
        whole_numbers("Negatives", count=self.count)
        if self.count < 1:
            raise ValueError(f"Negatives: count must be at least 1, got {self.count}")
        if self.kind == "texture-file" and self.count != 1:
            raise ValueError(
                f"Negatives: count must be 1 for kind 'texture-file', one texture a sample, got {self.count}"
            )
        if not 1 <= self.side[0] <= self.side[1] or not all(isinstance(end, Integral) for end in self.side):
            raise ValueError(
                f"Negatives: side must be whole numbers (low, high) with 1 <= low <= high [px], got {self.side}"
            )


@dataclass(frozen=True)
class LabelAugmentation:
    """One transformation of a view that its label is joined with (Lee, Hwang and Shin 2020, "Self-supervised label augmentation
    via input transformations"), drawn uniformly; `label_targets.joint_targets` makes the labels."""

    rotation: bool = True
    """0, 1, 2 or 3 quarter turns to the left, of the view and its mask."""
    colors: bool = True
    """One of the six orders of the colour channels."""

    def __post_init__(self) -> None:
        if not (self.rotation or self.colors):
            raise ValueError("LabelAugmentation: rotation or colors must be True, got False for both")

    @property
    def transforms(self) -> int:
        """How many there are: 4, 6 or 24."""
        return (4 if self.rotation else 1) * (6 if self.colors else 1)


@dataclass(frozen=True)
class Pair:
    """Another sample whose image a view shows, in place of the sample's own."""

    kind: PairKind
    """"clip": a frame of the same clip (samples whose keys have the same folder, `clip/frame`); "class": an image of the same
    target (all targets are read when the loader is made); "group": of the same group, as the loader's `groups` says."""
    gap: tuple[int, int] | None = None
    """For "clip": range of the distance in time, before or after, counted in stored frames, both ends included; every frame
    there is as likely. None: any other frame. 0 is the sample's own."""
    p: float = 1.0
    """Probability; otherwise, and where there is no such sample, the view shows the sample's own image."""

    def __post_init__(self) -> None:
        _probability("Pair", p=self.p)
        if self.kind not in ("clip", "class", "group"):
            raise ValueError(f"Pair: kind must be 'clip', 'class' or 'group', got {self.kind!r}")
        if self.gap is not None and self.kind != "clip":
            raise ValueError(f"Pair: gap must be None for kind {self.kind!r}, got {self.gap}; only clips have an order")
        if self.gap is not None and (not 0 <= self.gap[0] <= self.gap[1] or self.gap[1] < 1):
            raise ValueError(
                f"Pair: gap must be (low, high) frames with 0 <= low <= high, high at least 1, got {self.gap}"
            )


@dataclass(frozen=True)
class View:
    """One view: crop, flip, background, then colour jitter, grayscale, blur, label augmentation, patch shuffle, solarize, in this
    order."""

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
    label_augmentation: LabelAugmentation | None = None
    pair: Pair | None = None

    def __post_init__(self) -> None:
        _probability("View", flip_p=self.flip_p, grayscale_p=self.grayscale_p, solarize_p=self.solarize_p)
        if not isinstance(self.solarize_threshold, Integral) or not 0 <= self.solarize_threshold <= 256:
            raise ValueError(f"View: solarize_threshold must be in 0..256, got {self.solarize_threshold}")
        if self.patch_shuffle is not None and self.patch_shuffle.grid > self.crop.size:
            raise ValueError(
                f"View: patch_shuffle's grid must have at most as many cells as the view has pixels, {self.crop.size}, got "
                f"{self.patch_shuffle.grid}"
            )
