"""Recipes with the constants of their papers and of their authors' code.

Crops are resized by the filter that their PyTorch code asks of Pillow: bicubic for DINO, DINOv2, MAE, Barlow Twins and VICReg, else
torchvision's default, bilinear. (SimCLR's and BYOL's own code is TensorFlow and resizes by its bicubic filter without antialiasing,
which is not offered here; their presets do as the PyTorch ports.) One difference is common to all but DINOv2: the blur is a true
Gaussian (PIL's, which the code of MoCo, SwAV, DINO, Barlow Twins and VICReg uses, approximates one by box blurs).
"""

from __future__ import annotations

from dataclasses import replace
from numbers import Integral

from .config import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Background,
    BackgroundMode,
    Blur,
    Crop,
    Fill,
    Interpolation,
    Jitter,
    LabelAugmentation,
    Negatives,
    Pair,
    PatchShuffle,
    Source,
    View,
)
from .recipe import Recipe, Stage
from .techniques import BlockCorruption, GroupMixing, StyleTransfer, TokenMasks

__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "PRESETS",
    "Background",
    "BackgroundMode",
    "BlockCorruption",
    "Blur",
    "Crop",
    "Fill",
    "GroupMixing",
    "Interpolation",
    "Jitter",
    "LabelAugmentation",
    "Negatives",
    "Pair",
    "PatchShuffle",
    "Recipe",
    "Source",
    "Stage",
    "StyleTransfer",
    "TokenMasks",
    "View",
    "barlow_twins",
    "byol",
    "dino",
    "dinov2",
    "eval",
    "mae",
    "moco_v2",
    "moco_v3",
    "simclr",
    "simsiam",
    "swav",
    "vicreg",
]

_BYOL_JITTER = Jitter(0.4, 0.4, 0.2, 0.1, 0.8)


def moco_v2(size: int = 224) -> Recipe:
    """MoCo-v2 (Chen, Fan, Girshick and He 2020, "Improved baselines with momentum contrastive learning"; main_moco.py)."""
    view = View(Crop(size, (0.2, 1.0)), jitter=Jitter(0.4, 0.4, 0.4, 0.1, 0.8), grayscale_p=0.2, blur=Blur())
    return Recipe("moco_v2", (view, view))


def simsiam(size: int = 224) -> Recipe:
    """SimSiam (Chen and He 2021, "Exploring simple Siamese representation learning"): MoCo-v2's views."""
    return replace(moco_v2(size), name="simsiam")


def simclr(size: int = 224, strength: float = 1.0) -> Recipe:
    """SimCLR (Chen et al. 2020, "A simple framework for contrastive learning", appendix A): colour strength s."""
    s = strength
    view = View(
        Crop(size, (0.08, 1.0)), jitter=Jitter(0.8 * s, 0.8 * s, 0.8 * s, 0.2 * s), grayscale_p=0.2, blur=Blur()
    )
    return Recipe("simclr", (view, view))


def byol(size: int = 224) -> Recipe:
    """BYOL (Grill et al. 2020, appendix B, table 6): the first view is always blurred, the second sometimes solarized."""
    first = View(Crop(size, (0.08, 1.0)), jitter=_BYOL_JITTER, grayscale_p=0.2, blur=Blur(p=1.0))
    return Recipe("byol", (first, replace(first, blur=Blur(p=0.1), solarize_p=0.2)))


def moco_v3(size: int = 224) -> Recipe:
    """MoCo-v3 (Chen, Xie and He 2021; main_moco.py, crop_min 0.08): BYOL's views."""
    return replace(byol(size), name="moco_v3")


def _bicubic(recipe: Recipe, name: str) -> Recipe:
    views = tuple(replace(v, crop=replace(v.crop, interpolation="bicubic")) for v in recipe.views)
    return replace(recipe, name=name, views=views)


def barlow_twins(size: int = 224) -> Recipe:
    """Barlow Twins (Zbontar et al. 2021; main.py): BYOL's views, bicubic."""
    return _bicubic(byol(size), "barlow_twins")


def vicreg(size: int = 224) -> Recipe:
    """VICReg (Bardes, Ponce and LeCun 2022; augmentations.py): BYOL's views, bicubic."""
    return _bicubic(byol(size), "vicreg")


def _local_size(preset: str, size: int, local_size: int | None, local_views: int, usual: int) -> int:
    """Check what is asked of local crops; return their side: by default the usual one, of smaller views in proportion."""
    if not isinstance(local_views, Integral) or local_views < 0:
        raise ValueError(f"{preset}: local_views must be a whole number of at least 0, got {local_views}")
    if local_size is None:
        return min(usual, max(1, round(usual * size / 224)))
    if local_size > size:
        raise ValueError(f"{preset}: local_size must be at most size = {size} px, got {local_size}")
    return local_size


def swav(size: int = 224, local_size: int | None = None, local_views: int = 6) -> Recipe:
    """SwAV (Caron et al. 2020; multicropdataset.py): 2 x 224 and 6 x 96 px; its code's standard deviation of red is 0.228.

    Local crops of smaller views are smaller in proportion, here and in the other presets, unless `local_size` says how large.
    """
    large = View(Crop(size, (0.14, 1.0)), jitter=Jitter(0.8, 0.8, 0.8, 0.2, 0.8), grayscale_p=0.2, blur=Blur())
    small = replace(large, crop=Crop(_local_size("swav", size, local_size, local_views, 96), (0.05, 0.14)))
    return Recipe("swav", (large, large, *[small] * local_views), std=(0.228, 0.224, 0.225))


def dino(size: int = 224, local_size: int | None = None, local_views: int = 8) -> Recipe:
    """DINO (Caron et al. 2021; main_dino.py): two global views of 0.4 to 1, local views of 0.05 to 0.4 of the image."""
    first = View(Crop(size, (0.4, 1.0)), jitter=_BYOL_JITTER, grayscale_p=0.2, blur=Blur(p=1.0))
    second = replace(first, blur=Blur(p=0.1), solarize_p=0.2)
    side = _local_size("dino", size, local_size, local_views, 96)
    local = replace(first, crop=Crop(side, (0.05, 0.4)), blur=Blur(p=0.5))
    return _bicubic(Recipe("dino", (first, second, *[local] * local_views)), "dino")


def dinov2(size: int = 224, local_size: int | None = None, local_views: int = 8) -> Recipe:
    """DINOv2 (Oquab et al. 2023; data/augmentations.py): DINO's colours, crops of 0.32 to 1 and of 0.05 to 0.32, blur of 9 taps.

    Local crops of 98 px are those of its networks with patches of 14 px; its default configuration has 96 px and 16 px. Its blur
    class hands 1 - p to RandomApply, which takes the probability of blurring: as published, the first global crop is
    never blurred and the second with 0.9. Here they are blurred as its call says, and as in DINO: always, and with 0.1.
    """
    recipe = dino(size, _local_size("dinov2", size, local_size, local_views, 98), local_views)
    views = [
        replace(
            v,
            crop=replace(v.crop, scale=(0.32, 1.0) if i < 2 else (0.05, 0.32)),
            blur=v.blur and replace(v.blur, taps=9),
        )
        for i, v in enumerate(recipe.views)
    ]
    return replace(recipe, name="dinov2", views=tuple(views))


def mae(size: int = 224) -> Recipe:
    """MAE (He et al. 2022; main_pretrain.py): one view, crop and flip."""
    return Recipe("mae", (View(Crop(size, (0.2, 1.0), interpolation="bicubic")),))


def eval(size: int = 224, resize: int | None = None, interpolation: Interpolation = "bilinear") -> Recipe:
    """Linear probes and k-NN: the shorter side to 256 px (in proportion for other sizes), the centre 224 px, no flip.

    The code of DINO, DINOv2 and MAE evaluates with `interpolation="bicubic"`.
    """
    crop = Crop(size, resize=resize or round(size * 256 / 224), interpolation=interpolation)
    return Recipe("eval", (View(crop, flip_p=0.0),))


PRESETS = {
    preset.__name__: preset
    for preset in (moco_v2, moco_v3, simclr, simsiam, byol, barlow_twins, vicreg, swav, dino, dinov2, mae, eval)
}
"""Presets by name, for the command line."""
