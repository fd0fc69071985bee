"""Masks of a batch, decoded beside DALI: small grey PNGs, for which a general decoder does too much.

A loader of two views with swaps at p = 0.2 needs the masks of 36 % of its images. DALI takes 77 us of CPU time for an 8-bit grey
PNG of 112 x 112 and 8 us for each sample without one, 31 us an image in all; this takes 10. ISA-L's inflate is what is fast (19 us;
OpenCV takes 65 for a mask, Pillow 86); what PNG adds to it, the filters, is one compiled pass.

The guard judges the files (see `figureground.kernels.guard`). Threads inflate those that are what `encode_mask` writes: 8-bit grey,
not interlaced, neither transparent nor turned. Whatever else is a legal image goes to Pillow and OpenCV, as does what inflate
refuses: theirs is the last word. On a GPU the buffer of a batch is copied there in one piece.

The Adler checksum of the pixels is verified, CRCs of chunks are not: behind a broken one that changes no pixel the mask is good.

Sources: PNG third edition (W3C), sections 9.2 and 11.2.
"""

from __future__ import annotations

from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np

from figureground.kernels.arrays import Ragged
from figureground.kernels.guard import FALLBACK, MAX_PIXELS, OK, inspect_images
from figureground.kernels.lanes import bytes_at
from figureground.shards.pieces import Pieces

from .fallback import decode_on_host

inflate: Any
try:
    from isal import isal_zlib as inflate
except ImportError:  # no wheel for this processor: the same bytes, in twice the time
    import zlib as inflate

_ALIGN = 64
"""Masks begin at multiples of this many bytes; before them is the black pixel of those that are missing."""
_CHUNK = 8
"""Masks a thread takes at once."""


@dataclass
class _Plain:
    """The plain ones among the files of a batch."""

    rows: np.ndarray
    """(P,) int64: their places in the batch."""
    addresses: np.ndarray
    """(P,) int64: of the encoded bytes."""
    sizes: np.ndarray
    """(P,) int64: of the encoded bytes."""
    shapes: np.ndarray
    """(P, 2) int64: height and width [px]."""
    first: np.ndarray
    """(P,) int64: where each mask begins in the buffer."""


class MaskFiles:
    """The masks of one batch, on their way: threads decode them from the moment this is made.

    Parameters
    ----------
    files : Pieces
        Encoded masks, None where there is none; they must not change until `gather`.
    workers : Executor
        Threads that decode.
    max_pixels : int
        Larger masks are refused.
    """

    def __init__(self, files: Pieces, workers: Executor, *, max_pixels: int = MAX_PIXELS) -> None:
        self._count, self._max_pixels = len(files), max_pixels
        self._given = {row: file for row, file in enumerate(files) if file is not None}
        there = np.array(list(self._given), np.int64)
        addresses, sizes = files.addresses[there], files.sizes[there]
        codes, dims = inspect_images(addresses, sizes, max_pixels=max_pixels)
        plain = np.zeros(len(there), bool)
        _find_plain(addresses, sizes, codes == OK, plain)
        shapes = dims[plain].astype(np.int64)
        room = -(-shapes.prod(axis=1) // _ALIGN) * _ALIGN
        first = np.cumsum(room) - room + _ALIGN
        self._plain = _Plain(there[plain], addresses[plain], sizes[plain], shapes, first)
        self._buffer = np.empty(_ALIGN + int(room.sum()), np.uint8)
        self._buffer[0] = 0
        self._odd: dict[int, Future[np.ndarray | str]] = {}
        for i in np.flatnonzero(((codes == OK) | (codes == FALLBACK)) & ~plain).tolist():
            pixels = int(dims[i, 0]) * int(dims[i, 1]) if dims[i, 0] > 0 else -1
            self._odd[int(there[i])] = workers.submit(self._on_host, int(there[i]), pixels)
        parts = [slice(begin, begin + _CHUNK) for begin in range(0, len(first), _CHUNK)]
        self._work = [workers.submit(self._decode, part) for part in parts]

    def gather(self, cuda: bool) -> tuple[Ragged, Ragged, np.ndarray]:
        """Wait for the masks.

        Returns
        -------
        host : Ragged
            One mask a file, in host memory; one black pixel where there is none.
        masks : Ragged
            The same on the current GPU if `cuda`, else `host`.
        valid : (N,) bool
        """
        offsets, sizes = np.zeros(self._count, np.int64), np.ones((self._count, 2), np.int32)
        valid = np.zeros(self._count, bool)
        plain = self._plain
        offsets[plain.rows], sizes[plain.rows], valid[plain.rows] = plain.first, plain.shapes, True
        results = {row: future.result() for row, future in self._odd.items()}
        for i in (i for work in self._work for i in work.result()):
            row = int(plain.rows[i])
            results[row] = self._on_host(row, int(plain.shapes[i].prod()))
            offsets[row], sizes[row], valid[row] = 0, 1, False
        odd = {row: pixels for row, pixels in results.items() if not isinstance(pixels, str)}

        def place(buffer: Any, pixels: dict[int, Any], address: Any) -> Ragged:
            addresses = address(buffer) + offsets
            for row, array in pixels.items():
                addresses[row], sizes[row], valid[row] = address(array), array.shape[:2], True
            return Ragged(addresses, sizes, 1, [buffer, pixels], buffer is not self._buffer)

        host = place(self._buffer, odd, lambda array: array.ctypes.data)
        if not cuda:
            return host, host, valid
        import cupy

        moved = {row: cupy.asarray(array) for row, array in odd.items()}
        return host, place(cupy.asarray(self._buffer), moved, lambda array: array.data.ptr), valid

    def _on_host(self, row: int, pixels: int) -> np.ndarray | str:
        return decode_on_host(self._given[row], 1, max_pixels=self._max_pixels, pixels=pixels)

    def _decode(self, part: slice) -> list[int]:
        """Decode some of the plain files; return the numbers of those that are refused."""
        plain, refused, begin = self._plain, [], 0
        sizes = plain.sizes[part]
        joined, ends = np.empty(int(sizes.sum()), np.uint8), np.empty(len(sizes), np.int64)
        _join_data(plain.addresses[part], sizes, joined, ends)
        for i, end in enumerate(ends.tolist(), part.start):
            height, width = plain.shapes[i].tolist()
            lines = _inflate(joined[begin:end], height * (width + 1))
            if lines is None or not _undo_filters(lines, self._buffer[plain.first[i] :], height, width):
                refused.append(i)
            begin = end
        return refused


def _inflate(data: np.ndarray, size: int) -> np.ndarray | None:
    """Return what is compressed in `data`; None if it is damaged or not `size` bytes, which are all that it may take."""
    stream = inflate.decompressobj()
    try:
        found = stream.decompress(data.data, size + 1)
    except inflate.error:
        return None
    return np.frombuffer(found, np.uint8) if stream.eof and len(found) == size else None


@numba.njit(nogil=True, cache=True)
def _be32(b, at):  # type: ignore[no-untyped-def]
    return np.int64(b[at]) << 24 | np.int64(b[at + 1]) << 16 | np.int64(b[at + 2]) << 8 | np.int64(b[at + 3])


@numba.njit(nogil=True, cache=True)
def _find_plain(addresses, sizes, legal, plain):  # type: ignore[no-untyped-def]
    """Mark the legal files that are PNG, 8-bit grey, not interlaced, without transparency or rotation."""
    for i in range(len(addresses)):
        b = numba.carray(bytes_at(addresses[i]), (sizes[i],))
        if not legal[i] or b[0] != 0x89 or b[24] != 8 or b[25] != 0 or b[28] != 0:
            continue
        at, plain[i] = np.int64(33), True
        while at + 12 <= sizes[i]:
            kind = _be32(b, at + 4)
            if kind == 0x49454E44:  # IEND
                break
            if kind == 0x74524E53 or kind == 0x65584966:  # tRNS, eXIf
                plain[i] = False
            at += 12 + _be32(b, at)


@numba.njit(nogil=True, cache=True)
def _join_data(addresses, sizes, joined, ends):  # type: ignore[no-untyped-def]
    """Write the contents of the IDAT chunks of plain files behind each other, and where each file's end."""
    end = np.int64(0)
    for i in range(len(addresses)):
        b = numba.carray(bytes_at(addresses[i]), (sizes[i],))
        at = np.int64(33)
        while at + 12 <= sizes[i]:
            size, kind = _be32(b, at), _be32(b, at + 4)
            if kind == 0x49454E44:
                break
            if kind == 0x49444154 and at + 12 + size <= sizes[i]:  # IDAT
                joined[end : end + size] = b[at + 8 : at + 8 + size]
                end += size
            at += 12 + size
        ends[i] = end


@numba.njit(nogil=True, cache=True)
def _undo_filters(lines, out, height, width):  # type: ignore[no-untyped-def]
    """Write the pixels of `lines`, a filter's number and `width` bytes each; False if there is no such filter."""
    for y in range(height):
        kind = lines[y * (width + 1)]
        line = lines[y * (width + 1) + 1 : (y + 1) * (width + 1)]
        row, above = out[y * width : (y + 1) * width], out[max(y - 1, 0) * width : max(y, 1) * width]
        if kind == 0 or (kind == 2 and y == 0):
            row[:] = line
        elif kind == 2:  # Up
            for x in range(width):
                row[x] = line[x] + above[x]
        elif kind <= 4:  # Sub, Average, Paeth
            left, corner = np.int64(0), np.int64(0)
            for x in range(width):
                up = np.int64(above[x]) if y else np.int64(0)
                if kind == 1:
                    guess = left
                elif kind == 3:
                    guess = (left + up) >> 1
                else:
                    near, far, across = abs(up - corner), abs(left - corner), abs(left + up - 2 * corner)
                    guess = left if near <= far and near <= across else (up if far <= across else corner)
                left, corner = (np.int64(line[x]) + guess) & 255, up
                row[x] = left
        else:
            return False
    return True
