"""Keep shards mapped into memory, a bounded number of them, for many threads."""

from __future__ import annotations

import mmap
import os
import resource
import threading
import weakref
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np

from .errors import ShardError


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
        Maps kept open; by default half of the process's limit of open files, from 16 to 4096.

    Notes
    -----
    Letting a map go never unmaps what is still in use: each array handed out keeps its map alive, and a map that is
    alive is used again rather than opened twice. A map holds one file descriptor.
    """

    def __init__(self, paths: list[str], status: np.ndarray, limit: int | None = None) -> None:
        self.paths = paths
        self.status = status
        self._limit = limit or min(4096, max(16, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2))
        self._closed = False
        self._clear()

    def _clear(self) -> None:
        self._lock = threading.Lock()
        self._recent: OrderedDict[int, np.ndarray] = OrderedDict()
        self._alive: weakref.WeakValueDictionary[int, np.ndarray] = weakref.WeakValueDictionary()
        self._addresses: dict[int, int] = {}

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
            found = [self._recent.get(number) for number in numbers]
            for number, array in zip(numbers, found, strict=True):
                if array is not None:
                    self._recent.move_to_end(number)
            for number, array in dict(zip(numbers, found, strict=True)).items():
                if array is not None:
                    self._check_size(number, array)
        arrays = [self[number] if array is None else array for number, array in zip(numbers, found, strict=True)]
        return arrays, [self._addresses[number] for number in numbers]

    def _check_size(self, number: int, array: np.ndarray) -> None:
        """Make sure, just before a mapped file is read, that it still has its length: reading beyond its end kills the process."""
        assert isinstance(array.base, memoryview)
        now = array.base.obj.size()  # of the open file, whatever its name has become: 0.3 us
        if now != len(array):
            raise ShardError(
                f"{self.paths[number]}: the shard was changed while it was read ({len(array)} bytes before, {now} now); "
                f"restore it, or run 'figureground index' on it and open the Store again"
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
            return np.frombuffer(mmap.mmap(file, 0, access=mmap.ACCESS_READ), np.uint8)
        finally:
            os.close(file)

    def close(self) -> None:
        """Let all maps go; arrays handed out stay valid."""
        with self._lock:
            self._closed = True
            self._recent.clear()
