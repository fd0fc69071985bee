"""States of a loader, small dictionaries for JSON: what must be the same for a run to go on, and how far it came.

A view's pixels depend on the masks, so a state notes where these come from: "masks" (the mode), "method" (of masks that are
estimated on the way) and "sidecars" (what those on disk hold). All are None where the recipe works without masks. A folder of
sidecars may lie elsewhere, a model's file may have another name: what counts is what they hold.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from figureground.shards import MaskStore, Store

from .augment import SALIENCY_PX
from .backgrounds import Backgrounds
from .epochs import Epochs
from .methods import method_record
from .recipe import Recipe
from .whole_numbers import as_integer

log = logging.getLogger(__name__)

STATE_VERSION = 2
"""1: without the entries of `NOTED`, and without lanes."""
NOTED = ("masks", "method", "sidecars", "textures")
"""Entries about masks and textures; None where they play no part."""
_INPUTS = ("backgrounds", "groups", "clusters")
"""Entries that are there if the loader was given the argument."""


def note_masks(
    recipe: Recipe,
    mode: str | None,
    method: str,
    sidecars: MaskStore | None,
    textures: MaskStore | None = None,
    backgrounds: Backgrounds | None = None,
) -> dict[str, str | None]:
    """Return what a state notes of the masks and textures that its views and negatives are made with.

    Parameters
    ----------
    recipe : Recipe
    mode : {"auto", "sidecar", "kernel"} or None
        As the loader was asked. "auto" without a single sidecar is noted as "kernel", which it is.
    method : str
        Of masks that are estimated; see `figureground.pipeline.methods`.
    sidecars, textures : MaskStore or None
        Those of the shards, if they are read.
    backgrounds : Backgrounds or None
        The user's own: their sidecars count too where figures are inpainted.

    Returns
    -------
    dict
        Fit for JSON, with the keys `NOTED`: a text or None each.

    Examples
    --------
    >>> from figureground.pipeline import recipes
    >>> note_masks(recipes.moco_v2().with_background("swap"), "kernel", "fused", None)
    {'masks': 'kernel', 'method': 'fused, 112 px', 'sidecars': None, 'textures': None}
    >>> note_masks(recipes.moco_v2(), "kernel", "fused", None)
    {'masks': None, 'method': None, 'sidecars': None, 'textures': None}
    """
    noted: dict[str, str | None] = dict.fromkeys(NOTED)
    noted["textures"] = None if textures is None else _describe([textures])
    if not recipe.uses_masks or mode is None:
        return noted
    stores = [] if sidecars is None else [sidecars]
    if stores and recipe.inpaints and backgrounds is not None:
        stores += backgrounds.sidecars
    found = _describe(stores)
    noted["masks"], noted["sidecars"] = ("kernel" if mode == "auto" and found is None else mode), found
    if mode != "sidecar":
        model = method_record(method).get("model")
        name = method if model is None else f"{method.partition(':')[0]} {model['weights']}"
        noted["method"] = f"{name}, {SALIENCY_PX} px"
    return noted


def _describe(stores: Sequence[MaskStore]) -> str | None:
    """Say of sidecars what made them, how many there are, and sixteen hex digits of what they hold; None: there is none."""
    manifests = [manifest for store in stores for manifest in store.manifests]
    there = [manifest for manifest in manifests if manifest is not None]
    if not there:
        return None
    digest = hashlib.sha256(b"".join(store.fingerprint.encode() for store in stores)).hexdigest()
    methods = " and ".join(sorted({manifest.method for manifest in there}))
    return f"{methods} for {len(there)} of {len(manifests)} shards, {digest[:16]}"


def make_state(
    epoch: int, position: int, *, store: Store, recipe: Recipe, epochs: Epochs, inputs: Mapping[str, str | None]
) -> dict[str, Any]:
    """Return the state of a loader after `position` samples of an epoch, of all ranks together.

    Parameters
    ----------
    epoch, position : int
    store, recipe, epochs
        The loader's.
    inputs : mapping
        Fingerprints of what it was given, and what `note_masks` returns.
    """
    return {
        "version": STATE_VERSION,
        "epoch": epoch,
        "position": position,
        "seed": epochs.order.seed,
        "shuffle": epochs.order.shuffle,
        "window": epochs.window,
        "lanes": epochs.order.lanes,
        "samples": len(store),
        "shards": store.fingerprint,
        "recipe": recipe.fingerprint,
        **inputs,
    }


def read_state(state: Any, mine: dict[str, Any]) -> tuple[int, int]:
    """Return epoch and position of a saved state, if it belongs to a loader.

    Parameters
    ----------
    state : dict
        As `Loader.state_dict` made it.
    mine : dict
        The loader's own.

    Returns
    -------
    epoch, position : int
        See `Split.check_start` for positions that fit.

    Raises
    ------
    TypeError, ValueError
        If it is no state, or belongs to other shards, recipe, seed, order or masks; the message names what.

    Notes
    -----
    States of version 1 noted no masks, so these cannot be compared: they are taken, with a warning where the recipe uses masks.
    Their epochs had one lane.
    """
    if not isinstance(state, dict):
        raise TypeError(f"Loader: state must be a dict from Loader.state_dict, got {type(state).__name__}")
    if state.get("version") == 1:
        state = {"lanes": 1, **state, "version": STATE_VERSION, **{name: mine[name] for name in NOTED}}
        noted = [f"{name} {mine[name]}" for name in NOTED if mine[name] is not None]
        if noted:
            log.warning(
                "the state was saved by an earlier version, which did not note its masks: they cannot be compared with those here "
                "(%s); other ones would give other views", "; ".join(noted),
            )  # fmt: skip
    missing = sorted(set(mine) - set(state) - set(_INPUTS))
    if missing:
        raise ValueError(f"Loader: state must come from Loader.state_dict, got one without {', '.join(missing)}")
    differing = [
        f"{name} (saved {state.get(name)}, here {mine.get(name)})" for name in dict.fromkeys([*mine, *_INPUTS])
        if name not in ("epoch", "position") and state.get(name) != mine.get(name)
    ]  # fmt: skip
    if differing:
        raise ValueError(
            f"Loader: state belongs to another run, these differ: {'; '.join(differing)}; load it into a loader with the "
            f"same shards, recipe, seed and masks, or start anew"
        )
    epoch, position = (as_integer(f"Loader: {name} of a state", state[name], 0) for name in ("epoch", "position"))
    return epoch, position
