"""Versions of images that keep the texture and lose the shape, or the other way round, for `figureground.bench.probes`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from figureground.kernels.fourier import randomize_phase, transfer_amplitude
from figureground.kernels.patches import MAX_GRID, shuffle_patches
from figureground.kernels.quilt import quilt_textures


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
        "original", each "patches g", "texture" (random phase: `randomize_phase`), "quilted" (blocks of two pieces of the image,
        its middle and a random one, as for the texture negatives: `quilt_textures`), each "style w".

    Raises
    ------
    ValueError
        If an argument is out of range, or there is one class only and windows are given.

    Examples
    --------
    >>> views = np.zeros((2, 3, 8, 8), np.uint8)
    >>> [version.name for version in make_versions(views, np.array([0, 1]), grids=[2], windows=[0.5])]
    ['original', 'patches 2', 'texture', 'quilted', 'style 0.5']
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
    yield Version("quilted", _quilted(views, _seeds(len(views), seed, 3, 0), np.random.default_rng([seed, 4])))
    if windows:
        donors = other_classes(classes, np.random.default_rng([seed, 2]))
    for window in windows:
        styled = transfer_amplitude(views, style=donors.astype(np.int32), window=window)
        yield Version(f"style {window:g}", styled, donors)


def _quilted(views: np.ndarray, seeds: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Textures of pieces of 96 px and blocks of 32 px for views of 224 px, and in proportion."""
    height, width = views.shape[2:]
    least = min(height, width)
    side, block = max(2, round(least * 96 / 224)), max(2, round(least * 32 / 224))
    middle = np.tile(np.array([(height - side) // 2, (width - side) // 2]), (len(views), 1))
    places = np.stack([middle, rng.integers(0, (height - side + 1, width - side + 1), (len(views), 2))], 1)
    out = np.empty_like(views)
    for n, view in enumerate(views):
        pieces = np.stack([view[:, y : y + side, x : x + side] for y, x in places[n]])
        texture = quilt_textures(
            pieces[None], seeds=seeds[n : n + 1], size=max(height, width), block=block, overlap=max(1, block // 4)
        )
        out[n] = texture[0, :, :height, :width]
    return out


def _seeds(count: int, *purpose: int) -> np.ndarray:
    return np.random.default_rng(purpose).integers(0, 2**63, count, np.uint64)
