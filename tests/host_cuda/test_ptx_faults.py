"""Every check of the PTX executor finds its fault, names the place, and is silent on the same kernel without the fault."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from host_cuda.executor import ORDERS
from host_cuda.ptx.executor import PtxExecutor
from host_cuda.stand_in import HostModule

pytest.importorskip("cuda.bindings.nvrtc", reason="needs cuda-bindings and NVRTC to run the PTX")
FOLDER = Path(__file__).resolve().parent / "ptx"
SOURCE = (FOLDER / "faults.cu").read_text().splitlines()
WORDS, BYTES = np.arange(1, 65, dtype=np.int32), np.arange(256, dtype=np.uint8)
# kernel, grid, block, arrays, the value that is right, the one that is wrong, what is said, a part of the line that is named
FAULTS = [
    ("copy16", 1, 4, BYTES, 16, 4, "misaligned access: 16 bytes at global address", "float4"),
    ("copy16", 1, 4, BYTES, 16, 208, r"out of bounds: 16 bytes past the end of args\[0\]", "float4"),
    ("store8", 1, 4, BYTES, 8, 12, "misaligned access: 8 bytes at global address", "uint2"),
    ("read", 1, 64, WORDS, 0, 1, r"out of bounds: 4 bytes past the end of args\[0\]", "x[(int)"),
    ("read", 1, 64, WORDS, 0, -1, r"out of bounds: 4 bytes before the start of args\[0\]", "x[(int)"),
    ("write", 1, 64, WORDS, 0, 1, r"out of bounds: 4 bytes past the end of args\[1\]", "y[(int)"),
    ("const", 1, 64, WORDS, 0, 1, r"write to args\[0\], which the kernel gets as const", "(int*)x"),
    ("shared", 1, 32, WORDS, 32, 33, "byte 128 of shared memory belongs to no array", "low[n"),
    ("shared", 1, 32, WORDS, 32, 31, "out of bounds: byte .* of shared memory belongs to no array", "low[n"),
    ("exchange", 1, 64, WORDS, 0, 1, "race in shared memory, .* reads what thread .* wrote|uninitialised read", "63 -"),
    ("reuse", 1, 64, WORDS, 0, 1, "race in shared memory, .*(writes what .* reads|reads what .* wrote)", "other"),
    ("warp", 1, 32, WORDS, 0, 1, r"race in shared memory, .* thread 0 reads what thread 31 .* wrote", "31 -"),
    ("count", 1, 64, WORDS, 0, 1, "race in shared memory", "sum"),
    ("reset", 1, 32, WORDS, 0, 1, "race in shared memory, byte 0: thread 1 writes what thread 0", "atomicMin"),
    ("unwritten", 1, 64, WORDS, 64, 63, "uninitialised read of shared memory, byte 252", "63 -"),
    ("half_barrier", 1, 64, WORDS, 0, 1, "divergent barrier", "if"),
    ("warp_barrier", 1, 64, WORDS, 0, 1, "divergent barrier: .* of warp 1 have returned", "if"),
    ("gone", 1, 64, WORDS, 0, 1, "divergent barrier: 1 threads of warp 1 have returned", "__syncthreads"),
    ("mask", 1, 32, WORDS, 0, 1, "the mask 7fffffff does not name the calling lane", "__shfl_sync"),
    ("blocks_write", 2, 64, WORDS, 0, 1, r"race of blocks, args\[1\]\+0: block . writes another value", "y[0]"),
    ("blocks_read", 2, 64, WORDS, 0, 1, r"race of blocks, .*(reads what block . wrote|writes what block . reads)", "y[i"),
    ("blocks_add", 2, 1, WORDS, 0, 1, r"race of blocks, args\[1\]\+0: block . reads what block . wrote", "y[0] +="),
    ("cached", 1, 64, WORDS, 0, 1, "ld.global.nc of what this launch writes", "__ldg"),
    ("divide", 1, 64, WORDS, 0, 1, "integer division by zero", "/"),
    ("endless", 1, 32, WORDS, 0, 1, "the kernel does not end", "for"),
]  # fmt: skip


def _run(order, kernel, grid, block, array, value):
    x = array.copy()
    y = np.zeros(2 * x.size, x.dtype) if grid > 1 else np.zeros_like(x)
    executor = PtxExecutor(order, seed=3, folder=FOLDER)
    executor.launch("faults", f"faults_{kernel}", (grid,), (block,), (x, y, np.int32(value)))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(("kernel", "grid", "block", "array", "right", "wrong", "says", "line"), FAULTS)
def test_fault_is_found(order, kernel, grid, block, array, right, wrong, says, line):
    _run(order, kernel, grid, block, array, right)
    with pytest.raises(RuntimeError, match=rf"faults\.cu: faults_{kernel}: (.*)({says})") as found:
        _run(order, kernel, grid, block, array, wrong)
    number = int(str(found.value).rsplit("faults.cu, line ", 1)[1].split(",")[0])
    assert line in SOURCE[number - 1]


def test_lanes_that_do_not_come():
    for wrong, says in ((0, "divergent barrier"), (1, "deadlock: lanes 0000ffff wait in a warp operation")):
        with pytest.raises(RuntimeError, match=says):
            _run("forward", "lanes", 1, 32, WORDS, wrong)


def test_memory_of_empty_has_no_value_before_it_is_written():
    executor, module = PtxExecutor(folder=FOLDER), HostModule("cupy")
    module.made = executor.fresh.add
    args = (module.empty(64, np.int32), np.zeros(64, np.int32), np.int32(0))
    with pytest.raises(RuntimeError, match=r"uninitialised read of global memory, args\[0\]\+0 .*thread 0"):
        executor.launch("faults", "faults_read", (1,), (64,), args)
    args[0][:] = WORDS  # by the host
    executor.launch("faults", "faults_read", (1,), (64,), args)
    middle = module.empty(64, np.int32)
    executor.launch("faults", "faults_write", (1,), (63,), (WORDS, middle, np.int32(1)))  # all but the first
    with pytest.raises(RuntimeError, match=r"uninitialised read of global memory, args\[0\]\+0"):
        executor.launch("faults", "faults_read", (1,), (64,), (middle, args[1], np.int32(0)))
    executor.launch("faults", "faults_read", (1,), (63,), (middle, args[1], np.int32(1)))


def test_without_checks_only_results_suffer():
    y = np.zeros_like(WORDS)
    executor = PtxExecutor(folder=FOLDER, checks=False)
    executor.launch("faults", "faults_exchange", (1,), (64,), (WORDS, y, np.int32(1)))
    assert (y != WORDS[::-1]).any()


def test_orders_are_named():
    with pytest.raises(ValueError, match="PtxExecutor: order must be one of"):
        PtxExecutor("sideways")
