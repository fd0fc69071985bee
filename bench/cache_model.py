"""What a cache saves that evicts the least recently used, where each epoch is a new random order."""

from __future__ import annotations

import math


def kept_share(room: float, share: float = 1.0) -> float:
    """Return the share of accesses that a cache saves.

    Parameters
    ----------
    room : float
        What it holds, as a share of all data.
    share : float
        What is used in each epoch, in (0, 1]: a run of a new random order of all data.

    Notes
    -----
    Something used at u of one epoch (0..1) and next at v of the j-th epoch after it is still there if what was used in between
    fits. With f for the share, 1 - f (1 - u) of all data were not used in the rest of the first epoch, 1 - f in each of the j - 1
    between, and 1 - f v in the last one. So of the accesses after j epochs, f (1 - f)^(j - 1) of all, those are saved where the
    product of these numbers is at least 1 - room. With f = 1 and a = 1 - room that is P(u (1 - v) >= a) = 1 - a + a ln a.

    Examples
    --------
    >>> [round(kept_share(room), 3) for room in (0.0, 0.1, 0.5, 0.9, 1.0, 2.0)]
    [0.0, 0.005, 0.153, 0.67, 1.0, 1.0]
    >>> [round(kept_share(room, 0.125), 3) for room in (0.0, 0.1, 0.5, 0.9, 1.0)]
    [0.0, 0.041, 0.466, 0.893, 1.0]
    """
    if room >= 1:
        return 1.0
    rest, saved, chance, missing = 1 - share, 0.0, share, 1 - room
    while missing < 1:
        saved += chance * _product_above(missing, rest)
        if rest == 0:
            break
        chance, missing = chance * rest, missing / rest
    return saved


def _product_above(least: float, low: float) -> float:
    """Return the chance that the product of two uniform numbers of [low, 1] is at least `least`, in (0, 1)."""
    if least <= low * low:
        return 1.0
    if least >= low:
        area = 1 - least + least * math.log(least)
    else:
        turn = least / low  # beyond it any second number is large enough
        area = turn - low - least * math.log(turn / low) + (1 - turn) * (1 - low)
    return area / (1 - low) ** 2
