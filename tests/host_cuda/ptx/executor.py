"""Run the PTX of `kernels/*.cu` on the CPU, with NumPy arrays, through the signature of `kernels.launch.launch`.

NVRTC compiles each source, unchanged, for sm_90; `door.cpp`, built once by g++, runs what it wrote: the 32 lanes of a warp in lock
step, and lanes that part meet again. A launch stops where compute-sanitizer would speak up: an access outside its array, or at no
multiple of its size; a read of what nobody wrote; a race; a barrier or a warp operation that not all reach.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import subprocess
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from host_cuda.executor import ORDERS, HostExecutor, check_arguments, launch_record
from host_cuda.guarded import Guarded

from .encode import Encoded, Encoder
from .nvrtc import CACHE, ROOT, ptx_of
from .parse import parse
from .run import Fresh, Run, Watched

HERE = Path(__file__).resolve().parent
FLAGS = ("-O3", "-std=c++17", "-fPIC", "-shared", "-fvisibility=hidden", "-ffp-contract=off", "-fno-math-errno",
         "-fno-trapping-math", "-w")  # fmt: skip


@functools.cache
def machine() -> tuple[ctypes.CDLL, dict[str, int]]:
    """Build the machine, or take it from the cache; give it and the numbers of its operations."""
    sources = [*sorted(HERE.glob("*.h")), HERE / "door.cpp"]
    compiler = subprocess.run(["g++", "--version"], capture_output=True, text=True, check=True).stdout.splitlines()[0]
    digest = hashlib.sha256("\0".join([compiler, *FLAGS, *(p.read_text() for p in sources)]).encode()).hexdigest()[:16]
    library = CACHE / f"ptx-{digest}.so"
    if not library.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        own = library.with_suffix(f".{os.getpid()}.so")
        done = subprocess.run(["g++", *FLAGS, str(HERE / "door.cpp"), "-o", str(own)], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"door.cpp: g++ refused it:\n{done.stderr[:2000]}")
        os.replace(own, library)
    loaded = ctypes.CDLL(str(library))
    loaded.ptx_run.restype = ctypes.c_int
    names = (ctypes.c_char_p * 1024)()
    count = loaded.ptx_names(names, 1024)
    return loaded, {name.decode(): k for k, name in enumerate(names[:count]) if name}


@functools.lru_cache(maxsize=64)
def encode_file(path: Path, text: str) -> dict[str, Encoded | ValueError]:
    """All kernels of a source; a refusal is raised when its kernel is launched."""
    module, found = parse(ptx_of(path)), {}
    for name, kernel in module.kernels.items():
        try:
            found[name] = Encoder(kernel, module, machine()[1], f"{path.name}: {name}").encode()
        except ValueError as refusal:
            found[name] = refusal
    return found


class PtxExecutor:
    """Stands in for `kernels.launch.launch`, as `HostExecutor` does.

    Parameters
    ----------
    order : {"forward", "reversed", "shuffled"}
        Order of blocks, and of the warps of a block.
    seed : int
        Of the shuffled order.
    folder : Path
        Where the `.cu` files are; `kernels/` by default.
    edge : {"end", "start"}
        As in `HostExecutor`: which side of each array touches a page that faults.
    checks : bool
        Look for uninitialised reads and races; bounds, alignment and barriers are always looked at.
    skipped_barrier : int
        Line of a `__syncthreads` that is passed over; 0 for none.
    """

    def __init__(
        self,
        order: str = "forward",
        seed: int = 0,
        folder: Path | None = None,
        edge: str | None = None,
        checks: bool = True,
        skipped_barrier: int = 0,
    ) -> None:
        if order not in ORDERS:
            raise ValueError(f"PtxExecutor: order must be one of {ORDERS}, got {order!r}")
        self.order, self.seed, self.checks, self.skipped_barrier = order, seed, checks, skipped_barrier
        self.folder = folder or ROOT / "kernels"
        self._host = HostExecutor(folder=self.folder)  # knows the C types of the parameters
        self.edge = edge or ("start" if order == "reversed" else "end")
        self.launched: list[str] = []
        """`stem.kernel` of every launch so far."""
        self.fresh = Fresh()
        """Memory of `empty`, whose bytes have no value before a kernel gives them one."""
        self.others: Callable[[], Iterable[tuple[int, int]]] = tuple
        """Gives address and size of memory besides arguments and guarded regions that kernels may read by address."""
        self.watch: Callable[[Watched], None] | None = None
        """Called after each launch with its counts, which are taken if it is set."""

    def _kernel(self, stem: str, kernel: str) -> tuple[Encoded, list[tuple[str, str, int]], int]:
        _, parameters, bound = self._host._function(stem, kernel)  # refuses names that do not exist
        path = self.folder / f"{stem}.cu"
        found = encode_file(path, path.read_text())[kernel]
        if isinstance(found, ValueError):
            raise found
        return found, parameters, bound

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
        encoded, parameters, bound = self._kernel(stem, kernel)
        where = f"{stem}.cu: {kernel}"
        setup = launch_record(where, grid, block, shared, bound)
        check_arguments(where, args, parameters)
        self.launched.append(f"{stem}.{kernel}")
        self.run(encoded, where, setup, args, [p[0] == "w" for p in parameters])

    def run(self, encoded: Encoded, where: str, setup: Any, args: Sequence[Any], written: Sequence[bool]) -> None:
        """Run an encoded kernel; `written` says which arguments are pointers that it may write through."""
        with Guarded(args, written, self.edge) as guarded:
            run = Run(encoded, args, guarded, self.fresh, self.checks, self.watch is not None, self.others())
            run.go(machine()[0], where, setup, ORDERS.index(self.order), self.seed, self.skipped_barrier)
            guarded.finish(where)
        if self.watch is not None:
            self.watch(run.watched(where.replace(".cu: ", ".")))
