"""Choose whose ground goes behind a figure: another image of its class, of a random class, of the next class.

A choice is a hash of (seed, sample, kind): it changes with the set of samples, not with batches, threads or their order.

Source: Xiao, Engstrom, Ilyas and Madry 2021, "Noise or signal: the role of image backgrounds in object recognition".
"""

from __future__ import annotations

import numba
import numpy as np

from .hashing import uniform, view_key

MIXED = ("Mixed-Same", "Mixed-Rand", "Mixed-Next")
_CLASS, _IMAGE = 1, 2  # purposes of the draws


def choose_donors(samples: np.ndarray, classes: np.ndarray, *, seed: int = 0) -> dict[str, np.ndarray]:
    """Draw a background donor for each figure and each mixed variant.

    Parameters
    ----------
    samples : (N,) int64
        Ids, which the draws are a function of.
    classes : (N,) int64
    seed : int

    Returns
    -------
    dict of (N,) int64 by name of the variant
        Places in `samples`, never the figure's own. "Mixed-Rand" draws a class first (its own included), then an image;
        the next class is the next larger number, after the last one comes the first.

    Raises
    ------
    ValueError
        If there are fewer than two classes, or a class of one image.

    Examples
    --------
    >>> donors = choose_donors(np.arange(4), np.array([3, 3, 8, 8]))
    >>> donors["Mixed-Same"]
    array([1, 0, 3, 2])
    >>> (donors["Mixed-Next"] // 2).tolist()
    [1, 1, 0, 0]
    """
    names, owner = np.unique(classes, return_inverse=True)
    members = [np.flatnonzero(owner == c) for c in range(len(names))]
    if len(names) < 2:
        raise ValueError(f"choose_donors: classes must be at least two, got {len(names)}")
    if min(map(len, members)) < 2:
        lone = names[int(np.argmin([len(m) for m in members]))]
        raise ValueError(f"choose_donors: each class must have two images or more, got one of class {lone}")
    donors = {name: np.empty(len(samples), np.int64) for name in MIXED}
    ids = np.asarray(samples, np.int64)
    drawn = (_uniforms(seed, ids, MIXED.index("Mixed-Rand"), _CLASS) * len(names)).astype(np.int64)
    groups = owner, drawn, (owner + 1) % len(names)
    for kind, (name, group) in enumerate(zip(MIXED, groups, strict=True)):
        u = _uniforms(seed, ids, kind, _IMAGE)
        for place in range(len(ids)):
            donors[name][place] = _pick(members[group[place]], place, float(u[place]))
    return donors


@numba.njit(nogil=True, cache=True)
def _uniforms(seed, samples, kind, purpose):  # type: ignore[no-untyped-def]
    found = np.empty(len(samples), np.float64)
    for i in range(len(samples)):
        found[i] = uniform(view_key(seed, 0, samples[i], kind), purpose)
    return found


def _pick(members: np.ndarray, self_place: int, u: float) -> int:
    """Return a member other than oneself; `members` is sorted."""
    at = int(np.searchsorted(members, self_place))
    mine = at < len(members) and members[at] == self_place
    chosen = int(u * (len(members) - mine))
    return int(members[chosen + (mine and chosen >= at)])
