"""torch models behind arrays: how `saliency_net` and `saliency_vit` run, and how they read files of weights."""

from __future__ import annotations

import argparse
import contextlib
import copy
import os
import pickle
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.dlpack import from_dlpack

from figureground.kernels.arrays import on_gpu
from figureground.kernels.saliency_refine import MOST_PIXELS, refine_maps

LEAST_SIDE = 32
"""Smallest height and width of images, and side of masks [px]."""
_GPU_CHUNK = 32
_WRAPPERS = ("teacher", "state_dict", "model")  # where checkpoints keep their state dict


def resized(images: Tensor, side: int) -> Tensor:
    """Resize squares or not to (n, c, side, side) float, with antialias; the same size stays as it is."""
    if images.shape[2:] == (side, side):
        return images.float()
    return F.interpolate(images.float(), (side, side), mode="bilinear", align_corners=False, antialias=True)


class ArrayModel:
    """A torch model behind arrays: NumPy in and out on the CPU, CuPy on a GPU. Any number of threads may call it.

    Parameters
    ----------
    model : nn.Module
        Gives maps through `maps`; moved to the device of the first images that lie there.

    Notes
    -----
    On the CPU images go through one by one, each in one thread: so the mask of an image does not depend on those beside it, nor
    on the number of threads, and callers run images side by side. Not yet run on a GPU.
    """

    side: int | None = None
    """Side of the images that it wants [px]; None: that of the masks."""
    least: int = LEAST_SIDE
    """Smallest side of masks that it makes [px]."""
    filtered = True
    """Whether the maps go through the guided filter at the end."""

    def __init__(self, model: nn.Module) -> None:
        self.model: Any = model.eval().requires_grad_(False)
        self._on: dict[torch.device, Any] = {torch.device("cpu"): self.model}
        self._lock = threading.Lock()

    def maps(self, model: Any, images: Tensor) -> Tensor:
        """Return maps (n, h, w) in 0..1 of images (n, 3, H, W) uint8."""
        raise NotImplementedError

    def __call__(self, images: Any, size: int | None = None) -> Any:
        """Estimate masks.

        Parameters
        ----------
        images : (N, 3, H, W) uint8
            Whole images, resized to a square; NumPy or CuPy.
        size : int, optional
            Side of the masks [px], up to 256; by default that of the images.

        Returns
        -------
        (N, size, size) uint8, on the device of `images`; 255 is figure.
        """
        name = type(self).__name__
        gpu = on_gpu(name, images=images)
        shape, size = tuple(images.shape), size or images.shape[-1]
        if len(shape) != 4 or shape[1] != 3 or images.dtype != np.uint8 or min(shape[2:]) < LEAST_SIDE:
            raise ValueError(
                f"{name}: images must be (N, 3, H, W) uint8 with H, W >= {LEAST_SIDE}, got {shape} {images.dtype}"
            )
        if not LEAST_SIDE <= size <= MOST_PIXELS:
            raise ValueError(f"{name}: size must be {LEAST_SIDE} to {MOST_PIXELS} px, got {size}")
        if shape[0] == 0:
            return images[:, 0, :1, :1].repeat(size, axis=1).repeat(size, axis=2)
        with _beside(images) if gpu else _one_thread(), torch.inference_mode():
            guides, maps = self._forward(from_dlpack(images) if gpu else torch.from_numpy(images), size)
            if not gpu:
                return refine_maps(guides.numpy(), maps.numpy()) if self.filtered else maps.numpy()
            import cupy

            return refine_maps(*map(cupy.from_dlpack, (guides, maps))) if self.filtered else cupy.from_dlpack(maps)

    def _forward(self, images: Tensor, size: int) -> tuple[Tensor, Tensor]:
        """Return images and maps of the size of the masks, both uint8."""
        model, guides, maps = self._model(images.device), [], []
        for chunk in images.split(_GPU_CHUNK if images.is_cuda else 1):
            grey = F.interpolate(self.maps(model, chunk)[:, None], (size, size), mode="bilinear", align_corners=False)
            maps.append((grey[:, 0] * 255).round().to(torch.uint8))
            guides.append(resized(chunk, size).round().clamp(0, 255).to(torch.uint8))
        return torch.cat(guides), torch.cat(maps)

    def _model(self, device: torch.device) -> Any:
        with self._lock:
            if device not in self._on:
                self._on[device] = copy.deepcopy(self.model).to(device)
            return self._on[device]


@contextlib.contextmanager
def _beside(images: Any) -> Iterator[None]:
    """Run torch on CuPy's current stream."""
    import cupy

    index = images.device.id
    stream = torch.cuda.ExternalStream(cupy.cuda.get_current_stream(index).ptr, device=index)
    with torch.cuda.stream(stream):
        yield


class _Threads:
    """How many callers are inside `_one_thread`, and torch's number of threads outside."""

    lock = threading.Lock()
    inside = 0
    outside = 1


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Run torch in this thread alone; its setting belongs partly to the process, so the last one out puts it back."""
    with _Threads.lock:
        if _Threads.inside == 0:
            _Threads.outside = torch.get_num_threads()
        _Threads.inside += 1
        torch.set_num_threads(1)
    try:
        yield
    finally:
        with _Threads.lock:
            _Threads.inside -= 1
            torch.set_num_threads(_Threads.outside)


def read_weights(path: str | Path) -> Any:
    """Read a torch file (without running code of its own) or a `.safetensors` file.

    Raises
    ------
    ValueError
        If there is no such file, or it cannot be read.
    RuntimeError
        If it is a `.safetensors` file and safetensors is not installed.
    """
    if not Path(path).is_file():
        raise ValueError(f"read_weights: path must be a file, got {os.fspath(path)!r}")
    if Path(path).suffix == ".safetensors":
        try:
            from safetensors import SafetensorError
            from safetensors.torch import load_file
        except ImportError as error:
            raise RuntimeError(f"read_weights: {path} needs safetensors; run 'pip install safetensors'") from error
        try:
            return load_file(path)
        except SafetensorError as error:
            raise ValueError(f"read_weights: {path} must be a safetensors file, got {error}") from error
    try:
        with torch.serialization.safe_globals(
            [argparse.Namespace]
        ):  # plain values; DINO's checkpoints hold their options so
            return torch.load(path, map_location="cpu", weights_only=True)
    except PermissionError as error:
        raise ValueError(f"read_weights: {path} must be a file that may be read, got {error.strerror}") from error
    except (pickle.UnpicklingError, RuntimeError, OSError, EOFError, ValueError, KeyError, AttributeError) as error:
        raise ValueError(
            f"read_weights: {path} must be a torch file of tensors alone, got {_what_it_is(Path(path), error)}"
        ) from error


def _what_it_is(path: Path, error: Exception) -> str:
    """Say what a file is that torch will not read; torch's own words advise to run the code that may be in it."""
    unsafe = re.search(
        r"Unsupported (?:global|class|operand|operator)[^\n]*?(?:GLOBAL )?([\w.]+) was not an allowed", str(error)
    )
    if unsafe is not None:
        return f"one that holds Python objects ({unsafe[1]}); save its state dict alone: torch.save(model.state_dict(), path)"
    with open(path, "rb") as file:
        start = file.read(16)
    if not start:
        return "an empty file"
    if start.startswith((b"PK\x03\x04", b"\x80")):
        return "a damaged one, or one with Python objects in it"
    return f"another file, which starts with {start[:8]!r}"


def read_state(path: str | Path) -> dict[str, Tensor]:
    """Read the tensors of a state dict, or of a checkpoint that holds one as "teacher", "state_dict" or "model".

    Raises
    ------
    ValueError, RuntimeError
        As `read_weights`.
    """
    state: Any = read_weights(path)
    for name in _WRAPPERS:
        if isinstance(state, dict) and isinstance(state.get(name), dict):
            state = state[name]
    return {k: v for k, v in state.items() if isinstance(v, Tensor)} if isinstance(state, dict) else {}
