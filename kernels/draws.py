"""Integer draws of a given seed: the only randomness that kernels know, equal on both devices.

A row's seed is hashed with the purpose of the operation to a key; the i-th draw of a key is a hash of both. The hash is
splitmix64 (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators"), chained as the planner does;
a uniform is the top 24 bits times 2**-24, and an integer below `bound` is floor(uniform * bound). `draws.cuh` is the same.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

SHUFFLE, TILE_SIDE, TILE_CELL, MIX, BLOCKS, BLOCK_SHARE, BLOCK_NOISE, PATCH_MASK, PHASE = range(101, 110)
QUILT, QUILT_PLACE = 121, 122
"""Purposes, so that operations with the same seed draw independent numbers."""

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_S24, _S27, _S30, _S31, _S40 = np.uint64(24), np.uint64(27), np.uint64(30), np.uint64(31), np.uint64(40)


@numba.njit(nogil=True, cache=True, inline="always")
def _splitmix64(x):  # type: ignore[no-untyped-def]
    z = np.uint64(x) + _GAMMA
    z = (z ^ (z >> _S30)) * _MIX_1
    z = (z ^ (z >> _S27)) * _MIX_2
    return z ^ (z >> _S31)


@numba.njit(nogil=True, cache=True)
def draw(key, i):  # type: ignore[no-untyped-def]
    """Return draw `i` of a key: 24 bits as int64."""
    return np.int64(_splitmix64(np.uint64(key) ^ _splitmix64(np.uint64(i))) >> _S40)


@numba.njit(nogil=True, cache=True)
def draw_below(key, i, bound):  # type: ignore[no-untyped-def]
    """Return draw `i` of a key as an int64 of 0 .. bound - 1; `bound` is 1 .. 2**24."""
    return (draw(key, i) * np.int64(bound)) >> 24


@numba.njit(nogil=True, cache=True)
def choose_first(items, start, count, wanted, key, first_draw):  # type: ignore[no-untyped-def]
    """Put `wanted` of items[start : start + count] in front, in random order: the first steps of Fisher and Yates."""
    for i in range(wanted):
        j = i + draw_below(key, first_draw + i, count - i)
        held = items[start + i]
        items[start + i] = items[start + j]
        items[start + j] = held


@numba.njit(nogil=True, cache=True)
def scramble32(x):  # type: ignore[no-untyped-def]
    """Return the finaliser of MurmurHash3 of a uint32: cheap noise, many lanes at a time."""
    x = np.uint32((x ^ (x >> np.uint32(16))) * np.uint32(0x85EBCA6B))
    x = np.uint32((x ^ (x >> np.uint32(13))) * np.uint32(0xC2B2AE35))
    return np.uint32(x ^ (x >> np.uint32(16)))


def keys_of(function: str, seeds: np.ndarray, count: int, purpose: int) -> np.ndarray:
    """Check seeds and hash each with a purpose.

    Parameters
    ----------
    function : str
        Name of the caller, for the message.
    seeds : (count,) uint64, NumPy
    count : int
    purpose : int
        One of the constants of this module.

    Returns
    -------
    (count,) uint64, NumPy: splitmix64(seed ^ splitmix64(purpose)).

    Raises
    ------
    ValueError
        If `seeds` is not (count,) uint64 on the host.

    Examples
    --------
    >>> keys_of("shuffle_patches", np.array([1, 1, 2], np.uint64), 3, SHUFFLE) % np.uint64(1000)
    array([705, 705, 322], dtype=uint64)
    """
    if not isinstance(seeds, np.ndarray) or seeds.shape != (count,) or seeds.dtype != np.uint64:
        got = f"{seeds.shape} {seeds.dtype}" if isinstance(seeds, np.ndarray) else type(seeds).__name__
        raise ValueError(f"{function}: seeds must be ({count},) uint64 in NumPy, got {got}")
    return mix64(seeds ^ mix64(np.full(1, purpose, np.uint64)))


def mix64(x: Any) -> Any:
    """Hash each element by splitmix64, with the array's own module.

    Parameters
    ----------
    x : (...) uint64, NumPy or CuPy

    Returns
    -------
    (...) uint64, on the device of `x`.
    """
    z = x + _GAMMA
    z = (z ^ (z >> _S30)) * _MIX_1
    z = (z ^ (z >> _S27)) * _MIX_2
    return z ^ (z >> _S31)


def chosen_of(function: str, apply: np.ndarray | None, count: int) -> np.ndarray:
    """Check which rows an operation is applied to.

    Parameters
    ----------
    function : str
        Name of the caller, for the message.
    apply : (count,) bool, NumPy, or None for all
    count : int

    Returns
    -------
    (count,) bool, NumPy.

    Raises
    ------
    ValueError
        If `apply` is not (count,) bool on the host.

    Examples
    --------
    >>> chosen_of("shuffle_patches", None, 2)
    array([ True,  True])
    """
    if apply is None:
        return np.ones(count, bool)
    if not isinstance(apply, np.ndarray) or apply.shape != (count,) or apply.dtype != bool:
        got = f"{apply.shape} {apply.dtype}" if isinstance(apply, np.ndarray) else type(apply).__name__
        raise ValueError(f"{function}: apply must be ({count},) bool in NumPy, got {got}")
    return apply
