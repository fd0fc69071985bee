"""What decoding gives: the pixels of a batch and what is known about them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numba
import numpy as np

from figureground.kernels.arrays import Ragged
from figureground.kernels.lanes import bytes_at


@dataclass
class Decoded:
    """One decoded batch."""

    images: Ragged
    """RGB, upright (EXIF applied); one black pixel where not valid."""
    masks: Ragged | None
    """Grey, one per sample; one black pixel where not valid. None without masks."""
    valid: np.ndarray
    """(N,) bool: was the image decoded?"""
    mask_valid: np.ndarray
    """(N,) bool: is there a mask, and was it decoded?"""
    mask_area: np.ndarray
    """(N,) float64: mean of the mask, 0..1; 0 where not valid."""
    reasons: list[str | None]
    """Why an image is not valid; None where it is."""
    mask_box: np.ndarray | None = None
    """(N, 4) float64: box of the mask's figure as shares of the image, zeros where there is none; None: not asked for."""


@numba.njit(nogil=True, cache=True)
def mean_bytes(addresses, sizes, valid, means):  # type: ignore[no-untyped-def]
    """Write the mean of each valid mask, 0..1."""
    for i in range(len(addresses)):
        if not valid[i]:
            continue
        count = np.int64(sizes[i, 0]) * sizes[i, 1]
        total = np.int64(0)
        for value in numba.carray(bytes_at(addresses[i]), (count,)):
            total += value
        means[i] = total / (255.0 * count)


def join_decoded(parts: list[Decoded], masks: bool, cuda: bool) -> Decoded:
    """Put decoded batches behind each other; nothing is copied."""

    def join(batches: list[Any], channels: int) -> Ragged:
        addresses = [np.zeros(0, np.int64), *(b.addresses for b in batches)]
        sizes = [np.zeros((0, 2), np.int32), *(b.sizes for b in batches)]
        return Ragged(np.concatenate(addresses), np.concatenate(sizes), channels, [b.owner for b in batches], cuda)

    return Decoded(
        images=join([part.images for part in parts], 3),
        masks=join([part.masks for part in parts], 1) if masks else None,
        valid=np.concatenate([np.zeros(0, bool), *(part.valid for part in parts)]),
        mask_valid=np.concatenate([np.zeros(0, bool), *(part.mask_valid for part in parts)]),
        mask_area=np.concatenate([np.zeros(0), *(part.mask_area for part in parts)]),
        reasons=[reason for part in parts for reason in part.reasons],
        mask_box=np.concatenate(boxes)
        if (boxes := [b for part in parts if (b := part.mask_box) is not None])
        else None,
    )
