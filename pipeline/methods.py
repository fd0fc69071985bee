"""Names of saliency methods: those of the kernels, and models in files.

fused, cells, rbd, ...   figureground.kernels.saliency
net:FILE                 a network of `figureground train-saliency` (saliency_net)
vit:FILE                 a self-supervised ViT, background seed (saliency_vit)
vit-ncut:FILE            the same, normalised cut
"""

from __future__ import annotations

import functools
import hashlib
import os
import threading
from dataclasses import dataclass
from importlib import resources
from typing import Any, Protocol

from figureground.kernels.saliency import LEAST_SIZE, METHODS, estimate_saliency

FILE_METHODS = {
    "net": ("saliency_net", "saliency_refiner"),
    "vit": ("saliency_vit",),
    "vit-ncut": ("saliency_vit",),
}
"""Prefixes of methods that are files, and the modules of each."""
HOST_ONLY = ("ft", "spectral", "signature")
"""Methods without a CUDA kernel."""
_LOADED = 4
_lock = threading.Lock()


class Method(Protocol):
    """Makes masks of whole images."""

    @property
    def side(self) -> int | None:
        """Side of the images that it wants [px]; None: that of the masks."""

    @property
    def least(self) -> int:
        """Smallest side of masks that it makes [px]."""

    def __call__(self, images: Any, size: int | None = None) -> Any:
        """Return masks (N, size, size) uint8 of images (N, 3, side, side) uint8, on their device."""


@dataclass(frozen=True)
class _Kernel:
    name: str
    side: int | None = None
    least: int = LEAST_SIZE

    def __call__(self, images: Any, size: int | None = None) -> Any:
        return estimate_saliency(images, method=self.name)


def resolve_method(name: str, *, caller: str = "resolve_method") -> Method:
    """Return what makes the masks of a method; models are read once and kept.

    Parameters
    ----------
    name : str
        A key of `figureground.kernels.saliency.METHODS`, "net:FILE", "vit:FILE" or "vit-ncut:FILE".
    caller : str
        Who asks, for the message.

    Returns
    -------
    Method
        Called with images (N, 3, S, S) uint8, NumPy or CuPy, and the side of the masks; any number of threads may call it.

    Raises
    ------
    ValueError
        If the name is another one, or the file is missing or of another kind.
    RuntimeError
        If the file needs a package that is not installed.

    Examples
    --------
    >>> import numpy as np
    >>> images = np.full((1, 3, 32, 32), 40, np.uint8)
    >>> images[:, :, 10:22, 10:22] = 220
    >>> estimate = resolve_method("fused")
    >>> estimate.side, bool(estimate(images, 32)[0, 16, 16] > 200)
    (None, True)
    """
    if name in METHODS:
        return _Kernel(name)
    kind, path = _split(name, caller)
    try:
        status = os.stat(path)
    except OSError as error:
        raise ValueError(
            f"{caller}: method {name!r} must name a file that can be read, got {error.strerror or error}"
        ) from error
    with _lock:
        return _load(kind, os.path.abspath(path), (status.st_mtime_ns, status.st_size, status.st_ino))


def check_method(name: str, *, caller: str = "check_method", cuda: bool = False) -> None:
    """Raise what `resolve_method` would, and ValueError if a method without a CUDA kernel is to run on a GPU.

    A file is read whole, and kept.
    """
    resolve_method(name, caller=caller)
    if cuda and name in HOST_ONLY:
        raise ValueError(f"{caller}: method {name!r} runs on the CPU alone; choose another, as 'fused', or device='cpu'")


def absolute_method(name: str, *, caller: str = "absolute_method") -> str:
    """Return the same method for processes that work in another folder: a file's path is made absolute.

    Examples
    --------
    >>> absolute_method("fused"), absolute_method("net:/models/a.pt")
    ('fused', 'net:/models/a.pt')
    """
    if name in METHODS:
        return name
    kind, path = _split(name, caller)
    return f"{kind}:{os.path.abspath(path)}"


def label_method(name: str) -> str:
    """Return the method's name for manifests: of a file its base name, since equal files may lie anywhere.

    Examples
    --------
    >>> label_method("fused"), label_method("net:/models/a.pt")
    ('fused', 'net:a.pt')
    """
    if name in METHODS:
        return name
    kind, path = _split(name, "label_method")
    return f"{kind}:{os.path.basename(path)}"


def method_record(name: str) -> dict[str, Any]:
    """Return what the masks of a method that is a file depend on, for manifests: digests of the file and of our code.

    Examples
    --------
    >>> method_record("fused")
    {}
    """
    if name in METHODS:
        return {}
    kind, path = _split(name, "method_record")
    with open(path, "rb") as file:
        weights = hashlib.file_digest(file, "sha256").hexdigest()
    code = hashlib.sha256()
    for module in ("array_model", *FILE_METHODS[kind]):
        code.update(resources.files("figureground.pipeline").joinpath(f"{module}.py").read_bytes())
    return {"model": {"weights": weights[:16], "code": code.hexdigest()[:16]}}


def _split(name: str, caller: str) -> tuple[str, str]:
    kind, colon, path = name.partition(":")
    if kind not in FILE_METHODS or not colon or not path:
        known = ", ".join(METHODS)
        raise ValueError(f"{caller}: method must be one of {known}, net:FILE, vit:FILE, vit-ncut:FILE, got {name!r}")
    return kind, path


@functools.lru_cache(_LOADED)
def _load(kind: str, path: str, _version: tuple[int, ...]) -> Method:
    if kind == "net":
        from .saliency_net import NetSaliency

        return NetSaliency(path)
    from .saliency_vit import VitSaliency

    return VitSaliency(path, cut=kind == "vit-ncut")
