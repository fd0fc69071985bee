"""Masks decoded beside DALI: against Pillow, filters by the PNG specification in plain Python, damage of all kinds."""

from __future__ import annotations

import ctypes
import io
import struct
import tracemalloc
import zlib
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pytest
from host_cuda.rehearsal import gpu_machine
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from figureground.pipeline import mask_files
from figureground.pipeline.fallback import decode_on_host
from figureground.pipeline.mask_files import MaskFiles
from figureground.shards.masks import encode_mask
from figureground.shards.pieces import Pieces

NAMES = ("None", "Sub", "Up", "Average", "Paeth")


@pytest.fixture(scope="module")
def workers():
    with ThreadPoolExecutor(2) as pool:
        yield pool


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def guess(kind: int, left: int, up: int, corner: int) -> int:
    """What a filter predicts of a byte: PNG third edition, 9.2 to 9.4."""
    if kind == 4:
        near = {left: abs(up - corner), up: abs(left - corner), corner: abs(left + up - 2 * corner)}
        least = min(near.values())
        return next(value for value in (left, up, corner) if near[value] == least)
    return (0, left, up, (left + up) // 2)[kind]


def filtered(pixels: np.ndarray, kinds: list[int]) -> bytes:
    """Filter each line by its kind, byte by byte."""
    height, width = pixels.shape
    lines = bytearray()
    for y in range(height):
        lines.append(kinds[y])
        for x in range(width):
            left = int(pixels[y, x - 1]) if x else 0
            up = int(pixels[y - 1, x]) if y else 0
            corner = int(pixels[y - 1, x - 1]) if x and y else 0
            lines.append((int(pixels[y, x]) - guess(kinds[y], left, up, corner)) % 256)
    return bytes(lines)


def png(data: bytes, shape: tuple[int, int], *, parts: int = 1, more: bytes = b"") -> np.ndarray:
    """Put compressed lines into an 8-bit grey PNG, in some IDAT chunks, other chunks before them."""
    header = struct.pack(">IIBBBBB", shape[1], shape[0], 8, 0, 0, 0, 0)
    edges = np.linspace(0, len(data), parts + 1).astype(int).tolist()
    idat = b"".join(chunk(b"IDAT", data[a:b]) for a, b in pairwise(edges))
    file = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + more + idat + chunk(b"IEND", b"")
    return np.frombuffer(file, np.uint8)


def pixels_of(ragged, row: int) -> np.ndarray:
    height, width = ragged.sizes[row].tolist()
    flat = (ctypes.c_uint8 * (height * width)).from_address(int(ragged.addresses[row]))
    return np.frombuffer(flat, np.uint8).reshape(height, width).copy()


def decode(workers, files: list[np.ndarray | None], **options) -> list[np.ndarray | None]:
    """Return each mask, None where there is none, which then must be one black pixel."""
    host, masks, valid = MaskFiles(Pieces.of(files), workers, **options).gather(False)
    assert host is masks
    assert len(host) == len(files)
    found = [pixels_of(host, row) for row in range(len(files))]
    assert all(mask.tolist() == [[0]] for mask in (found[row] for row in np.flatnonzero(~valid)))
    return [mask if good else None for mask, good in zip(found, valid.tolist())]


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width)).astype(np.uint8)


def test_by_hand(workers):
    lines = bytes([2, 10, 20, 2, 1, 255])  # Up, twice: the second line is the first + (1, -1)
    mask, nothing = decode(workers, [png(zlib.compress(lines), (2, 2)), None])
    assert mask.tolist() == [[10, 20], [11, 19]]
    assert nothing is None


@pytest.mark.parametrize("kind", range(5), ids=NAMES)
@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (5, 1), (6, 9)])
def test_filters(workers, kind, shape):
    pixels = noise(*shape)
    file = png(zlib.compress(filtered(pixels, [kind] * shape[0])), shape)
    np.testing.assert_array_equal(
        np.asarray(Image.open(io.BytesIO(file.tobytes()))), pixels
    )  # the test's own arithmetic
    np.testing.assert_array_equal(decode(workers, [file])[0], pixels)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 99), st.integers(1, 5), st.booleans())
def test_filters_mixed_and_chunks(height, width, seed, parts, smooth):
    pixels = noise(height, width, seed) // (32 if smooth else 1)
    kinds = np.random.default_rng(seed).integers(0, 5, height).tolist()
    file = png(zlib.compress(filtered(pixels, kinds)), (height, width), parts=parts, more=chunk(b"tEXt", b"a\0b"))
    with ThreadPoolExecutor(1) as pool:
        np.testing.assert_array_equal(decode(pool, [file])[0], pixels)


@pytest.mark.parametrize("library", ["isal", "zlib"])
def test_what_the_mask_job_writes(workers, monkeypatch, library):
    if library == "zlib":
        monkeypatch.setattr(mask_files, "inflate", zlib)
    masks = [noise(112, 112, 1), np.zeros((7, 300), np.uint8), np.tri(64, 65, dtype=np.uint8) * 255, noise(500, 333, 2)]
    files = [np.frombuffer(encode_mask(mask), np.uint8) for mask in masks * 5]
    for found, mask in zip(decode(workers, [*files, None]), masks * 5):
        np.testing.assert_array_equal(found, mask)


def odd_files() -> dict[str, np.ndarray]:
    """Legal masks that are not plain."""
    image, found = Image.fromarray(noise(9, 14)), {}
    for name, kind, options in (
        ("RGB", "PNG", {}), ("RGBA", "PNG", {}), ("P", "PNG", {}), ("1", "PNG", {}), ("LA", "PNG", {}), ("L", "JPEG", {}),
        ("L", "GIF", {}), ("L", "BMP", {}), ("L", "WEBP", {"lossless": True}),
    ):  # fmt: skip
        stream = io.BytesIO()
        image.convert(name).save(stream, kind, **options)
        found[f"{kind} {name}"] = np.frombuffer(stream.getvalue(), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    for name, options in (("turned", {"exif": exif}), ("transparent", {"transparency": 3})):
        stream = io.BytesIO()
        image.save(stream, "PNG", **options)
        found[name] = np.frombuffer(stream.getvalue(), np.uint8)
    wide = io.BytesIO()
    Image.fromarray(noise(9, 14).astype(np.uint16) * 257).save(wide, "PNG")
    return {**found, "16 bit": np.frombuffer(wide.getvalue(), np.uint8)}


@pytest.mark.parametrize("file", odd_files().values(), ids=odd_files())
def test_odd_masks_are_the_hosts(workers, file):
    plain = np.frombuffer(encode_mask(noise(3, 4)), np.uint8)
    first, mask, last = decode(workers, [plain, file, plain])
    np.testing.assert_array_equal(mask, decode_on_host(file, 1)[..., 0])
    np.testing.assert_array_equal(first, noise(3, 4))
    np.testing.assert_array_equal(last, noise(3, 4))


def bad_files() -> dict[str, np.ndarray]:
    lines = filtered(noise(8, 8), [2] * 8)
    good = zlib.compress(lines)
    return {
        "no bytes": np.zeros(0, np.uint8),
        "no image": np.frombuffer(b"<html>404</html>" * 5, np.uint8),
        "cut": png(good, (8, 8))[:-20],
        "a filter that is none": png(zlib.compress(b"\x05" + lines[1:]), (8, 8)),
        "flipped": png(good[:20] + bytes([good[20] ^ 0x5A]) + good[21:], (8, 8)),
        "no stream": png(b"\0" * 40, (8, 8)),
    }


@pytest.mark.parametrize("file", bad_files().values(), ids=bad_files())
def test_bad_masks_are_no_masks(workers, file):
    plain = np.frombuffer(encode_mask(noise(3, 4)), np.uint8)
    first, mask, last = decode(workers, [plain, file, plain])
    assert mask is None
    np.testing.assert_array_equal(first, noise(3, 4))
    np.testing.assert_array_equal(last, noise(3, 4))


def test_broken_checksum_of_the_pixels_is_noticed(workers):
    stored = zlib.compress(filtered(noise(8, 8), [0] * 8), 0)
    wrong = bytearray(stored)
    wrong[20] ^= 1  # a pixel of a stored block: only the checksum tells
    assert decode(workers, [png(bytes(wrong), (8, 8))])[0] is None
    np.testing.assert_array_equal(decode(workers, [png(stored, (8, 8))])[0], noise(8, 8))


def test_missing_lines_are_the_hosts(workers):
    """Pillow leaves them black."""
    file = png(zlib.compress(filtered(noise(8, 8), [2] * 8)[:-9]), (8, 8))
    np.testing.assert_array_equal(decode(workers, [file])[0], decode_on_host(file, 1)[..., 0])


def test_too_large(workers):
    small, large = (np.frombuffer(encode_mask(noise(*shape)), np.uint8) for shape in ((4, 5), (5, 5)))
    found = decode(workers, [small, large], max_pixels=20)
    assert found[0] is not None
    assert found[1] is None


def test_a_bomb_takes_no_memory():
    bomb = np.frombuffer(zlib.compress(bytes(2 * 10**8)), np.uint8)
    tracemalloc.start()
    assert mask_files._inflate(bomb, 100) is None
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10**6


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_damaged_files(data):
    """Where both see a mask it is the same; where Pillow sees none (a broken CRC), what we see is the undamaged mask."""
    original = noise(11, 13, 3) // 64 * 64
    file = np.frombuffer(encode_mask(original), np.uint8).copy()
    for _ in range(data.draw(st.integers(1, 3))):
        file[data.draw(st.integers(0, len(file) - 1))] = data.draw(st.integers(0, 255))
    file = file[: len(file) - data.draw(st.sampled_from([0, 0, 0, 1, 12, 30]))]
    with ThreadPoolExecutor(1) as pool:
        (mask,) = decode(pool, [np.ascontiguousarray(file)])
    host = decode_on_host(file, 1)
    if mask is not None:
        np.testing.assert_array_equal(mask, original if isinstance(host, str) else host[..., 0])


def test_on_a_device(workers):
    """One copy for the plain ones, one for each odd one; nothing comes back."""
    files = [np.frombuffer(encode_mask(noise(6, 7, seed)), np.uint8) for seed in range(5)]
    files = [*files, None, odd_files()["PNG RGB"], bad_files()["flipped"]]
    with gpu_machine() as gpu:
        host, masks, valid = MaskFiles(Pieces.of(files), workers).gather(True)
        assert masks.cuda
        assert not host.cuda
        assert valid.tolist() == [True] * 5 + [False, True, False]
        assert not np.isin(masks.addresses, host.addresses).any()
        for row in range(len(files)):
            np.testing.assert_array_equal(pixels_of(masks, row), pixels_of(host, row))
    assert not gpu.log.faults
