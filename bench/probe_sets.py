"""Versions of images that keep the texture and lose the shape, or the other way round, for `figureground.bench.probes`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from figureground.kernels.fourier import randomize_phase, transfer_amplitude
from figureground.kernels.patches import MAX_GRID, shuffle_patches


@dataclass
class Version:
    """The images of a set, changed in one way."""

    name: str
    views: np.ndarray
    """(N, 3, H, W) uint8."""
    donors: np.ndarray | None = None
    """(N,) int64: row of the image of another class whose amplitudes were taken; None: no other image took part."""


def other_classes(classes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw for each image another one of another class, all alike likely.

    Parameters
    ----------
    classes : (N,) int64
    rng : numpy.random.Generator

    Returns
    -------
    (N,) int64
        Rows.

    Raises
    ------
    ValueError
        If there is one class only.

    Examples
    --------
    >>> other_classes(np.array([7, 7, 3]), np.random.default_rng(0))[:2]
    array([2, 2])
    """
    count = len(classes)
    order = np.argsort(classes, kind="stable")
    _, first, owner, sizes = np.unique(classes[order], return_index=True, return_inverse=True, return_counts=True)
    if len(sizes) < 2:
        raise ValueError(f"other_classes: classes must be at least two, got {len(sizes)}")
    after = (first + sizes)[owner]  # where the next class begins in the order
    drawn = rng.integers(0, count - sizes[owner])
    donors = np.empty(count, np.int64)
    donors[order] = order[(after + drawn) % count]
    return donors


def make_versions(
    views: np.ndarray,
    classes: np.ndarray,
    *,
    grids: Sequence[int] = (2, 4, 8),
    windows: Sequence[float] = (0.1, 0.5),
    seed: int = 0,
) -> Iterator[Version]:
    """Yield the original and its versions, one after the other.

    Parameters
    ----------
    views : (N, 3, H, W) uint8
    classes : (N,) int64
    grids : sequence of int
        "patches g": the cells of a g x g grid are permuted (`shuffle_patches`). Pixels beyond the last whole cell stay.
    windows : sequence of float
        "style w": the amplitudes of another class's image at frequencies up to w * min(H, W), with the image's own phase
        (`transfer_amplitude`); 0.5 is every frequency.
    seed : int

    Yields
    ------
    Version
        "original", each "patches g", "texture" (random phase: `randomize_phase`), each "style w".

    Raises
    ------
    ValueError
        If an argument is out of range, or there is one class only and windows are given.

    Examples
    --------
    >>> views = np.zeros((2, 3, 8, 8), np.uint8)
    >>> [version.name for version in make_versions(views, np.array([0, 1]), grids=[2], windows=[0.5])]
    ['original', 'patches 2', 'texture', 'style 0.5']
    """
    for grid in grids:
        if not 2 <= grid <= min(MAX_GRID, *views.shape[2:]):
            largest = min(MAX_GRID, *views.shape[2:])
            raise ValueError(f"make_versions: grids must be 2 to {largest} cells for these images, got {grid}")
    for window in windows:
        if not 0 < window <= 0.5:
            raise ValueError(f"make_versions: windows must be in (0, 0.5], got {window}")
    views = np.ascontiguousarray(views)
    yield Version("original", views)
    # Each version draws from a generator of its own: leaving one out changes no other.
    for grid in grids:
        yield Version(f"patches {grid}", shuffle_patches(views, seeds=_seeds(len(views), seed, 0, grid), grid=grid)[0])
    yield Version("texture", randomize_phase(views, seeds=_seeds(len(views), seed, 1, 0)))
    if windows:
        donors = other_classes(classes, np.random.default_rng([seed, 2]))
    for window in windows:
        styled = transfer_amplitude(views, style=donors.astype(np.int32), window=window)
        yield Version(f"style {window:g}", styled, donors)


def _seeds(count: int, *purpose: int) -> np.ndarray:
    return np.random.default_rng(purpose).integers(0, 2**63, count, np.uint64)
