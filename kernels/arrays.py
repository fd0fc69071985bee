"""What every kernel takes: arrays of one device, and ragged batches of images by address.

The array decides the backend: CuPy (or any object with `__cuda_array_interface__`) means CUDA, NumPy means the CPU.
Nothing here imports CuPy until a CUDA array is seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


def on_gpu(function: str, **arrays: Any) -> bool:
    """Tell whether the arrays of a call live on a GPU; None is skipped.

    Parameters
    ----------
    function : str
        Name of the caller, for the message.
    **arrays
        NumPy arrays, CUDA arrays or `Ragged` batches by argument name.

    Returns
    -------
    bool
        True if all of them are CUDA arrays, False if all are host arrays.

    Raises
    ------
    TypeError
        If host and CUDA arrays are mixed, or an argument is no array.

    Examples
    --------
    >>> on_gpu("gaussian_blur", views=np.zeros((1, 3, 2, 2), np.uint8), out=None)
    False
    """
    gpu: list[str] = []
    host: list[str] = []
    for name, array in arrays.items():
        if array is None:
            continue
        if isinstance(array, Ragged):
            (gpu if array.cuda else host).append(name)
        elif isinstance(array, np.ndarray):
            host.append(name)
        elif hasattr(array, "__cuda_array_interface__"):
            gpu.append(name)
        else:
            raise TypeError(f"{function}: {name} must be a NumPy or CUDA array, got {type(array).__name__}")
    if gpu and host:
        raise TypeError(
            f"{function}: all arrays must be on one device, got {', '.join(gpu)} on the GPU and {', '.join(host)} on "
            f"the host; move them with cupy.asarray or cupy.asnumpy"
        )
    return bool(gpu)


def array_module(array: Any) -> Any:
    """Return `numpy` for a host array and `cupy` for a CUDA array."""
    if isinstance(array, np.ndarray):
        return np
    import cupy

    return cupy


def table_on(xp: Any, table: np.ndarray) -> Any:
    """Copy a host table to the device of `xp` as flat bytes (CuPy knows no structured dtypes).

    Parameters
    ----------
    xp : module
        `numpy` or `cupy`.
    table : (N, ...) any dtype, C-contiguous
        Rows of parameters.

    Returns
    -------
    (table.nbytes,) uint8 of `xp`.
    """
    flat = np.ascontiguousarray(table).reshape(-1).view(np.uint8)
    return xp.asarray(flat)


def aligned(*arrays: Any, to: int = 16) -> bool:
    """Tell whether all arrays start on a multiple of `to` bytes, so that vector loads are legal."""
    return all((a.ctypes.data if isinstance(a, np.ndarray) else a.data.ptr) % to == 0 for a in arrays)


@dataclass(frozen=True)
class Ragged:
    """A batch of uint8 images of different sizes, each dense (height, width, channels), given by address.

    DALI hands out image lists whose members lie anywhere in memory; kernels read them where they are.
    """

    addresses: np.ndarray
    """(N,) int64: address of pixel (0, 0) of each image, on the host or on the GPU."""
    sizes: np.ndarray
    """(N, 2) int32: height and width [px]."""
    channels: int
    """3 for images (RGB), 1 for masks."""
    owner: Any
    """Whatever keeps the memory alive."""
    cuda: bool = False
    """True if the addresses are device addresses."""

    def __len__(self) -> int:
        return len(self.addresses)

    @classmethod
    def from_arrays(cls, arrays: Sequence[Any]) -> Ragged:
        """Wrap a list of (H, W, C) or (H, W) uint8 arrays of one device; nothing is copied.

        Raises
        ------
        ValueError
            If an array is not uint8, not C-contiguous, empty, or the channels differ.

        Examples
        --------
        >>> batch = Ragged.from_arrays([np.zeros((4, 5, 3), np.uint8), np.zeros((1, 1, 3), np.uint8)])
        >>> len(batch), batch.sizes.tolist(), batch.channels
        (2, [[4, 5], [1, 1]], 3)
        """
        if len(arrays) == 0:
            raise ValueError("Ragged: arrays must hold at least one image, got an empty list")
        cuda = on_gpu("Ragged", **{f"arrays[{i}]": a for i, a in enumerate(arrays)})
        owner = list(arrays)
        if cuda:
            import cupy

            owner = [cupy.asarray(a) for a in arrays]
        addresses = np.empty(len(owner), np.int64)
        sizes = np.empty((len(owner), 2), np.int32)
        channels = {1 if a.ndim == 2 else a.shape[-1] for a in owner}
        for i, a in enumerate(owner):
            if a.dtype != np.uint8 or a.ndim not in (2, 3) or a.size == 0 or not a.flags.c_contiguous:
                raise ValueError(
                    f"Ragged: arrays[{i}] must be a non-empty C-contiguous (H, W, C) uint8 array, got {a.shape} {a.dtype}"
                )
            addresses[i] = a.data.ptr if cuda else a.ctypes.data
            sizes[i] = a.shape[:2]
        if len(channels) != 1:
            raise ValueError(f"Ragged: all images must have the same channels, got {sorted(channels)}")
        return cls(addresses, sizes, channels.pop(), owner, cuda)

    @classmethod
    def from_batch(cls, batch: Any) -> Ragged:
        """Wrap (N, H, W, C) or (N, H, W) uint8, images of one size behind each other; nothing is copied.

        Raises
        ------
        ValueError
            If the array is not uint8, not C-contiguous or empty.

        Examples
        --------
        >>> batch = Ragged.from_batch(np.zeros((3, 4, 5), np.uint8))
        >>> np.diff(batch.addresses).tolist(), batch.sizes[2].tolist(), batch.channels
        ([20, 20], [4, 5], 1)
        """
        cuda = on_gpu("Ragged", batch=batch)
        if batch.dtype != np.uint8 or batch.ndim not in (3, 4) or batch.size == 0 or not batch.flags.c_contiguous:
            raise ValueError(
                f"Ragged: batch must be a non-empty C-contiguous (N, H, W, C) uint8 array, got {batch.shape} {batch.dtype}"
            )
        first = batch.data.ptr if cuda else batch.ctypes.data
        addresses = first + np.arange(len(batch), dtype=np.int64) * (batch.size // len(batch))
        sizes = np.tile(np.array(batch.shape[1:3], np.int32), (len(batch), 1))
        return cls(addresses, sizes, 1 if batch.ndim == 3 else int(batch.shape[3]), batch, cuda)
