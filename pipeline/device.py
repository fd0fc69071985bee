"""Where views are made: arrays for the kernels, tensors for the trainer, and the streams between them.

On the host the kernels write into NumPy memory that torch then shares. On a GPU memory comes from torch's allocator and kernels run
on one stream of ours, for which the producer thread waits before it hands a batch over: no copies, and the trainer never waits.

What the trainer gets on a GPU are the tensors that torch allocated, never tensors made from a CuPy array over the same memory: of
those torch's allocator knows nothing, and `record_stream` would do nothing, without a word. Then our next batch would overwrite
memory that the trainer has dropped but still reads.
"""

from __future__ import annotations

import contextlib
import sys
import weakref
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import torch

_MOST_BUFFERS = 24
ARRAY_DTYPES: dict[torch.dtype, Any] = {
    torch.float32: np.float32,
    torch.float16: np.float16,
    torch.bfloat16: "bfloat16",
}
"""Kernels' names of the loader's dtypes."""
_ARRAY_TYPES: dict[torch.dtype, Any] = {
    torch.float32: np.float32, torch.float16: np.float16, torch.bfloat16: np.uint16, torch.uint8: np.uint8,
    torch.bool: np.bool_, torch.int8: np.int8,
}  # fmt: skip


class Device(Protocol):
    """What the engine asks of a device."""

    cuda: bool
    name: str
    """"cpu", or "cuda:N" with the number of the GPU."""

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> Any:
        """Return an uninitialised array for a kernel; bfloat16 as uint16 bit patterns."""

    def tensor(self, array: Any, dtype: torch.dtype = torch.uint8) -> torch.Tensor:
        """Return the tensor that shares an array of `empty`, or of a kernel."""

    def upload(self, array: np.ndarray) -> torch.Tensor:
        """Return a small host array as a tensor of the device."""

    def producing(self) -> contextlib.AbstractContextManager[None]:
        """Make the device current in the producer thread."""

    def finish(self) -> None:
        """Called when the kernels of a batch have been launched: wait until its inputs may be overwritten."""

    def hand_over(self, batch: dict[str, Any]) -> None:
        """Tell the allocator that the trainer's stream uses the batch; called in the trainer's thread."""

    def span(self, name: str) -> contextlib.AbstractContextManager[None]:
        """Name a stretch of the producer thread for a profiler."""


class HostDevice:
    """NumPy arrays and CPU tensors over the same memory.

    Fresh memory for a large batch is paid in page faults (0.02 to 0.035 ms a float32 view of 224 px at batches of 64 and 256). So
    buffers are used again, once the trainer has dropped every tensor that shares them: each batch gets a view of a buffer,
    and a buffer without views is free.
    """

    cuda = False
    name = "cpu"

    def __init__(self) -> None:
        self._buffers: list[np.ndarray] = []

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> Any:
        kind = np.dtype(_ARRAY_TYPES[dtype])
        for buffer in self._buffers:
            # References: the list's, the loop's, and getrefcount's own argument; any more are views that somebody holds.
            if buffer.shape == shape and buffer.dtype == kind and sys.getrefcount(buffer) == 3:
                return buffer[:]
        buffer = np.empty(shape, kind)
        if len(self._buffers) < _MOST_BUFFERS:
            self._buffers.append(buffer)
        return buffer[:]

    def tensor(self, array: Any, dtype: torch.dtype = torch.uint8) -> torch.Tensor:
        tensor = torch.from_numpy(array)
        return tensor.view(torch.bfloat16) if dtype is torch.bfloat16 else tensor

    def upload(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array))

    def producing(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def finish(self) -> None:
        return None

    def hand_over(self, batch: dict[str, Any]) -> None:
        return None

    def span(self, name: str) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()


class CudaDevice:
    """CuPy kernels over torch's memory, on one stream of ours. Not yet run on a GPU."""

    cuda = True

    def __init__(self, index: int) -> None:
        import cupy

        self._cupy, self._index, self.name = cupy, index, f"cuda:{index}"
        with cupy.cuda.Device(index):
            self._stream = cupy.cuda.Stream(non_blocking=True)
        self._torch_stream = torch.cuda.ExternalStream(self._stream.ptr, device=index)
        self._made: weakref.WeakValueDictionary[int, torch.Tensor] = weakref.WeakValueDictionary()
        self._uploading: list[torch.Tensor] = []

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> Any:
        kind = torch.int16 if dtype is torch.bfloat16 else dtype
        tensor = torch.empty(shape, dtype=kind, device=self.name)
        self._made[tensor.data_ptr()] = tensor  # for as long as the array below, which holds it, is there
        array = self._cupy.asarray(tensor)
        return array.view(np.uint16) if dtype is torch.bfloat16 else array

    def tensor(self, array: Any, dtype: torch.dtype = torch.uint8) -> torch.Tensor:
        made = self._made.get(array.data.mem.ptr)
        if made is None:  # memory of CuPy's, which the trainer must not get
            kind = array.view(np.int16) if dtype is torch.bfloat16 else array
            tensor = torch.as_tensor(kind, device=self.name).clone()
        else:
            size = array.dtype.itemsize
            steps = tuple(stride // size for stride in array.strides)
            tensor = made.as_strided(tuple(array.shape), steps, (array.data.ptr - array.data.mem.ptr) // size)
        return tensor.view(torch.bfloat16) if dtype is torch.bfloat16 else tensor

    def upload(self, array: np.ndarray) -> torch.Tensor:
        host = torch.from_numpy(np.ascontiguousarray(array))
        self._uploading.append(host)  # the copy may be under way until `finish`
        return host.to(self.name, non_blocking=True)

    @contextlib.contextmanager
    def producing(self) -> Iterator[None]:
        with self._cupy.cuda.Device(self._index), self._stream, torch.cuda.stream(self._torch_stream):
            yield

    def finish(self) -> None:
        # Only the producer thread waits: DALI reuses the decoded images after the next collect. The batch is then complete, and
        # the trainer's stream has nothing left to wait for.
        self._stream.synchronize()
        self._uploading.clear()

    def hand_over(self, batch: dict[str, Any]) -> None:
        stream = torch.cuda.current_stream(self._index)
        for value in batch.values():
            for tensor in value if isinstance(value, list) else [value]:
                if isinstance(tensor, torch.Tensor) and tensor.is_cuda:
                    tensor.record_stream(stream)

    def span(self, name: str) -> contextlib.AbstractContextManager[None]:
        made: contextlib.AbstractContextManager[None] = torch.cuda.nvtx.range(f"figureground {name}")
        return made


def make_device(name: str) -> Device:
    """Return the device called "cpu", "cuda" or "cuda:N".

    Raises
    ------
    ValueError
        If the name is another one.
    RuntimeError
        If it is a GPU and torch or CuPy finds none, or not this one; nothing falls back to the CPU.
    """
    if name == "cpu":
        return HostDevice()
    kind, _, index = name.partition(":")
    if kind != "cuda" or (index and not index.isdigit()):
        raise ValueError(f"device must be 'cpu', 'cuda' or 'cuda:N', got {name!r}")
    if not torch.cuda.is_available():
        raise RuntimeError(f"device={name!r} needs a CUDA GPU and a CUDA build of torch, found none; pass device='cpu'")
    try:
        import cupy  # noqa: F401
    except ImportError as error:
        raise RuntimeError(
            f"device={name!r} needs CuPy ({error}); install figureground[cuda13] or figureground[cuda12]"
        ) from error
    number, count = int(index) if index else torch.cuda.current_device(), torch.cuda.device_count()
    if number >= count:
        raise RuntimeError(f"device={name!r} must be one of the {count} GPUs of this machine, 0 to {count - 1}")
    return CudaDevice(number)
