"""Checks of planar uint8 arrays: views (N, 3, H, W), masks (N, H, W)."""

from __future__ import annotations

from typing import Any

import numpy as np

from .arrays import array_module


def check_views(function: str, views: Any, name: str = "views") -> tuple[int, int, int]:
    """Check a batch of views.

    Parameters
    ----------
    function, name : str
        The caller and its argument, for the message.
    views : (N, 3, H, W) uint8, C-contiguous, H and W at least 1

    Returns
    -------
    N, H, W

    Raises
    ------
    ValueError
        If the array is anything else.
    """
    shape = tuple(views.shape)
    if len(shape) != 4 or shape[1] != 3 or views.dtype != np.uint8 or 0 in shape[2:]:
        raise ValueError(f"{function}: {name} must be (N, 3, H, W) uint8, got {shape} {views.dtype}")
    check_contiguous(function, name, views)
    return shape[0], shape[2], shape[3]


def check_plane(function: str, name: str, array: Any, shape: tuple[int, ...], dtype: Any = np.uint8) -> None:
    """Raise ValueError unless an array is C-contiguous and of this shape and dtype; None passes."""
    if array is None:
        return
    if tuple(array.shape) != shape or array.dtype != dtype:
        raise ValueError(
            f"{function}: {name} must be {shape} {np.dtype(dtype)}, got {tuple(array.shape)} {array.dtype}"
        )
    check_contiguous(function, name, array)


def check_contiguous(function: str, name: str, array: Any) -> None:
    """Raise ValueError unless an array is C-contiguous."""
    if not array.flags.c_contiguous:
        raise ValueError(f"{function}: {name} must be C-contiguous; pass numpy.ascontiguousarray({name})")


def output_like(function: str, views: Any, out: Any) -> Any:
    """Return `out` after a check, or a new array of the shape, dtype and device of `views`.

    Parameters
    ----------
    function : str
        Name of the caller, for the message.
    views : array
    out : array of the same shape and dtype, or None

    Returns
    -------
    array
    """
    if out is None:
        return array_module(views).empty_like(views)
    check_plane(function, "out", out, tuple(views.shape), views.dtype)
    return out
