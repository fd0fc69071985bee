"""Run the CUDA C++ of `kernels/*.cu` on the CPU, with NumPy arrays, through the signature of `kernels.launch.launch`.

g++ builds each source, unchanged, behind `shim.h`. Every launch is a strict one: arguments are checked against the C
parameters; arrays are moved to memory that ends (or begins) at a page that faults; shared memory starts as 0xA5; and
g++'s checks (alignment, array bounds, shifts, overflow, casts) report the line of the source.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import re
import subprocess
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .guarded import Guarded

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
CACHE = ROOT / "build" / "host_cuda"
CHECKS = "alignment,bounds,shift-exponent,integer-divide-by-zero,signed-integer-overflow,float-cast-overflow"
FLAGS = ("-O2", "-std=c++17", "-fPIC", "-ffp-contract=off", "-fno-strict-aliasing", "-fvisibility=hidden", "-w")
LINK = ("-shared", "-Wl,-z,defs")
ORDERS = ("forward", "reversed", "shuffled")
MAX_SHARED = 227 * 1024
BOUNDS = r"(?:__launch_bounds__\s*\(([^()]*)\)\s*)?"
ALIGN = r"(?:__align__|alignas)\s*\(\s*\d+\s*\)"
KERNEL = re.compile(rf"__global__\s+{BOUNDS}void\s+{BOUNDS}(\w+)\s*\(")
DYNAMIC = re.compile(
    rf"^([ \t]*)extern\s+(?:__shared__|{ALIGN}|\s)+([\w ]+?)\s*(?:{ALIGN}\s*)?(\w+)\s*\[\s*\]\s*;", re.MULTILINE
)
INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"', re.MULTILINE)
_lock = threading.Lock()  # a built kernel holds one launch's state


class _Launch(ctypes.Structure):
    _fields_ = (
        ("grid", ctypes.c_uint * 3),
        ("block", ctypes.c_uint * 3),
        ("shared", ctypes.c_int),
        ("order", ctypes.c_int),
        ("skipped_barrier", ctypes.c_int),
        ("seed", ctypes.c_uint64),
    )


def without_comments(source: str) -> str:
    """Blank out comments, keeping the lines."""
    return re.sub(r"//[^\n]*|/\*.*?\*/", lambda m: re.sub(r"[^\n]", " ", m[0]), source, flags=re.S)


def kernel_bounds(source: str) -> dict[str, str]:
    """Names of the `__global__` functions and the expression of their `__launch_bounds__` (0 without)."""
    found = KERNEL.findall(without_comments(source))
    return {name: (before or after or "0").split(",")[0].strip() for before, after, name in found}


def unit(source: str, path: Path) -> str:
    """The C++ text that g++ gets for one `.cu`."""

    def declare(match: re.Match[str]) -> str:
        indent, kind, name = match.groups()
        if not indent:
            raise ValueError(f"{path.name}: extern __shared__ {name}[] must be inside its kernel, got file scope")
        return f"{indent}{kind}* const {name} = ({kind}*)shim::dynamic_shared;"

    exports = "\n".join(f"SHIM_EXPORT({name}, ({bound}))" for name, bound in kernel_bounds(source).items())
    body = DYNAMIC.sub(declare, source)
    # An unnamed namespace: names of the source cannot clash with those of C's library.
    return f'#include "shim.h"\nnamespace {{\n#line 1 "{path.name}"\n{body}\n}}\n#line 1 "exports"\n{exports}\n'


@functools.cache
def _compiler() -> str:
    return subprocess.run(["g++", "--version"], capture_output=True, text=True, check=True).stdout.splitlines()[0]


def build(path: Path, include: Path) -> Path:
    """Build one `.cu` to a shared library, or take it from the cache (`build/host_cuda`, keyed by all that matters)."""
    source = path.read_text()
    text = unit(source, path)
    own = [include / name for name in INCLUDE.findall(source) if (include / name).is_file()]
    parts = [text, _compiler(), CHECKS, *FLAGS, *LINK, *(p.read_text() for p in [*sorted(HERE.glob("*.h")), *own])]
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
    library = CACHE / f"{path.stem}-{digest}.so"
    if library.exists():
        return library
    CACHE.mkdir(parents=True, exist_ok=True)
    stem = library.with_suffix(f".{os.getpid()}")
    cpp, obj, so = (stem.with_suffix(f"{stem.suffix}{end}") for end in (".cpp", ".o", ".so"))
    cpp.write_text(text)
    # Two steps: a link with -fsanitize would pull in libubsan, whose handlers are ours here.
    compile_ = ["g++", *FLAGS, f"-fsanitize={CHECKS}", f"-I{HERE}", f"-I{include}", "-c", str(cpp), "-o", str(obj)]
    try:
        for command in (compile_, ["g++", *LINK, str(obj), "-o", str(so)]):
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                errors = [line for line in done.stderr.splitlines() if "error:" in line or "undefined" in line]
                raise RuntimeError("\n".join([f"{path.name}: g++ refused it:", *(errors[:20] or [done.stderr[:2000]])]))
        os.replace(so, library)
    finally:
        for left in (cpp, obj, so):
            left.unlink(missing_ok=True)
    return library


def _check_scalar(where: str, value: Any, kind: str, size: int) -> None:
    bits = 8 * size
    expected = {"b": "np.bool_", "i": f"np.int{bits}", "u": f"np.uint{bits}", "f": f"np.float{bits}"}.get(kind)
    if not isinstance(value, np.generic) or (value.dtype.kind, value.dtype.itemsize) != (kind, size):
        raise TypeError(f"{where} must be {expected}, got {type(value).__name__} {value!r:.40}")


def _check_array(where: str, array: Any, door: str, kind: str, size: int) -> None:
    if not isinstance(array, np.ndarray):
        raise TypeError(f"{where} is a pointer in C and must be an array, got {type(array).__name__}")
    if not array.flags.c_contiguous:
        raise ValueError(f"{where} must be C-contiguous, got strides {array.strides} for {array.shape} {array.dtype}")
    if door == "w" and not array.flags.writeable:
        raise ValueError(f"{where} is written in C (no const) and must be writable, got a read-only array")
    # Structs, vectors, unsigned words (bit patterns) and tables handed over as bytes may hold anything.
    free = kind == "x" or array.dtype == np.uint8 or (kind == "u" and array.dtype.itemsize == size)
    if not free and (array.dtype.itemsize != size or (array.dtype.kind == "f") != (kind == "f")):
        what = f"{size}-byte {'floats' if kind == 'f' else 'integers'}"
        raise TypeError(f"{where} points to {what}, got {array.dtype}")


def check_arguments(where: str, args: Sequence[Any], parameters: Sequence[tuple[str, str, int]]) -> None:
    """Refuse arguments that the C parameters do not take."""
    if len(args) != len(parameters):
        raise TypeError(f"{where}: args must hold {len(parameters)} values, got {len(args)}")
    for i, (value, (door, kind, size)) in enumerate(zip(args, parameters)):
        if door == "v":
            _check_scalar(f"{where}: args[{i}]", value, kind, size)
        else:
            _check_array(f"{where}: args[{i}]", value, door, kind, size)


class HostExecutor:
    """Stands in for `kernels.launch.launch`.

    Parameters
    ----------
    order : {"forward", "reversed", "shuffled"}
        Order of blocks, and of threads between two barriers.
    seed : int
        Of the shuffled order.
    folder : Path
        Where the `.cu` files are; `kernels/` by default.
    edge : {"end", "start"}
        Which side of each array touches a page that faults; by default the end, and the start when reversed.
    skipped_barrier : int
        Line of a `__syncthreads` that is passed over, to see whether a test needs it; 0 for none.
    """

    def __init__(
        self,
        order: str = "forward",
        seed: int = 0,
        folder: Path | None = None,
        edge: str | None = None,
        skipped_barrier: int = 0,
    ) -> None:
        if order not in ORDERS:
            raise ValueError(f"HostExecutor: order must be one of {ORDERS}, got {order!r}")
        self.order, self.seed, self.skipped_barrier = order, seed, skipped_barrier
        self.folder = folder or ROOT / "kernels"
        self.edge = edge or ("start" if order == "reversed" else "end")
        self._libraries: dict[str, ctypes.CDLL] = {}
        self.launched: list[str] = []
        """`stem.kernel` of every launch so far."""

    def _function(self, stem: str, kernel: str) -> tuple[Callable[..., Any], list[tuple[str, str, int]], int]:
        if stem not in self._libraries:
            path = self.folder / f"{stem}.cu"
            if not path.is_file():
                raise FileNotFoundError(f"launch: stem must name a .cu file of {self.folder.name}/, got {stem!r}")
            self._libraries[stem] = ctypes.CDLL(str(build(path, ROOT / "kernels")))
        library = self._libraries[stem]
        if not hasattr(library, f"shim_run_{kernel}"):
            raise ValueError(f"launch: kernel must be a __global__ function of {stem}.cu, got {kernel!r}")
        text = ctypes.create_string_buffer(1024)
        bound = library[f"shim_signature_{kernel}"](text)
        parameters = [(word[0], word[1], int(word[2:])) for word in text.value.decode().split()]
        run = library[f"shim_run_{kernel}"]
        run.restype = ctypes.c_char_p
        return run, parameters, bound

    def launch(
        self,
        stem: str,
        kernel: str,
        grid: tuple[int, ...],
        block: tuple[int, ...],
        args: Sequence[Any],
        *,
        shared: int = 0,
    ) -> None:
        """Run one kernel to its end; see `kernels.launch.launch`."""
        with _lock:
            run, parameters, bound = self._function(stem, kernel)
            where = f"{stem}.cu: {kernel}"
            setup = launch_record(where, grid, block, shared, bound)
            setup.order, setup.seed, setup.skipped_barrier = ORDERS.index(self.order), self.seed, self.skipped_barrier
            check_arguments(where, args, parameters)
            self.launched.append(f"{stem}.{kernel}")
            written = [p[0] == "w" for p in parameters]
            with Guarded(args, written, self.edge) as guarded:
                storage = [_cell(a, guarded) for a in args]
                pointers = (ctypes.c_void_p * max(len(args), 1))(*(ctypes.addressof(s) for s in storage))
                message = run(ctypes.byref(setup), pointers)
                if message is not None:
                    raise RuntimeError(f"{where}: {guarded.explain(message.decode())}")
                guarded.finish(where)


def _cell(value: Any, guarded: Guarded) -> Any:
    """C storage of one argument."""
    if isinstance(value, np.ndarray):
        return ctypes.c_void_p(guarded.address(value))
    return (ctypes.c_char * value.dtype.itemsize).from_buffer_copy(value.tobytes())


def launch_record(where: str, grid: tuple[int, ...], block: tuple[int, ...], shared: int, bound: int) -> _Launch:
    """Check the sizes of a launch and fill its record."""

    def check(name: str, sizes: tuple[int, ...], limits: tuple[int, int, int]) -> tuple[int, ...]:
        full = (*sizes, 1, 1, 1)[:3]
        if not 1 <= len(sizes) <= 3 or any(not 1 <= int(s) <= limit for s, limit in zip(full, limits)):
            raise ValueError(f"{where}: {name} must be 1 to {limits} on up to three axes, got {tuple(sizes)}")
        return tuple(int(s) for s in full)

    blocks, threads = check("grid", grid, (2**31 - 1, 65535, 65535)), check("block", block, (1024, 1024, 64))
    most = bound or 1024
    if threads[0] * threads[1] * threads[2] > most:
        raise ValueError(f"{where}: block must have at most {most} threads (__launch_bounds__ or 1024), got {threads}")
    if not 0 <= shared <= MAX_SHARED:
        raise ValueError(f"{where}: shared must be 0 to {MAX_SHARED} bytes, got {shared}")
    return _Launch(grid=blocks, block=threads, shared=shared)
