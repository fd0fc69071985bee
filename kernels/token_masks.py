"""Choose the patches that masked image modelling hides: at random, in blocks, or led by the figure.

Layout: uint8 masks (N, H, W), 255 = figure, in; bool (N, gh, gw) out, True = hidden. A patch is figure if its mean mask
is at least 128. The number of hidden patches is exact. Integer draws, and float64 in a fixed order, so both devices agree
bit for bit.

Source: Chin et al. 2024, "Masking improves contrastive self-supervised learning for ConvNets, and saliency tells you
where": figure and ground hidden by their shares in positives, the figure alone in hard negatives. Blocks: Bao et al. 2022,
"BEiT", algorithm 1, with the limits of DINOv2's published code.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from .arrays import array_module, on_gpu
from .draws import PATCH_MASK, choose_first, draw, draw_below, keys_of
from .launch import launch
from .moves import cell_sums
from .planar import check_plane

POLICIES = ("random", "figure", "ground", "proportional", "block")
MAX_GRID = 64
"""Patches along a side, at most."""
MIN_BLOCK = 4
"""Patches of the smallest block."""
_TRIES = 10  # rectangles tried for one block
_ASPECTS = np.exp(np.log(0.3) + (np.arange(1024) + 0.5) / 1024 * (np.log(1 / 0.3) - np.log(0.3)))
_GROUND_DRAW = 1 << 16
"""Draws of ground patches, and of those that complete blocks, are numbered from here."""


def patch_masks(
    masks: Any,
    *,
    seeds: np.ndarray,
    grid: tuple[int, int],
    ratio: float | None = None,
    count: int | np.ndarray | None = None,
    policy: str = "random",
    out: Any = None,
) -> Any:
    """Choose hidden patches for each view.

    Parameters
    ----------
    masks : (N, H, W) uint8, or None
        255 = figure; needed for "figure", "ground" and "proportional".
    seeds : (N,) uint64, NumPy
    grid : (int, int)
        Rows and columns of patches, 1 .. 64 each; a patch is floor(H / rows) x floor(W / columns) px of the masks.
    ratio : float, optional
        Share of the patches to hide, 0 .. 1; the number is rounded to nearest. Either this or `count`.
    count : int or (N,) integers, NumPy, optional
        Patches to hide, 0 .. rows * columns.
    policy : "random", "figure", "ground", "proportional" or "block"
        Where: anywhere; the figure first; the ground first; figure and ground by their shares; rectangles anywhere.
    out : (N, rows, columns) bool, optional
        Without masks, this decides the device.

    Returns
    -------
    (N, rows, columns) bool, on the device of `masks` or `out`, on the host without both.

    Raises
    ------
    TypeError
        If the arrays are on different devices.
    ValueError
        If a shape, dtype or range does not fit.

    Notes
    -----
    With k to hide, and f of the P patches figure: "figure" hides min(k, f) of the figure and the rest in the ground,
    "ground" the reverse, "proportional" floor(ratio f + 1/2) of the figure, as in the source, and the rest in the ground;
    with `count` floor(k f / P + 1/2).
    "block": until k are hidden, a rectangle of 4 .. min(k left, P / 2) patches (uniform) with an aspect of 0.3 .. 1 / 0.3
    (log-uniform in 1024 steps), smaller than the grid both ways, is placed at random; it counts if it hides at least one
    patch more and at most those left. Once ten in a row do not count, patches at random complete the number (DINOv2's
    code stops short there).

    Examples
    --------
    >>> masks = np.zeros((1, 8, 8), np.uint8)
    >>> masks[0, :4, :4] = 255
    >>> patch_masks(masks, seeds=np.array([1], np.uint64), grid=(4, 4), count=3, policy="figure")[0].astype(int)
    array([[1, 0, 0, 0],
           [1, 1, 0, 0],
           [0, 0, 0, 0],
           [0, 0, 0, 0]])
    """
    gpu = on_gpu("patch_masks", masks=masks, out=out)
    rows, columns = (int(side) for side in grid)
    if not (1 <= rows <= MAX_GRID and 1 <= columns <= MAX_GRID):
        raise ValueError(f"patch_masks: grid must be 1 .. {MAX_GRID} patches both ways, got {grid}")
    keys = keys_of("patch_masks", seeds, np.size(seeds), PATCH_MASK)
    counts = _counts(ratio, count, len(keys), rows * columns)
    if policy not in POLICIES:
        raise ValueError(f"patch_masks: policy must be one of {', '.join(POLICIES)}, got {policy!r}")
    led = policy in ("figure", "ground", "proportional")
    if led:
        _check_masks(masks, policy, len(keys), rows, columns)
    shape = (len(keys), rows, columns)
    check_plane("patch_masks", "out", out, shape, np.bool_)
    if out is None:
        out = (np if masks is None else array_module(masks)).empty(shape, np.bool_)
    if len(keys):
        share = -1.0 if ratio is None else float(ratio)
        (_cuda if gpu else _cpu)(masks if led else None, keys, counts, POLICIES.index(policy), share, out)
    return out


def _counts(ratio: float | None, count: Any, size: int, patches: int) -> np.ndarray:
    if (ratio is None) == (count is None):
        raise ValueError(f"patch_masks: ratio or count must be given, and not both, got {ratio} and {count}")
    if ratio is not None:
        if not 0.0 <= ratio <= 1.0:
            raise ValueError(f"patch_masks: ratio must be in 0 .. 1, got {ratio}")
        count = int(ratio * patches + 0.5)
    counts = np.asarray(count)
    if counts.shape not in ((), (size,)) or counts.dtype.kind not in "iu":
        raise ValueError(
            f"patch_masks: count must be an integer or ({size},) integers, got {counts.shape} {counts.dtype}"
        )
    if counts.size and (counts.min() < 0 or counts.max() > patches):
        raise ValueError(f"patch_masks: count must be in 0 .. {patches}, got {counts.min()} .. {counts.max()}")
    return np.full(size, counts, np.int32)


def _check_masks(masks: Any, policy: str, size: int, rows: int, columns: int) -> None:
    if masks is None:
        raise ValueError(f"patch_masks: masks must be given for policy {policy!r}, got None")
    shape = tuple(masks.shape)
    if len(shape) != 3 or shape[1] < rows or shape[2] < columns:
        raise ValueError(f"patch_masks: masks must be (N, H, W) uint8 of at least {rows} x {columns} px, got {shape}")
    check_plane("patch_masks", "masks", masks, (size, *shape[1:]))


def _cpu(
    masks: np.ndarray | None, keys: np.ndarray, counts: np.ndarray, policy: int, ratio: float, out: np.ndarray
) -> None:
    if masks is None:
        masks = np.empty((0, 1, 1), np.uint8)
    _choose(masks, keys, counts, policy, ratio, _ASPECTS, out)


@numba.njit(nogil=True, cache=True)
def _choose(masks, keys, counts, policy, ratio, aspects, out):  # type: ignore[no-untyped-def]
    _, gh, gw = out.shape
    patches = gh * gw
    cell_h, cell_w = masks.shape[1] // gh, masks.shape[2] // gw
    items = np.empty(patches, np.int16)
    sums = np.zeros((gh, gw), np.int64)
    for n in range(len(keys)):
        hidden, key, left = out[n], keys[n], int(counts[n])
        hidden[:] = False
        if policy == 4:
            left -= _hide_blocks(key, left, aspects, hidden)
        elif policy > 0:
            cell_sums(masks[n], cell_h, cell_w, sums)
        figures = 0
        for part in range(2):  # figure (or all, or what blocks left), then ground
            found = figures
            for j in range(patches):
                if policy > 0 and policy < 4:
                    eligible = (sums[j // gw, j % gw] >= 128 * cell_h * cell_w) == (part == 0)
                else:
                    eligible = part == 0 and not hidden[j // gw, j % gw]
                if eligible:
                    items[found] = j
                    found += 1
            if part == 0:
                figures = found
        grounds = found - figures
        wanted = left
        if policy == 1:
            wanted = min(left, figures)
        elif policy == 2:
            wanted = left - min(left, grounds)
        elif policy == 3:
            wanted = (2 * left * figures + patches) // (2 * patches) if ratio < 0 else int(ratio * figures + 0.5)
            wanted = min(max(wanted, left - grounds), min(left, figures))
        choose_first(items, 0, figures, wanted, key, _GROUND_DRAW if policy == 4 else 0)
        choose_first(items, figures, grounds, left - wanted, key, _GROUND_DRAW)
        for i in range(wanted):
            hidden[items[i] // gw, items[i] % gw] = True
        for i in range(figures, figures + left - wanted):
            hidden[items[i] // gw, items[i] % gw] = True


@numba.njit(nogil=True, cache=True)
def _hide_blocks(key, wanted, aspects, hidden):  # type: ignore[no-untyped-def]
    """Hide rectangles, return how many patches they cover: `wanted`, or less once ten in a row do not fit."""
    gh, gw = hidden.shape
    done, failed, t = 0, 0, 0
    while done < wanted and failed < _TRIES:
        most = min(wanted - done, max(gh * gw // 2, 1))
        area = MIN_BLOCK + (most - MIN_BLOCK) * (draw(key, 4 * t) * 2.0**-24)
        aspect = aspects[draw_below(key, 4 * t + 1, 1024)]
        h = int(np.sqrt(area * aspect) + 0.5)
        w = int(np.sqrt(area / aspect) + 0.5)
        failed += 1
        if h < gh and w < gw:
            top = draw_below(key, 4 * t + 2, gh - h + 1)
            left = draw_below(key, 4 * t + 3, gw - w + 1)
            block = hidden[top : top + h, left : left + w]
            fresh = h * w
            for y in range(h):
                for x in range(w):
                    fresh -= int(block[y, x])
            if 0 < fresh <= most:
                block[:] = True
                done += fresh
                failed = 0
        t += 1
    return done


def _cuda(masks: Any, keys: np.ndarray, counts: np.ndarray, policy: int, ratio: float, out: Any) -> None:
    xp = array_module(out)
    _, rows, columns = out.shape
    height, width = (rows, columns) if masks is None else masks.shape[1:]
    if masks is None:
        masks = xp.empty(1, np.uint8)
    tables = xp.asarray(keys), xp.asarray(counts), xp.asarray(_ASPECTS)
    sizes = np.int32(height), np.int32(width), np.int32(rows), np.int32(columns), np.int32(policy)
    args = (masks, *tables, *sizes, np.float64(ratio), out)
    launch("token_masks", "token_masks_choose", (len(keys),), (128,), args, shared=7 * rows * columns)
