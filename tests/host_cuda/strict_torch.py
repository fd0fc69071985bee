"""A stand-in for the part of torch that `pipeline/device.py` uses on a GPU, over torch on the CPU.

Tensors "on the GPU" refuse `numpy()`. Which memory the caching allocator knows is modelled as it is: `record_stream` on a tensor
that was made from another library's array does nothing, without a word.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from .strict_cupy import DeviceArray, Log, current_stream


class Allocator:
    """What torch's caching allocator knows: storages by their identity, kept so that it stays theirs."""

    def __init__(self) -> None:
        self.foreign: dict[int, torch.UntypedStorage] = {}
        self.recorded: dict[int, torch.UntypedStorage] = {}

    def protects(self, tensor: torch.Tensor) -> bool:
        """Tell whether the memory of a tensor waits for the trainer's stream before it is used again."""
        return _identity(tensor) in self.recorded


class CudaTensor(torch.Tensor):
    """A tensor on GPU 0 (by its word)."""

    allocator: Allocator
    log: Log

    is_cuda = property(lambda self: True)  # type: ignore[assignment]
    device = property(lambda self: torch.device("cuda", 0))  # type: ignore[assignment]

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        plain = self.shared_with_numpy()
        return {"shape": plain.shape, "typestr": plain.dtype.str, "data": (self.data_ptr(), False), "version": 2}

    def shared_with_numpy(self) -> np.ndarray:
        """The memory, for the stand-ins alone."""
        if self.dtype is torch.bfloat16:
            raise TypeError("bfloat16 has no __cuda_array_interface__")
        return self.as_subclass(torch.Tensor).numpy()

    def record_stream(self, s: Any) -> None:
        """Keep the memory until the stream has come this far, if it is the allocator's."""
        name = _identity(self)
        if name not in self.allocator.foreign:
            self.allocator.recorded[name] = self.untyped_storage()

    def cpu(self, *_: Any, **__: Any) -> torch.Tensor:
        """Copy to the host."""
        self.log.waits.append(f"cpu of {tuple(self.shape)}")
        return self.as_subclass(torch.Tensor).clone()

    def numpy(self, *_: Any, **__: Any) -> Any:
        """As torch."""
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor first.")

    def __array__(self, *_: Any, **__: Any) -> Any:
        return self.numpy()


class _HostTensor(torch.Tensor):
    __torch_function__ = torch._C._disabled_torch_function_impl  # results are plain tensors

    def to(self, device: Any, non_blocking: bool = False) -> CudaTensor:
        """Copy to the GPU."""
        assert str(device).startswith("cuda")
        CudaTensor.log.note()
        return self.as_subclass(torch.Tensor).clone().as_subclass(CudaTensor)


def _identity(tensor: torch.Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


class _Stream:
    def __init__(self, handle: int, device: Any) -> None:
        self.cuda_stream = handle


class TorchOnGpu:
    """Takes the place of the module `torch`; what is not below is torch's own."""

    def __init__(self, log: Log, devices: int = 2) -> None:
        self.allocator = Allocator()
        CudaTensor.allocator, CudaTensor.log = self.allocator, log
        self._log = log

        @contextlib.contextmanager
        def stream(of: _Stream) -> Iterator[None]:
            if of.cuda_stream != current_stream().ptr:
                log.faults.append("torch and CuPy run on different streams")
            yield

        @contextlib.contextmanager
        def span(name: str) -> Iterator[None]:
            yield

        self.cuda = SimpleNamespace(
            is_available=lambda: True, device_count=lambda: devices, current_device=lambda: 0, stream=stream,
            ExternalStream=_Stream, current_stream=lambda device=None: _Stream(0, device), nvtx=SimpleNamespace(range=span),
        )  # fmt: skip

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    def empty(self, shape: Any, *, dtype: torch.dtype, device: str) -> CudaTensor:
        """Memory of the caching allocator, full of 0xA5."""
        assert device.startswith("cuda:")
        self._log.note()
        made = torch.empty(shape, dtype=dtype)
        made.view(-1).view(torch.uint8).fill_(0xA5)
        return made.as_subclass(CudaTensor)

    def as_tensor(self, data: Any, *, device: str) -> CudaTensor:
        """Share the memory of a CuPy array, of which the allocator knows nothing."""
        assert isinstance(data, DeviceArray), type(data)
        made = torch.from_numpy(data._host).as_subclass(CudaTensor)
        self.allocator.foreign[_identity(made)] = made.untyped_storage()
        return made

    def from_numpy(self, ndarray: np.ndarray) -> torch.Tensor:
        """A tensor on the host, which `to` brings to the GPU."""
        return torch.from_numpy(ndarray).as_subclass(_HostTensor)
