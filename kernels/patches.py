"""Move the patches of views: a permutation of a grid inside each view, or a mixture across a group of views.

Layout: planar uint8 (N, C, H, W); a grid of g x g cells of floor(H / g) x floor(W / g) pixels from the top left corner. Pixels
are moved, never computed, and the draws are integers, so both devices agree bit for bit. What was drawn is returned.

Source: patch shuffles as in the jigsaw pretext task (Noroozi and Favaro 2016, "Unsupervised learning of visual representations by
solving jigsaw puzzles"); mixing: Chen et al. 2023, "Mixed Autoencoder for self-supervised visual representation learning".
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from .arrays import aligned, array_module, on_gpu
from .draws import MIX, SHUFFLE, choose_first, chosen_of, keys_of
from .launch import launch
from .moves import cell_sums, move_block, move_bytes
from .planar import check_contiguous, check_plane, check_views, output_like

REGIONS = ("all", "figure", "ground")
MAX_GRID = 64
"""Cells along a side of the grid, at most."""
MAX_GROUP = 8


def shuffle_patches(
    views: Any,
    *,
    seeds: np.ndarray,
    grid: int,
    fraction: float = 1.0,
    masks: Any = None,
    region: str = "all",
    apply: np.ndarray | None = None,
    out: Any = None,
) -> tuple[Any, Any]:
    """Permute the cells of a grid in each view.

    Parameters
    ----------
    views : (N, 3, H, W) uint8
    seeds : (N,) uint64, NumPy
    grid : int
        Cells along each side, 1 .. min(H, W, 64).
    fraction : float
        Share of the cells that take part, 0 .. 1; which ones is drawn, their number is rounded to nearest.
    masks : (N, H, W) uint8, optional
        255 = figure; needed for the regions "figure" and "ground".
    region : "all", "figure" or "ground"
        Only cells whose mean mask is at least 128 ("figure"), or below 128 ("ground"), take part.
    apply : (N,) bool, NumPy, optional
        False: the view is left alone, and its permutation is the identity.
    out : (N, 3, H, W) uint8, optional
        May be `views` itself.

    Returns
    -------
    shuffled : (N, 3, H, W) uint8, on the device of `views`
    permutation : (N, grid * grid) int16, on the device of `views`
        Cell j of the result shows cell permutation[n, j] of the view; row-major. Give it to `permute_patches` to move a
        mask along, or to make the view again.

    Raises
    ------
    TypeError
        If the arrays are on different devices.
    ValueError
        If a shape, dtype or range does not fit.

    Notes
    -----
    Every permutation of the cells that take part is equally likely, so some may stay (Fisher and Yates). Where `grid` does not
    divide H or W, the pixels below and right of the grid stay where they are: nothing turns black, nothing is resized.

    Examples
    --------
    >>> views = np.arange(4, dtype=np.uint8).reshape(1, 1, 2, 2).repeat(3, 1)
    >>> shuffled, permutation = shuffle_patches(views, seeds=np.array([5], np.uint64), grid=2)
    >>> permutation
    array([[3, 2, 1, 0]], dtype=int16)
    >>> shuffled[0, 0]
    array([[3, 2],
           [1, 0]], dtype=uint8)
    """
    gpu = on_gpu("shuffle_patches", views=views, masks=masks, out=out)
    count, height, width = check_views("shuffle_patches", views)
    out = output_like("shuffle_patches", views, out)
    check_plane("shuffle_patches", "masks", masks, (count, height, width))
    keys = keys_of("shuffle_patches", seeds, count, SHUFFLE)
    chosen = chosen_of("shuffle_patches", apply, count)
    _check_grid("shuffle_patches", grid, height, width)
    if not 0.0 <= fraction <= 1.0:
        raise ValueError(f"shuffle_patches: fraction must be in 0 .. 1, got {fraction}")
    if region not in REGIONS:
        raise ValueError(f"shuffle_patches: region must be one of {', '.join(REGIONS)}, got {region!r}")
    if region == "all":
        masks = None
    elif masks is None:
        raise ValueError(f"shuffle_patches: masks must be given for region {region!r}, got None")
    if count == 0:
        return out, array_module(views).empty((0, grid * grid), np.int16)
    cell = (height // grid, width // grid)
    permutation = (_cuda_draw if gpu else _cpu_draw)(
        views, keys, chosen, masks, REGIONS.index(region), float(fraction), int(grid), cell
    )
    (_cuda_move if gpu else _cpu_move)(views, permutation, (grid, grid), cell, 0, out)
    return out, permutation


def permute_patches(planes: Any, permutation: Any, *, grid: int, out: Any = None) -> Any:
    """Move the cells of a grid by a permutation that is given, in views or in their masks.

    Parameters
    ----------
    planes : (N, C, H, W) uint8
        Views, or masks as masks[:, None].
    permutation : (N, grid * grid) int16
        Cell j of the result shows cell permutation[n, j], on the device of `planes`. Values outside the grid are undefined.
    grid : int
    out : (N, C, H, W) uint8, optional
        May be `planes` itself.

    Returns
    -------
    (N, C, H, W) uint8, on the device of `planes`.

    Raises
    ------
    TypeError
        If the arrays are on different devices.
    ValueError
        If a shape or dtype does not fit.

    Examples
    --------
    >>> planes = np.arange(4, dtype=np.uint8).reshape(1, 1, 2, 2)
    >>> permute_patches(planes, np.array([[3, 2, 1, 0]], np.int16), grid=2)[0, 0]
    array([[3, 2],
           [1, 0]], dtype=uint8)
    """
    gpu = on_gpu("permute_patches", planes=planes, permutation=permutation, out=out)
    shape = tuple(planes.shape)
    if len(shape) != 4 or planes.dtype != np.uint8 or 0 in shape[1:]:
        raise ValueError(f"permute_patches: planes must be (N, C, H, W) uint8, got {shape} {planes.dtype}")
    check_contiguous("permute_patches", "planes", planes)
    out = output_like("permute_patches", planes, out)
    _check_grid("permute_patches", grid, *shape[2:])
    check_plane("permute_patches", "permutation", permutation, (shape[0], grid * grid), np.int16)
    if shape[0]:
        cell = (shape[2] // grid, shape[3] // grid)
        (_cuda_move if gpu else _cpu_move)(planes, permutation, (grid, grid), cell, 0, out)
    return out


def mix_patches(views: Any, *, seeds: np.ndarray, group: int = 2, patch: int = 16, out: Any = None) -> tuple[Any, Any]:
    """Mix groups of views patch by patch: at each position a random permutation across the group.

    Parameters
    ----------
    views : (N, 3, H, W) uint8
        Views 0 .. group - 1 are the first group, and so on.
    seeds : (N / group,) uint64, NumPy
        One per group.
    group : int
        Views of a group, 2 .. 8; N must be a multiple.
    patch : int
        Side of a patch [px]; must divide H and W.
    out : (N, 3, H, W) uint8, optional
        Must not be `views`.

    Returns
    -------
    mixed : (N, 3, H, W) uint8, on the device of `views`
    source : (N, P) int8, on the device of `views`
        Which view of its group, 0 .. group - 1, each patch comes from; P = H / patch * W / patch, row-major.

    Raises
    ------
    TypeError
        If the arrays are on different devices.
    ValueError
        If a shape, dtype or range does not fit.

    Notes
    -----
    Every patch of the group is shown exactly once, at its own position, so `source` is at each position a permutation of
    the group: what MixedAE's homologous attention and contrast need.

    Examples
    --------
    >>> views = np.array([10, 20], np.uint8).reshape(2, 1, 1, 1).repeat(3, 1).repeat(4, 3)
    >>> mixed, source = mix_patches(views, seeds=np.array([3], np.uint64), patch=1)
    >>> source
    array([[1, 0, 0, 1],
           [0, 1, 1, 0]], dtype=int8)
    >>> mixed[:, 0, 0]
    array([[20, 10, 10, 20],
           [10, 20, 20, 10]], dtype=uint8)
    """
    gpu = on_gpu("mix_patches", views=views, out=out)
    count, height, width = check_views("mix_patches", views)
    if not 2 <= group <= MAX_GROUP or count % group:
        raise ValueError(f"mix_patches: group must be 2 .. {MAX_GROUP} and divide N = {count}, got {group}")
    if patch < 1 or height % patch or width % patch:
        raise ValueError(f"mix_patches: patch must divide H and W = {height}, {width}, got {patch}")
    if out is views:
        raise ValueError("mix_patches: out must not be views, got the same array; leave it out")
    keys = keys_of("mix_patches", seeds, count // group, MIX)
    out = output_like("mix_patches", views, out)
    source = array_module(views).empty((count, height // patch * (width // patch)), np.int8)
    if count:
        (_cuda_sources if gpu else _cpu_sources)(keys, int(group), source)
        grid = (height // patch, width // patch)
        (_cuda_move if gpu else _cpu_move)(views, source, grid, (patch, patch), int(group), out)
    return out, source


def _check_grid(function: str, grid: int, height: int, width: int) -> None:
    largest = min(height, width, MAX_GRID)
    if not 1 <= grid <= largest:
        raise ValueError(f"{function}: grid must be 1 .. {largest} for views of {height} x {width} px, got {grid}")


def _cpu_draw(
    views: np.ndarray,
    keys: np.ndarray,
    chosen: np.ndarray,
    masks: Any,
    region: int,
    fraction: float,
    grid: int,
    cell: Any,
) -> np.ndarray:
    permutation = np.empty((len(views), grid * grid), np.int16)
    if masks is None:
        masks = np.empty((0, 1, 1), np.uint8)
    _draw_permutations(keys, chosen, masks, region, fraction, grid, cell[0], cell[1], permutation)
    return permutation


@numba.njit(nogil=True, cache=True)
def _draw_permutations(keys, chosen, masks, region, fraction, grid, cell_h, cell_w, permutation):  # type: ignore[no-untyped-def]
    cells = grid * grid
    sums = np.zeros((grid, grid), np.int64)
    items = np.empty(cells, np.int16)
    taken = np.empty(cells, np.bool_)
    for n in range(len(keys)):
        if region > 0 and chosen[n]:
            cell_sums(masks[n], cell_h, cell_w, sums)
        eligible = 0
        for j in range(cells):
            permutation[n, j] = j
            figure = sums[j // grid, j % grid] >= 128 * cell_h * cell_w
            if chosen[n] and (region == 0 or figure == (region == 1)):
                items[eligible] = j
                eligible += 1
        wanted = np.int64(fraction * eligible + 0.5)
        choose_first(items, 0, eligible, wanted, keys[n], 0)
        taken[:] = False
        for i in range(wanted):
            taken[items[i]] = True
        i = 0
        for j in range(cells):
            if taken[j]:
                permutation[n, j] = items[i]
                i += 1


@numba.njit(nogil=True, cache=True)
def _cpu_sources(keys, group, source):  # type: ignore[no-untyped-def]
    items = np.empty(group, np.int16)
    for g in range(len(keys)):
        for p in range(source.shape[1]):
            for k in range(group):
                items[k] = k
            choose_first(items, 0, group, group - 1, keys[g], p * MAX_GROUP)
            for k in range(group):
                source[g * group + k, p] = items[k]


def _cpu_move(planes: np.ndarray, table: np.ndarray, grid: Any, cell: Any, group: int, out: np.ndarray) -> None:
    _move_cells(planes, table, grid[0], grid[1], cell[0], cell[1], group, out)


@numba.njit(nogil=True, cache=True)
def _move_cells(planes, table, gh, gw, cell_h, cell_w, group, out):  # type: ignore[no-untyped-def]
    count, channels, height, width = planes.shape
    size = height * width
    right, bottom = width - gw * cell_w, height - gh * cell_h
    # A permuted plane goes through a copy in the cache: it may be `out`, and random reads from memory are slow.
    scratch = np.empty(size, np.uint8)
    for n in range(count):
        for c in range(channels):
            source = planes.ctypes.data + (n * channels + c) * size
            target = out.ctypes.data + (n * channels + c) * size
            if group == 0:
                move_bytes(source, scratch.ctypes.data, size)
                source = scratch.ctypes.data
            for j in range(gh * gw):
                entry = np.int64(table[n, j])
                corner = j // gw * cell_h * width + j % gw * cell_w
                start = source + entry // gw * cell_h * width + entry % gw * cell_w
                if group > 0:
                    start = source + (entry - n % group) * channels * size + corner
                move_block(start, width, target + corner, width, cell_h, cell_w)
            move_block(source + width - right, width, target + width - right, width, height - bottom, right)
            move_bytes(source + size - bottom * width, target + size - bottom * width, bottom * width)


def _cuda_draw(
    views: Any, keys: np.ndarray, chosen: np.ndarray, masks: Any, region: int, fraction: float, grid: int, cell: Any
) -> Any:
    xp = array_module(views)
    count, cells = len(views), grid * grid
    permutation = xp.empty((count, cells), np.int16)
    size = np.int32(views.shape[2]), np.int32(views.shape[3])
    if masks is None:
        masks = xp.empty(1, np.uint8)
    lists = xp.asarray(keys), xp.asarray(chosen.view(np.uint8))
    how = np.int32(region), np.float64(fraction), np.int32(grid), np.int32(cell[0]), np.int32(cell[1])
    args = (*lists, masks, *size, *how, permutation)
    launch("patches", "patches_draw", (count,), (128,), args, shared=7 * cells)
    return permutation


def _cuda_sources(keys: np.ndarray, group: int, source: Any) -> None:
    xp = array_module(source)
    positions = source.shape[1]
    total = len(keys) * positions
    args = (xp.asarray(keys), np.int32(group), np.int32(positions), np.int64(total), source)
    launch("patches", "patches_sources", (-(-total // 256),), (256,), args)


def _cuda_move(planes: Any, table: Any, grid: Any, cell: Any, group: int, out: Any) -> None:
    if out is planes:
        planes = planes.copy()
    _, channels, height, width = planes.shape
    vector = 1
    if aligned(planes, out):
        vector = next(v for v in (16, 4, 1) if width % v == 0 and cell[1] % v == 0)
    units = np.int32(width // vector)
    total = planes.size // vector
    size = np.int32(channels), np.int32(height), units
    cells = np.int32(grid[0]), np.int32(grid[1]), np.int32(cell[0]), np.int32(cell[1] // vector)
    name = f"patches_{'mix' if group else 'permute'}{vector}"
    args = (planes, table, *size, *cells, np.int32(max(group, 1)), np.int64(total), out)
    launch("patches", name, (-(-total // 256),), (256,), args)
