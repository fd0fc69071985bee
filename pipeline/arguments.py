"""What a loader is given: kinds of arguments, places looked at before training starts."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

from figureground.shards import ShardError, Store
from figureground.shards.cache import ShardCache

from .device import ARRAY_DTYPES
from .formats import FORMATS
from .recipe import Recipe

log = logging.getLogger(__name__)


def as_place(path: str | Path | None) -> str | None:
    """Return a path with `~` expanded; URLs and None stay."""
    return None if path is None else os.path.expanduser(os.fspath(path))


def check_kinds(recipe: Any, format: str, dtype: Any, cache: Any) -> None:
    """Check what can be told from an argument alone.

    Raises
    ------
    TypeError, ValueError
        If `recipe` is no Recipe, `cache` no ShardCache, or `format` or `dtype` none of those there are.
    """
    if not isinstance(recipe, Recipe):
        raise TypeError(
            f"Loader: recipe must be a Recipe, got {type(recipe).__name__}; see figureground.pipeline.recipes"
        )
    if format not in FORMATS:
        raise ValueError(f"Loader: format must be one of {', '.join(FORMATS)}, got {format!r}")
    if dtype not in ARRAY_DTYPES:
        raise ValueError(f"Loader: dtype must be torch.float32, float16 or bfloat16, got {dtype}")
    if cache is not None and not isinstance(cache, ShardCache):
        raise TypeError(f"Loader: cache must be a ShardCache(folder, max_bytes), got {cache!r}")


def quarantine_place(place: str | Path | None) -> str | None:
    """Return a path with `~` expanded, and make sure that lines can be appended to it, without making it.

    Raises
    ------
    ValueError
        If it is a folder, or it or its folder is missing or cannot be written.
    """
    path = as_place(place)
    if path is None:
        return None
    folder = os.path.dirname(os.path.abspath(path))
    if os.path.isdir(path):
        raise ValueError(f"Loader: quarantine must be a file, got the folder {path}; name a file in it")
    if not os.path.isdir(folder):
        raise ValueError(f"Loader: quarantine must lie in a folder that exists, got {path}; make {folder} first")
    if not os.access(path if os.path.exists(path) else folder, os.W_OK):
        raise ValueError(f"Loader: quarantine must be a file that can be written, got {path}")
    return path


def check_samples(store: Store, *, boxes: bool = False) -> None:
    """Make sure that there is something to train on; with `boxes`, also that there are documents that may hold them.

    Raises
    ------
    ShardError
        If the shards hold no sample, or no sample has an image.
    ValueError
        If boxes are needed and no sample has a `.json`.
    """
    many = f" (and {len(store.shards) - 1} more)" if len(store.shards) > 1 else ""
    if not len(store):
        raise ShardError(f"{store.shards[0]}{many}: the shards hold no sample; pack them again")
    if not store.has_images:
        raise ShardError(
            f"{store.shards[0]}{many}: no sample has an image; a component with one of the extensions "
            f"{', '.join(store.image_exts)} is needed, there are only {', '.join(store.exts[:8])}; rename the members"
        )
    if boxes and not store.has("json"):
        raise ValueError(
            "Loader: crops that follow objects need masks, or .json components with a box, got masks=None and no .json"
        )


def warn_without_masks(recipe: Recipe, masks: str | None) -> None:
    """Say so if a recipe works by masks and there are to be none: a run without its augmentation looks like any other."""
    shuffles = [view.patch_shuffle for view in recipe.views if view.patch_shuffle is not None]
    led = any(view.background is not None for view in recipe.views) or any(s.region != "all" for s in shuffles)
    if masks is None and led:
        log.warning(
            "masks=None: no image has a mask, so what the recipe does with figure and ground is left out; pass masks='auto' for "
            "masks of sidecars, else of the saliency kernel"
        )
