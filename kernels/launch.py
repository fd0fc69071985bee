"""Compile and launch the CUDA sources that lie beside the kernels.

Each `X.cu` is compiled by NVRTC, without fused multiply-add and with subnormal numbers kept, so that float32 arithmetic gives
the CPU's numbers. CuPy's `RawModule` alone cannot do that: it puts `-ftz=true` behind the options that it is given, and of two
the last one counts. So we compile, with CuPy's NVRTC, and `RawModule` loads the binary. `launch` is the one door to the device: the
tests put the host executor in its place (tests/host_cuda) and so run the same launch code without a GPU.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

CUDA_OPTIONS = ("--std=c++17", "--fmad=false", "--prec-div=true", "--prec-sqrt=true", "--ftz=false")
"""NVRTC options of every kernel; the compile check in the tests uses the same."""


def source_path(stem: str) -> Path:
    """Return the path of `<stem>.cu`."""
    return Path(__file__).with_name(f"{stem}.cu")


def source_text(stem: str) -> str:
    """Return the text of `<stem>.cu` with our own headers put in their places: the cache of binaries then sees every change."""

    def header(match: re.Match[str]) -> str:
        return Path(__file__).with_name(match[1]).read_text()

    return re.sub(r'^#include "([a-z_]+\.cuh)"$', header, source_path(stem).read_text(), flags=re.MULTILINE)


def cache_folder() -> Path:
    """Return where compiled kernels are kept: beside CuPy's own, by its rules (`CUPY_CACHE_DIR`)."""
    return Path(os.environ.get("CUPY_CACHE_DIR") or Path.home() / ".cupy" / "kernel_cache")


def _binary(stem: str, capability: str) -> Path:
    """Return the compiled `<stem>.cu` for the current device, out of the cache if it is there."""
    import cupy
    from cupy.cuda import compiler, nvrtc

    source = source_text(stem)
    parts = (source, *CUDA_OPTIONS, capability, cupy.__version__, str(nvrtc.getVersion()))
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]
    path = cache_folder() / f"figureground_{stem}_{capability}_{digest}.cubin"
    if path.is_file():
        return path
    binary, _ = compiler.compile_using_nvrtc(source, CUDA_OPTIONS, capability, f"{stem}.cu")
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    with os.fdopen(handle, "wb") as file:
        file.write(binary if isinstance(binary, bytes) else binary.encode())
        file.flush()
        os.fsync(file.fileno())
    os.replace(name, path)  # other processes see all of it or nothing
    return path


@functools.cache
def _module(stem: str, capability: str) -> Any:
    import cupy

    return cupy.RawModule(path=str(_binary(stem, capability)))


@functools.cache
def _function(stem: str, kernel: str, capability: str) -> Any:
    return _module(stem, capability).get_function(kernel)


_reserved: dict[tuple[str, str, int], int] = {}
"""The most dynamic shared memory that each kernel was allowed so far, by device [bytes]."""


def launch(
    stem: str, kernel: str, grid: tuple[int, ...], block: tuple[int, ...], args: Sequence[Any], *, shared: int = 0
) -> None:
    """Launch one CUDA function on the current device, on CuPy's current stream.

    Parameters
    ----------
    stem : str
        File name without `.cu`.
    kernel : str
        Name of the `extern "C" __global__` function.
    grid, block : tuple of int
        Blocks and threads, up to three axes.
    args : sequence
        Device arrays (passed as pointers) and NumPy scalars (`np.int32`, `np.int64`, `np.float32`, ...), in the order
        and with the exact types of the C parameters.
    shared : int
        Dynamic shared memory [bytes].
    """
    import cupy

    device = cupy.cuda.Device()
    function = _function(stem, kernel, device.compute_capability)
    key = stem, kernel, device.id
    if shared > _reserved.get(key, 0):  # past 48 KiB, static memory counted in, CUDA wants to be asked
        function.max_dynamic_shared_size_bytes = shared
        _reserved[key] = shared
    function(grid, block, tuple(args), shared_mem=shared)
