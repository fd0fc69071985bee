"""The integer draws of `kernels/draws.py` once more, in plain Python integers: the oracle of the patch operations."""

from __future__ import annotations

WORD = 2**64 - 1


def mix64(x: int) -> int:
    """splitmix64."""
    z = (x + 0x9E3779B97F4A7C15) & WORD
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & WORD
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & WORD
    return z ^ (z >> 31)


def chain(h: int, value: int) -> int:
    """Fold one more integer into a hash."""
    return mix64(int(h) ^ mix64(int(value)))


def uniform(key: int, i: int) -> float:
    """Draw `i` of a key, in [0, 1)."""
    return (chain(key, i) >> 40) * 2.0**-24


def below(key: int, i: int, bound: int) -> int:
    """Draw `i` of a key, in 0 .. bound - 1."""
    return int(uniform(key, i) * bound)


def shuffled(items: list[int], wanted: int, key: int, first: int = 0) -> list[int]:
    """`wanted` of the items, in random order: Fisher and Yates."""
    items = list(items)
    for i in range(wanted):
        j = i + below(key, first + i, len(items) - i)
        items[i], items[j] = items[j], items[i]
    return items[:wanted]
