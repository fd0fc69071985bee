"""Make torchvision importable beside a torch that its binary was not built for: CPU torch and PyPI's CUDA wheel."""

from __future__ import annotations

import contextlib
import importlib.util
from typing import Any

_KEPT: list[Any] = []


def declare_operators() -> None:
    """Declare the operators that torchvision looks for when it is imported; nothing happens where it is missing or whole.

    Its transforms and models are plain Python and then work; the operators themselves do not.
    """
    if importlib.util.find_spec("torchvision") is None:
        return
    with contextlib.suppress(ImportError, RuntimeError):
        importlib.import_module("torchvision")
        return
    import torch

    if not _KEPT:
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _KEPT.append(library)  # the operators go with it
