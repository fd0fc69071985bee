"""Decode one image on the host, by Pillow and OpenCV: for what DALI does not read, and to find out which image is bad.

The rule: Pillow, because it is strict (a truncated file is an error); OpenCV for what Pillow does not recognise (lossless
JPEG) and for JPEG 2000, where Pillow gives wrong colours for 16-bit RGBA. Of an animation the first frame counts. Like
DALI: EXIF orientation applied, alpha dropped, 16 bits scaled to 8 (Pillow alone would clip). A list of formats keeps
Pillow from running interpreters (PostScript) or decoders nobody asked for.
"""

from __future__ import annotations

import io

import cv2
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from figureground.kernels.guard import MAX_PIXELS, REASONS, TOO_LARGE, UNSUPPORTED

Image.init()  # without it Pillow knows only some of these by name
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "JPEG2000", "PPM", "AVIF")
_JPEG_2000 = (b"\x00\x00\x00\x0cjP  ", b"\xff\x4f\xff\x51")


def decode_on_host(
    data: np.ndarray, channels: int = 3, *, max_pixels: int = MAX_PIXELS, pixels: int = -1
) -> np.ndarray | str:
    """Decode one image with Pillow or OpenCV.

    Parameters
    ----------
    data : (size,) uint8
        The encoded bytes.
    channels : int
        3 for RGB, 1 for grey.
    max_pixels : int
        Larger images are refused before they are decoded.
    pixels : int
        Height x width, as far as known, else -1. OpenCV is asked only if the size is known, by this or by Pillow.

    Returns
    -------
    (height, width, channels) uint8, upright, or str
        The image, or in words why there is none.

    Examples
    --------
    >>> decode_on_host(np.frombuffer(b"P5 2 1 255 ab", np.uint8), 1)[..., 0]
    array([[97, 98]], dtype=uint8)
    >>> decode_on_host(np.frombuffer(b"hello, world", np.uint8))
    'a format that no decoder here reads'
    """
    encoded = data.tobytes()
    if pixels > max_pixels:
        return REASONS[TOO_LARGE]
    try:
        with Image.open(io.BytesIO(encoded), formats=_FORMATS) as image:
            if image.width * image.height > max_pixels:
                return REASONS[TOO_LARGE]
            if encoded.startswith(_JPEG_2000):
                return _with_opencv(data, channels)
            return _with_pillow(image, channels)
    except (Image.DecompressionBombError, MemoryError):
        return REASONS[TOO_LARGE]
    except UnidentifiedImageError:
        return REASONS[UNSUPPORTED] if pixels < 0 else _with_opencv(data, channels)
    except Exception as error:  # Pillow's plugins raise almost anything on broken files
        return f"no decoder reads it ({type(error).__name__}: {' '.join(str(error).split())})"


def _with_pillow(image: Image.Image, channels: int) -> np.ndarray:
    upright = ImageOps.exif_transpose(image)
    if upright.mode == "I" or upright.mode.startswith("I;16"):
        wide = np.clip(np.asarray(upright), 0, 65535).astype(np.uint32)
        grey = ((wide * 255 + 32767) // 65535).astype(np.uint8)
        return np.ascontiguousarray(np.repeat(grey[:, :, None], channels, axis=2))
    pixels = np.asarray(upright.convert("RGB" if channels == 3 else "L"))
    return np.ascontiguousarray(pixels.reshape(*pixels.shape[:2], channels))


def _with_opencv(data: np.ndarray, channels: int) -> np.ndarray | str:
    try:
        pixels = cv2.imdecode(data, cv2.IMREAD_COLOR if channels == 3 else cv2.IMREAD_GRAYSCALE)
    except cv2.error as error:
        return f"no decoder reads it ({' '.join(str(error).split())})"
    if pixels is None:
        return "no decoder reads it"
    return np.ascontiguousarray(pixels[:, :, ::-1] if channels == 3 else pixels[:, :, None])
