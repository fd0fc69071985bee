"""Read samples of a store as they are evaluated: the centre square and its mask, always the same, in any order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from figureground.kernels.resample import full_rows, render_views
from figureground.shards import MaskStore, Store

from .decode import Decoder

CROP = 224 / 256
"""Side of the square, as a share of the image's shorter side: evaluation's resize to 256 px and centre crop of 224."""


@dataclass
class Squares:
    """Some samples, cut."""

    views: Any
    """(N, 3, size, size) uint8, on the reader's device; arbitrary where not valid."""
    masks: Any
    """(N, size, size) uint8, on the reader's device; 0 where there is none."""
    valid: np.ndarray
    """(N,) bool: was the image decoded?"""
    mask_valid: np.ndarray
    """(N,) bool: is there a mask, and was it decoded?"""
    reasons: list[str | None]
    """Why an image is not valid."""


def center_rows(sizes: np.ndarray, crop: float = CROP) -> np.ndarray:
    """Make the rows of `render_views` that cut the centre square of every image, its mask with it.

    Parameters
    ----------
    sizes : (N, 2) integers
        Height and width of each image [px].
    crop : float
        Side of the square as a share of the shorter side, in (0, 1].

    Returns
    -------
    (N,) RENDER_DTYPE
        Pixels around the square take part in the resize, as after a resize of the whole image.

    Examples
    --------
    >>> center_rows(np.array([[40, 60]]), crop=0.5)["box"]
    array([[20., 10., 20., 20.]], dtype=float32)
    """
    rows = full_rows(sizes)
    wide = np.asarray(sizes, np.float64)[:, ::-1]
    side = wide.min(1, keepdims=True) * crop
    rows["box"][:, :2] = (wide - side) / 2
    rows["box"][:, 2:] = side
    rows["clip"] = 0
    return rows


class SquareReader:
    """Decode samples and cut their centre squares; close it, or use it in a `with`.

    Parameters
    ----------
    store : Store
    masks : MaskStore, optional
    size : int
        Side of the squares [px].
    device : str
        "cpu", "cuda" or "cuda:N".
    crop : float
        As for `center_rows`.
    batch_size : int
        Images decoded at a time.
    threads : int
        Of the decoder.
    """

    def __init__(
        self, store: Store, masks: MaskStore | None, *, size: int, device: str = "cpu", crop: float = CROP,
        batch_size: int = 64, threads: int = 2,
    ) -> None:  # fmt: skip
        from .device import make_device

        for name, value in (("size", size), ("batch_size", batch_size), ("threads", threads)):
            if value < 1:
                raise ValueError(f"SquareReader: {name} must be at least 1, got {value}")
        if not 0 < crop <= 1:
            raise ValueError(f"SquareReader: crop must be in (0, 1], got {crop}")
        self.device = make_device(device)
        self._store, self._masks, self._size, self._crop = store, masks, size, crop
        self._decoder = Decoder(batch_size, device=self.device.name, threads=threads, masks=True)

    def read(self, samples: Sequence[int]) -> Squares:
        """Return some samples in the order asked for; on a GPU call it inside `device.producing()`."""
        found = [None if self._masks is None else self._masks.mask(i) for i in samples]
        decoded = self._decoder.decode([self._store.image(i) for i in samples], found)
        rows = center_rows(decoded.images.sizes, self._crop)
        rows["mask"] = np.where(decoded.mask_valid, np.arange(len(rows)), -1)
        views, masks = render_views(decoded.images, rows, (self._size, self._size), masks=decoded.masks)
        self.device.finish()
        return Squares(views, masks, decoded.valid, decoded.mask_valid, decoded.reasons)

    def close(self) -> None:
        """Stop the decoder."""
        self._decoder.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def on_host(array: Any) -> np.ndarray:
    """Return a NumPy or CuPy array as a NumPy array."""
    return array if isinstance(array, np.ndarray) else array.get()
