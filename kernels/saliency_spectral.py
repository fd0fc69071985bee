"""Three cheap saliency baselines, for study: frequency-tuned, spectral residual, image signature. CPU only.

Layout: planar uint8 images (N, 3, H, W) in, maps (N, H, W) uint8 out, stretched per image. Batched NumPy, no exactness across
machines is claimed (FFT). All three score below a bare center prior on DUTS: do not train with them.

Sources: Achanta et al. 2009, "Frequency-tuned salient region detection"; Hou and Zhang 2007, "Saliency detection: a
spectral residual approach"; Hou, Harel and Koch 2012, "Image signature: highlighting sparse salient regions".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .arrays import on_gpu
from .saliency_lab import lab_planes


def spectral_saliency(images: Any, *, method: str) -> np.ndarray:
    """Estimate saliency from frequencies alone.

    Parameters
    ----------
    images : (N, 3, H, W) uint8
        Planar RGB, about 64 px (the papers' size for the two spectral methods).
    method : {"ft", "spectral", "signature"}

    Returns
    -------
    (N, H, W) uint8
        Stretched per image to 0..255; all 0 where the image is flat.

    Raises
    ------
    RuntimeError
        If the images are on a GPU.
    ValueError
        If `method` is unknown.

    Notes
    -----
    ft: distance of the blurred Lab color to the mean Lab color. spectral: |F^-1 exp(R + iP)|^2 with R the log amplitude less its
    3 x 3 mean and P the phase, of the mean of the channels. signature: (inverse DCT of the sign of the DCT)^2, mean over Lab.

    Examples
    --------
    >>> images = np.zeros((1, 3, 16, 16), np.uint8)
    >>> images[:, :, 6:9, 6:9] = 255
    >>> int(spectral_saliency(images, method="ft")[0, 7, 7])
    255
    """
    if on_gpu("spectral_saliency", images=images):
        raise RuntimeError(
            f"spectral_saliency: method {method!r} must run on the CPU, got images on a GPU; pass cupy.asnumpy(images) "
            f"or choose 'fused'"
        )
    if method not in _MAPS:
        raise ValueError(f"spectral_saliency: method must be one of {', '.join(_MAPS)}, got {method!r}")
    return _stretched(_MAPS[method](images))


def _stretched(maps: np.ndarray) -> np.ndarray:
    low, high = maps.min(axis=(1, 2), keepdims=True), maps.max(axis=(1, 2), keepdims=True)
    spread = np.where(high - low > 1e-6 * np.maximum(abs(high), 1), high - low, np.inf)
    return np.rint((maps - low) / spread * 255).astype(np.uint8)


def _smooth(maps: np.ndarray, weights: np.ndarray, mode: Any = "edge") -> np.ndarray:
    """Convolve the last two axes with a symmetric window, edges repeated (or wrapped)."""
    radius = len(weights) // 2
    for axis in (-2, -1):
        pads = [(0, 0)] * maps.ndim
        pads[axis] = (radius, radius)
        padded, length = np.pad(maps, pads, mode=mode), maps.shape[axis]
        maps = sum(w * padded.take(range(k, k + length), axis) for k, w in enumerate(weights))
    return maps


def _gaussian(sigma_px: float) -> np.ndarray:
    reach = np.arange(-int(3 * sigma_px + 0.5), int(3 * sigma_px + 0.5) + 1)
    weights = np.exp(-(reach**2) / (2 * sigma_px**2))
    return weights / weights.sum()


def _frequency_tuned(images: np.ndarray) -> np.ndarray:
    lab = lab_planes(images)[0] * np.array([100 / 255, 1, 1])[:, None, None]
    blurred = _smooth(lab, np.array([1, 4, 6, 4, 1]) / 16)
    return np.sqrt(((blurred - lab.mean(axis=(2, 3), keepdims=True)) ** 2).sum(axis=1))


def _spectral_residual(images: np.ndarray) -> np.ndarray:
    spectrum = np.fft.fft2(images.mean(axis=1))
    amplitude = np.log(np.abs(spectrum) + 1e-9)
    residual = amplitude - _smooth(amplitude, np.full(3, 1 / 3), "wrap")
    saliency = np.abs(np.fft.ifft2(np.exp(residual + 1j * np.angle(spectrum)))) ** 2
    return _smooth(saliency, _gaussian(2.5 * images.shape[3] / 64))


def _cosines(size: int) -> np.ndarray:
    """Return the orthonormal DCT-II matrix."""
    matrix = np.cos(np.pi / size * np.arange(size)[:, None] * (np.arange(size) + 0.5)) * np.sqrt(2 / size)
    matrix[0] /= np.sqrt(2)
    return matrix


def _image_signature(images: np.ndarray) -> np.ndarray:
    down, along = _cosines(images.shape[2]), _cosines(images.shape[3])
    frequencies = down @ lab_planes(images)[0].astype(np.float64) @ along.T
    signs = np.sign(np.where(abs(frequencies) > 1e-6, frequencies, 0))  # the sign of a rounding error is no signature
    saliency = ((down.T @ signs @ along) ** 2).mean(axis=1)
    return _smooth(saliency, _gaussian(0.045 * images.shape[3]))


_MAPS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "ft": _frequency_tuned,
    "spectral": _spectral_residual,
    "signature": _image_signature,
}
