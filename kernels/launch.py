"""Compile and launch the CUDA sources that lie beside the kernels.

Each `X.cu` is compiled once per device by NVRTC through CuPy's `RawModule`, without fused multiply-add, so that float32
arithmetic gives the CPU's numbers. `launch` is the one door to the device: the tests put the host executor in its place
(tests/host_cuda) and so run the same launch code without a GPU.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

CUDA_OPTIONS = ("--std=c++17", "--fmad=false", "--prec-div=true", "--prec-sqrt=true", "--ftz=false")
"""NVRTC options of every kernel; the compile check in the tests uses the same."""


def source_path(stem: str) -> Path:
    """Return the path of `<stem>.cu`."""
    return Path(__file__).with_name(f"{stem}.cu")


def source_text(stem: str) -> str:
    """Return the text of `<stem>.cu` with our own headers put in their places: CuPy's cache of binaries then sees every change."""

    def header(match: re.Match[str]) -> str:
        return Path(__file__).with_name(match[1]).read_text()

    return re.sub(r'^#include "([a-z_]+\.cuh)"$', header, source_path(stem).read_text(), flags=re.MULTILINE)


@functools.cache
def _module(stem: str) -> Any:
    import cupy

    return cupy.RawModule(code=source_text(stem), options=CUDA_OPTIONS)


def launch(
    stem: str, kernel: str, grid: tuple[int, ...], block: tuple[int, ...], args: Sequence[Any], *, shared: int = 0
) -> None:
    """Launch one CUDA function on CuPy's current stream.

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
    function = _module(stem).get_function(kernel)
    if shared > 48 * 1024:
        function.max_dynamic_shared_size_bytes = shared
    function(grid, block, tuple(args), shared_mem=shared)
