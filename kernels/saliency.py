"""Find the figure of each image without labels, weights or training: the one door to the saliency kernels.

Layout: planar uint8 images in, one uint8 soft mask per image out. The steps, each a file of its own:

    saliency_frame    drawn frames around pictures, painted over
    saliency_lab      RGB -> Lab planes, raw and smoothed by a median
    saliency_barrier  minimum barrier distance to the border, per channel
    saliency_border   colour distance to the four border strips
    saliency_cells    16 x 16 soft cells that follow edges, and their means
    saliency_graph    figure and background cues smoothed over the graph of cells, twice
    saliency_lattice  that graph: who is next to whom, sums, conjugate gradients
    saliency_pixels   both cues added per pixel (MBD, MB+)
    saliency_refine   color guided filter
    saliency_logistic logistic between the Otsu classes
    saliency_spectral cheap baselines for study

All steps but the baselines give the same bits on CPU and CUDA.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .arrays import array_module, on_gpu
from .saliency_barrier import barrier_cost
from .saliency_border import border_contrast
from .saliency_cells import paint_cells, soft_cells
from .saliency_frame import blank_frames, find_frames, paint_frames
from .saliency_graph import cell_saliency
from .saliency_lab import lab_planes
from .saliency_logistic import sharpen_maps
from .saliency_pixels import pixel_saliency
from .saliency_refine import refine_maps
from .saliency_spectral import spectral_saliency

LEAST_SIZE, MOST_SIZE = 16, 256
"""Bounds of height and width [px]."""
_CHUNK = 32
"""Images at a time on the CPU, so that what lies between the steps stays in the cache."""


def estimate_saliency(images: Any, *, method: str = "fused", out: Any = None) -> Any:
    """Estimate soft figure masks of whole images.

    Parameters
    ----------
    images : (N, 3, H, W) uint8
        Planar RGB, whole images resized to a small square (64 to 112 px; 16 <= H, W <= 256).
    method : {"fused", "cells", "rbd", "mb+", "mbd", "ft", "spectral", "signature"}
        "fused": barrier, border, connectivity, random walk, color model and warmth over a graph of cells (best, the default);
        "cells": the same without the barrier; "rbd": weighted contrast in place of barrier and border; "mb+", "mbd":
        minimum barrier with and without border contrast and center map; the other three are cheap baselines, worse than a
        center prior (CPU only).
    out : (N, H, W) uint8, optional
        Written and returned.

    Returns
    -------
    (N, H, W) uint8, on the device of `images`
        255 is figure, 0 ground; threshold at 128 or with Otsu. All 0 where an image is flat, and on drawn frames. The mask of an
        image does not depend on the others of its batch.

    Raises
    ------
    TypeError
        If `images` is no NumPy or CUDA array, or `out` is on another device.
    ValueError
        If shape, dtype, size or method do not fit.
    RuntimeError
        If a CPU-only baseline is asked for on a GPU.

    Notes
    -----
    "fused", "mb+" and "mbd" use the minimum barrier distance, on which its authors state a patent claim ("patent pending"
    in the readme of their program; see `saliency_barrier`). "cells" and "rbd" avoid it.

    References
    ----------
    Zhang et al. 2015, "Minimum barrier salient object detection at 80 FPS"; Zhu et al. 2014, "Saliency optimization from robust
    background detection"; Jiang et al. 2013, "Saliency detection via absorbing Markov chain"; He et al. 2013, "Guided image
    filtering".

    Examples
    --------
    >>> images = np.full((1, 3, 64, 64), 40, np.uint8)
    >>> images[:, :, 20:44, 20:44] = 220
    >>> mask = estimate_saliency(images)[0]
    >>> bool(mask[32, 32] > 200), bool(mask[4, 4] < 20)
    (True, True)
    """
    gpu = on_gpu("estimate_saliency", images=images, out=out)
    _check(images, method, out, gpu)
    xp = array_module(images)
    count, _, height, width = images.shape
    if out is None:
        out = xp.empty((count, height, width), np.uint8)
    step = count if gpu else _CHUNK
    for first in range(0, count, max(step, 1)):
        out[first : first + step] = METHODS[method](images[first : first + step])
    return out


def _check(images: Any, method: str, out: Any, gpu: bool) -> None:
    shape = tuple(images.shape)
    if len(shape) != 4 or shape[1] != 3 or images.dtype != np.uint8:
        raise ValueError(f"estimate_saliency: images must be (N, 3, H, W) uint8, got {shape} {images.dtype}")
    if not all(LEAST_SIZE <= size <= MOST_SIZE for size in shape[2:]):
        raise ValueError(
            f"estimate_saliency: height and width must be in {LEAST_SIZE}..{MOST_SIZE}, got {shape[2]} x {shape[3]}; "
            f"resize whole images to 64..112 px first"
        )
    if not images.flags.c_contiguous:
        raise ValueError("estimate_saliency: images must be C-contiguous; pass numpy.ascontiguousarray(images)")
    if method not in METHODS:
        raise ValueError(f"estimate_saliency: method must be one of {', '.join(METHODS)}, got {method!r}")
    expected = (shape[0], *shape[2:])
    if out is not None and (tuple(out.shape) != expected or out.dtype != np.uint8):
        raise ValueError(f"estimate_saliency: out must be {expected} uint8, got {tuple(out.shape)} {out.dtype}")


def _inside(method: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Let a method look past the frames of pictures."""

    def framed(images: Any) -> Any:
        frames = find_frames(images)
        return blank_frames(method(paint_frames(images, frames)), frames)

    return framed


def _fused(images: Any) -> Any:
    raw, smooth = lab_planes(images)
    labels, features = soft_cells(raw, barrier_cost(smooth), border_contrast(smooth))
    return refine_maps(images, paint_cells(labels, cell_saliency(features)))


def _cells(images: Any, cue: str = "border") -> Any:
    raw, smooth = lab_planes(images)
    labels, features = soft_cells(raw, smooth, border_contrast(smooth))  # the barrier's place is taken but not read
    return refine_maps(images, paint_cells(labels, cell_saliency(features, cue=cue)))


def _rbd(images: Any) -> Any:
    return _cells(images, "contrast")


def _mbd(images: Any) -> Any:
    _, smooth = lab_planes(images)
    return refine_maps(images, pixel_saliency(barrier_cost(smooth)))


def _mb_plus(images: Any) -> Any:
    _, smooth = lab_planes(images)
    return refine_maps(images, pixel_saliency(barrier_cost(smooth), border_contrast(smooth)))


def _ft(images: Any) -> Any:
    return sharpen_maps(spectral_saliency(images, method="ft"))


def _spectral(images: Any) -> Any:
    return sharpen_maps(spectral_saliency(images, method="spectral"))


def _signature(images: Any) -> Any:
    return sharpen_maps(spectral_saliency(images, method="signature"))


METHODS: dict[str, Callable[[Any], Any]] = {
    "fused": _inside(_fused),
    "cells": _inside(_cells),
    "rbd": _inside(_rbd),
    "mb+": _inside(_mb_plus),
    "mbd": _inside(_mbd),
    "ft": _ft,
    "spectral": _spectral,
    "signature": _signature,
}
"""What `method` may be: images (N, 3, H, W) to masks (N, H, W)."""
