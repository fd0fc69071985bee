"""Where a loader stands, as a small dictionary for JSON: what must be the same for a run to go on, and how far it came."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from figureground.shards import Store

from .epochs import Epochs
from .recipe import Recipe
from .whole_numbers import as_integer

_VERSION = 1
_INPUTS = ("backgrounds", "groups", "clusters")
"""Entries of a state that are there if the loader was given the argument."""
_SINCE = {"lanes": 1}
"""Entries that states of earlier versions lack, and what held for them."""


def make_state(
    epoch: int, position: int, *, store: Store, recipe: Recipe, epochs: Epochs, inputs: Mapping[str, str]
) -> dict[str, Any]:
    """Return the state of a loader after `position` samples of an epoch, of all ranks together.

    Parameters
    ----------
    epoch, position : int
    store, recipe, epochs
        The loader's.
    inputs : mapping
        Fingerprints of `_INPUTS` that it was given.
    """
    return {
        "version": _VERSION,
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

    Raises
    ------
    TypeError, ValueError
        If it is no state, or belongs to other shards, recipe, seed or order; the message names what.
    """
    if not isinstance(state, dict):
        raise TypeError(f"Loader: state must be a dict from Loader.state_dict, got {type(state).__name__}")
    state = {**_SINCE, **state}
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
            f"same shards, recipe and seed, or start anew"
        )
    epoch, position = (as_integer(f"Loader: {name} of a state", state[name], 0) for name in ("epoch", "position"))
    return epoch, position
