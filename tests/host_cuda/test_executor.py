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
