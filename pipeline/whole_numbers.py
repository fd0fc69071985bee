"""Whole numbers, as callers give them."""

from __future__ import annotations

import operator
from typing import Any


def as_integer(what: str, value: Any, least: int | None = None) -> int:
    """Return a whole number (int, NumPy integer, tensor of one) as an int, which JSON can hold.

    Raises
    ------
    TypeError
        If it is none.
    ValueError
        If it is less than `least`.

    Examples
    --------
    >>> import numpy as np
    >>> as_integer("Loader: seed", np.int64(3))
    3
    """
    if isinstance(value, bool):
        raise TypeError(f"{what} must be a whole number, got {value}")
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{what} must be a whole number, got {value!r} ({type(value).__name__})") from None
    if least is not None and number < least:
        raise ValueError(f"{what} must be at least {least}, got {number}")
    return number
