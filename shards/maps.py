"""Keep shards mapped into memory, a bounded number of them, for many threads."""

from __future__ import annotations

import ctypes
import mmap
import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np

from .errors import ShardError

MOST_MAPS = 8192
"""Maps kept open by default: an eighth of what Linux allows a process (vm.max_map_count), since images, masks, textures and
backgrounds have maps of their own."""

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.mmap.restype = ctypes.c_void_p
_LIBC.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
_LIBC.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_FAILED = ctypes.c_void_p(-1).value


class _Memory:
    """Mapped memory, as NumPy takes it: read-only, and alive as long as an array that lies in it."""

    def __init__(self, address: int, size: int) -> None:
        self.__array_interface__ = {"version": 3, "typestr": "|u1", "shape": (size,), "data": (address, True)}


def map_file(file: int, size: int, path: str) -> np.ndarray:
    """Map an open file for reading; the file may then be closed.

    Parameters
    ----------
    file : int
        Descriptor.
    size : int
        Of the file [bytes].
    path : str
        For the message.

    Returns
    -------
    (size,) uint8
        Read-only; unmapped when it and all arrays cut from it are gone.

    Raises
    ------
    OSError
        If the system refuses.
    """
    if not size:
        return np.frombuffer(b"", np.uint8)
    address = _LIBC.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, file, 0)
    if address == _FAILED:
        number = ctypes.get_errno()
        raise OSError(number, f"cannot be mapped: {os.strerror(number)}", path)
    memory = _Memory(address, size)
    weakref.finalize(memory, _LIBC.munmap, address, size).atexit = False  # threads may still read when the process ends
    return np.asarray(memory)


class Maps:
    """Memory maps of files, opened when first needed; the least recently used is let go beyond a limit.

    Parameters
    ----------
    paths : list of str
        The files.
    status : (n, 2) int64
        Size [bytes] and modification time [ns] that each file must have: a map of a file that shrank would crash the
        process.
    limit : int, optional
        Maps kept open; by default `MOST_MAPS`.

    Notes
    -----
    Letting a map go never unmaps what is still in use: each array handed out keeps its map alive, and a map that is
    alive is used again rather than opened twice. A map holds no file descriptor (Python's own `mmap` would hold one): the usual
    limit of 1024 open files is less than a batch of random samples and the batches in flight may touch.
    """

    def __init__(self, paths: list[str], status: np.ndarray, limit: int | None = None) -> None:
        self.paths = paths
        self.status = status
        self._limit = limit or MOST_MAPS
        self._closed = False
        self._clear()

    def _clear(self) -> None:
        self._lock = threading.Lock()
        self._recent: OrderedDict[int, np.ndarray] = OrderedDict()
        self._alive: weakref.WeakValueDictionary[int, np.ndarray] = weakref.WeakValueDictionary()
        self._addresses: dict[int, int] = {}
        self._inodes: dict[int, int] = {}

    def __getstate__(self) -> tuple[list[str], np.ndarray, int, bool]:
        return self.paths, self.status, self._limit, self._closed

    def __setstate__(self, state: tuple[list[str], np.ndarray, int, bool]) -> None:
        self.paths, self.status, self._limit, self._closed = state
        self._clear()

    def __getitem__(self, number: int) -> np.ndarray:
        """Return file `number` as a read-only (bytes,) uint8 array.

        Raises
        ------
        ShardError
            If the file is gone or was changed since its index was read, or changed its length since it was mapped.
        RuntimeError
            If the maps were closed.
        """
        with self._lock:
            array = self._recent.get(number)
            if array is not None:
                self._check_size(number, array)
                self._recent.move_to_end(number)
                return array
            if self._closed:
                raise RuntimeError("Store: is closed; open a new one")
            array = self._alive.get(number)
            if array is None:
                array = self._alive[number] = self._open(number)
                self._addresses[number] = array.ctypes.data
            self._recent[number] = array
            if len(self._recent) > self._limit:
                self._recent.popitem(last=False)
            return array

    def many(self, numbers: Sequence[int]) -> tuple[list[np.ndarray], list[int]]:
        """Return many files at once, as `[]` does, and the addresses at which they begin."""
        with self._lock:
            found = {number: self._recent.get(number) for number in numbers}
            for number, array in found.items():
                if array is not None:
                    self._check_size(number, array)
                    self._recent.move_to_end(number)
        arrays = {number: self[number] if array is None else array for number, array in found.items()}
        return [arrays[number] for number in numbers], [self._addresses[number] for number in numbers]

    def _check_size(self, number: int, array: np.ndarray) -> None:
        """Make sure, just before a mapped file is read, that it still has its length: reading beyond its end kills the process."""
        try:
            now = os.stat(self.paths[number])  # 1 us
        except OSError:
            return  # its name is gone: what is mapped stays
        if now.st_size != len(array) and now.st_ino == self._inodes[number]:
            raise ShardError(
                f"{self.paths[number]}: the shard was changed while it was read ({len(array)} bytes before, {now.st_size} "
                f"now); restore it, or run 'figureground index' on it and open the Store again"
            )

    def _open(self, number: int) -> np.ndarray:
        path = self.paths[number]
        try:
            file = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            raise ShardError(f"{path}: the shard is gone since its index was read; open the Store again") from None
        try:
            status = os.fstat(file)
            size, changed = (int(value) for value in self.status[number])
            if (status.st_size, status.st_mtime_ns) != (size, changed):
                raise ShardError(
                    f"{path}: the shard was changed since its index was read ({size} bytes then, "
                    f"{status.st_size} now); run 'figureground index {path}' and open the Store again"
                )
            self._inodes[number] = status.st_ino
            return map_file(file, size, path)
        finally:
            os.close(file)

    def close(self) -> None:
        """Let all maps go; arrays handed out stay valid."""
        with self._lock:
            self._closed = True
            self._recent.clear()
