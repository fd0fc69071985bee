"""The kernels on torch tensors: nothing is copied, and CUDA work goes to torch's current stream.

    blur = on_tensors(gaussian_blur)
    blurred = blur(views, np.full(len(views), 1.5, np.float32))   # views: a CPU or CUDA tensor, and so is the result

torch is imported when a bridged function is called, not with this module.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .arrays import Ragged


def _to_array(value: Any) -> Any:
    import torch

    if not isinstance(value, torch.Tensor):
        return value
    value = value.detach()
    if value.dtype == torch.bfloat16:
        return _to_array(value.view(torch.int16)).view(np.uint16)
    if value.is_cuda:
        import cupy

        return cupy.asarray(value)
    return value.numpy()


def _to_tensor(value: Any, bfloat16: bool) -> Any:
    import torch

    if isinstance(value, tuple):
        return tuple(_to_tensor(item, bfloat16) for item in value)
    if value is None or isinstance(value, torch.Tensor):
        return value
    if value.dtype == np.uint16 and bfloat16:
        return _to_tensor(value.view(np.int16), False).view(torch.bfloat16)
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value)
    return torch.as_tensor(value, device=f"cuda:{value.device.id}")


def on_tensors(kernel: Callable[..., Any]) -> Callable[..., Any]:
    """Make a kernel of this package take and give torch tensors.

    Parameters
    ----------
    kernel : callable
        A public function of `figureground.kernels`, such as `gaussian_blur`.

    Returns
    -------
    callable
        Same arguments; tensors may stand where arrays do, all on one device, and results are tensors of that device that
        share the kernel's memory. On a GPU that is CuPy's, and `record_stream` knows nothing of it: hold a result for as long as
        another stream than torch's current one reads it. `dtype=torch.float16` and the like are understood, bfloat16 comes back as
        bfloat16.

    Examples
    --------
    >>> import torch
    >>> from figureground.kernels.background import composite_views
    >>> figures, grounds = torch.full((1, 3, 2, 2), 9, dtype=torch.uint8), torch.zeros((1, 3, 2, 2), dtype=torch.uint8)
    >>> out = on_tensors(composite_views)(figures, grounds, torch.full((1, 2, 2), 255, dtype=torch.uint8))
    >>> int(out.sum())
    108
    """

    @functools.wraps(kernel)
    def bridged(*args: Any, **kwargs: Any) -> Any:
        import torch

        names = {torch.float32: np.float32, torch.float16: np.float16, torch.bfloat16: "bfloat16"}
        bfloat16 = kwargs.get("dtype") in (torch.bfloat16, "bfloat16")
        if isinstance(kwargs.get("dtype"), torch.dtype):
            if kwargs["dtype"] not in names:
                raise ValueError(f"on_tensors: dtype must be float32, float16 or bfloat16, got {kwargs['dtype']}")
            kwargs["dtype"] = names[kwargs["dtype"]]
        tensors = [v for v in (*args, *kwargs.values()) if isinstance(v, torch.Tensor)]
        with _torch_stream(tensors):
            result = kernel(*[_to_array(v) for v in args], **{k: _to_array(v) for k, v in kwargs.items()})
            return _to_tensor(result, bfloat16)

    return bridged


@dataclass(frozen=True)
class _Stream:
    """A CUDA stream by its handle, in the form that `cupy.cuda.Stream.from_external` takes (torch's own only in new versions)."""

    handle: int

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self.handle


@contextlib.contextmanager
def _torch_stream(tensors: Sequence[Any]) -> Iterator[None]:
    """CuPy on torch's current stream and the tensors' GPU, if a tensor is on one."""
    import torch

    device = next((t.device for t in tensors if t.is_cuda), None)
    if device is None:
        yield
        return
    import cupy

    stream = _Stream(torch.cuda.current_stream(device).cuda_stream)
    with cupy.cuda.Device(device.index), cupy.cuda.Stream.from_external(stream):
        yield


def ragged_from_tensors(tensors: Sequence[Any]) -> Ragged:
    """Wrap a list of (H, W, C) or (H, W) uint8 tensors of one device for `render_views`; nothing is copied.

    Parameters
    ----------
    tensors : sequence of torch.Tensor

    Returns
    -------
    Ragged

    Raises
    ------
    ValueError
        As `Ragged.from_arrays`.
    """
    return Ragged.from_arrays([_to_array(t) for t in tensors])
