"""Saliency per pixel from barrier cost and border contrast: the map of MBD and MB+ before post-processing.

Layout: cost (N, 3, H, W) uint8 and contrast (N, H, W) uint16 in, maps (N, H, W) uint8 out; integers throughout, so CPU and CUDA
agree bit for bit.

Source: Zhang et al. 2015, "Minimum barrier salient object detection at 80 FPS", section 4: the sum of both cues, each
stretched, times a map that falls off from the center. Their smoothing by morphological reconstruction is left out:
`saliency_refine` takes its place.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from .arrays import array_module, on_gpu
from .launch import launch
from .saliency_border import FULL


def pixel_saliency(cost: Any, contrast: Any = None) -> Any:
    """Add up barrier cost and border contrast; with contrast, favor the center.

    Parameters
    ----------
    cost : (N, 3, H, W) uint8
    contrast : (N, H, W) uint16, optional
        0 to `saliency_border.FULL`. Without it, the map is the cost alone (MBD); with it, MB+.

    Returns
    -------
    (N, H, W) uint8, on the device of `cost`
        Stretched per image to 0..255; all 0 where the cues are flat.

    Examples
    --------
    >>> cost = np.zeros((1, 3, 3, 3), np.uint8)
    >>> cost[:, :, 1, 1] = 9
    >>> pixel_saliency(cost)[0, 1].tolist()
    [0, 255, 0]
    """
    if on_gpu("pixel_saliency", cost=cost, contrast=contrast):
        return _cuda(cost, contrast)
    return _cpu(cost, contrast)


def _center_map(height: int, width: int) -> np.ndarray:
    """Return 256 at the center, falling off linearly with distance to 0 at the corners: (H, W) int32."""
    y, x = (np.arange(height) + 0.5) / height - 0.5, (np.arange(width) + 0.5) / width - 0.5
    distance = np.hypot(y[:, None], x[None, :])
    return np.rint(256 * (1 - distance / np.hypot(0.5, 0.5))).astype(np.int32)


def _cpu(cost: np.ndarray, contrast: np.ndarray | None) -> np.ndarray:
    out = np.empty((len(cost), *cost.shape[2:]), np.uint8)
    if out.size:
        center = _center_map(*cost.shape[2:]).reshape(-1)
        plus = contrast is not None
        pixels = out[0].size
        other = contrast.reshape(-1, pixels) if contrast is not None else np.empty((len(cost), 0), np.uint16)
        _mix(cost.reshape(-1, 3, pixels), other, center, plus, out.reshape(-1, pixels))
    return out


@numba.njit(nogil=True, cache=True)
def _mix(cost, contrast, center, plus, out):  # type: ignore[no-untyped-def]
    value = np.empty(center.size, np.int32)
    for n in range(len(cost)):
        first, second, third = cost[n, 0], cost[n, 1], cost[n, 2]
        for i in range(value.size):
            value[i] = np.int32(first[i]) + np.int32(second[i]) + np.int32(third[i])
        if plus:
            low = value.min()
            spread = max(value.max() - low, 1)
            for i in range(value.size):
                value[i] = ((value[i] - low) * FULL // spread + contrast[n, i]) * center[i]
        low = value.min()
        spread = max(value.max() - low, 1)
        for i in range(value.size):
            out[n, i] = (value[i] - low) * 255 // spread


def _cuda(cost: Any, contrast: Any) -> Any:
    """One block per image; minima and maxima by integer atomics."""
    xp = array_module(cost)
    count, _, height, width = cost.shape
    out = xp.empty((count, height, width), np.uint8)
    if out.size:
        center = xp.asarray(_center_map(height, width))
        plus = contrast is not None
        args = (cost, contrast if plus else cost, center, np.int32(plus), np.int32(height * width), out)
        launch("saliency_pixels", "saliency_pixels_mix", (count,), (256,), args)
    return out
