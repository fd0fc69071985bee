"""Masks made elsewhere: PNG files by key, into sidecars.

    DIR/<key>.png, in folders where the key has them      any size, covers the whole, upright image

Masks keep their size, or all get one (`size`): what a loader decodes with each image should not be millions of pixels.
A file that says (by EXIF) how it is to be turned is turned so.

Grey of any depth is scaled to 8 bits. Where a file has transparency that says something (a cut-out), the opacity is the
mask; else the grey value of its colours is. In a coloured palette (DAVIS, VOC) entry 0 is ground, all others are figure.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from figureground.shards import Store
from figureground.shards.masks import encode_mask

from .masks_work import NO_FILE, OpenTask, Result, mean_share, resize_mask, usable_samples

_LABELS_BELOW = 16
"""A file whose largest value is smaller, and not 0, holds class numbers, not a mask."""
LEAST, MOST = 16, 1024
"""Bounds of the size that imported masks can get [px]."""
_STEP = 256
_DAMAGED = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)


def gray_mask(data: bytes) -> np.ndarray:
    """Decode a mask made elsewhere.

    Parameters
    ----------
    data : bytes
        A PNG of any mode.

    Returns
    -------
    (H, W) uint8
        255 is figure.

    Raises
    ------
    ValueError
        If the bytes are no PNG, or a damaged one, or hold class numbers (0/1 in place of 0/255).

    Notes
    -----
    1 bit: 0 and 255. 16 bits: round(v / 257). RGB: Rec. 601 luma. Opacity counts, in place of the colours, where it is
    not the same everywhere.

    Examples
    --------
    >>> stream = io.BytesIO()
    >>> Image.fromarray(np.array([[0, 65535]], np.uint16)).save(stream, "PNG")
    >>> gray_mask(stream.getvalue())
    array([[  0, 255]], dtype=uint8)
    """
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            image.load()
            mask = _gray(ImageOps.exif_transpose(image))
    except UnidentifiedImageError:
        raise ValueError(f"not a PNG: it starts with {data[:8]!r}") from None
    except _DAMAGED as error:
        raise ValueError(f"a damaged PNG: {error}") from None
    if 0 < mask.max() < _LABELS_BELOW:
        raise ValueError(
            f"its largest value is {mask.max()}: labels in place of 0..255; scale them so that 255 is figure"
        )
    return mask


def _gray(image: Image.Image) -> np.ndarray:
    if image.mode == "I" or image.mode.startswith("I;16"):
        wide = np.clip(np.asarray(image), 0, 65535).astype(np.uint32)
        return ((wide + 128) // 257).astype(np.uint8)
    if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        alpha = np.asarray(image.convert("RGBA").getchannel("A"))
        if alpha.min() != alpha.max():
            return np.ascontiguousarray(alpha)
        image = image.convert("RGBA").convert("RGB") if image.mode != "P" else image
    if image.mode == "P":
        colors = np.asarray(image.convert("RGB"))
        if (colors != colors[:, :, :1]).any():
            return np.where(np.asarray(image) > 0, 255, 0).astype(np.uint8)
    return np.ascontiguousarray(image.convert("L"))


@dataclass(frozen=True)
class ImportMasks:
    """Masks from a folder of PNG files."""

    folder: str
    method: str = "imported"
    """Name for the manifest."""
    size: int | None = None
    """Side that all masks get [px]; None: each keeps its own."""

    def __post_init__(self) -> None:
        if self.size is not None and not LEAST <= self.size <= MOST:
            raise ValueError(f"import_masks: size must be {LEAST} to {MOST} px, got {self.size}")
        if not os.path.isdir(self.folder):
            raise ValueError(f"import_masks: folder must be a folder of PNG masks, got {self.folder!r}; check the path")

    def path(self, key: str) -> str:
        """Return where the mask of a key lies; a key that points out of the folder has none."""
        inside = ".." not in key.split("/") and not key.startswith("/")
        return os.path.join(self.folder, *key.split("/")) + ".png" if inside else ""

    def parameters(self, store: Store) -> dict[str, Any]:
        """Return a digest of the files that belong to a shard, and the size if one is asked for."""
        digest = hashlib.sha256()
        for sample in usable_samples(store)[0]:
            key = store.key(sample)
            data = _read(self.path(key))
            if data is not None:
                digest.update(b"%b\0%d\0" % (os.fsencode(key), len(data)))
                digest.update(data)
        return {"files": digest.hexdigest()} | ({} if self.size is None else {"size": self.size})

    def open(self) -> OpenTask:
        """Nothing needs starting."""
        return _Importer(self)


class _Importer:
    def __init__(self, task: ImportMasks) -> None:
        self._task = task

    def close(self) -> None:
        return None

    def results(self, store: Store) -> Iterator[Sequence[Result]]:
        samples, without = usable_samples(store)
        for first in range(0, len(samples), _STEP):
            yield [self._result(store.key(i)) for i in samples[first : first + _STEP]]
        yield without

    def _result(self, key: str) -> Result:
        data = _read(self._task.path(key))
        if data is None:
            return Result(key, None, 0.0, NO_FILE)
        try:
            mask = gray_mask(data)
        except ValueError as error:
            return Result(key, None, 0.0, str(error))
        if self._task.size is not None:
            mask = resize_mask(mask, self._task.size, self._task.size)
        return Result(key, encode_mask(mask), mean_share(mask), "")


def _read(path: str) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return file.read()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return None


def surplus_files(folder: str, keys: Iterable[str]) -> list[str]:
    """List the PNG files of a folder that belong to no key.

    Parameters
    ----------
    folder : str
    keys : iterable of str

    Returns
    -------
    list of str
        Paths from `folder` on, sorted.
    """
    wanted = set(keys)
    found = []
    for top, _, files in os.walk(folder):
        for name in files:
            stem, ext = os.path.splitext(os.path.relpath(os.path.join(top, name), folder))
            if ext == ".png" and stem.replace(os.sep, "/") not in wanted:
                found.append(stem + ext)
    return sorted(found)
