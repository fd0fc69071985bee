"""Put figures on grounds through soft masks: the composite of background augmentation, and of swap negatives.

Layout: planar uint8 views (N, 3, H, W), uint8 masks (N, H, W). The arithmetic is Pillow's `Image.composite`, exact in
integers, so both devices agree bit for bit. When a view is cut from its image and composited in one go, `resample` does it
fused; this is the same operation on views that exist already.

Source: Ryali, Schwab and Morcos 2021, "Characterizing and improving the robustness of self-supervised learning through
background augmentations": m * figure + (1 - m) * ground.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from .arrays import aligned, array_module, on_gpu
from .launch import launch


def composite_views(figures: Any, grounds: Any, masks: Any, *, out: Any = None) -> Any:
    """Blend two batches of views by soft masks.

    Parameters
    ----------
    figures : (N, 3, H, W) uint8
        Shown where the mask is 255.
    grounds : (N, 3, H, W) uint8
        Shown where the mask is 0.
    masks : (N, H, W) uint8
    out : (N, 3, H, W) uint8, optional
        May be `figures` or `grounds` themselves.

    Returns
    -------
    (N, 3, H, W) uint8, on the device of `figures`.

    Raises
    ------
    TypeError
        If the arrays are on different devices.
    ValueError
        If shapes or dtypes do not fit.

    Notes
    -----
    t = figure * mask + ground * (255 - mask) + 128; out = ((t >> 8) + t) >> 8, which is the quotient by 255 rounded to
    nearest (Pillow, Image.composite).

    Examples
    --------
    >>> figure = np.full((1, 3, 1, 3), 200, np.uint8)
    >>> ground = np.full((1, 3, 1, 3), 100, np.uint8)
    >>> composite_views(figure, ground, np.array([[[0, 128, 255]]], np.uint8))[0, 0]
    array([[100, 150, 200]], dtype=uint8)
    """
    gpu = on_gpu("composite_views", figures=figures, grounds=grounds, masks=masks, out=out)
    shape = figures.shape
    if len(shape) != 4 or shape[1] != 3:
        raise ValueError(f"composite_views: figures must be (N, 3, H, W), got {tuple(shape)}")
    expected = {"figures": shape, "grounds": shape, "masks": (shape[0], *shape[2:]), "out": shape}
    for name, array in (("figures", figures), ("grounds", grounds), ("masks", masks), ("out", out)):
        if array is None:
            continue
        if tuple(array.shape) != tuple(expected[name]) or array.dtype != np.uint8:
            raise ValueError(
                f"composite_views: {name} must be {tuple(expected[name])} uint8, got {tuple(array.shape)} {array.dtype}"
            )
        if not array.flags.c_contiguous:
            raise ValueError(f"composite_views: {name} must be C-contiguous; pass numpy.ascontiguousarray({name})")
    if out is None:
        out = array_module(figures).empty_like(figures)
    if shape[0] and shape[2] and shape[3]:
        (_cuda if gpu else _cpu)(figures, grounds, masks, out)
    return out


def _cpu(figures: np.ndarray, grounds: np.ndarray, masks: np.ndarray, out: np.ndarray) -> np.ndarray:
    count, pixels = len(figures), masks[0].size
    planes = (count, 3, pixels)
    _blend(figures.reshape(planes), grounds.reshape(planes), masks.reshape(count, pixels), out.reshape(planes))
    return out


@numba.njit(nogil=True, cache=True)
def _blend(figures, grounds, masks, out):  # type: ignore[no-untyped-def]
    for n in range(figures.shape[0]):
        for c in range(3):
            _blend_row(figures[n, c], grounds[n, c], masks[n], out[n, c])


@numba.njit(nogil=True, cache=True)
def _blend_row(figure, ground, mask, out):  # type: ignore[no-untyped-def]
    for i in range(mask.size):
        # 16-bit lanes are enough: t <= 255 * 255 + 128.
        m = np.uint16(mask[i])
        t = np.uint16(np.uint16(figure[i]) * m + np.uint16(ground[i]) * np.uint16(255 - m) + np.uint16(128))
        out[i] = np.uint8(np.uint16(np.uint16(t >> np.uint16(8)) + t) >> np.uint16(8))


def _cuda(figures: Any, grounds: Any, masks: Any, out: Any) -> Any:
    pixels = int(np.prod(masks.shape[1:]))
    total = masks.shape[0] * 3 * pixels
    vector = 16 if pixels % 16 == 0 and aligned(figures, grounds, masks, out) else 1
    threads = 256
    blocks = (-(-total // (vector * threads)),)
    name = "background_composite16" if vector == 16 else "background_composite1"
    args = (figures, grounds, masks, out, np.int64(pixels), np.int64(total // vector))
    launch("background", name, blocks, (threads,), args)
    return out
