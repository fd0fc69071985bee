"""Counter-based randomness: integers in, the same integers out on every machine.

Nothing in this library holds a random state. A number is the hash of what it is for: `splitmix64` (Steele, Lea and Flood
2014, "Fast splittable pseudorandom number generators") chained over (seed, epoch, sample id, view), then over the purpose.
A uniform is the top 24 bits times 2**-24: exact in float32 and float64.
"""

from __future__ import annotations

import numba
import numpy as np

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_S30, _S27, _S31, _S40 = np.uint64(30), np.uint64(27), np.uint64(31), np.uint64(40)


@numba.njit(nogil=True, cache=True, inline="always")
def splitmix64(x):  # type: ignore[no-untyped-def]
    """Return the splitmix64 output for state `x` (uint64 to uint64)."""
    z = np.uint64(x) + _GAMMA
    z = (z ^ (z >> _S30)) * _MIX_1
    z = (z ^ (z >> _S27)) * _MIX_2
    return z ^ (z >> _S31)


@numba.njit(nogil=True, cache=True, inline="always")
def chain(h, value):  # type: ignore[no-untyped-def]
    """Fold one more integer into a hash."""
    return splitmix64(np.uint64(h) ^ splitmix64(np.uint64(value)))


@numba.njit(nogil=True, cache=True, inline="always")
def uniform(h, purpose):  # type: ignore[no-untyped-def]
    """Return the uniform of [0, 1) that belongs to key `h` and `purpose`: 24 bits, float64."""
    return np.float64(chain(h, purpose) >> _S40) * 5.9604644775390625e-08


@numba.njit(nogil=True, cache=True)
def view_key(seed, epoch, sample, view):  # type: ignore[no-untyped-def]
    """Return the 64-bit key of one view of one sample in one epoch."""
    return chain(chain(chain(splitmix64(np.uint64(seed)), epoch), sample), view)
