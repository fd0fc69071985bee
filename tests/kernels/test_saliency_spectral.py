"""Cheap baselines."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import fft, ndimage

from figureground.kernels.saliency_lab import lab_planes
from figureground.kernels.saliency_spectral import spectral_saliency


def _images(seed=0):
    return np.random.default_rng(seed).integers(0, 256, (2, 3, 32, 40), dtype=np.uint8)


def _stretch(values):
    return (values - values.min()) / np.ptp(values) * 255


def test_ft_by_hand():
    images = np.zeros((1, 3, 16, 16), np.uint8)
    images[:, :, 6:10, 6:10] = 255
    got = spectral_saliency(images, method="ft")[0]
    assert got[7, 7] == 255
    assert got[0, 0] == got[15, 3]


def test_signature_equals_scipy():
    images = _images()
    lab = lab_planes(images)[0].astype(float)
    squares = fft.idctn(np.sign(fft.dctn(lab, axes=(2, 3), norm="ortho")), axes=(2, 3), norm="ortho") ** 2
    for n in range(2):
        want = ndimage.gaussian_filter(squares[n].mean(axis=0), 0.045 * 40, mode="nearest", radius=5)
        assert np.abs(spectral_saliency(images, method="signature")[n] - _stretch(want)).max() <= 1


def test_spectral_equals_definition():
    images = _images(1)
    for n in range(2):
        spectrum = np.fft.fft2(images[n].mean(axis=0))
        amplitude = np.log(abs(spectrum) + 1e-9)
        residual = amplitude - ndimage.uniform_filter(amplitude, 3, mode="wrap")
        power = abs(np.fft.ifft2(np.exp(residual) * spectrum / abs(spectrum))) ** 2
        want = ndimage.gaussian_filter(power, 2.5 * 40 / 64, mode="nearest", radius=5)
        assert np.abs(spectral_saliency(images, method="spectral")[n] - _stretch(want)).max() <= 1


@pytest.mark.parametrize("method", ["ft", "spectral", "signature"])
def test_flat_is_zero_and_images_are_apart(method):
    assert spectral_saliency(np.full((1, 3, 16, 16), 77, np.uint8), method=method).max() == 0
    images = _images(2)
    np.testing.assert_array_equal(
        spectral_saliency(images[1:], method=method)[0], spectral_saliency(images, method=method)[1]
    )


def test_messages():
    with pytest.raises(ValueError, match="method must be one of ft, spectral, signature, got 'x'"):
        spectral_saliency(_images(), method="x")

    class OnGpu:
        __cuda_array_interface__ = None

    with pytest.raises(RuntimeError, match="method 'ft' must run on the CPU"):
        spectral_saliency(OnGpu(), method="ft")
