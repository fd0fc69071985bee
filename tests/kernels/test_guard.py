"""The guard against files made by Pillow: what it accepts, why it refuses, and that it never reads past the end."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from host_cuda.guarded import Region
from PIL import Image, ImageOps

from figureground.kernels import guard
from figureground.kernels.guard import REASONS, inspect_bytes, inspect_images

NAMES = ("OK", "FALLBACK", "EMPTY", "NOT_AN_IMAGE", "TRUNCATED", "BROKEN_HEADER", "UNSUPPORTED", "TOO_LARGE")


def inspect(data: bytes, **options: int) -> tuple[str, list[int]]:
    array = np.frombuffer(data, np.uint8)
    codes, dims = inspect_images(np.array([array.ctypes.data]), np.array([array.size]), **options)
    return NAMES[codes[0]], dims[0].tolist()


def encode(kind: str, mode: str = "RGB", *, orientation: int = 1, **options: object) -> bytes:
    y, x = np.mgrid[:30, :44]
    image = Image.fromarray(np.stack([5 * x, 7 * y, x * y % 256], axis=2).astype(np.uint8)).convert(mode)
    if orientation != 1:
        options["exif"] = Image.Exif()
        options["exif"][0x0112] = orientation
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def at_frame(jpeg: bytes, offset: int, value: bytes) -> bytes:
    """Write into the frame header; offset 0 is its length field."""
    at = jpeg.index(b"\xff\xc0") + 2 + offset
    return jpeg[:at] + value + jpeg[at + len(value) :]


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


JPEG, PNG, WEBP, LOSSLESS = encode("JPEG"), encode("PNG"), encode("WEBP"), encode("WEBP", lossless=True)
FRAME = JPEG.index(b"\xff\xc0")
ANIMATION = {"save_all": True, "append_images": [Image.new("RGB", (44, 30))]}

# By hand: name, file, verdict.
CASES = [
    ("nothing", b"", "EMPTY"),
    ("one byte", b"\xff", "NOT_AN_IMAGE"),
    ("html", b"<!doctype html><title>404</title>", "NOT_AN_IMAGE"),
    ("zeros", bytes(1000), "NOT_AN_IMAGE"),
    ("start marker alone", b"\xff\xd8", "TRUNCATED"),
    ("jpeg", JPEG, "OK"),
    ("progressive", encode("JPEG", progressive=True), "OK"),
    ("gray", encode("JPEG", "L"), "OK"),
    ("cmyk", encode("JPEG", "CMYK"), "OK"),
    ("jpeg, fill bytes", JPEG[:2] + b"\xff\xff" + JPEG[2:], "OK"),
    ("jpeg, zeros behind", JPEG + bytes(3000), "OK"),
    ("jpeg, no end marker", JPEG[:-2], "TRUNCATED"),
    ("jpeg, end marker only in the thumbnail", JPEG[:2] + b"\xff\xe2\0\6\xff\xd9ab" + JPEG[2:-2], "TRUNCATED"),
    ("jpeg, stray bytes", JPEG[:20] + b"abc" + JPEG[20:], "FALLBACK"),
    ("jpeg, marker without length", JPEG[:FRAME] + b"\xff\xd0" + JPEG[FRAME:], "FALLBACK"),
    ("jpeg, two frames", JPEG[:FRAME] + JPEG[FRAME : FRAME + 19] + JPEG[FRAME:], "BROKEN_HEADER"),
    ("jpeg, no frame", JPEG[:FRAME] + JPEG[FRAME + 19 :], "BROKEN_HEADER"),
    ("jpeg, ends before the pixels", JPEG[:20] + b"\xff\xd9" + bytes(9), "BROKEN_HEADER"),
    ("jpeg, short EXIF", JPEG[:2] + b"\xff\xe1\0\2Exif\0\0" + JPEG[2:], "BROKEN_HEADER"),
    ("jpeg, 12 bit", at_frame(JPEG, 2, b"\x0c"), "UNSUPPORTED"),
    ("jpeg, height 0", at_frame(JPEG, 3, b"\0\0"), "BROKEN_HEADER"),
    ("jpeg, 65535 high", at_frame(JPEG, 3, b"\xff\xff"), "TOO_LARGE"),
    ("jpeg, 2 components", at_frame(at_frame(JPEG, 7, b"\2"), 0, b"\0\x0e"), "UNSUPPORTED"),
    ("jpeg, components do not fit", at_frame(JPEG, 7, b"\4"), "BROKEN_HEADER"),
    ("jpeg, sampling 0", at_frame(JPEG, 9, b"\0"), "BROKEN_HEADER"),
    ("jpeg, lossless", at_frame(JPEG, -1, b"\xc3"), "FALLBACK"),
    ("jpeg, arithmetic", at_frame(JPEG, -1, b"\xc9"), "FALLBACK"),
    ("jpeg, hierarchical", at_frame(JPEG, -1, b"\xc5"), "UNSUPPORTED"),
    ("png", PNG, "OK"),
    ("png palette", encode("PNG", "P"), "OK"),
    ("png, bytes behind", PNG + b"xyz" * 50, "OK"),
    ("png, no end", PNG[:-12], "TRUNCATED"),
    ("png, end without checksum", PNG[:-4], "TRUNCATED"),
    ("png, width 0", PNG[:16] + bytes(4) + PNG[20:], "BROKEN_HEADER"),
    ("png, 3 bit", PNG[:24] + b"\3" + PNG[25:], "BROKEN_HEADER"),
    ("png, no pixels", PNG[:33] + chunk(b"IEND", b""), "BROKEN_HEADER"),
    ("png, chunk beyond the end", PNG[:33] + b"\x7f\xff\xff\xfftEXt" + PNG[41:], "TRUNCATED"),
    ("png, chunk without a name", PNG[:33] + chunk(b"\0\0\0\0", b"") + PNG[33:], "BROKEN_HEADER"),
    ("png, huge", PNG[:16] + b"\0\1\0\0\0\1\0\0" + PNG[24:], "TOO_LARGE"),
    ("webp", WEBP, "OK"),
    ("webp lossless", LOSSLESS, "OK"),
    ("webp with alpha", encode("WEBP", "RGBA"), "OK"),
    ("webp with profile", encode("WEBP", icc_profile=bytes(129)), "OK"),
    ("webp with EXIF", encode("WEBP", orientation=6), "FALLBACK"),
    ("webp animated", encode("WEBP", **ANIMATION), "FALLBACK"),
    ("webp, cut", WEBP[:-1], "TRUNCATED"),
    ("webp, no key frame", WEBP[:20] + bytes([WEBP[20] | 1]) + WEBP[21:], "BROKEN_HEADER"),
    ("webp, lossless signature", LOSSLESS[:20] + b"\0" + LOSSLESS[21:], "BROKEN_HEADER"),
    ("webp, other chunk", WEBP[:12] + b"ABCD" + WEBP[16:], "BROKEN_HEADER"),
    ("gif", encode("GIF"), "FALLBACK"),
    ("bmp", encode("BMP"), "FALLBACK"),
    ("text that begins as a bmp", b"BMW is not an image but a company with letters", "NOT_AN_IMAGE"),
    ("tiff", encode("TIFF"), "FALLBACK"),
    ("jpeg 2000", encode("JPEG2000"), "FALLBACK"),
    ("ppm", encode("PPM"), "FALLBACK"),
    ("avif", encode("AVIF"), "FALLBACK"),
    ("heic", b"\0\0\0\x18ftypheic" + bytes(20), "UNSUPPORTED"),
    ("mp4", b"\0\0\0\x18ftypisom" + bytes(20), "NOT_AN_IMAGE"),
    ("jpeg xl", b"\xff\x0a" + bytes(20), "UNSUPPORTED"),
]


@pytest.mark.parametrize(("data", "verdict"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_by_hand(data, verdict):
    assert inspect(data)[0] == verdict


def test_codes_have_names_and_reasons():
    assert [getattr(guard, name) for name in NAMES] == list(range(len(NAMES)))
    assert set(REASONS) == set(range(2, len(NAMES)))


def test_words():
    assert inspect_bytes(np.frombuffer(JPEG, np.uint8)) is None
    assert inspect_bytes(np.frombuffer(encode("GIF"), np.uint8)) is None
    assert inspect_bytes(np.frombuffer(PNG[:-1], np.uint8)) == "truncated: the end of the file is missing"
    assert inspect_bytes(np.frombuffer(JPEG, np.uint8), max_pixels=100) == "more pixels than max_pixels"


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("orientation", range(9))
def test_upright_size_as_pillow(kind, orientation):
    data = encode(kind, orientation=orientation)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert inspect(data) == ("OK", [upright.height, upright.width])


@pytest.mark.parametrize("data", [WEBP, LOSSLESS, encode("WEBP", "RGBA"), encode("WEBP", **ANIMATION)])
def test_webp_size(data):
    assert inspect(data)[1] == [30, 44]


@pytest.mark.parametrize("data", [JPEG, encode("JPEG", progressive=True, orientation=6), PNG, WEBP, LOSSLESS])
def test_every_cut_is_seen(data):
    for size in range(len(data)):
        assert inspect(data[:size])[0] not in ("OK", "FALLBACK")


def test_reads_nothing_past_the_end():
    rng = np.random.default_rng(5)
    kinds = [JPEG, encode("JPEG", orientation=6), PNG, encode("PNG", orientation=6), WEBP, LOSSLESS]
    kinds += [encode("WEBP", "RGBA"), encode("WEBP", **ANIMATION), encode("GIF"), encode("BMP"), encode("AVIF")]
    for _ in range(600):
        data = np.frombuffer(kinds[rng.integers(len(kinds))], np.uint8).copy()
        data[rng.integers(0, min(data.size, 300), 4)] = rng.integers(0, 256, 4)
        data = data[: rng.integers(1, data.size + 1)]
        region = Region(data.size, "end", lean=-data.size % 16)  # the next byte is on a page that faults
        region.inside[:] = data
        codes, _ = inspect_images(np.array([region.address]), np.array([data.size]))
        assert codes[0] < len(NAMES)


def test_batch_is_judged_one_by_one():
    files = [np.frombuffer(data, np.uint8) for _, data, _ in CASES]
    addresses = np.array([file.ctypes.data for file in files])
    codes, dims = inspect_images(addresses, np.array([file.size for file in files]))
    assert [NAMES[code] for code in codes] == [verdict for _, _, verdict in CASES]
    assert dims.shape == (len(CASES), 2)
    codes, dims = inspect_images(np.zeros(0, np.int64), np.zeros(0, np.int64))
    assert codes.shape == (0,)
    assert dims.shape == (0, 2)


def test_real_files(shared_data):
    paths = sorted(
        path for folder in ("imagenet_like", "exif_orientation") for path in (shared_data / folder).iterdir()
    )
    for path in paths:
        if path.suffix.lower() in (".jpg", ".jpeg"):
            upright = ImageOps.exif_transpose(Image.open(path))
            assert inspect(path.read_bytes()) == ("OK", [upright.height, upright.width])


def test_messages():
    one = np.zeros(1, np.int64)
    with pytest.raises(TypeError, match="inspect_images: addresses must be a NumPy array of int64, got int32"):
        inspect_images(one.astype(np.int32), one)
    with pytest.raises(TypeError, match="inspect_images: sizes must be a NumPy array of int64, got list"):
        inspect_images(one, [1])
    with pytest.raises(ValueError, match=r"inspect_images: sizes must be \(N,\) = \(1,\), got \(2,\)"):
        inspect_images(one, np.zeros(2, np.int64))
