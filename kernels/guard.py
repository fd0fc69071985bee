"""Look at encoded images before a decoder does: header and end marker only, about a microsecond an image.

A decoder must never see bytes that its parser rejects: inside DALI that is an exception for the whole batch, and, if any
other work is in flight, often a segmentation fault (measured with DALI 2.4 on the CPU, batches of 32 with one damaged file:
57 crashes in 300 batches without this guard, none in 10 000 with it; tests/pipeline/test_decode_fuzz.py). So JPEG, PNG
and WebP are walked here the way nvImageCodec's parsers walk them, and only what those accept is `OK`. Errors behind the
header (a flipped bit in the pixels) are not looked for.

    OK             JPEG (baseline, extended, progressive; 8 bit), PNG, WebP (one frame, no EXIF): for DALI
    FALLBACK       other formats by signature (GIF, BMP, TIFF, JPEG 2000, PNM, AVIF), and legal files that DALI's parsers
                   refuse (arithmetic or lossless JPEG, stray bytes between JPEG markers, animated WebP, WebP with
                   EXIF, whose padding bytes nvImageCodec forgets): for Pillow and OpenCV on the host
    anything else  bad; `REASONS` says why

Encoded bytes live on the host, so there is no CUDA version. Sources: ITU-T T.81 annex B, PNG third edition (W3C), RFC
9649 (WebP), EXIF 2.32; nvImageCodec 0.9 for what its parsers accept.
"""

from __future__ import annotations

import numba
import numpy as np

from .lanes import bytes_at

OK, FALLBACK, EMPTY, NOT_AN_IMAGE, TRUNCATED, BROKEN_HEADER, UNSUPPORTED, TOO_LARGE = range(8)
"""Verdicts of `inspect_images`."""

REASONS = {
    EMPTY: "no bytes",
    NOT_AN_IMAGE: "not an image: HTML, text or garbage",
    TRUNCATED: "truncated: the end of the file is missing",
    BROKEN_HEADER: "broken header",
    UNSUPPORTED: "a format that no decoder here reads",
    TOO_LARGE: "more pixels than max_pixels",
}
"""Bad verdicts in words."""

MAX_PIXELS = 2**27
"""Default limit of height x width [px]."""

_JPEG_SIDE = 65500  # libjpeg's limit


def inspect_images(
    addresses: np.ndarray, sizes: np.ndarray, *, max_pixels: int = MAX_PIXELS
) -> tuple[np.ndarray, np.ndarray]:
    """Judge a batch of encoded images by header and end marker.

    Parameters
    ----------
    addresses : (N,) int64
        Address of the first byte of each file in host memory, which the caller keeps alive.
    sizes : (N,) int64
        Length of each [bytes].
    max_pixels : int
        Larger images are `TOO_LARGE`: what they decode to may not fit in memory.

    Returns
    -------
    codes : (N,) uint8
        `OK`, `FALLBACK` or why not, see `REASONS`.
    dims : (N, 2) int32
        Upright height and width [px], EXIF orientation applied; -1 where the header was not read.

    Raises
    ------
    TypeError
        If an array is not NumPy int64.
    ValueError
        If the arrays are not one-dimensional or differ in length.

    Examples
    --------
    >>> data = np.frombuffer(b"<html>404</html>", np.uint8)
    >>> codes, dims = inspect_images(np.array([data.ctypes.data]), np.array([data.size]))
    >>> REASONS[int(codes[0])], dims.tolist()
    ('not an image: HTML, text or garbage', [[-1, -1]])
    """
    for name, array in (("addresses", addresses), ("sizes", sizes)):
        if not isinstance(array, np.ndarray) or array.dtype != np.int64:
            kind = getattr(array, "dtype", type(array).__name__)
            raise TypeError(f"inspect_images: {name} must be a NumPy array of int64, got {kind}")
    if addresses.ndim != 1 or addresses.shape != sizes.shape:
        raise ValueError(f"inspect_images: sizes must be (N,) = {addresses.shape}, got {sizes.shape}")
    codes, dims = np.empty(len(addresses), np.uint8), np.empty((len(addresses), 2), np.int32)
    _inspect(np.ascontiguousarray(addresses), np.ascontiguousarray(sizes), max_pixels, codes, dims)
    return codes, dims


def inspect_bytes(data: np.ndarray, *, max_pixels: int = MAX_PIXELS) -> str | None:
    """Say in words why one encoded image is bad.

    Parameters
    ----------
    data : (size,) uint8, contiguous
    max_pixels : int
        As in `inspect_images`.

    Returns
    -------
    str or None
        None if a decoder may be asked (`OK` and `FALLBACK`).

    Examples
    --------
    >>> inspect_bytes(np.zeros(0, np.uint8))
    'no bytes'
    """
    codes, _ = inspect_images(
        np.array([data.ctypes.data], np.int64), np.array([data.size], np.int64), max_pixels=max_pixels
    )
    return REASONS.get(int(codes[0]))


@numba.njit(nogil=True, cache=True)
def _inspect(addresses, sizes, max_pixels, codes, dims):  # type: ignore[no-untyped-def]
    for i in range(len(addresses)):
        b = numba.carray(bytes_at(addresses[i]), (sizes[i],))
        code, height, width = _judge(b)
        if code <= FALLBACK and height > 0 and height * width > max_pixels:
            code = TOO_LARGE
        codes[i] = code
        dims[i, 0] = min(height, 2**31 - 1)
        dims[i, 1] = min(width, 2**31 - 1)


@numba.njit(nogil=True, cache=True)
def _be(b, at, count):  # type: ignore[no-untyped-def]
    value = np.int64(0)
    for i in range(count):
        value = value << 8 | np.int64(b[at + i])
    return value


@numba.njit(nogil=True, cache=True)
def _le(b, at, count):  # type: ignore[no-untyped-def]
    value = np.int64(0)
    for i in range(count):
        value |= np.int64(b[at + i]) << (8 * i)
    return value


@numba.njit(nogil=True, cache=True)
def _judge(b):  # type: ignore[no-untyped-def]
    """Return (code, height, width) of one file."""
    n = b.size
    if n == 0:
        return EMPTY, -1, -1
    if n >= 2 and b[0] == 0xFF and b[1] == 0xD8:
        return _jpeg(b)
    if n >= 8 and _be(b, 0, 8) == -0x76AFB1B8F2F5E5F6:  # \x89PNG\r\n\x1a\n
        return _png(b)
    if n >= 12 and _be(b, 0, 4) == 0x52494646 and _be(b, 8, 4) == 0x57454250:  # RIFF....WEBP
        return _webp(b)
    return _other(b)


@numba.njit(nogil=True, cache=True)
def _jpeg(b):  # type: ignore[no-untyped-def]
    n, at, height, width, orientation, code = b.size, 2, -1, -1, 1, OK
    while True:
        if at + 2 > n:
            return TRUNCATED, -1, -1
        if b[at] != 0xFF:
            return FALLBACK, -1, -1  # stray bytes: libjpeg skips them, nvImageCodec does not
        while at < n and b[at] == 0xFF:
            at += 1
        if at + 3 > n:
            return TRUNCATED, -1, -1
        marker = b[at]
        at += 1
        if marker <= 1 or 0xD0 <= marker <= 0xD8:
            return FALLBACK, -1, -1  # markers without a length
        if marker == 0xD9:
            return BROKEN_HEADER, -1, -1  # ends before the pixels begin
        size = _be(b, at, 2)
        if marker == 0xDA:
            break
        if size < 2 or (marker == 0xE1 and size < 8 and _has_exif(b, at + 2, n)):
            return BROKEN_HEADER, -1, -1
        if at + size > n:
            return TRUNCATED, -1, -1
        if marker >= 0xC0 and marker <= 0xCF and marker != 0xC4 and marker != 0xC8 and marker != 0xCC:
            if height >= 0:
                return BROKEN_HEADER, -1, -1  # two frames
            code, height, width = _jpeg_frame(b, at, size, marker)
            if code > FALLBACK:
                return code, height, width
        elif marker == 0xE1 and _has_exif(b, at + 2, n):
            orientation = _orientation(b, at + 8, at + size)
        at += size
    if height < 0:
        return BROKEN_HEADER, -1, -1
    if orientation >= 5:
        height, width = width, height
    for i in range(n - 2, at - 1, -1):  # the end marker: last, or before padding and trailers of any length
        if b[i] == 0xFF and b[i + 1] == 0xD9:
            return code, height, width
    return TRUNCATED, height, width


@numba.njit(nogil=True, cache=True)
def _jpeg_frame(b, at, size, marker):  # type: ignore[no-untyped-def]
    if size < 8:
        return BROKEN_HEADER, -1, -1
    precision, height, width, components = b[at + 2], _be(b, at + 3, 2), _be(b, at + 5, 2), np.int64(b[at + 7])
    if height == 0 or width == 0 or size != 8 + 3 * components:
        return BROKEN_HEADER, -1, -1
    sequential = marker <= 0xC2
    host_only = marker == 0xC3 or marker == 0xC9 or marker == 0xCA  # lossless, arithmetic
    if precision != 8 or not (sequential or host_only) or not (components == 1 or components == 3 or components == 4):
        return UNSUPPORTED, height, width
    for c in range(components):
        factors = b[at + 9 + 3 * c]
        if factors >> 4 < 1 or factors >> 4 > 4 or factors & 15 < 1 or factors & 15 > 4:
            return BROKEN_HEADER, height, width
    if height > _JPEG_SIDE or width > _JPEG_SIDE:
        return TOO_LARGE, height, width
    return (OK if sequential else FALLBACK), height, width


@numba.njit(nogil=True, cache=True)
def _has_exif(b, at, n):  # type: ignore[no-untyped-def]
    return at + 6 <= n and _be(b, at, 6) == 0x457869660000  # Exif\0\0


@numba.njit(nogil=True, cache=True)
def _orientation(b, start, end):  # type: ignore[no-untyped-def]
    """Return the orientation (1..8) in an EXIF block, 1 if there is none."""
    if end - start < 14:
        return 1
    little = b[start] == 0x49 and b[start + 1] == 0x49
    if (_le(b, start + 2, 2) if little else _be(b, start + 2, 2)) != 42:
        return 1
    at = start + (_le(b, start + 4, 4) if little else _be(b, start + 4, 4))
    if at + 2 > end:
        return 1
    entries = _le(b, at, 2) if little else _be(b, at, 2)
    for i in range(min(entries, (end - at - 2) // 12)):
        entry = at + 2 + 12 * i
        if (_le(b, entry, 2) if little else _be(b, entry, 2)) == 0x112:
            value = _le(b, entry + 8, 2) if little else _be(b, entry + 8, 2)
            return value if 1 <= value <= 8 else 1
    return 1


@numba.njit(nogil=True, cache=True)
def _png(b):  # type: ignore[no-untyped-def]
    n = b.size
    if n < 33:
        return TRUNCATED, -1, -1
    width, height, depth, color = _be(b, 16, 4), _be(b, 20, 4), b[24], b[25]
    deep = depth == 8 or depth == 16
    legal = (
        ((color == 2 or color == 4 or color == 6) and deep)
        or (color == 0 and (deep or depth == 1 or depth == 2 or depth == 4))
        or (color == 3 and (depth == 1 or depth == 2 or depth == 4 or depth == 8))
    )
    header = _be(b, 8, 8) == 0x0000000D49484452 and b[26] == 0 and b[27] == 0 and b[28] <= 1
    if not (header and legal) or width == 0 or height == 0 or width > 2**31 - 1 or height > 2**31 - 1:
        return BROKEN_HEADER, -1, -1
    at, data, orientation = 33, False, 1
    while True:  # the parser goes from chunk to chunk up to the end
        if at + 12 > n:
            return TRUNCATED, height, width
        size, kind = _be(b, at, 4), _be(b, at + 4, 4)
        if kind == 0x49454E44:  # IEND
            break
        for i in range(4, 8):
            if not (0x41 <= b[at + i] <= 0x5A or 0x61 <= b[at + i] <= 0x7A):
                return BROKEN_HEADER, height, width
        if at + 12 + size > n:
            return TRUNCATED, height, width
        data = data or kind == 0x49444154  # IDAT
        if kind == 0x65584966:  # eXIf
            orientation = _orientation(b, at + 8, at + 8 + size)
        at += 12 + size
    if not data:
        return BROKEN_HEADER, height, width
    return (OK, width, height) if orientation >= 5 else (OK, height, width)


@numba.njit(nogil=True, cache=True)
def _webp(b):  # type: ignore[no-untyped-def]
    n = b.size
    if _le(b, 4, 4) + 8 > n or n < 30:
        return TRUNCATED, -1, -1
    if _be(b, 12, 4) != 0x56503858:  # a single VP8 or VP8L chunk
        return _webp_frame(b, 12)
    flags, canvas_width, canvas_height = b[20], _le(b, 24, 3) + 1, _le(b, 27, 3) + 1
    if flags & 0x08:
        return FALLBACK, -1, -1  # EXIF
    if flags & 0x02:
        return FALLBACK, canvas_height, canvas_width  # animated
    at = 12
    while at + 8 <= n:
        kind = _be(b, at, 4)
        if kind == 0x56503820 or kind == 0x5650384C:
            code, height, width = _webp_frame(b, at)
            if code == OK and (height != canvas_height or width != canvas_width):
                return BROKEN_HEADER, height, width
            return code, height, width
        size = _le(b, at + 4, 4)
        at += 8 + size + (size & 1)
    return TRUNCATED, canvas_height, canvas_width


@numba.njit(nogil=True, cache=True)
def _webp_frame(b, at):  # type: ignore[no-untyped-def]
    """Judge the VP8 (lossy) or VP8L (lossless) chunk at `at`."""
    kind, size = _be(b, at, 4), _le(b, at + 4, 4)
    if kind != 0x56503820 and kind != 0x5650384C:
        return BROKEN_HEADER, -1, -1
    if size < 10 or at + 8 + size > b.size:
        return TRUNCATED, -1, -1
    if kind == 0x5650384C:
        features = _le(b, at + 9, 4)
        if b[at + 8] != 0x2F or features >> 29 != 0:
            return BROKEN_HEADER, -1, -1
        return OK, (features >> 14 & 0x3FFF) + 1, (features & 0x3FFF) + 1
    width, height = _le(b, at + 14, 2) & 0x3FFF, _le(b, at + 16, 2) & 0x3FFF
    if b[at + 8] & 1 or _be(b, at + 11, 3) != 0x9D012A or width == 0 or height == 0:
        return BROKEN_HEADER, -1, -1  # no key frame
    return OK, height, width


@numba.njit(nogil=True, cache=True)
def _other(b):  # type: ignore[no-untyped-def]
    """Judge by signature; Pillow and OpenCV do the rest."""
    n = b.size
    if n < 12:
        return NOT_AN_IMAGE, -1, -1
    head, text = _be(b, 0, 4), _be(b, 4, 4)
    if head == 0x47494638 and (b[4] == 0x37 or b[4] == 0x39) and b[5] == 0x61:  # GIF87a, GIF89a
        return FALLBACK, -1, -1
    if head == 0x49492A00 or head == 0x4D4D002A or head == 0x49492B00 or head == 0x4D4D002B:  # TIFF, BigTIFF
        return FALLBACK, -1, -1
    if head == 0xFF4FFF51 or (head == 0x0000000C and text == 0x6A502020):  # JPEG 2000
        return FALLBACK, -1, -1
    if b[0] == 0x50 and 0x31 <= b[1] <= 0x37 and (9 <= b[2] <= 13 or b[2] == 0x20 or b[2] == 0x23):  # P1 .. P7
        return FALLBACK, -1, -1
    if b[0] == 0x42 and b[1] == 0x4D and n >= 26 and 12 <= _le(b, 14, 4) <= 256:  # BM
        return FALLBACK, -1, -1
    if text == 0x66747970:  # ftyp: AVIF, and its relatives
        brand = _be(b, 8, 4)
        if brand == 0x61766966 or brand == 0x61766973:
            return FALLBACK, -1, -1
        heif = brand == 0x68656963 or brand == 0x68656978 or brand == 0x6D696631 or brand == 0x6D736631
        return (UNSUPPORTED, -1, -1) if heif else (NOT_AN_IMAGE, -1, -1)
    if head >> 16 == 0xFF0A or (head == 0x0000000C and text == 0x4A584C20):  # JPEG XL
        return UNSUPPORTED, -1, -1
    return NOT_AN_IMAGE, -1, -1
