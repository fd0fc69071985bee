"""Turn a parsed kernel into the records that `door.cpp` runs: registers become places in a warp's memory.

What the machine does not know is refused by name: nothing is skipped or guessed.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

import numpy as np

from .costs import cost_of
from .parse import WIDTHS, Instruction, Kernel, Module

LINE = 64
RECORD = np.dtype(
    [("op", "i4"), ("guard", "i4"), ("guard_not", "i4"), ("d", "i4", 4), ("s", "i4", 4), ("space", "i4"), ("count", "i4"),
     ("wide", "i4"), ("read_only", "i4"), ("latency", "i4"), ("immediate", "i8")], align=True,
)  # fmt: skip
"""`Instruction` of machine.h."""

SPACES = {"": 0, "global": 1, "shared": 2, "local": 3, "const": 4, "param": 5}
SPECIAL = {f"%{name}.{axis}": (name, k) for name in ("tid", "ctaid", "ntid", "nctaid") for k, axis in enumerate("xyz")}
INEXACT = ("approx", "ftz", "full", "rnd")
_SAME = re.compile(r"^(add|sub|mul\.lo|mad\.lo)\.u(\d\d)$")
_EQUAL = re.compile(r"^setp\.(eq|ne)\.[ub](\d\d)$")
_COPY = re.compile(r"^(mov|selp)\.[usfb](\d\d)$")
_MEMORY = re.compile(
    r"^(ld|st|atom)(?:\.(global|shared|local|const|param))?(\.nc)?(?:\.(add|min|max))?(?:\.v([24]))?\.([usbf]\d+)$"
)


class Unsupported(ValueError):
    """An instruction that the executor does not know."""


@dataclass
class Encoded:
    """A kernel as the machine takes it."""

    kernel: Kernel
    code: np.ndarray
    names: list[str]
    """The PTX name of each record; "" for one that only narrows or widens an operand."""
    registers: np.ndarray
    """A warp's memory at its start."""
    thread_slots: list[int]
    block_slots: list[int]
    size_slots: dict[tuple[str, int], int]
    """Where `%ntid` and `%nctaid` belong."""
    parameter_places: list[tuple[str, int]]
    parameter_bytes: int
    shared: list[tuple[str, int, int]]
    """Name, start and size of the shared arrays; size -1 for the dynamic one, the last."""
    local_bytes: int
    constants: bytes
    lines: list[tuple[str, int]]
    """File and line of each record."""


def shared_layout(kernel: Kernel, module: Module) -> list[tuple[str, int, int]]:
    """Place the shared arrays as ptxas does, one after another, but each 128 bytes further: so that the end of one is no other."""
    used = {symbol for i in kernel.code for o in i.operands for symbol in re.findall(r"[A-Za-z_$][\w$]*", o)}
    own = [v for v in (*kernel.variables, *module.variables) if v.space == "shared" and (v in kernel.variables or v.name in used)]
    found, at = [], 0
    for k, variable in enumerate(sorted(own, key=lambda v: v.size < 0)):
        at = -(-at // variable.align) * variable.align
        found.append((variable.name, at + 128 * k, variable.size))
        at += max(variable.size, 0)
    return found


class Encoder:
    """Encodes one kernel; `known` are the numbers of the machine's operations by name."""

    def __init__(self, kernel: Kernel, module: Module, known: dict[str, int], where: str) -> None:
        self.kernel, self.known, self.where = kernel, known, where
        self.places: dict[str, int] = {}
        self.constant_places: dict[tuple[int, int], int] = {}
        self.initial: list[tuple[int, bytes]] = []
        self.sizes: dict[tuple[str, int], int] = {}
        self.top = 0
        self.records: list[dict[str, object]] = []
        self.names: list[str] = []
        self.lines: list[tuple[str, int]] = []
        self.files = module.files
        self.shared = shared_layout(kernel, module)
        self.shared_names = {name for name, _, _ in self.shared}
        self.symbols = {name: start for name, start, _ in self.shared}
        self.shared_addresses: set[str] = set()  # registers with such: ptxas keeps them in 32 bits
        self.constants, self.local_bytes, self.parameter_bytes = b"", 0, 0
        for v in (*module.variables, *kernel.variables):
            if v.space == "const":
                self.constants = self.constants.ljust(-(-len(self.constants) // v.align) * v.align, b"\0")
                self.symbols[v.name] = len(self.constants)
                self.constants += v.values
            if v.space == "local":
                self.symbols[v.name] = self.local_bytes
                self.local_bytes += -(-v.size // 16) * 16
        self.parameters: list[tuple[str, int]] = []
        for name, kind in kernel.parameters.items():
            size = WIDTHS[kind] // 8
            at = -(-self.parameter_bytes // size) * size
            self.symbols[name], self.parameter_bytes = at, at + size
            self.parameters.append((kind, at))

    def width(self, register: str) -> int:
        """Bits of a register."""
        kind = self.kernel.registers.get(register) or self.kernel.registers.get(register.rstrip("0123456789"))
        if kind is None:
            raise ValueError(f"{self.where}: {register} is not declared")
        return WIDTHS[kind]

    def _room(self, bits: int) -> int:
        at, self.top = self.top, self.top + max(-(-32 * bits // 8 // LINE) * LINE, LINE)
        return at

    def constant(self, value: int, bits: int) -> int:
        """Place of a constant, the same in all lanes."""
        key = value & ((1 << bits) - 1), bits
        if key not in self.constant_places:
            self.constant_places[key] = at = self._room(bits)
            one = key[0].to_bytes(bits // 8, "little") if bits > 1 else (b"\xff\xff\xff\xff" if key[0] else b"\0" * 4)
            self.initial.append((at, one * (32 if bits > 1 else 1)))
        return self.constant_places[key]

    def special(self, name: str) -> int:
        """Place of `%tid.x` and its like."""
        key = SPECIAL[name]
        if key not in self.sizes:
            self.sizes[key] = self._room(32)
        return self.sizes[key]

    def place(self, operand: str, bits: int) -> int:
        """Place of a register or a constant."""
        if operand in SPECIAL:
            return self.special(operand)
        if operand.startswith("%"):
            if operand not in self.places:
                self.places[operand] = self._room(self.width(operand))
            return self.places[operand]
        if operand in self.symbols:
            return self.constant(self.symbols[operand], bits)
        if operand.startswith(("0f", "0d")):
            return self.constant(int(operand[2:], 16), bits)
        try:
            return self.constant(int(operand, 0), bits)
        except ValueError:
            raise ValueError(f"{self.where}: the operand {operand!r} is not understood") from None

    def _refuse(self, i: Instruction) -> Unsupported:
        file = self.files.get(i.file, self.where)
        inexact = [part for part in i.name.split(".") if part in INEXACT]
        why = f"'.{inexact[0]}' has no exact equal on the CPU" if inexact else "it is not one that the executor knows"
        return Unsupported(f"{self.where}: {file}, line {i.line}: the PTX instruction {i.name!r} is refused: {why}")

    def emit(self, i: Instruction, op: str, d: list[int], s: list[int], name: str | None = None, **more: object) -> None:
        """Add a record."""
        if op not in self.known or any(part in INEXACT for part in i.name.split(".")):
            raise self._refuse(i)
        pad = [-1, -1, -1, -1]
        guard = self.place(i.guard, 1) if i.guard else -1
        name = i.name if name is None else name
        if name in ("mov.u64", "add.s64") and any(o in self.shared_addresses or o in self.shared_names for o in i.operands[1:]):
            self.shared_addresses.add(i.operands[0])
            name += " of a shared address"
        record = {"op": self.known[op], "guard": guard, "guard_not": i.guard_not, "d": (d + pad)[:4], "s": (s + pad)[:4]}
        self.records.append(record | {"count": 1, "latency": cost_of(name).latency if name else 0} | more)
        self.names.append(name)
        self.lines.append((self.files.get(i.file, ""), i.line))

    def _source(self, i: Instruction, operand: str, bits: int) -> int:
        """Place of an operand of `bits` bits, taken from the low end of a wider register."""
        if not operand.startswith("%") or operand in SPECIAL or self.width(operand) == bits:
            return self.place(operand, bits)
        narrow = self._room(bits)
        self.emit(i, f"cvt.u{bits}.u{self.width(operand)}", [narrow], [self.place(operand, 0)], name="")
        return narrow

    # ---- instructions ----

    def memory(self, i: Instruction, match: re.Match[str]) -> None:
        """Loads, stores, atomics."""
        what, space, read_only, operation, vector, kind = match.groups()
        address = i.operands[0] if what == "st" else i.operands[1]
        base, offset = re.fullmatch(r"\[([\w$%]+)(?:\+(-?\d+))?\]", address).groups()  # type: ignore[union-attr]
        wide = not base.startswith("%") or self.width(base) == 64
        values = i.operands[1] if what == "st" else i.operands[0]
        registers = [v.strip() for v in values.strip("{}").split(",")]
        bits = WIDTHS[kind]
        widths = {self.width(r) for r in registers if r.startswith("%")} or {max(bits, 16)}
        width = widths.pop()
        exact = kind.replace("f", "u").replace("b", "u") if operation is None else kind
        op = f"{what}.{exact} b{width}" if operation is None else f"atom.{operation}.{kind}"
        sources = [self.place(base, 64)]
        destinations = [self.place(r, width) for r in registers]
        if what == "atom":
            sources.append(self.place(i.operands[2], bits))
        self.emit(i, op, destinations, sources, space=SPACES[space or ""], count=int(vector or 1), wide=wide,
                  read_only=bool(read_only), immediate=int(offset or 0))  # fmt: skip

    def convert(self, i: Instruction) -> None:
        """`cvt` between registers of any width."""
        to, source = i.name.split(".")[-2:]
        widened, taken = self.width(i.operands[0]), self._source(i, i.operands[1], WIDTHS[source])
        name = i.name
        if to[0] in "us" and source[0] in "us":  # between integers: the source's sign decides, then the width
            same = WIDTHS[to] == WIDTHS[source]
            sign = source[0] if WIDTHS[to] > WIDTHS[source] else "u"
            name = f"mov.b{WIDTHS[to]}" if same else f"cvt.{sign}{WIDTHS[to]}.{sign}{WIDTHS[source]}"
        if WIDTHS[to] == widened:
            self.emit(i, name, [self.place(i.operands[0], 0)], [taken])
        else:
            narrow = self._room(WIDTHS[to])
            self.emit(i, name, [narrow], [taken])
            self.emit(i, f"cvt.{to[0]}{widened}.{to}", [self.place(i.operands[0], 0)], [narrow], name="")

    def plain(self, i: Instruction) -> None:
        """Everything whose operands are registers and constants."""
        name = _COPY.sub(r"\1.b\2", _EQUAL.sub(r"setp.\1.s\2", _SAME.sub(r"\1.s\2", i.name)))
        bits = WIDTHS.get(i.name.split(".")[-1], 32)
        target, *sources = i.operands or ("",)
        if name == "mov.b32" and sources[0].startswith("{"):
            name, sources, bits = "pack.b32", [s.strip() for s in sources[0].strip("{}").split(",")], 16
        if name not in self.known:
            raise self._refuse(i)
        targets = [t.strip() for t in target.split("|")]
        of = [bits] * len(sources)
        if name.startswith(("shl", "shr")):
            of[1] = 32
        elif name.startswith("selp"):
            of[2] = 1
        elif name.startswith("mad.wide"):
            of[2] = 2 * bits
        elif name.startswith("bfi"):
            of[2:] = [32, 32]
        elif name.startswith(("vote", "shfl", "match", "redux")):
            of = [32] * len(sources)
        places = [self.place(s, b) for s, b in zip(sources, of, strict=True)]
        self.emit(i, name, [self.place(t, bits) for t in targets], places)

    def instruction(self, i: Instruction) -> None:
        """Encode one."""
        memory = _MEMORY.match(i.name)
        if i.name in ("bra", "bra.uni"):
            self.emit(i, "bra", [], [], immediate=self.kernel.labels[i.operands[0]])
        elif i.name == "ret":
            self.emit(i, "ret", [], [])
        elif i.name.startswith(("bar.sync", "bar.red")):
            number = 0 if i.name == "bar.sync" else 1
            if i.operands[number] != "0" or len(i.operands) != 1 + 2 * number:
                raise self._refuse(i)
            targets = [self.place(i.operands[0], 32)] if number else []
            self.emit(i, i.name, targets, [self.place(i.operands[2], 1)] if number else [])
        elif i.name == "bar.warp.sync":
            self.emit(i, i.name, [], [self.place(i.operands[0], 32)])
        elif i.name.startswith("cvta"):
            space = i.name.split(".")[-2]
            op = "mov.b64" if "to" in i.name.split(".") and space == "global" else f"cvta.{space}"
            self.emit(i, op, [self.place(i.operands[0], 64)], [self.place(i.operands[1], 64)])
        elif memory:
            self.memory(i, memory)
        elif i.name.startswith("cvt."):
            self.convert(i)
        else:
            self.plain(i)

    def encode(self) -> Encoded:
        """Encode all; jumps go to records, not to PTX lines."""
        first = []
        for i in self.kernel.code:
            first.append(len(self.records))
            self.instruction(i)
        first.append(len(self.records))
        code = np.zeros(len(self.records), RECORD)
        for row, record in zip(code, self.records):
            for name, value in record.items():
                row[name] = value
        jumps = code["op"] == self.known["bra"]
        code["immediate"][jumps] = np.array(first)[code["immediate"][jumps]]
        registers = np.full(self.top, 0xA5, np.uint8)
        for at, data in self.initial:
            registers[at : at + len(data)] = np.frombuffer(data, np.uint8)
        slots = [[self.sizes.get((name, k), -1) for k in range(3)] for name in ("tid", "ctaid")]
        return Encoded(
            self.kernel, code, self.names, registers, slots[0], slots[1], self.sizes, self.parameters,
            max(self.parameter_bytes, 1), self.shared, self.local_bytes, self.constants, self.lines,
        )  # fmt: skip


def pack_parameters(encoded: Encoded, values: list[bytes]) -> bytes:
    """Lay the arguments of a launch out as the kernel reads them."""
    buffer = bytearray(encoded.parameter_bytes)
    for (kind, at), value in zip(encoded.parameter_places, values, strict=True):
        struct.pack_into(f"{WIDTHS[kind] // 8}s", buffer, at, value)
    return bytes(buffer)
