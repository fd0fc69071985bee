"""What a PTX instruction costs a streaming multiprocessor of Hopper: an estimate, not a measurement.

`slots` are the machine instructions that ptxas makes of it (counted in SASS of sm_90, CUDA 13.0), `pipe` is what they keep busy,
`latency` the cycles until another instruction can use the result (published microbenchmarks of Volta to Hopper, rounded).
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

PIPES = {"int": 0.35, "fp32": 0.25, "fp64": 0.5, "special": 2.0, "shared": 1.0, "global": 1.0, "control": 0.25, "barrier": 0.25}
"""Cycles of an SM that a warp instruction takes of its pipe: 64 lanes a cycle, more for integers since products go
through the pipe of floats; 128; 64; 16; one shared or global request."""


@dataclass(frozen=True)
class Cost:
    """Of one warp instruction."""

    kind: str
    """Class in the profile's table."""
    pipe: str
    slots: float
    latency: int


_TABLE: list[tuple[str, Cost]] = [
    (r"bra|ret", Cost("control", "control", 1, 5)),
    (r"bar\.|membar", Cost("barrier", "barrier", 1, 20)),
    (r"(shfl|vote|redux|match)\.", Cost("shared", "shared", 1, 23)),
    (r"atom\.shared", Cost("shared", "shared", 2, 60)),
    (r"(ld|st)\.shared", Cost("shared", "shared", 1, 23)),
    (r"(ld|st)\.param", Cost("int", "int", 0, 8)),
    (r"(ld|st)\.(const|local)", Cost("global", "global", 1, 30)),
    (r"atom", Cost("global", "global", 1, 300)),
    (r"(ld|st)", Cost("global", "global", 1, 40)),
    (r"(div|rem)\.[su]64", Cost("division", "int", 75, 300)),
    (r"(div|rem)\.[su](16|32)", Cost("division", "int", 18, 110)),
    (r"div\.rn\.f32", Cost("division", "fp32", 9, 60)),
    (r"(sqrt|rcp)\.rn\.f32", Cost("division", "fp32", 7, 50)),
    (r"div\.rn\.f64", Cost("division", "fp64", 11, 110)),
    (r"(sqrt|rcp)\.rn\.f64", Cost("division", "fp64", 10, 100)),
    (r"cvt.*f64", Cost("fp64", "special", 1, 24)),
    (r".*\.f64", Cost("fp64", "fp64", 1, 8)),
    (r"cvt\.r.*(f32\.[us]|[us]\d+\.f32)", Cost("convert", "special", 1, 14)),
    (r"(popc|clz|brev|bfind)", Cost("int", "special", 1, 14)),
    (r"(add|sub|mul|fma|min|max|abs|neg)\.(r[nz]\.)?f32", Cost("fp32", "fp32", 1, 4)),
    (r"setp\..*f32", Cost("fp32", "int", 1, 5)),
    (r"mul\.(lo|hi)\.[su]64|mad\.lo\.[su]64", Cost("int", "int", 4, 14)),
    (r"mul\.wide|mad\.wide|mul\.hi", Cost("int", "int", 1, 6)),
    (r"add\.s64 of a shared address", Cost("int", "int", 1, 5)),
    (r"(add|sub|neg|shl|shr|min|max|setp\.\w+|selp|and|or|xor|not)\.[subf]64", Cost("int", "int", 2, 6)),
    (r"cvta|cvt\.[su]64\.u32|cvt\.u32\.u64|cvt\.[su](16|32)\.|mov\.", Cost("int", "int", 0.25, 4)),
]  # fmt: skip
_OTHER = Cost("int", "int", 1, 5)


@functools.cache
def cost_of(name: str) -> Cost:
    """Cost of an instruction by its PTX name."""
    return next((cost for pattern, cost in _TABLE if re.match(pattern, name)), _OTHER)
