"""Texts of the CUDA sources as they reach the compiler, and what the compiler is told."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from figureground.kernels import launch

STEMS = sorted(path.stem for path in Path(launch.__file__).parent.glob("*.cu"))
HALVE = 'extern "C" __global__ void toy_halve(float* x) { x[threadIdx.x] *= 0.5f; }'


@pytest.mark.parametrize("stem", STEMS)
def test_headers_are_put_in_their_places(stem):
    text = launch.source_text(stem)
    assert "#include" not in text
    if '#include "draws.cuh"' in launch.source_path(stem).read_text():
        assert (launch.source_path("draws").with_suffix(".cuh")).read_text() in text


def test_there_are_sources():
    assert len(STEMS) > 10


class _Cupy:
    """What `launch` asks of CuPy, noted."""

    def __init__(self) -> None:
        self.compiled: list[tuple[Any, ...]] = []
        self.launched: list[Any] = []
        self.allowed: list[int] = []
        self.device = SimpleNamespace(id=0, compute_capability="90")

    def modules(self) -> dict[str, Any]:
        def compile_using_nvrtc(source: str, options: tuple[str, ...], arch: str, filename: str) -> tuple[bytes, None]:
            self.compiled.append((source, options, arch, filename))
            return b"binary of " + arch.encode(), None

        cupy = self

        class Function:
            def __init__(self, path: str, name: str) -> None:
                self._what = Path(path).read_bytes(), name

            def __setattr__(self, name: str, value: Any) -> None:
                if name == "max_dynamic_shared_size_bytes":
                    cupy.allowed.append(value)
                object.__setattr__(self, name, value)

            def __call__(self, grid: Any, block: Any, args: Any, *, shared_mem: int) -> None:
                cupy.launched.append((*self._what, grid, block, args, shared_mem))

        compiler, nvrtc = (
            SimpleNamespace(compile_using_nvrtc=compile_using_nvrtc),
            SimpleNamespace(getVersion=lambda: (13, 0)),
        )
        cuda = SimpleNamespace(compiler=compiler, nvrtc=nvrtc, Device=lambda: self.device)
        module = SimpleNamespace(
            cuda=cuda,
            __version__="14",
            RawModule=lambda path: SimpleNamespace(get_function=lambda name: Function(path, name)),
        )
        return {"cupy": module, "cupy.cuda": cuda}


@pytest.fixture
def cupy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> _Cupy:
    """CuPy's place taken, with an empty cache."""
    made = _Cupy()
    for name, module in made.modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setenv("CUPY_CACHE_DIR", str(tmp_path / "cache"))
    forget(monkeypatch)
    yield made
    forget(monkeypatch)


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a new process."""
    launch._module.cache_clear()
    launch._function.cache_clear()
    monkeypatch.setattr(launch, "_reserved", {})


def test_the_compiler_gets_our_options_and_no_others(cupy):
    """CuPy's `RawModule(code=..., options=...)` would put `-ftz=true` behind them."""
    launch.launch("background", "background_composite1", (2,), (3,), [np.int64(5)])
    ((source, options, arch, filename),) = cupy.compiled
    assert (source, options, arch, filename) == (
        launch.source_text("background"),
        launch.CUDA_OPTIONS,
        "90",
        "background.cu",
    )
    assert cupy.launched == [(b"binary of 90", "background_composite1", (2,), (3,), (np.int64(5),), 0)]


def test_a_binary_is_compiled_once_for_each_kind_of_gpu_and_source(cupy, monkeypatch):
    for capability in ("90", "80", "90"):
        cupy.device.compute_capability = capability
        launch.launch("background", "background_composite1", (1,), (1,), [])
    forget(monkeypatch)
    launch.launch("background", "background_composite1", (1,), (1,), [])
    assert [arch for _, _, arch, _ in cupy.compiled] == ["90", "80"]
    assert [launched[0] for launched in cupy.launched] == [b"binary of 90", b"binary of 80", *[b"binary of 90"] * 2]
    forget(monkeypatch)
    monkeypatch.setattr(launch, "source_text", lambda stem: "another source")
    launch.launch("background", "background_composite1", (1,), (1,), [])
    assert [source for source, *_ in cupy.compiled][2:] == ["another source"]
    assert not list(launch.cache_folder().glob("*.tmp"))


def test_dynamic_shared_memory_is_asked_for_once(cupy):
    for size in (0, 1000, 60_000, 1000, 60_000, 70_000):
        launch.launch("blur", "blur_tile", (1,), (1,), [], shared=size)
    cupy.device.id = 1
    launch.launch("blur", "blur_tile", (1,), (1,), [], shared=1000)
    assert cupy.allowed == [1000, 60_000, 70_000, 1000]
    assert [launched[-1] for launched in cupy.launched] == [0, 1000, 60_000, 1000, 60_000, 70_000, 1000]


def test_our_options_keep_subnormal_numbers_and_no_option_behind_them_may_change_that():
    nvrtc = pytest.importorskip("cuda.bindings.nvrtc")

    def flushes(*options: str) -> bool:
        _, program = nvrtc.nvrtcCreateProgram(HALVE.encode(), b"toy.cu", 0, [], [])
        (result,) = nvrtc.nvrtcCompileProgram(program, len(options), [option.encode() for option in options])
        assert result == nvrtc.nvrtcResult.NVRTC_SUCCESS
        text = b" " * nvrtc.nvrtcGetPTXSize(program)[1]
        nvrtc.nvrtcGetPTX(program, text)
        nvrtc.nvrtcDestroyProgram(program)
        return b"mul.ftz.f32" in text or b"mul.rn.ftz.f32" in text

    assert not flushes(*launch.CUDA_OPTIONS, "-arch=compute_90", "--device-as-default-execution-space")
    assert flushes(*launch.CUDA_OPTIONS, "-ftz=true")  # what CuPy's RawModule would make of them


@pytest.mark.gpu
@pytest.mark.hardware
def test_subnormal_numbers_survive_on_a_gpu(monkeypatch):
    import cupy

    forget(monkeypatch)
    monkeypatch.setattr(launch, "source_text", lambda stem: HALVE)
    x = cupy.full(4, 2.0**-140, np.float32)
    launch.launch("toy", "toy_halve", (1,), (4,), [x])
    forget(monkeypatch)
    assert x.get().tolist() == [2.0**-141] * 4
