"""A rehearsal of the loader on a GPU, without one: the CUDA sources on the host, behind strict stand-ins of CuPy, torch and DALI.

    with gpu_machine() as gpu:
        with Loader(shards, recipe, batch_size=8, device="cuda") as loader: ...
    gpu.log.waits, gpu.log.faults, gpu.log.places

DALI decodes on the CPU; its pixels are then moved to memory between guard pages, which is poisoned when DALI would free it; freed
while kernels are under way, that is a fault. Not modelled: the order of streams and the time that things take.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import numpy as np

from .executor import HostExecutor
from .guarded import poisoned
from .ptx.executor import PtxExecutor
from .stand_in import as_cupy, in_place_of_launch
from .strict_cupy import DeviceArray, Log, Memory, Stream, current_stream, make_cupy
from .strict_torch import TorchOnGpu


@dataclass
class Gpu:
    """What a rehearsal shows."""

    executor: HostExecutor | PtxExecutor
    log: Log = field(default_factory=Log)
    streams: list[Stream] = field(default_factory=list)
    torch: Any = None


class _Pixels:
    """`TensorListGPU`: images in memory of DALI's, which goes when the list goes."""

    def __init__(self, tensors: Any, gpu: Gpu) -> None:
        self._images = [poisoned(np.asarray(tensors[i]), gpu.executor.edge) for i in range(len(tensors))]
        weakref.finalize(self, _free, self._images, gpu)

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, i: int) -> Any:
        return mock.NonCallableMock(data_ptr=lambda: self._images[i].ctypes.data, spec=["data_ptr"])

    def shape(self) -> list[tuple[int, ...]]:
        """Shapes of the images."""
        return [image.shape for image in self._images]


def _free(images: Sequence[np.ndarray], gpu: Gpu) -> None:
    if any(stream.busy for stream in gpu.streams):
        gpu.log.faults.append("decoded images were freed while kernels may read them")
    for image in images:
        image.fill(0xDD)


class _Pipeline:
    """A DALI pipeline on the CPU that gives out what one on a GPU would."""

    def __init__(self, pipe: Any, gpu: Gpu, on_gpu: bool) -> None:
        self._pipe, self._gpu, self._on_gpu = pipe, gpu, on_gpu

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pipe, name)

    def outputs(self) -> tuple[Any, ...]:
        """Images, on the host or on the device."""
        (images,) = self._pipe.outputs()
        return (_Pixels(images, self._gpu) if self._on_gpu else images,)


@contextlib.contextmanager
def gpu_machine(order: str = "forward", ptx: bool = False) -> Iterator[Gpu]:
    """Make this process believe that it has two GPUs, which run the CUDA sources, or with `ptx` what NVRTC makes of them."""
    from figureground.pipeline import decode, device

    gpu = Gpu(PtxExecutor(order) if ptx else HostExecutor(order))
    if isinstance(gpu.executor, PtxExecutor):
        gpu.executor.others = lambda: [(memory.ptr, memory.size) for memory in list(Memory.alive) if memory.size]
    cupy, real_graph = make_cupy(gpu.log), decode._decode_graph
    gpu.torch = TorchOnGpu(gpu.log)

    def launch(stem: str, kernel: str, grid: Any, block: Any, args: Sequence[Any], *, shared: int = 0) -> None:
        for i, value in enumerate(args):
            if not isinstance(value, DeviceArray | np.generic):
                raise TypeError(f"{stem}.cu: {kernel}: args[{i}]: Unsupported type {type(value)}")
        gpu.log.note()
        current_stream().busy = True
        gpu.log.launches.append(f"{stem}.{kernel}")
        plain = [value._host if isinstance(value, DeviceArray) else value for value in args]
        gpu.executor.launch(stem, kernel, grid, block, plain, shared=shared)

    def graph(on_gpu: bool, *, device_id: int | None, **options: Any) -> _Pipeline:
        return _Pipeline(real_graph(False, device_id=None, **options), gpu, on_gpu)

    class NotedStream(Stream):
        def __init__(self, null: bool = False, non_blocking: bool = False) -> None:
            super().__init__(null, non_blocking)
            gpu.streams.append(self)

    cupy.cuda.Stream = NotedStream
    with (
        as_cupy(cupy),
        mock.patch.object(device, "torch", gpu.torch),
        mock.patch.object(decode, "_decode_graph", graph),
        in_place_of_launch(launch, host_module=False),
    ):
        yield gpu
