"""PTX of a `.cu`, as the library would compile it: NVRTC with the options of `kernels/launch.py`, kept in `build/host_cuda`."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import re
from pathlib import Path

ARCHITECTURE = "compute_90"
ROOT = Path(__file__).resolve().parents[3]
CACHE = ROOT / "build" / "host_cuda"
_INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"', re.MULTILINE)


@functools.cache
def available() -> bool:
    """Tell whether `cuda-bindings` is installed."""
    try:
        return importlib.util.find_spec("cuda.bindings.nvrtc") is not None
    except (ImportError, ValueError):
        return False


@functools.cache
def _nvrtc() -> tuple[object, str]:
    from cuda.bindings import nvrtc

    return nvrtc, str(nvrtc.nvrtcVersion()[1:])


def compile_text(source: str, name: str, lines: bool = True) -> str:
    """Compile a source to PTX.

    Parameters
    ----------
    source : str
        CUDA C++.
    name : str
        Its file name, for messages.
    lines : bool
        Ask for the lines of the source (`-lineinfo`), which changes no instruction.
    """
    from figureground.kernels.launch import CUDA_OPTIONS

    nvrtc, _ = _nvrtc()
    options = [*CUDA_OPTIONS, f"-I{ROOT / 'kernels'}", f"--gpu-architecture={ARCHITECTURE}"]
    options += ["-lineinfo"] if lines else []
    _, program = nvrtc.nvrtcCreateProgram(source.encode(), name.encode(), 0, [], [])  # type: ignore[attr-defined]
    (result,) = nvrtc.nvrtcCompileProgram(program, len(options), [o.encode() for o in options])  # type: ignore[attr-defined]
    get_size, get = ("GetPTXSize", "GetPTX") if not int(result) else ("GetProgramLogSize", "GetProgramLog")
    _, size = getattr(nvrtc, f"nvrtc{get_size}")(program)
    text = b" " * size
    getattr(nvrtc, f"nvrtc{get}")(program, text)
    nvrtc.nvrtcDestroyProgram(program)  # type: ignore[attr-defined]
    if int(result):
        raise RuntimeError(f"{name}: NVRTC refused it:\n{text.decode()[:2000]}")
    return text.rstrip(b"\0").decode()


def ptx_of(path: Path) -> str:
    """PTX of one file, with its lines, out of the cache if nothing has changed."""
    source = path.read_text()
    own = [ROOT / "kernels" / name for name in _INCLUDE.findall(source)]
    from figureground.kernels.launch import CUDA_OPTIONS

    parts = [path.name, source, *(p.read_text() for p in own if p.is_file()), *CUDA_OPTIONS, ARCHITECTURE, _nvrtc()[1]]
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
    cached = CACHE / f"{path.stem}-{digest}.ptx"
    if cached.exists():
        return cached.read_text()
    text = compile_text(source, path.name)
    CACHE.mkdir(parents=True, exist_ok=True)
    own_copy = cached.with_suffix(f".{os.getpid()}")
    own_copy.write_text(text)
    os.replace(own_copy, cached)
    return text
