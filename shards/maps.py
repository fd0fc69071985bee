"""Keep shards mapped into memory, a bounded number of them, for many threads."""

from __future__ import annotations

import mmap
import os
import resource
import threading
import weakref
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from .errors import ShardError

_NOTHING = np.empty(0, np.uint8)
_NOTHING.flags.writeable = False


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
        Maps open at a time; by default an eighth of the process's limit of open files, from 4 to 4096: images, masks, textures and
        backgrounds are mapped each by one of these.

    Notes
    -----
    Letting a map go never unmaps what is still in use: each array handed out keeps its map alive, and a map that is
    alive is used again rather than opened twice. A map holds one file descriptor. Where all are in use (batches in flight over
    many shards), pieces of other files are read into memory of their own.
    """

    def __init__(self, paths: list[str], status: np.ndarray, limit: int | None = None) -> None:
        self.paths = paths
        self.status = status
        self._limit = limit or min(4096, max(4, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 8))
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

    def _take(self, number: int) -> np.ndarray | None:
        """Return a file as `[]` does; None, if it is not mapped and as many others as may be are in use: read it (`_read`)."""
        with self._lock:
            if not self._closed and number not in self._alive and not self._make_room():
                return None
        return self[number]

    def _make_room(self) -> bool:
        """Let go of maps that are not in use, the oldest first, until there is room for one; False if all are in use."""
        for _ in range(len(self._recent)):
            if len(self._alive) < self._limit:
                break
            oldest = self._recent.popitem(last=False)[0]
            array = self._alive.get(oldest)
            if array is not None:
                self._recent[oldest] = array
        return len(self._alive) < self._limit

    def view(self, number: int, start: int, size: int) -> np.ndarray:
        """Return a piece of a file as a read-only (size,) uint8 array."""
        array = self._take(number)
        return self._read(number, start, size) if array is None else array[start : start + size]

    def views(self, numbers: np.ndarray, starts: np.ndarray, sizes: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
        """Return many pieces (N,), as `view` does, and the addresses (N,) int64 at which they begin."""
        files = numbers.tolist()
        with self._lock:
            found = {number: self._recent.get(number) for number in files}
            for number, array in found.items():
                if array is not None:
                    if array.base.obj.size() != len(array):  # type: ignore[union-attr]
                        self._check_size(number, array)
                    self._recent.move_to_end(number)
        full = False
        for number, array in found.items():
            if array is None and not (full and number not in self._alive):
                found[number] = self._take(number)
                full = full or found[number] is None
        cuts = zip(files, starts.tolist(), sizes.tolist(), strict=True)
        if not full:
            mapped = [self._addresses[number] for number in files]
            return [found[n][a : a + size] for n, a, size in cuts], np.array(mapped, np.int64) + starts  # type: ignore[index]
        pieces, addresses = [], []
        for number, start, size in cuts:
            array = found[number]
            pieces.append(self._read(number, start, size) if array is None else array[start : start + size])
            addresses.append(pieces[-1].ctypes.data if array is None else self._addresses[number] + start)
        return pieces, np.array(addresses, np.int64)

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
        with self._opened(number) as file:
            return np.frombuffer(mmap.mmap(file, 0, access=mmap.ACCESS_READ), np.uint8)

    def _read(self, number: int, start: int, size: int) -> np.ndarray:
        """Copy a piece of a file."""
        with self._opened(number) as file:
            data = os.pread(file, size, start)
        return np.frombuffer(data, np.uint8) if size else _NOTHING

    @contextmanager
    def _opened(self, number: int) -> Iterator[int]:
        """Open a file, if it is what it was."""
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
            yield file
        finally:
            os.close(file)

    def close(self) -> None:
        """Let all maps go; arrays handed out stay valid."""
        with self._lock:
            self._closed = True
            self._recent.clear()
