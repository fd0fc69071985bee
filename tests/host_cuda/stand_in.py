"""Put a launch function in the place of the real one, and NumPy in the place of CuPy, while a test runs."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import numpy as np

from .guarded import poisoned


class HostDevice:
    """What `with host_cuda() as dev` gives: arrays in, arrays out, for Ragged batches and for tests of both devices."""

    def __init__(self, executor: Any) -> None:
        self.executor = executor

    def array(self, values: Any) -> np.ndarray:
        """Copy to memory that ends (or begins) at a page that faults, so that Ragged addresses are guarded too."""
        return poisoned(np.asarray(values), self.executor.edge)

    def numpy(self, values: Any) -> np.ndarray:
        """Return the values on the host."""
        return np.asarray(values)


class CudaDevice:
    """What `with host_cuda() as dev` gives on a GPU."""

    def array(self, values: Any) -> Any:
        """Copy to the GPU."""
        import cupy

        return cupy.asarray(values)

    def numpy(self, values: Any) -> Any:
        """Copy to the host."""
        import cupy

        return cupy.asnumpy(values)


def launch_with_copies(real: Callable[..., None]) -> Callable[..., None]:
    """Make a `launch` for tests that hand over NumPy arrays: copied to the GPU, run by `real`, copied back."""

    def launch(stem: str, kernel: str, grid: Any, block: Any, args: Any, *, shared: int = 0) -> None:
        import cupy

        host = {(a.ctypes.data, a.nbytes): a for a in args if isinstance(a, np.ndarray)}  # one array may come twice
        device = {key: cupy.asarray(array) for key, array in host.items()}
        real(
            stem,
            kernel,
            grid,
            block,
            [device[a.ctypes.data, a.nbytes] if isinstance(a, np.ndarray) else a for a in args],
            shared=shared,
        )
        for key, array in host.items():
            if array.flags.writeable:
                array[...] = cupy.asnumpy(device[key])

    return launch


class HostModule(ModuleType):
    """NumPy in the place of CuPy: `empty` gives 0xA5 bytes, so that what a kernel leaves unwritten shows."""

    made: Callable[[np.ndarray], None] | None = None
    """Called with every array of `empty`."""

    def empty(self, shape: Any, dtype: Any = float) -> np.ndarray:
        """An array of the shape with every byte 0xA5."""
        array = np.empty(shape, dtype)
        array.reshape(-1).view(np.uint8).fill(0xA5)
        if self.made is not None:
            self.made(array)
        return array

    def empty_like(self, array: np.ndarray) -> np.ndarray:
        """As `empty`, of the shape and dtype of `array`."""
        return self.empty(array.shape, array.dtype)

    def asarray(self, values: Any) -> np.ndarray:
        """A copy beside a page that faults, where kernels may read it by address."""
        return poisoned(np.asarray(values), "end")

    def asnumpy(self, array: np.ndarray) -> np.ndarray:
        """What is on the host already."""
        return array

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)


@contextlib.contextmanager
def as_cupy(module: ModuleType) -> Iterator[None]:
    """Let `import cupy` find a stand-in. Other modules imported meanwhile stay; `mock.patch.dict` would drop them."""
    before = sys.modules.get("cupy")
    sys.modules["cupy"] = module
    try:
        yield
    finally:
        del sys.modules["cupy"]
        if before is not None:
            sys.modules["cupy"] = before


@contextlib.contextmanager
def in_place_of_launch(
    launch: Callable[..., None],
    *,
    host_module: bool,
    dispatch: bool = False,
    made: Callable[[np.ndarray], None] | None = None,
) -> Iterator[None]:
    """Put `launch` in the place of `kernels.launch.launch`, in every loaded module that imported the name.

    With `host_module` the arrays' module is a `HostModule`; with `dispatch` public functions, too, take NumPy arrays for
    arrays on a GPU. `made` is called with every array of the module's `empty`.
    """
    from figureground.kernels import arrays
    from figureground.kernels import launch as door

    xp, real = HostModule("cupy"), arrays.array_module
    xp.made = made
    new: dict[str, tuple[Any, Any]] = {"launch": (door.launch, launch)}
    if host_module:
        new["array_module"] = (real, lambda array: xp if isinstance(array, np.ndarray) else real(array))
    if dispatch:
        new["on_gpu"] = (arrays.on_gpu, lambda function, **named: True)
    with contextlib.ExitStack() as undo:
        for module in [m for name, m in list(sys.modules.items()) if name.startswith("figureground.") and m]:
            for name, (old, stand_in) in new.items():
                if module.__dict__.get(name) is old and not (name == "on_gpu" and module is arrays):  # Ragged looks
                    undo.callback(setattr, module, name, old)
                    setattr(module, name, stand_in)
        if dispatch:
            undo.enter_context(as_cupy(xp))
        yield
