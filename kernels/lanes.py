"""Vector operations that Numba's loops do not reach: sixteen image rows side by side in one register.

Written in LLVM's portable vector IR, so they become AVX-512, AVX2, SSE or NEON, whatever the processor has. All take
byte addresses (int64) of memory that the caller keeps alive, aligned or not.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

LANES = 16
"""Rows side by side."""

_I32, _I64 = ir.IntType(32), ir.IntType(64)


def _vector(bits: int) -> ir.VectorType:
    return ir.VectorType(ir.IntType(bits), LANES)


def _splat(value: int) -> ir.Constant:
    return ir.Constant(_vector(32), [_I32(value)] * LANES)


def _bytes_at(typing_context: Any, address: Any) -> Any:
    """Return the address as a pointer to uint8, for `numba.carray`."""

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], ir.IntType(8).as_pointer())

    return types.CPointer(types.uint8)(types.int64), build


def _transpose(bits: int) -> Any:
    """Make the transposition of a 16 x 16 block: four rounds of interleaving row i with row i + 8."""
    vector = _vector(bits)
    low = ir.Constant(_vector(32), [_I32(i // 2 + LANES * (i % 2)) for i in range(LANES)])
    high = ir.Constant(_vector(32), [_I32(i // 2 + 8 + LANES * (i % 2)) for i in range(LANES)])

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        source, source_pitch, target, target_pitch = args
        rows = []
        for _ in range(LANES):
            rows.append(builder.load(builder.inttoptr(source, vector.as_pointer()), align=1))
            source = builder.add(source, source_pitch)
        for _ in range(4):
            pairs = list(zip(rows[:8], rows[8:]))
            rows = [builder.shuffle_vector(a, b, mask) for a, b in pairs for mask in (low, high)]
        for row in rows:
            builder.store(row, builder.inttoptr(target, vector.as_pointer()), align=1)
            target = builder.add(target, target_pitch)
        return context.get_dummy_value()

    def transpose(typing_context: Any, source: Any, source_pitch: Any, target: Any, target_pitch: Any) -> Any:
        """Write the 16 x 16 block at `source` transposed to `target`; pitches in bytes."""
        return types.void(*(types.int64,) * 4), build

    return intrinsic(transpose)


def _weighted_sum(builder: Any, args: Any, bits: int, start: int) -> Any:
    """Build `start` + the sum of weights times sixteen int16 or uint8; leaves the builder behind the loop."""
    source, step, weights, count, _ = args
    widen = builder.sext if bits == 16 else builder.zext
    entry = builder.block
    loop, done = builder.append_basic_block("taps"), builder.append_basic_block("done")
    builder.branch(loop)
    builder.position_at_end(loop)
    at, at_weight, left, total = (builder.phi(t) for t in (_I64, _I64, _I64, _vector(32)))
    lanes = widen(builder.load(builder.inttoptr(at, _vector(bits).as_pointer()), align=bits // 8), _vector(32))
    weight = builder.load(builder.inttoptr(at_weight, _I32.as_pointer()), align=4)
    undefined = ir.Constant(_vector(32), ir.Undefined)
    weight = builder.shuffle_vector(builder.insert_element(undefined, weight, _I32(0)), undefined, _splat(0))
    after = (
        builder.add(at, step),
        builder.add(at_weight, _I64(4)),
        builder.sub(left, _I64(1)),
        builder.add(total, builder.mul(lanes, weight)),
    )
    before = (source, weights, count, _splat(start))
    for phi, first, following in zip((at, at_weight, left, total), before, after):
        phi.add_incoming(first, entry)
        phi.add_incoming(following, loop)
    builder.cbranch(builder.icmp_signed(">", after[2], _I64(0)), loop, done)
    builder.position_at_end(done)
    return after[3]


def _weigh_lanes(typing_context: Any, source: Any, step: Any, weights: Any, count: Any, target: Any) -> Any:
    """Write sixteen uint8: (2**19 + sum over k < count of weights[k] * source[k]) >> 20 in each lane.

    `source[k]` are sixteen int16 at `source + k * step` bytes, `weights` int32; `count` >= 1.
    """

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pixels = builder.trunc(builder.ashr(_weighted_sum(builder, args, 16, 1 << 19), _splat(20)), _vector(8))
        builder.store(pixels, builder.inttoptr(args[4], _vector(8).as_pointer()), align=1)
        return context.get_dummy_value()

    return types.void(*(types.int64,) * 5), build


def _weigh_byte_lanes(typing_context: Any, source: Any, step: Any, weights: Any, count: Any, target: Any) -> Any:
    """Write sixteen int16: (2**7 + sum over k < count of weights[k] * source[k]) >> 8, cut to 0 .. 255 * 64.

    `source[k]` are sixteen uint8 at `source + k * step` bytes, `weights` int32, also negative; `count` >= 1.
    """

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        target = args[4]
        total = builder.ashr(_weighted_sum(builder, args, 8, 1 << 7), _splat(8))
        for sign, limit in (("<", 0), (">", 255 * 64)):
            total = builder.select(builder.icmp_signed(sign, total, _splat(limit)), _splat(limit), total)
        builder.store(builder.trunc(total, _vector(16)), builder.inttoptr(target, _vector(16).as_pointer()), align=2)
        return context.get_dummy_value()

    return types.void(*(types.int64,) * 5), build


bytes_at: Any = intrinsic(_bytes_at)
transpose_int16: Any = _transpose(16)
transpose_uint8: Any = _transpose(8)
weigh_lanes: Any = intrinsic(_weigh_lanes)
weigh_byte_lanes: Any = intrinsic(_weigh_byte_lanes)
