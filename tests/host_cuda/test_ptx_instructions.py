"""Each PTX instruction gives what the PTX ISA says, on hand-written snippets; and what is not known is refused by name."""

from __future__ import annotations

import math
import re
import struct
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
from host_cuda.ptx.encode import Encoder, Unsupported
from host_cuda.ptx.executor import PtxExecutor, machine
from host_cuda.ptx.parse import parse

NUMPY = {"u16": np.uint16, "s16": np.int16, "u32": np.uint32, "s32": np.int32, "u64": np.uint64, "s64": np.int64,
         "f32": np.float32, "f64": np.float64, "u8": np.uint8, "s8": np.int8}  # fmt: skip
HEAD = ".version 9.0\n.target sm_90\n.address_size 64\n"
REGISTERS = ("\n.reg .pred %p<9>;\n.reg .b16 %rs<9>;\n.reg .b32 %r<9>;\n.reg .b64 %rd<9>;\n.reg .f32 %f<9>;\n.reg .f64 %fd<9>;\n")


def _kernel(body, parameters=".param .u64 a, .param .u64 b, .param .u64 c, .param .u64 out"):
    lines = ",\n".join(p.strip() for p in parameters.split(","))
    return f"{HEAD}.visible .entry snippet(\n{lines}\n)\n{{{REGISTERS}{body}\nret;\n}}\n"


def _encode(text):
    module = parse(text)
    return Encoder(module.kernels["snippet"], module, machine()[1], "snippet").encode()


def _register(kind, number):
    return f"%{ {'16': 'rs', '32': 'r', '64': 'rd'}[kind[1:]] if kind[0] != 'f' else ('f' if kind == 'f32' else 'fd')}{number}"


def compute(instruction, out, *columns):
    """Run `instruction` (its operands as {d} {a} {b} {c}) with a value of each column in each of up to 32 threads."""
    kinds = [next(k for k, t in NUMPY.items() if t == column.dtype.type) for column in columns]
    names, load = dict(zip("abc", (_register(k, i + 1) for i, k in enumerate(kinds)))), ""
    for name, kind in zip("abc", kinds):
        size = int(kind[1:]) // 8
        load += f"ld.param.u64 %rd5, [{name}];\nmad.wide.u32 %rd5, %r8, {size}, %rd5;\n"
        load += f"ld.global.{kind.replace('s', 'u')} {names[name]}, [%rd5];\n"
    names["d"] = _register(out, 4)
    size = int(out[1:]) // 8
    body = f"mov.u32 %r8, %tid.x;\n{load}{instruction.format(**names)};\nld.param.u64 %rd5, [out];\n"
    body += f"mad.wide.u32 %rd5, %r8, {size}, %rd5;\nst.global.{out.replace('s', 'u')} [%rd5], {names['d']};"
    n = len(columns[0])
    got, spare = np.zeros(n, NUMPY[out]), np.zeros(0, np.uint8)
    setup = SimpleNamespace(grid=(1, 1, 1), block=(n, 1, 1), shared=0)
    args = [*columns, *[spare] * (3 - len(columns)), got]
    PtxExecutor().run(_encode(_kernel(body)), "snippet", setup, args, [False, False, False, True])
    return got


def _bits(kind, rng, n=32):
    """Random values, small ones and the extremes."""
    if kind[0] == "f":
        values = rng.standard_normal(n) * 10.0 ** rng.integers(-3, 12, n)
        values[:12] = [0.0, -0.0, 0.5, 1.5, 2.5, -2.5, 3e9, -3e9, 1e20, -1e20, math.inf, math.nan]
        return values.astype(NUMPY[kind])
    bits = int(kind[1:])
    values = rng.integers(0, 2**bits - 1, n, dtype=np.uint64, endpoint=True)
    values[:6] = [0, 1, 2, 2**bits - 1, 2 ** (bits - 1), 2 ** (bits - 1) - 1]
    return values.astype(f"u{bits // 8}").view(NUMPY[kind])


def _signed(x, bits):
    x &= (1 << bits) - 1
    return x - (1 << bits) if x >> (bits - 1) else x


def _saturated(x, low, high, how):
    if math.isnan(x):
        return 0 if high < 2**40 else -(2**63)
    return max(min(low if x == -math.inf else high if x == math.inf else how(x), high), low)


def _least(a, b, sign):
    if math.isnan(a) or math.isnan(b):
        return b if math.isnan(a) else a
    return min((a, b), key=lambda v: (sign * v, sign * math.copysign(1, v)))


def _prmt(a, b, c):
    data = struct.pack("<II", a, b)
    picked = [data[c >> 4 * k & 7] for k in range(4)]
    return sum((255 * (p >> 7) if c >> 4 * k & 8 else p) << 8 * k for k, p in enumerate(picked))


def _bfi(a, b, c, length=7, bits=32):
    mask = ((1 << length) - 1) << (c & 255) if (c & 255) < bits else 0
    return (b & ~mask) | (a << (c & 255) & mask)


def _dot(a, b, c):
    return c + sum((a >> s & 255) * (b >> s & 255) for s in (0, 8, 16, 24))


def _towards_zero(a, b):
    exact = Fraction(a) + Fraction(b) if math.isfinite(a) and math.isfinite(b) else None
    if exact is None:
        return a + b
    near = np.float32(float(exact)) if abs(exact) < 2**127 else np.float32(a + b)
    return np.nextafter(near, np.float32(0)) if abs(Fraction(float(near))) > abs(exact) else near


def _fused(a, b, c):
    if not all(map(math.isfinite, (a, b, c))):
        return a * b + c
    exact = Fraction(a) * Fraction(b) + Fraction(c)
    near = np.float32(float(exact))  # two roundings: looked at again below
    beside = [near, np.nextafter(near, np.float32(np.inf)), np.nextafter(near, np.float32(-np.inf))]
    return min(beside, key=lambda v: (abs(Fraction(float(v)) - exact), int(v.view(np.uint32)) & 1)) if exact else a * b + c


S32, S64 = 2**31, 2**63
CASES = [  # instruction, type of the result, types of the operands, the value in Python
    ("add.s32 {d}, {a}, {b}", "u32", "u32 u32", lambda a, b: a + b),
    ("add.u64 {d}, {a}, {b}", "u64", "u64 u64", lambda a, b: a + b),
    ("sub.s16 {d}, {a}, {b}", "u16", "u16 u16", lambda a, b: a - b),
    ("mul.lo.s16 {d}, {a}, {b}", "u16", "u16 u16", lambda a, b: a * b),
    ("mul.lo.s64 {d}, {a}, {b}", "u64", "u64 u64", lambda a, b: a * b),
    ("mul.hi.s32 {d}, {a}, {b}", "s32", "s32 s32", lambda a, b: a * b >> 32),
    ("mul.hi.u32 {d}, {a}, {b}", "u32", "u32 u32", lambda a, b: a * b >> 32),
    ("mul.hi.s64 {d}, {a}, {b}", "s64", "s64 s64", lambda a, b: a * b >> 64),
    ("mul.hi.u64 {d}, {a}, {b}", "u64", "u64 u64", lambda a, b: a * b >> 64),
    ("mul.wide.u16 {d}, {a}, {b}", "u32", "u16 u16", lambda a, b: a * b),
    ("mul.wide.s32 {d}, {a}, {b}", "s64", "s32 s32", lambda a, b: a * b),
    ("mad.lo.s32 {d}, {a}, {b}, {c}", "u32", "u32 u32 u32", lambda a, b, c: a * b + c),
    ("mad.wide.s32 {d}, {a}, {b}, {c}", "u64", "s32 s32 u64", lambda a, b, c: a * b + c),
    ("div.s32 {d}, {a}, {b}", "s32", "s32 s32", lambda a, b: int(Fraction(a, b))),
    ("rem.s32 {d}, {a}, {b}", "s32", "s32 s32", lambda a, b: a - b * int(Fraction(a, b))),
    ("div.u64 {d}, {a}, {b}", "u64", "u64 u64", lambda a, b: a // b),
    ("rem.s64 {d}, {a}, {b}", "s64", "s64 s64", lambda a, b: a - b * int(Fraction(a, b))),
    ("shl.b32 {d}, {a}, {b}", "u32", "u32 u32", lambda a, b: a << b if b < 32 else 0),
    ("shr.u32 {d}, {a}, {b}", "u32", "u32 u32", lambda a, b: a >> b),
    ("shr.s32 {d}, {a}, {b}", "s32", "s32 u32", lambda a, b: a >> min(b, 31)),
    ("shr.s64 {d}, {a}, {b}", "s64", "s64 u32", lambda a, b: a >> min(b, 63)),
    ("shf.r.wrap.b32 {d}, {a}, {b}, {c}", "u32", "u32 u32 u32", lambda a, b, c: (b << 32 | a) >> (c & 31)),
    ("shf.l.wrap.b32 {d}, {a}, {b}, {c}", "u32", "u32 u32 u32", lambda a, b, c: (b << 32 | a) << (c & 31) >> 32),
    ("min.s32 {d}, {a}, {b}", "s32", "s32 s32", min),
    ("max.u64 {d}, {a}, {b}", "u64", "u64 u64", max),
    ("abs.s32 {d}, {a}", "u32", "s32", abs),
    ("neg.s64 {d}, {a}", "u64", "u64", lambda a: -a),
    ("not.b32 {d}, {a}", "u32", "u32", lambda a: ~a),
    ("prmt.b32 {d}, {a}, {b}, {c}", "u32", "u32 u32 u32", _prmt),
    ("bfi.b32 {d}, {a}, {b}, {c}, 7", "u32", "u32 u32 u32", _bfi),
    ("bfi.b64 {d}, {a}, {b}, {c}, 40", "u64", "u64 u64 u32", lambda a, b, c: _bfi(a, b, c, 40, 64)),
    ("dp4a.u32.u32 {d}, {a}, {b}, {c}", "u32", "u32 u32 u32", _dot),
    ("dp2a.lo.u32.u32 {d}, {a}, {b}, {c}", "u32", "u32 u32 u32",
     lambda a, b, c: c + (a & 65535) * (b & 255) + (a >> 16) * (b >> 8 & 255)),
    ("popc.b32 {d}, {a}", "u32", "u32", int.bit_count),
    ("clz.b32 {d}, {a}", "u32", "u32", lambda a: 32 - a.bit_length()),
    ("brev.b32 {d}, {a}", "u32", "u32", lambda a: int(f"{a:032b}"[::-1], 2)),
    ("mov.b32 {d}, {{{a}, {b}}}", "u32", "u16 u16", lambda a, b: b << 16 | a),
    ("cvt.s64.s32 {d}, {a}", "s64", "s32", int),
    ("cvt.s64.s8 {d}, {a}", "s64", "u64", lambda a: _signed(a, 8)),
    ("cvt.s32.s8 {d}, {a}", "s32", "u32", lambda a: _signed(a, 8)),
    ("cvt.u32.u8 {d}, {a}", "u32", "u16", lambda a: a & 255),
    ("cvt.u16.u64 {d}, {a}", "u16", "u64", lambda a: a),
    ("cvt.rzi.s32.f32 {d}, {a}", "s32", "f32", lambda a: _saturated(a, -S32, S32 - 1, math.trunc)),
    ("cvt.rni.s32.f32 {d}, {a}", "s32", "f32", lambda a: _saturated(a, -S32, S32 - 1, round)),
    ("cvt.rzi.u32.f32 {d}, {a}", "u32", "f32", lambda a: _saturated(a, 0, 2**32 - 1, math.trunc)),
    ("cvt.rzi.s32.f64 {d}, {a}", "s32", "f64", lambda a: _saturated(a, -S32, S32 - 1, math.trunc)),
    ("cvt.rn.f32.s32 {d}, {a}", "f32", "s32", float),
    ("cvt.rn.f32.u64 {d}, {a}", "f32", "u64", lambda a: np.float32(np.uint64(a))),
    ("cvt.rn.f64.s64 {d}, {a}", "f64", "s64", float),
    ("cvt.rn.f32.f64 {d}, {a}", "f32", "f64", float),
    ("cvt.f64.f32 {d}, {a}", "f64", "f32", float),
    ("add.rz.f32 {d}, {a}, {b}", "f32", "f32 f32", _towards_zero),
    ("fma.rn.f32 {d}, {a}, {b}, {c}", "f32", "f32 f32 f32", _fused),
    ("min.f32 {d}, {a}, {b}", "f32", "f32 f32", lambda a, b: _least(a, b, 1)),
    ("max.f64 {d}, {a}, {b}", "f64", "f64 f64", lambda a, b: _least(a, b, -1)),
    ("sqrt.rn.f64 {d}, {a}", "f64", "f64", lambda a: math.sqrt(a) if a >= 0 else math.nan),
    ("abs.f32 {d}, {a}", "f32", "f32", abs),
    ("neg.f32 {d}, {a}", "f32", "f32", lambda a: -a),
]  # fmt: skip


@pytest.mark.parametrize(("instruction", "out", "kinds", "value"), CASES, ids=[c[0].split()[0] for c in CASES])
def test_values(instruction, out, kinds, value):
    rng = np.random.default_rng(len(instruction))
    columns = [_bits(kind, rng) for kind in kinds.split()]
    for column in columns[1:]:
        rng.shuffle(column)
        if instruction.startswith(("div", "rem")):
            column[column == 0] = 3
        if instruction.startswith(("sh", "bfi")) and column.dtype == np.uint32:
            column[::2] %= 70  # also past 32 and 64
    got = compute(instruction, out, *columns)
    for i, operands in enumerate(zip(*(column.tolist() for column in columns))):
        want = value(*operands)
        if out[0] != "f":
            want = np.array([int(want) & ((1 << int(out[1:])) - 1)], f"u{int(out[1:]) // 8}").view(NUMPY[out])[0]
        with np.errstate(over="ignore"):
            want = np.array([want], NUMPY[out])
        same = np.isnan(want[0]) and np.isnan(got[i]) if out[0] == "f" else False
        assert same or got[i : i + 1].tobytes() == want.tobytes(), (operands, got[i], want[0])


@pytest.mark.parametrize("kind", ["f32", "f64"])
@pytest.mark.parametrize("operation", ["add", "sub", "mul", "div"])
def test_floats_are_rounded_once(operation, kind):
    a, b = (_bits(kind, np.random.default_rng(seed)) for seed in (1, 2))
    with np.errstate(all="ignore"):
        want = getattr(np, {"add": "add", "sub": "subtract", "mul": "multiply", "div": "divide"}[operation])(a, b)
    got = compute(f"{operation}.rn.{kind} {{d}}, {{a}}, {{b}}", kind, a, b)
    assert np.array_equal(got, want, equal_nan=True)


@pytest.mark.parametrize(("test", "value"), [
    ("eq.f32", lambda a, b: a == b), ("neu.f32", lambda a, b: a != b), ("leu.f32", lambda a, b: not a > b),
    ("lt.f32", lambda a, b: a < b), ("ge.f32", lambda a, b: a >= b), ("gt.f64", lambda a, b: a > b),
    ("lt.s32", lambda a, b: a < b), ("lt.u32", lambda a, b: a < b), ("ge.s64", lambda a, b: a >= b),
    ("ne.s16", lambda a, b: a != b),
])  # fmt: skip
def test_comparisons(test, value):
    kind = test.split(".")[1]
    a, b = (_bits(kind, np.random.default_rng(seed)) for seed in (3, 4))
    b[::3] = a[::3]
    instruction = f"setp.{test} %p1, {{a}}, {{b}};\nnot.pred %p2, %p1;\nselp.b32 {{d}}, 5, 6, %p1;\n@%p2 add.s32 {{d}}, {{d}}, 10"
    want = [5 if value(x, y) else 16 for x, y in zip(a.tolist(), b.tolist())]
    assert compute(instruction, "u32", a, b).tolist() == want


def test_lanes_that_part_meet_again():
    body = """setp.lt.u32 %p1, %r8, 3;
    mov.u32 {d}, 0;
    @%p1 bra LOW;
    HIGH:
    add.s32 {d}, {d}, {a};
    sub.s32 {a}, {a}, 1;
    setp.gt.s32 %p2, {a}, 0;
    @%p2 bra HIGH;
    bra.uni END;
    LOW:
    mov.u32 {d}, 1000;
    END:
    add.s32 {d}, {d}, 1"""
    steps = np.arange(1, 33, dtype=np.int32)
    want = [1001] * 3 + [n * (n + 1) // 2 + 1 for n in range(4, 33)]
    assert compute(body, "s32", steps).tolist() == want


def test_registers_of_braces_are_their_own():
    body = "mov.u32 {a}, 7;\n{{\n.reg .b32 {a};\nmov.u32 {a}, 9;\nadd.s32 {d}, {a}, 5;\n}}\nadd.s32 {d}, {d}, {a}"
    assert compute(body, "u32", np.zeros(4, np.uint32)).tolist() == [5 + 9 + 7] * 4


@pytest.mark.parametrize(("line", "says"), [
    ("ex2.approx.f32 %f1, %f2;", "'ex2.approx.f32' is refused: '.approx' has no exact equal on the CPU"),
    ("add.ftz.f32 %f1, %f2, %f3;", "'add.ftz.f32' is refused: '.ftz' has no exact equal"),
    ("div.full.f32 %f1, %f2, %f3;", "'div.full.f32' is refused: '.full' has no exact equal"),
    ("fma.rn.f64 %fd1, %fd2, %fd3, %fd4;", "'fma.rn.f64' is refused: it is not one that the executor knows"),
    ("atom.global.cas.b32 %r1, [%rd1], %r2, %r3;", "'atom.global.cas.b32' is refused"),
    ("bar.sync 1;", "'bar.sync' is refused"), ("bar.sync 0, 64;", "'bar.sync' is refused"),
    ("add.rm.f32 %f1, %f2, %f3;", "'add.rm.f32' is refused"),
    ("mov.u32 %r1, %clock;", "%clock is not declared"), ("mov.u32 %r1, elsewhere;", "the operand 'elsewhere' is not understood"),
])  # fmt: skip
def test_what_is_not_known_is_refused(line, says):
    with pytest.raises(ValueError, match=re.escape(says)) as found:
        _encode(_kernel(f".loc 1 12 5\n{line}"))
    if "refused" in says:
        assert found.type is Unsupported
        assert "line 12" in str(found.value)


@pytest.mark.parametrize(("text", "says"), [
    (f"{HEAD}.func helper()\n", "outside kernels, '.func helper()' is not supported"),
    (_kernel(".branchtargets A, B;"), "the directive '.branchtargets A, B' is not supported"),
    (f"{HEAD}.const .align 4 .f32 T[2] = {{0f00000000, 0f3F800000}};\n", "tables of f32 are not supported"),
    (f"{HEAD}.visible .entry snippet(\n.param .u64 a\n)\n.reqntid 32\n{{\nret;\n}}\n", "before the body of snippet, '.reqntid 32'"),
])  # fmt: skip
def test_what_is_not_understood_is_told(text, says):
    with pytest.raises(ValueError, match=re.escape(says)):
        parse(text)
