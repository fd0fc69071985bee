"""Copy short runs of bytes, a cell's row for instance: a few vector moves instead of a loop over bytes.

All functions take byte addresses (int64) of memory that the caller keeps alive, aligned or not; runs must not overlap.
"""

from __future__ import annotations

from typing import Any

import numba
from llvmlite import ir
from numba import types
from numba.extending import intrinsic


def _move(size: int) -> Any:
    vector = ir.VectorType(ir.IntType(8), size).as_pointer()

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        source, target = (builder.inttoptr(a, vector) for a in args)
        builder.store(builder.load(source, align=1), target, align=1)
        return context.get_dummy_value()

    def move(typing_context: Any, source: Any, target: Any) -> Any:
        """Copy bytes from one address to another."""
        return types.void(types.int64, types.int64), build

    return intrinsic(move)


_move16, _move8, _move4, _move1 = (_move(size) for size in (16, 8, 4, 1))


@numba.njit(nogil=True, cache=True)
def move_bytes(source, target, count):  # type: ignore[no-untyped-def]
    """Copy `count` bytes; a tail is copied by one more move that overlaps the one before."""
    if count >= 16:
        for k in range(0, count - 15, 16):
            _move16(source + k, target + k)
        if count & 15:
            _move16(source + count - 16, target + count - 16)
    elif count >= 8:
        _move8(source, target)
        _move8(source + count - 8, target + count - 8)
    elif count >= 4:
        _move4(source, target)
        _move4(source + count - 4, target + count - 4)
    else:
        for k in range(count):
            _move1(source + k, target + k)


@numba.njit(nogil=True, cache=True)
def move_block(source, source_pitch, target, target_pitch, height, width):  # type: ignore[no-untyped-def]
    """Copy a block of `height` rows of `width` bytes; pitches in bytes."""
    for y in range(height):
        move_bytes(source + y * source_pitch, target + y * target_pitch, width)


@numba.njit(nogil=True, cache=True)
def cell_sums(mask, cell_h, cell_w, sums):  # type: ignore[no-untyped-def]
    """Add up a mask (H, W) over each cell of a grid; `sums` (gh, gw) int64; pixels right and below of it are left out."""
    for gy in range(sums.shape[0]):
        for gx in range(sums.shape[1]):
            total = 0
            for y in range(gy * cell_h, (gy + 1) * cell_h):
                run = mask[y, gx * cell_w : (gx + 1) * cell_w]
                for x in range(len(run)):
                    total += run[x]
            sums[gy, gx] = total
