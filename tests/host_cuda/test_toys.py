"""Kernels that are right: every executor gives what a GPU would, and refuses the same wrong launches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from host_cuda.executor import ORDERS, HostExecutor
from host_cuda.ptx.executor import PtxExecutor
from host_cuda.ptx.nvrtc import available

TOYS = Path(__file__).resolve().parent
EXECUTORS = ("source", "ptx") if available() else ("source",)
X = np.zeros(64, np.int32)


def _executor(name, order="forward"):
    return (PtxExecutor if name == "ptx" else HostExecutor)(order, seed=1, folder=TOYS)


@pytest.fixture(params=[f"{name} {order}" for name in EXECUTORS for order in ORDERS])
def launch(request):
    return _executor(*request.param.split()).launch


@pytest.fixture(params=EXECUTORS)
def forward(request):
    return _executor(request.param).launch


def test_block_sums_through_shared_memory(launch):
    x = np.arange(200, dtype=np.int32)
    y = np.zeros_like(x)
    launch("toy", "toy_sum", (4,), (64,), (x, y, np.int32(200)))
    np.testing.assert_array_equal(y, np.concatenate([np.full(len(c), c.sum()) for c in np.split(x, [64, 128, 192])]))


def test_elementwise(launch):
    x = np.arange(10_000, dtype=np.uint8)
    y = np.zeros_like(x)
    launch("toy", "toy_scale", (40,), (256,), (x, y, np.int64(len(x)), np.float32(0.5)))
    np.testing.assert_array_equal(y, x // 2)


def test_three_axes(launch):
    y = np.zeros((2 * 3 * 4, 5 * 6 * 7), np.uint32)
    launch("toy", "toy_axes", (4, 3, 2), (7, 6, 5), (y,))
    np.testing.assert_array_equal(y, np.arange(24)[:, None] * 1000 + np.arange(210))


def test_dynamic_shared_memory(launch):
    x = np.arange(70, dtype=np.float32)
    y = np.zeros_like(x)
    launch("toy", "toy_mirror", (1,), (70,), (x, y, np.int32(70)), shared=280)
    np.testing.assert_array_equal(y, x[::-1] + np.resize([1, 2, 3], 70))


def test_barrier_votes(launch):
    x = np.array([1, 0, 5], np.int32)
    y = np.zeros((3, 3), np.int32)
    launch("toy", "toy_votes", (1,), (3,), (x, y))
    np.testing.assert_array_equal(y, [[2, 1, 0]] * 3)


def test_warp_operations(launch):
    x = np.random.default_rng(0).integers(-50, 50, 64).astype(np.int32)
    y = np.zeros((64, 8), np.int32)
    launch("toy", "toy_warp", (1,), (64,), (x, y, np.int32(64)))
    for i in range(64):
        lanes, lane = x[i // 32 * 32 :][:32], i % 32
        odd = lanes & 1 == 1
        same = odd == odd[lane]
        bits = [int(np.sum(1 << np.flatnonzero(m).astype(np.uint64))) for m in (odd, same)]
        want = [lanes.sum(), lanes.min(), lanes[lane - (lane % 8 > 0)], bits[0], lanes.min()]
        want += [2 * (3 in lanes) + 1, bits[1], lanes[lane % 2 :: 2].sum()]
        assert y[i].tolist() == np.array(want).astype(np.uint32).astype(np.int32).tolist()


def test_returned_lanes_take_no_part(launch):
    x, y = np.full(40, 3, np.int32), np.zeros((40, 3), np.int32)
    launch("toy", "toy_part_of_warp", (1,), (64,), (x, y, np.int32(40)))
    assert y[32:].tolist() == [[0xFF, 3, -1515870811]] * 8  # 0xA5A5A5A5: what a lane that is gone gives


def test_atomics_and_tables(launch):
    rows = np.zeros(300, [("id", "i4"), ("weight", "f4")])
    rows["id"], rows["weight"] = np.arange(300), 0.5
    y, weight = np.zeros(2, np.uint64), np.zeros(1, np.float32)
    launch("toy", "toy_atomic", (1,), (300,), (rows.view(np.uint8), y, weight))
    assert (y.tolist(), weight[0]) == ([300, 299], 150)


def test_bits(forward):
    a, b = 0x12345678, 0x9ABCDEF0
    y = np.zeros(9, np.uint32)
    forward("toy", "toy_bits", (1,), (1,), (np.array([a, b], np.uint32), y))
    dot = sum((a >> s & 255) * (b >> s & 255) for s in (0, 8, 16, 24)) + 7
    casts = (2 + 100 * -(2**31) + 2**32 - 1) % 2**32
    reverse = int(f"{a:032b}"[::-1], 2)
    want = [13, 3, reverse, a * b >> 32, 0x9A7856F0 & 0, dot, 0xC0400000, casts, (b << 32 | a) >> 8 & 0xFFFFFFFF]
    want[4] = (b >> 24 & 255) << 24 | (a >> 8 & 255) << 16 | (a & 255) << 8 | (b & 255)
    assert y.tolist() == want


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ((X, X.copy()), "args must hold 3 values, got 2"),
        ((X, X.copy(), 64), r"args\[2\] must be np.int32, got int 64"),
        ((X, X.copy(), np.int64(64)), r"args\[2\] must be np.int32, got int64"),
        ((X, X.copy(), np.uint32(64)), r"args\[2\] must be np.int32, got uint32"),
        ((X, X.astype(np.float32), np.int32(64)), r"args\[1\] points to 4-byte integers, got float32"),
        ((X, X.astype(np.int64), np.int32(64)), r"args\[1\] points to 4-byte integers, got int64"),
        ((None, X.copy(), np.int32(64)), r"args\[0\] is a pointer in C and must be an array, got NoneType"),
        ((X, np.zeros(128, np.int32)[::2], np.int32(64)), r"args\[1\] must be C-contiguous"),
        ((X, np.broadcast_to(np.int32(0), 1), np.int32(64)), r"args\[1\] is written in C"),
    ],
)
def test_wrong_arguments(forward, args, says):
    with pytest.raises((TypeError, ValueError), match=says):
        forward("toy", "toy_sum", (1,), (64,), args)


@pytest.mark.parametrize(
    ("grid", "block", "shared", "says"),
    [
        ((0,), (64,), 0, "grid must be 1 to"),
        ((1, 65536), (64,), 0, "grid must be 1 to"),
        ((1,), (65,), 0, "block must have at most 64 threads"),
        ((1,), (1, 1, 65), 0, "block must be 1 to"),
        ((1,), (64,), 227 * 1024 + 1, "shared must be 0 to 232448 bytes"),
    ],
)
def test_wrong_launch(forward, grid, block, shared, says):
    with pytest.raises(ValueError, match=says):
        forward("toy", "toy_sum", grid, block, (X, X.copy(), np.int32(64)), shared=shared)
