"""Arrays beside a page that faults: an access out of bounds stops the kernel instead of reading a neighbour."""

from __future__ import annotations

import ctypes
import mmap
import re
import weakref
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import numpy as np

PAGE = mmap.PAGESIZE
CANARY = 0xC7
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


class Region:
    """`size` bytes between two pages that faults guard, touching the last one (edge "end") or the first ("start").

    The address keeps its remainder modulo 16 (`lean`), for kernels with vector access: so up to 15 bytes beside the page
    are slack, which a canary watches for writes.
    """

    def __init__(self, size: int, edge: str, lean: int = 0) -> None:
        self.size = size
        inner = -(-max(size + lean, 1) // PAGE) * PAGE
        self._map = mmap.mmap(-1, inner + 2 * PAGE)
        self._bytes = np.frombuffer(self._map, np.uint8)
        self._bytes[PAGE:-PAGE] = CANARY
        base = self._bytes.ctypes.data
        for page in (base, base + PAGE + inner):
            if _libc.mprotect(page, PAGE, 0):
                raise OSError(ctypes.get_errno(), "mprotect refused a guard page")
        self._offset = PAGE + lean + (0 if edge == "start" else (inner - size - lean) // 16 * 16)
        self.address = base + self._offset
        self.inside = self._bytes[self._offset : self._offset + size]
        _alive[self._map] = self.address, size

    def intact(self) -> bool:
        """Tell whether nothing was written around the bytes."""
        before = self._bytes[PAGE : self._offset]
        after = self._bytes[self._offset + self.size : -PAGE]
        return bool((before == CANARY).all() and (after == CANARY).all())


_alive: weakref.WeakKeyDictionary[mmap.mmap, tuple[int, int]] = weakref.WeakKeyDictionary()


def alive() -> list[tuple[int, int]]:
    """Address and size of all regions whose memory somebody still holds."""
    return list(_alive.values())


def poisoned(array: np.ndarray, edge: str) -> np.ndarray:
    """Copy an array to a guarded region; the region lives as long as the copy."""
    array = np.ascontiguousarray(array)
    region = Region(array.nbytes, edge)
    region.inside[:] = array.reshape(-1).view(np.uint8)
    return region.inside.view(array.dtype).reshape(array.shape)


class Guarded:
    """The arrays of one launch, moved to guarded regions and back; arrays that overlap share a region."""

    def __init__(self, args: Sequence[Any], written: Sequence[bool], edge: str) -> None:
        self.edge = edge
        self.spans: list[tuple[int, int, bool, list[int]]] = []  # start, stop, written, positions
        arrays = [(a.ctypes.data, a.nbytes, written[i], i) for i, a in enumerate(args) if isinstance(a, np.ndarray)]
        for start, size, write, i in sorted(arrays):
            if self.spans and size and start < self.spans[-1][1]:
                first, stop, wrote, positions = self.spans[-1]
                self.spans[-1] = (first, max(stop, start + size), wrote or write, [*positions, i])
            else:
                self.spans.append((start, start + size, write, [i]))

    def __enter__(self) -> Guarded:
        self.regions = [Region(stop - start, self.edge, start % 16) for start, stop, _, _ in self.spans]
        for (start, _, _, _), region in zip(self.spans, self.regions):
            ctypes.memmove(region.address, start, region.size)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.regions = []

    def address(self, array: np.ndarray) -> int:
        """Where an argument lies now."""
        data = array.ctypes.data
        for (start, stop, _, _), region in zip(self.spans, self.regions):
            if start <= data and (data + array.nbytes <= stop):
                return region.address + data - start
        raise LookupError("Guarded: array must be one of the launch's arguments")

    def finish(self, where: str) -> None:
        """Check the canaries and copy what was written back."""
        for (start, _, write, positions), region in zip(self.spans, self.regions):
            names = ", ".join(f"args[{i}]" for i in positions)
            if not region.intact():
                raise RuntimeError(f"{where}: out of bounds: bytes around {names} were overwritten")
            if write:
                ctypes.memmove(start, region.address, region.size)

    def explain(self, message: str) -> str:
        """Say which argument a bad address was next to."""
        match = re.search(r"bad address 0x([0-9a-f]+)", message)
        if match is None:
            return message
        address = int(match[1], 16)
        for (_, _, _, positions), region in zip(self.spans, self.regions):
            names = ", ".join(f"args[{i}]" for i in positions)
            after, before = address - (region.address + region.size), region.address - address
            if 0 <= after < PAGE + 16:
                return message.replace(match[0], f"out of bounds: {after} bytes past the end of {names}")
            if 0 < before <= PAGE:
                return message.replace(match[0], f"out of bounds: {before} bytes before the start of {names}")
        return message.replace(match[0], f"out of bounds: address 0x{match[1]} belongs to no argument")
