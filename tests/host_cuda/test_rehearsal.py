"""The rehearsal itself: what it plants is caught, and what it knows of CuPy is true."""

from __future__ import annotations

import contextlib
import inspect
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from host_cuda import strict_cupy
from host_cuda.rehearsal import gpu_machine
from host_cuda.stand_in import as_cupy
from host_cuda.strict_cupy import FFTS, FUNCTIONS, METHODS, Log, make_cupy
from pipeline_shards import write_shards

from figureground.kernels import normalize, resample
from figureground.kernels.arrays import on_gpu, table_on
from figureground.kernels.torch_bridge import on_tensors
from figureground.pipeline import Loader, recipes
from figureground.pipeline.device import CudaDevice

RECIPE = recipes.moco_v2(32).with_background("swap", p=0.5)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    """16 samples with masks."""
    return write_shards(tmp_path_factory.mktemp("tiny"), 16)


def one_epoch(shards: str, recipe: recipes.Recipe = RECIPE, device: str = "cuda", **options: Any) -> list[Any]:
    """The batches of an epoch."""
    with Loader(
        shards, recipe, **{"batch_size": 8, "device": device, "threads": 2, "masks": "sidecar", **options}
    ) as loader:
        return list(loader)


def test_launch_arguments_in_the_wrong_order(tiny):
    with gpu_machine():
        right = resample.launch

        def wrong(stem, kernel, grid, block, args, **options):
            return right(stem, kernel, grid, block, (args[1], args[0], *args[2:]), **options)

        with mock.patch.object(resample, "launch", wrong), pytest.raises(RuntimeError, match=r"resample\.cu"):
            one_epoch(tiny)


def test_a_scalar_of_the_wrong_type(tiny):
    with (
        gpu_machine(),
        mock.patch.object(normalize.np, "int32", np.int64),
        pytest.raises(TypeError, match=r"np\.int32"),
    ):
        one_epoch(tiny)


def test_a_numpy_array_in_a_launch(tiny):
    with (
        gpu_machine(),
        mock.patch.object(normalize, "table_on", lambda xp, table: table_on(np, table)),
        pytest.raises(TypeError, match=r"normalize\.cu: .*Unsupported type <class 'numpy.ndarray'>"),
    ):
        one_epoch(tiny)


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        (lambda views, rows: np.asarray(views), "Implicit conversion to a NumPy array"),
        (lambda views, rows: views + rows["seed"].astype(np.uint8)[:, None, None, None], "Unsupported type"),
        (lambda views, rows: np.minimum(views, np.zeros(views.shape, np.uint8)), "Unsupported type"),
        (lambda views, rows: np.stack([v[::-1] for v in views]), "numpy.stack was called with a CuPy array"),
        (lambda views, rows: views.clip(0, 9), "no attribute 'clip'"),
    ],
)
def test_code_that_only_numpy_understands(tiny, stage, message):
    with gpu_machine(), pytest.raises((TypeError, AttributeError), match=message):
        one_epoch(tiny, RECIPE.with_stage(stage))


def flagged(views: Any, rows: np.ndarray) -> Any:
    """CuPy counts the flags on the host."""
    views[views > 200] = 200
    return views


@pytest.mark.parametrize("stage", [flagged, lambda views, rows: views + np.uint8(int(views.max()) > 0)])
def test_waiting_for_the_device_is_noted(tiny, stage):
    with gpu_machine() as gpu:
        one_epoch(tiny, RECIPE.with_stage(stage))
    assert gpu.log.waits


def test_nobody_waits_before_pixels_are_freed(tiny):
    with gpu_machine() as gpu, mock.patch.object(CudaDevice, "finish", return_value=None):
        one_epoch(tiny, batch_size=4)
    assert "decoded images were freed while kernels may read them" in gpu.log.faults


def test_another_stream(tiny):
    with gpu_machine() as gpu, mock.patch.object(CudaDevice, "producing", return_value=contextlib.nullcontext()):
        one_epoch(tiny)
    assert gpu.log.places == {(0, 0)}


def test_tensors_that_the_allocator_does_not_know(tiny):
    """What `torch.as_tensor` makes of a CuPy array is not protected by `record_stream`, and nobody says so."""
    with gpu_machine() as gpu:

        def shared(self: CudaDevice, array: Any, dtype: torch.dtype = torch.uint8) -> torch.Tensor:
            return gpu.torch.as_tensor(array, device="cuda:0")

        with mock.patch.object(CudaDevice, "tensor", shared):
            view = one_epoch(tiny)[0]["views"][0]
    assert not gpu.torch.allocator.protects(view)


def test_memory_of_a_kernels_own_is_copied_for_the_trainer():
    with gpu_machine() as gpu:
        import cupy

        device = CudaDevice(0)
        array = cupy.asarray(np.arange(6, dtype=np.uint8).reshape(2, 3))
        tensor = device.tensor(array)
        array.fill(0)
        tensor.record_stream(None)
    assert tensor.cpu().tolist() == [[0, 1, 2], [3, 4, 5]]
    assert gpu.torch.allocator.protects(tensor)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.bool, torch.int8])
def test_parts_and_axes_of_the_devices_arrays_share_their_memory(dtype):
    with gpu_machine():
        device = CudaDevice(0)
        array = device.empty((4, 2, 5, 3), dtype)
        whole, part = device.tensor(array, dtype), device.tensor(array[1:3, 0], dtype)
    assert part.shape == (2, 5, 3)
    assert part.dtype == whole.dtype == dtype
    assert part.data_ptr() == whole[1:3, 0].data_ptr()
    assert part.untyped_storage()._cdata == whole.untyped_storage()._cdata


def test_names_of_devices():
    from figureground.pipeline.device import make_device

    with gpu_machine():
        assert make_device("cuda").name == "cuda:0"
        assert make_device("cuda:1").name == "cuda:1"
        with pytest.raises(RuntimeError, match="device='cuda:2' must be one of the 2 GPUs"):
            make_device("cuda:2")


def test_tensors_of_the_second_gpu_are_worked_on_there():
    """The bridge of torch tensors goes to their device and their stream."""
    cupy = make_cupy(Log())
    seen = []

    class Tensor(torch.Tensor):
        is_cuda = property(lambda self: True)
        device = property(lambda self: torch.device("cuda", 1))

    def kernel(views: Any) -> None:
        seen.append((strict_cupy.current_device(), strict_cupy.current_stream().ptr))

    with (
        as_cupy(cupy),
        mock.patch.object(torch.cuda, "current_stream", return_value=mock.Mock(cuda_stream=77)),
        mock.patch("figureground.kernels.torch_bridge._to_array", side_effect=lambda value: value),
    ):
        on_tensors(kernel)(torch.zeros(2).as_subclass(Tensor))
    assert seen == [(1, 77)]


def test_host_and_device_arrays_are_not_mixed():
    cupy = make_cupy(Log())
    with pytest.raises(TypeError, match="all arrays must be on one device"):
        on_gpu("f", a=cupy.zeros(3), b=np.zeros(3))


def test_the_way_of_make_test_gpu():
    """NumPy arguments are copied to the device and back at each launch, and ragged images lie there."""
    tests = Path(__file__).resolve().parents[1]
    chosen = [str(tests / "kernels" / f"test_{name}.py") for name in ("resample_cuda", "normalize", "saliency_graph", "turns")]
    done = subprocess.run(
        [
            sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "host_cuda.cuda_mode", "--device", "cuda",
            "-m", "gpu and not hardware", *chosen,
        ],
        cwd=tests.parent, env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tests), *sys.path])}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert " passed" in done.stdout


def test_the_stand_in_is_cupys():
    """Where CuPy is installed (it needs no GPU for this): names and parameters that the stand-in has are CuPy's."""
    cupy = pytest.importorskip("cupy")
    for name in (*FUNCTIONS, "asarray", "asnumpy", "empty", "empty_like", "zeros", "zeros_like", "full", "arange"):
        assert callable(getattr(cupy, name))
    assert all(hasattr(cupy.fft, name) for name in FFTS)
    assert all(hasattr(cupy.ndarray, name) for name in (*METHODS, "get", "item", "tolist", "fill", "flags", "strides"))
    assert "blocking" in inspect.signature(cupy.asarray).parameters
    for name in ("from_external", "synchronize", "record"):
        assert hasattr(cupy.cuda.Stream, name)
    from cupy.cuda import compiler, nvrtc

    assert list(inspect.signature(compiler.compile_using_nvrtc).parameters)[:4] == [
        "source",
        "options",
        "arch",
        "filename",
    ]
    assert len(nvrtc.getVersion()) == 2
