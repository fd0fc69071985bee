"""Decoding on the host against Pillow's own pixels and a known ramp."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from figureground.pipeline.fallback import decode_on_host

RAMP = np.arange(256, dtype=np.uint8).reshape(8, 32)


def encode(pixels: np.ndarray, kind: str, **options: object) -> np.ndarray:
    stream = io.BytesIO()
    image = Image.fromarray(pixels)
    image.convert(options.pop("mode", image.mode)).save(stream, kind, **options)
    return np.frombuffer(stream.getvalue(), np.uint8)


def test_by_hand():
    data = np.frombuffer(b"P6 2 1 255 \1\2\3\4\5\6", np.uint8)
    np.testing.assert_array_equal(decode_on_host(data), [[[1, 2, 3], [4, 5, 6]]])
    assert decode_on_host(data, 1).shape == (1, 2, 1)


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF", "JPEG2000", "PPM", "PNG"])
@pytest.mark.parametrize("channels", [1, 3])
def test_lossless_formats_give_the_pixels_back(kind, channels):
    pixels = decode_on_host(encode(RAMP, kind), channels)
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    np.testing.assert_array_equal(pixels, np.repeat(RAMP[:, :, None], channels, axis=2))


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM", "JPEG2000"])
def test_16_bit_is_scaled(kind):
    wide = RAMP.astype(np.uint16) * 257
    error = decode_on_host(encode(wide, kind)).astype(int) - RAMP[:, :, None]
    assert np.abs(error).max() <= 1


def test_avif():
    error = decode_on_host(encode(RAMP, "AVIF", mode="RGB", quality=95)).astype(int) - RAMP[:, :, None]
    assert np.abs(error).mean() < 3


def test_upright_and_without_alpha():
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = decode_on_host(encode(np.stack([RAMP] * 4, axis=2), "WEBP", lossless=True, exact=True, exif=exif))
    np.testing.assert_array_equal(pixels, np.repeat(np.rot90(RAMP, -1)[:, :, None], 3, axis=2))


def test_first_frame_counts():
    frames = {"save_all": True, "append_images": [Image.fromarray(RAMP[::-1].copy())]}
    np.testing.assert_array_equal(decode_on_host(encode(RAMP, "GIF", **frames), 1)[..., 0], RAMP)


def test_opencv_helps_where_the_size_is_known(shared_data):
    data = np.fromfile(shared_data / "odd/045_random5_98x93_lossless_psv2_pt0.jpg", np.uint8)
    assert decode_on_host(data) == "a format that no decoder here reads"
    assert decode_on_host(data, pixels=98 * 93).shape == (93, 98, 3)


def test_reasons():
    tiff = encode(RAMP, "TIFF")
    assert decode_on_host(np.frombuffer(b"hello, world", np.uint8)) == "a format that no decoder here reads"
    assert decode_on_host(tiff, max_pixels=255) == "more pixels than max_pixels"
    assert decode_on_host(tiff, pixels=2**40) == "more pixels than max_pixels"
    assert decode_on_host(encode(RAMP, "GIF")[:-30]).startswith("no decoder reads it (")
    assert decode_on_host(encode(RAMP, "JPEG2000")[:-90]).startswith("no decoder reads it")
