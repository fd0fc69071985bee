"""What the papers' code does to one image, one parameter row at a time: torchvision's transforms on Pillow images.

`PillowReference` writes them with Pillow, NumPy and SciPy; `TorchvisionReference` calls torchvision itself where it is
installed. Neither shares code with the kernels or the planner.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps
from scipy import ndimage

from figureground.pipeline.config import View

BLUR_TAPS = 23
"""torchvision's kernel size as the recipes set it: a tenth of 224 px, made odd."""


@dataclass(frozen=True)
class PillowReference:
    """torchvision's transforms of Pillow images, in own words.

    Resizes take rows first, as Pillow did when the papers' models were trained; Pillow 13 takes columns first where the height
    shrinks much more, which shows in bicubic views, since each pass is cut to 0..255.

    Parameters
    ----------
    bicubic : bool
        Resize with Pillow's bicubic filter instead of its bilinear one. `make_view` sets it as the view asks.
    box_blur : bool
        Blur with `ImageFilter.GaussianBlur`, as the code of MoCo, SwAV and DINO does, instead of a true Gaussian.
    """

    bicubic: bool = False
    box_blur: bool = False

    @property
    def name(self) -> str:
        """For the table."""
        parts = ["bicubic"] * self.bicubic + ["its blur"] * self.box_blur
        return "Pillow" + (f" ({', '.join(parts)})" if parts else "")

    def crop(self, image: Image.Image, row: np.void, size: int) -> Image.Image:
        """RandomResizedCrop's crop and resize."""
        x, y, w, h = (int(v) for v in row["crop"])
        return self._resize(image.crop((x, y, x + w, y + h)), size, size)

    def center_crop(self, image: Image.Image, resize: int, size: int) -> Image.Image:
        """Resize of the shorter side, then CenterCrop."""
        short = min(image.size)
        width, height = (int(resize * side / short) for side in image.size)
        left, top = (round((side - size) / 2) for side in (width, height))
        return self._resize(image, height, width).crop((left, top, left + size, top + size))

    def _resize(self, image: Any, height: int, width: int) -> Any:
        how = Image.Resampling.BICUBIC if self.bicubic else Image.Resampling.BILINEAR
        return image.resize((width, image.height), how).resize((width, height), how)

    def flip(self, image: Image.Image) -> Image.Image:
        """RandomHorizontalFlip."""
        return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)

    def adjust(self, image: Image.Image, step: int, factor: float) -> Image.Image:
        """One step of ColorJitter: brightness, contrast, saturation or hue."""
        if step < 3:
            enhancers = ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color
            return enhancers[step](image).enhance(factor)
        hue, saturation, value = image.convert("HSV").split()
        turned = (np.asarray(hue, np.int32) + int(factor * 255)) % 256
        bands = Image.fromarray(turned.astype(np.uint8)), saturation, value
        return Image.merge("HSV", bands).convert("RGB")

    def gray(self, image: Image.Image) -> Image.Image:
        """RandomGrayscale."""
        level = image.convert("L")
        return Image.merge("RGB", (level, level, level))

    def blur(self, image: Image.Image, sigma: float, taps: int = BLUR_TAPS) -> Image.Image:
        """GaussianBlur: borders reflected without the edge itself, rounded once."""
        if self.box_blur:
            return image.filter(ImageFilter.GaussianBlur(sigma))
        x = np.arange(taps) - taps // 2
        bell = np.exp(-((x / sigma) ** 2) / 2)
        pixels = np.asarray(image, np.float64)
        for axis in (0, 1):
            pixels = ndimage.correlate1d(pixels, bell / bell.sum(), axis, mode="mirror")
        return Image.fromarray(np.rint(pixels).astype(np.uint8))

    def solarize(self, image: Image.Image, threshold: int) -> Image.Image:
        """RandomSolarize."""
        return ImageOps.solarize(image, threshold)


class TorchvisionReference(PillowReference):
    """The same by torchvision's own functions, on Pillow images; they raise ImportError where it is not installed."""

    @property
    def name(self) -> str:
        """For the table."""
        import torchvision

        return f"torchvision {torchvision.__version__.partition('+')[0]}"

    @property
    def _functions(self) -> Any:
        from torchvision.transforms import functional

        return functional

    def crop(self, image: Image.Image, row: np.void, size: int) -> Any:
        """RandomResizedCrop's crop and resize."""
        x, y, w, h = (int(v) for v in row["crop"])
        return self._resize(self._functions.crop(image, y, x, h, w), size, size)

    def center_crop(self, image: Image.Image, resize: int, size: int) -> Any:
        """Resize of the shorter side, then CenterCrop."""
        short = min(image.size)
        width, height = (int(resize * side / short) for side in image.size)
        return self._functions.center_crop(self._resize(image, height, width), size)

    def _resize(self, image: Any, height: int, width: int) -> Any:
        modes = self._functions.InterpolationMode
        how = modes.BICUBIC if self.bicubic else modes.BILINEAR
        rows = self._functions.resize(image, [image.height, width], how)
        return self._functions.resize(rows, [height, width], how)

    def flip(self, image: Image.Image) -> Any:
        """RandomHorizontalFlip."""
        return self._functions.hflip(image)

    def adjust(self, image: Image.Image, step: int, factor: float) -> Any:
        """One step of ColorJitter."""
        return getattr(self._functions, f"adjust_{('brightness', 'contrast', 'saturation', 'hue')[step]}")(
            image, factor
        )

    def gray(self, image: Image.Image) -> Any:
        """RandomGrayscale."""
        return self._functions.to_grayscale(image, 3)

    def blur(self, image: Image.Image, sigma: float, taps: int = BLUR_TAPS) -> Any:
        """GaussianBlur."""
        return self._functions.gaussian_blur(image, taps, sigma)

    def solarize(self, image: Image.Image, threshold: int) -> Any:
        """RandomSolarize."""
        return self._functions.solarize(image, threshold)


def references() -> list[PillowReference]:
    """Return what to compare with: Pillow always, torchvision where it is installed."""
    found = importlib.util.find_spec("torchvision") is not None
    return [PillowReference(), *([TorchvisionReference()] if found else [])]


def make_view(reference: PillowReference, image: Image.Image, row: np.void, view: View) -> np.ndarray:
    """Apply a whole view to one image in the papers' order.

    Parameters
    ----------
    reference : PillowReference
    image : RGB image
    row : PLAN_DTYPE
        One row of the view's plan.
    view : View

    Returns
    -------
    (S, S, 3) uint8
    """
    reference = replace(reference, bicubic=view.crop.interpolation == "bicubic")
    if view.crop.resize:
        made = reference.center_crop(image, view.crop.resize, view.crop.size)
    else:
        made = reference.crop(image, row, view.crop.size)
    if row["flip"]:
        made = reference.flip(made)
    if row["jitter"]:
        for step in row["jitter_order"].tolist():
            made = reference.adjust(made, step, float(row["jitter_factors"][step]))
    if row["grayscale"]:
        made = reference.gray(made)
    if row["blur"]:
        made = reference.blur(made, float(row["blur_sigma"]), (view.blur and view.blur.taps) or BLUR_TAPS)
    if row["solarize"]:
        made = reference.solarize(made, int(row["solarize_threshold"]))
    return np.asarray(made)
