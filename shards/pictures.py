"""Tell what an image file is, prove that it can be decoded, and re-encode it where asked."""

from __future__ import annotations

import io
import os
import struct
import zlib

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

EXT_OF = {
    "JPEG": "jpg",
    "MPO": "jpg",
    "PNG": "png",
    "WEBP": "webp",
    "BMP": "bmp",
    "TIFF": "tiff",
    "PPM": "pnm",
    "JPEG2000": "jp2",
}
"""Formats that DALI decodes, by Pillow's name, and the extension their bytes get in a shard."""

FILE_EXTS = frozenset(
    "jpg jpeg jpe jfif png apng webp bmp dib gif tif tiff jp2 j2k jpx pnm ppm pgm pbm mpo avif".split()  # noqa: SIM905
)
"""Extensions of image files, lower case."""

_READ = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF")
_DAMAGED = (
    OSError, SyntaxError, EOFError, ValueError, LookupError, TypeError, ArithmeticError, AttributeError, AssertionError,
    struct.error, zlib.error, Image.DecompressionBombError,
)  # fmt: skip
"""What Pillow raises for damaged files, depending on the format."""

_MAGIC = (b"\xff\xd8\xff", b"\x89PNG", b"BM", b"GIF8", b"II*\0", b"MM\0*", b"\0\0\0\x0cjP  ", b"RIFF")


def is_image_file(path: str) -> bool:
    """Tell whether a file is meant as an image, by its extension or else its first bytes."""
    if os.path.splitext(path)[1][1:].lower() in FILE_EXTS:
        return True
    try:
        with open(path, "rb") as file:
            head = file.read(12)
    except OSError:
        return False
    return head.startswith(_MAGIC) and (head[:4] != b"RIFF" or head[8:] == b"WEBP")


def prepare_image(data: bytes, image_ext: str) -> tuple[bytes, str]:
    """Prove that an image decodes; keep its bytes where they may stay as they are, else re-encode it.

    Parameters
    ----------
    data : bytes
        An image file.
    image_ext : {"keep", "jpg", "png"}
        "keep" takes every format that DALI decodes as it is; "jpg" and "png" re-encode what is of another format.

    Returns
    -------
    bytes
        The file for the shard.
    str
        Its extension, by its content.

    Raises
    ------
    ValueError
        If the bytes are no image, or a damaged one, or one that has to be re-encoded and cannot be; the message says
        why.

    Notes
    -----
    A JPEG is decoded at 1/8 of its size, which reads all of its data at a fraction of the cost. Re-encoding turns the
    image upright, drops transparency, and scales 16 bits to 8, as DALI's decoder does.

    Examples
    --------
    >>> stream = io.BytesIO()
    >>> Image.new("P", (4, 4)).save(stream, "GIF")
    >>> data, ext = prepare_image(stream.getvalue(), "png")
    >>> data[1:4], ext
    (b'PNG', 'png')
    """
    if not data:
        raise ValueError("the file is empty (0 bytes)")
    try:
        with Image.open(io.BytesIO(data), formats=_READ) as image:
            ext = EXT_OF.get(image.format or "", "")
            keep = bool(ext) and image_ext in ("keep", ext)
            if keep:
                image.draft(None, (max(1, image.width // 8), max(1, image.height // 8)))
            image.load()
            upright = image if keep or image_ext == "keep" else ImageOps.exif_transpose(image)
    except UnidentifiedImageError:
        raise ValueError(f"is no image that can be decoded, it starts with {data[:8]!r}") from None
    except _DAMAGED as error:
        raise ValueError(f"cannot be decoded: {error or type(error).__name__}") from error
    if keep:
        return data, ext
    if image_ext == "keep":
        raise ValueError(f"DALI does not decode {image.format}; pack with image_ext 'jpg' or 'png' to re-encode it")
    return _encode(upright, image_ext), image_ext


def _encode(upright: Image.Image, ext: str) -> bytes:
    if upright.mode.startswith("I;16"):
        upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
    if upright.mode in ("I", "F"):
        raise ValueError(f"pixels of mode {upright.mode} have no 8-bit form; convert the file first")
    plain = upright if upright.mode in ("L", "RGB") else upright.convert("RGB")
    stream = io.BytesIO()
    if ext == "jpg":
        plain.save(stream, "JPEG", quality=95, subsampling=0)
    else:
        plain.save(stream, "PNG")
    return stream.getvalue()
