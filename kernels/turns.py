"""Quarter turns of square views and permutations of their channels.

Layout: planar uint8 (N, C, S, S), so also masks as masks[:, None]. Bytes are moved, never computed: both devices agree bit for
bit. There is no CUDA source: array expressions that NumPy and CuPy both understand, at most four copies of the batch.

Source: Lee, Hwang and Shin 2020, "Self-supervised label augmentation via input transformations" (rotation, colour permutation).
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from .arrays import array_module, on_gpu
from .planar import check_contiguous, output_like

CHANNEL_ORDERS = np.array(list(itertools.permutations(range(3))), np.int64)
"""(6, 3): output channel c shows input channel `CHANNEL_ORDERS[order, c]`. RGB, RBG, GRB, GBR, BRG, BGR."""


def turn_views(
    views: Any, *, rotation: np.ndarray | None = None, channel_order: np.ndarray | None = None, out: Any = None
) -> Any:
    """Rotate square views by quarter turns and permute their channels.

    Parameters
    ----------
    views : (N, C, S, S) uint8
    rotation : (N,) integers, NumPy, optional
        Quarter turns to the left (counter-clockwise), 0 .. 3.
    channel_order : (N,) integers, NumPy, optional
        Row of `CHANNEL_ORDERS`, 0 .. 5; needs C = 3.
    out : (N, C, S, S) uint8, optional
        May be `views` itself.

    Returns
    -------
    (N, C, S, S) uint8, on the device of `views`.

    Raises
    ------
    TypeError
        If the arrays are on different devices.
    ValueError
        If a shape, dtype or range does not fit.

    Examples
    --------
    >>> views = np.arange(4, dtype=np.uint8).reshape(1, 1, 2, 2)
    >>> turn_views(views, rotation=np.array([1]))[0, 0]
    array([[1, 3],
           [0, 2]], dtype=uint8)
    """
    on_gpu("turn_views", views=views, out=out)
    shape = tuple(views.shape)
    if len(shape) != 4 or shape[2] != shape[3] or 0 in shape[1:] or views.dtype != np.uint8:
        raise ValueError(f"turn_views: views must be (N, C, S, S) uint8, got {shape} {views.dtype}")
    check_contiguous("turn_views", "views", views)
    out = output_like("turn_views", views, out)
    turns = _codes("rotation", rotation, shape[0], 4)
    orders = _codes("channel_order", channel_order, shape[0], len(CHANNEL_ORDERS))
    if channel_order is not None and shape[1] != 3:
        raise ValueError(f"turn_views: views must have 3 channels for channel_order, got {shape[1]}")
    xp = array_module(views)
    if orders.any():
        rows = xp.arange(shape[0])[:, None]
        out[...] = views[rows, xp.asarray(CHANNEL_ORDERS[orders])]
    elif out is not views:
        out[...] = views
    for quarters in (1, 2, 3):
        chosen = np.flatnonzero(turns == quarters)
        if len(chosen):
            where = xp.asarray(chosen)
            out[where] = xp.rot90(out[where], quarters, axes=(2, 3))  # what is indexed by an array is a copy
    return out


def _codes(name: str, codes: np.ndarray | None, count: int, below: int) -> np.ndarray:
    if codes is None:
        return np.zeros(count, np.int64)
    if not isinstance(codes, np.ndarray) or codes.shape != (count,) or codes.dtype.kind not in "iu":
        got = f"{codes.shape} {codes.dtype}" if isinstance(codes, np.ndarray) else type(codes).__name__
        raise ValueError(f"turn_views: {name} must be ({count},) integers in NumPy, got {got}")
    if count and not 0 <= codes.min() <= codes.max() < below:
        raise ValueError(f"turn_views: {name} must be in 0 .. {below - 1}, got {codes.min()} .. {codes.max()}")
    return codes.astype(np.int64)
