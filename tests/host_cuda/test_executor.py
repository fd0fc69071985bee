"""The executor runs CUDA as a GPU would, and catches what a GPU may let pass."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from host_cuda.executor import ORDERS, HostExecutor, unit
from host_cuda.stand_in import HostModule, launch_with_copies

TOYS = Path(__file__).resolve().parent


@pytest.fixture(params=ORDERS)
def launch(request):
    return HostExecutor(request.param, seed=1, folder=TOYS).launch


@pytest.fixture
def forward():
    return HostExecutor(folder=TOYS).launch


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


def test_same_array_in_and_out(forward):
    x = np.arange(8, dtype=np.uint8)
    forward("toy", "toy_scale", (1,), (8,), (x[1:], x[:-1], np.int64(7), np.float32(1)))
    assert x.tolist() == [1, 2, 3, 4, 5, 6, 7, 7]


def test_kernel_works_after_a_failure(forward):
    y = np.zeros(8, np.int32)
    for _ in range(3):
        with pytest.raises(RuntimeError, match="divergent"):
            forward("toy", "toy_early_return", (1,), (8,), (y,))
    x = np.ones(64, np.int32)
    forward("toy", "toy_sum", (1,), (64,), (x, x.copy(), np.int32(64)))


# ---- what it catches -------------------------------------------------------------------------------------------------


def test_missing_barrier_shows(launch):
    x = np.arange(1, 71, dtype=np.float32)
    y = np.zeros_like(x)
    launch("toy", "toy_race", (1,), (70,), (x, y, np.int32(70)), shared=280)
    assert (y != x[::-1]).any()


def test_shared_memory_starts_as_garbage(forward):
    y = np.zeros(6, np.float32)
    forward("toy", "toy_unwritten", (3,), (1,), (y,))
    assert y.view(np.uint32).tolist() == [0xA5A5A5A5] * 6


@pytest.mark.parametrize(
    ("edge", "offset", "says"), [("end", 64, "0 bytes past the end"), ("start", -1, "1 bytes before")]
)
def test_read_out_of_bounds(edge, offset, says):
    x = np.zeros(64, np.uint8)
    with pytest.raises(RuntimeError, match=rf"toy.cu: toy_outside: out of bounds: {says} .*args\[0\] \(block 0,0,0"):
        HostExecutor(folder=TOYS, edge=edge).launch("toy", "toy_outside", (1,), (1,), (x, x.copy(), np.int32(offset)))


@pytest.mark.parametrize(("edge", "offset"), [("end", -1), ("end", 61), ("start", 61), ("start", 4000)])
def test_write_out_of_bounds(edge, offset):
    launch = HostExecutor(folder=TOYS, edge=edge).launch
    with pytest.raises(RuntimeError, match=r"bytes around args\[0\] were overwritten"):
        launch("toy", "toy_write_outside", (1,), (1,), (np.zeros(61, np.uint8), np.int32(offset)))


def test_dynamic_shared_memory_out_of_bounds(forward):
    x = np.zeros(70, np.float32)
    with pytest.raises(RuntimeError, match="past the end of dynamic shared memory"):
        forward("toy", "toy_mirror", (1,), (70,), (x, x.copy(), np.int32(70)), shared=272)


@pytest.mark.parametrize(
    ("kernel", "says"),
    [
        ("toy_early_return", "divergent barrier: 5 threads wait at line .*, 3 have returned"),
        ("toy_two_barriers", "divergent barrier: threads wait at line"),
        ("toy_lost_lane", "deadlock: thread . waits in a warp operation"),
    ],
)
def test_divergent(launch, kernel, says):
    with pytest.raises(RuntimeError, match=says):
        launch("toy", kernel, (1,), (8,), (np.zeros(8, np.int32),))


@pytest.mark.parametrize(
    ("kernel", "value", "says"),
    [
        ("toy_divide", 0, "integer division by zero"),
        ("toy_shift", 32, "shift outside"),
        ("toy_overflow", 1, "signed overflow in a sum"),
        ("toy_index", 4, "index outside its array"),
    ],
)
def test_undefined_behaviour(forward, kernel, value, says):
    with pytest.raises(RuntimeError, match=rf"toy.cu: {kernel}: {says}.*, line \d+"):
        forward("toy", kernel, (1,), (1,), (np.zeros(1, np.int32), np.int32(value)))


def test_misaligned_vector(forward):
    x, y = np.arange(64, dtype=np.uint8), np.zeros(4, np.uint32)
    forward("toy", "toy_vector", (1,), (1,), (x, y, np.int32(16)))
    assert y.view(np.uint8).tolist() == list(range(16, 32))
    with pytest.raises(RuntimeError, match=r"misaligned access: .* is no multiple of 16"):
        forward("toy", "toy_vector", (1,), (1,), (x, y, np.int32(4)))


def test_cast_out_of_range(forward):
    with pytest.raises(RuntimeError, match="float outside the range"):
        forward("toy", "toy_cast", (1,), (1,), (np.array([3e9], np.float32), np.zeros(1, np.int32)))


X = np.zeros(64, np.int32)


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


def test_unknown_names(forward):
    with pytest.raises(FileNotFoundError, match=r"stem must name a \.cu file"):
        forward("nothing", "toy_sum", (1,), (1,), ())
    with pytest.raises(ValueError, match=r"kernel must be a __global__ function of toy\.cu, got 'toy_none'"):
        forward("toy", "toy_none", (1,), (1,), ())
    with pytest.raises(ValueError, match="order must be one of"):
        HostExecutor("sideways")


def test_shared_memory_at_file_scope_is_refused():
    with pytest.raises(ValueError, match="must be inside its kernel"):
        unit("extern __shared__ float line[];\n", TOYS / "toy.cu")


def test_what_is_not_cuda_is_refused(tmp_path):
    (tmp_path / "wrong.cu").write_text('extern "C" __global__ void wrong_a(int* y) { y[0] = __expf(1.0f); }\n')
    with pytest.raises(RuntimeError, match="g\\+\\+ refused it"):
        HostExecutor(folder=tmp_path).launch("wrong", "wrong_a", (1,), (1,), (X.copy(),))


def test_fixture_replaces_launch(host_cuda):
    from figureground.kernels import launch as door

    real = door.launch
    with host_cuda(folder=TOYS) as dev:
        assert door.launch is not real
        y = dev.array(np.zeros(8, np.int32))
        door.launch("toy", "toy_divide", (1,), (1,), (y, np.int32(2)))
        assert dev.numpy(y)[0] == 3
        assert dev.executor.launched == ["toy.toy_divide"]
    assert door.launch is real


def test_fixture_runs_all_orders(host_orders, request):
    with host_orders() as dev:
        if hasattr(dev, "executor"):
            assert dev.executor.order in request.node.name


def test_copies_to_a_device_and_back(monkeypatch):
    cupy = HostModule("cupy")
    cupy.asarray = np.copy
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    x, y = np.arange(8, dtype=np.uint8), np.zeros(8, np.uint8)
    launch = launch_with_copies(HostExecutor(folder=TOYS).launch)
    launch("toy", "toy_scale", (1,), (8,), (x, y, np.int64(8), np.float32(2)))
    assert y.tolist() == list(range(0, 16, 2))
    launch("toy", "toy_scale", (1,), (8,), (y, y, np.int64(8), np.float32(0.5)))
    assert y.tolist() == list(range(8))


def test_dispatch_takes_numpy_for_cuda(host_cuda):
    from figureground.kernels import arrays, background

    views, masks = np.zeros((1, 3, 4, 4), np.uint8), np.zeros((1, 4, 4), np.uint8)
    with host_cuda(dispatch=True) as dev:
        background.composite_views(views, views, masks)
    assert dev.executor.launched == ["background.background_composite16"]
    assert not arrays.on_gpu("test", views=views)
    assert not isinstance(sys.modules.get("cupy"), HostModule)
