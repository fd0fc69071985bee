"""Fixtures shared by all tests: real images, the device option, and CUDA sources run on the CPU."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from host_cuda.executor import ORDERS, HostExecutor
from host_cuda.ptx.executor import PtxExecutor
from host_cuda.ptx.nvrtc import available
from host_cuda.rehearsal import gpu_machine
from host_cuda.stand_in import CudaDevice, HostDevice, in_place_of_launch, launch_with_copies

# A slow machine is no fault; and what CI finds must be found again, so new examples are searched elsewhere.
hypothesis.settings.register_profile("figureground", deadline=None, derandomize="CI" in os.environ)
hypothesis.settings.load_profile("figureground")

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real images beside the checkout; the test is skipped where there is none."""
    if not (SHARED / "MANIFEST.tsv").is_file():
        pytest.skip("needs the real images of ../shared/data")
    return SHARED


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--device`."""
    parser.addoption("--device", choices=("cpu", "cuda"), default="cpu", help="cuda: run kernels and `gpu` tests there")
    parser.addoption(
        "--exact-memory", action="store_true", help="no pool on the GPU: compute-sanitizer then sees where each array ends"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Leave CuPy's pool out if asked."""
    if config.getoption("--exact-memory") and on_device(config):
        import cupy

        cupy.cuda.set_allocator(None)


def on_device(config: pytest.Config) -> bool:
    """Tell whether this run uses a GPU."""
    return config.getoption("--device") == "cuda"


def pytest_report_header(config: pytest.Config) -> str:
    """Say in one line whether a GPU took part."""
    if on_device(config):
        return "device: cuda"
    ptx = "" if available() else "; without cuda-bindings and NVRTC the PTX of the kernels is not run"
    return f"device: cpu, GPU tests rehearsed on the host; run make test-gpu on a machine with an NVIDIA GPU{ptx}"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Without a GPU leave out `hardware` tests (the header says so); with one, `host_cuda` makes a test a `gpu` test."""
    if on_device(config):
        for item in items:
            if {"host_cuda", "host_orders"} & set(getattr(item, "fixturenames", ())):
                item.add_marker("gpu")
        return
    real = [item for item in items if item.get_closest_marker("hardware")]
    if real:
        config.hook.pytest_deselected(items=real)
        items[:] = [item for item in items if not item.get_closest_marker("hardware")]


@pytest.fixture(autouse=True)
def rehearsal(request: pytest.FixtureRequest) -> Iterator[None]:
    """Without a GPU, run `gpu` tests on the stand-ins of `host_cuda.rehearsal`."""
    if on_device(request.config) or request.node.get_closest_marker("gpu") is None:
        yield
        return
    with gpu_machine():
        yield


@pytest.fixture(params=["numpy", pytest.param("cupy", marks=pytest.mark.gpu)])
def xp(request: pytest.FixtureRequest) -> Any:
    """`numpy` and `cupy` (without a GPU its stand-in): one body, two devices."""
    return pytest.importorskip(request.param)


@pytest.fixture
def host_executor(request: pytest.FixtureRequest) -> type[HostExecutor] | type[PtxExecutor]:
    """What runs the CUDA sources without a GPU: "source" by g++, "ptx" what NVRTC makes of them."""
    return PtxExecutor if request.param == "ptx" else HostExecutor


@pytest.fixture
def host_cuda(
    request: pytest.FixtureRequest, host_executor: type[HostExecutor] | type[PtxExecutor]
) -> Callable[..., contextlib.AbstractContextManager[Any]]:
    """Run `_cuda` functions on NumPy arrays: `with host_cuda() as dev: X._cuda(views, ...)`; the test runs once per executor.

    Without a GPU the `.cu` runs on the CPU (`host_cuda.executor`), then its PTX does (`host_cuda.ptx.executor`); `order` is
    "forward", "reversed" or "shuffled". With `--device cuda` the same body runs on the GPU: NumPy arguments are copied there and
    back at each launch. Arrays that a kernel reads by address (Ragged) must come from `dev.array`. `dispatch=True` (host alone,
    skipped with a GPU): public functions take the CUDA path for NumPy arrays, so that `X(views)` inside can be compared with
    `X(views)` outside.
    """
    cuda = on_device(request.config)

    @contextlib.contextmanager
    def device(
        order: str = "forward", seed: int = 0, folder: Path | None = None, dispatch: bool = False
    ) -> Iterator[Any]:
        if cuda and (folder is not None or dispatch):
            pytest.skip("about the host executors: make test runs it")
        if cuda:
            from figureground.kernels.launch import launch

            with in_place_of_launch(launch_with_copies(launch), host_module=False):
                yield CudaDevice()
            return
        executor = host_executor(order, seed, folder)
        made = executor.fresh.add if isinstance(executor, PtxExecutor) else None
        with in_place_of_launch(executor.launch, host_module=True, dispatch=dispatch, made=made):
            yield HostDevice(executor)

    return device


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test with `host_cuda` once per executor, with `host_orders` per order of threads too (once on a GPU)."""
    if "host_executor" in metafunc.fixturenames:
        executors = ("source", "ptx") if available() and not on_device(metafunc.config) else ("source",)
        metafunc.parametrize("host_executor", executors, indirect=True)
    if "host_orders" in metafunc.fixturenames:
        orders = ("forward",) if on_device(metafunc.config) else ORDERS
        metafunc.parametrize("host_orders", orders, indirect=True)


@pytest.fixture
def host_orders(
    request: pytest.FixtureRequest, host_cuda: Callable[..., contextlib.AbstractContextManager[Any]]
) -> Callable[[], contextlib.AbstractContextManager[Any]]:
    """As `host_cuda`, and the test runs three times: threads forward, reversed and shuffled."""
    return lambda: host_cuda(order=request.param)
