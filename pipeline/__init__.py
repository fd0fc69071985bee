"""Shards to views: order, decode, plan, augment, and the loader that trainers use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import figureground.kernels  # noqa: F401  (before any compiled function: it settles where Numba's cache is)

from . import recipes

if TYPE_CHECKING:
    from .loader import Loader

__all__ = ["Loader", "recipes"]


def __getattr__(name: str) -> Any:
    # The loader imports torch and DALI; the command line's quick verbs should not.
    if name == "Loader":
        from .loader import Loader

        return Loader
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
