"""Read the PTX that NVRTC writes: kernels, their memory and their instructions.

PTX ISA 9.0, as far as these kernels need it: entry functions without calls. What is not understood is a `ValueError`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

WIDTHS = {"b8": 8, "u8": 8, "s8": 8, "b16": 16, "u16": 16, "s16": 16, "b32": 32, "u32": 32, "s32": 32, "f32": 32,
          "b64": 64, "u64": 64, "s64": 64, "f64": 64, "pred": 1}  # fmt: skip
"""Bits of a type."""

_VARIABLE = re.compile(
    r"(?:\.visible |\.extern )*\.(shared|const|global|local) \.align (\d+) \.(\w+)\s+([\w$%.]+)(?:\[(\d*)\])?(?:\s*=\s*(.*))?$"
)
_REGISTERS = re.compile(r"\.reg \.(\w+)\s+(%\w+)(?:<(\d+)>)?$")
_PARAMETER = re.compile(r"\.param \.(\w+)(?: \.ptr.*?)? (\w+)$")
_LOCATION = re.compile(r"\.loc\s+(\d+) (\d+)")
_INSTRUCTION = re.compile(r"(?:@(!?)(%\w+)\s+)?([a-z][\w.:]*)\s*(.*)$", re.DOTALL)


@dataclass(frozen=True)
class Variable:
    """A variable in shared, constant or local memory; size -1: as much as the launch says."""

    name: str
    space: str
    align: int
    size: int
    values: bytes = b""


@dataclass(frozen=True)
class Instruction:
    """One instruction: its name with all suffixes, its operands as they are written, the place in the source."""

    name: str
    operands: tuple[str, ...]
    guard: str = ""
    guard_not: bool = False
    file: int = 0
    line: int = 0


@dataclass
class Kernel:
    """An entry function."""

    name: str
    parameters: dict[str, str] = field(default_factory=dict)
    """Types by name, in order."""
    registers: dict[str, str] = field(default_factory=dict)
    """Types by the name without its number."""
    variables: list[Variable] = field(default_factory=list)
    code: list[Instruction] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)
    threads: int = 0
    """`__launch_bounds__`, 0 without."""
    scopes: list[dict[str, str]] = field(default_factory=list)
    """New names of the registers of the braces that are open."""


@dataclass
class Module:
    """What one source became."""

    kernels: dict[str, Kernel]
    variables: list[Variable]
    files: dict[int, str]


def _variable(text: str) -> Variable:
    match = _VARIABLE.match(text)
    if match is None:
        raise ValueError(f"PTX: a variable must be a plain array, got {text!r}")
    space, align, kind, name, length, values = match.groups()
    size = WIDTHS[kind] // 8
    if space == "global":
        return Variable(name, space, int(align), size)  # a constant of the source; no kernel may use its address
    if values and kind != "b8":
        raise ValueError(f"PTX: tables of {kind} are not supported, got {text!r}")
    if length is not None:
        size = size * int(length) if length else -1
    found = bytes(int(v) for v in values.strip("{} ").split(",")) if values else b""
    return Variable(name, space, int(align), size, found.ljust(max(size, 0), b"\0") if space == "const" else b"")


def _operands(text: str) -> tuple[str, ...]:
    """Split at commas outside braces and brackets."""
    return tuple(part.strip() for part in re.split(r",(?![^{\[]*[}\]])", text) if part.strip())


def _statements(text: str) -> list[str]:
    """Split into lines of their own: directives, labels, and instructions without their semicolon."""
    found: list[str] = []
    for line in re.sub(r"//[^\n]*|/\*.*?\*/", "", text, flags=re.DOTALL).splitlines():
        rest = line.strip()
        while rest:
            label = re.match(r"(\$?[\w$]+:)\s*(?!:)", rest)
            piece = label[1] if label else rest
            if not label and ";" in rest:
                piece = rest[: rest.index(";") + 1]
            found.append(piece.strip())
            rest = rest[len(label[0]) if label else len(piece) :].strip()
    return found


def _body_line(kernel: Kernel, text: str, place: tuple[int, int]) -> None:
    if text.endswith(":"):
        kernel.labels[text[:-1]] = len(kernel.code)
        return
    text = text.rstrip(";").strip()
    registers = _REGISTERS.match(text)
    for scope in kernel.scopes:
        for old, new in scope.items():
            text = re.sub(rf"{old}\b", new, text)
    if text == "{":
        kernel.scopes.append({})
    elif registers and kernel.scopes:
        new = f"{registers[2]}_{len(kernel.registers)}"
        kernel.scopes[-1][registers[2]] = new
        kernel.registers[new] = registers[1]
    elif registers:
        kernel.registers[registers[2]] = registers[1]
    elif re.match(r"\.(shared|local) ", text):
        kernel.variables.append(_variable(text))
    elif text.startswith(".pragma"):
        pass
    elif text.startswith("."):
        raise ValueError(f"PTX: the directive {text!r} is not supported")
    else:
        match = _INSTRUCTION.match(text)
        if match is None:
            raise ValueError(f"PTX: {text!r} is no instruction")
        kernel.code.append(Instruction(match[3], _operands(match[4]), match[2] or "", match[1] == "!", *place))


def parse(text: str) -> Module:
    """Read a module.

    Raises
    ------
    ValueError
        If something in it is not understood.
    """
    module, kernel, inside = Module({}, [], {}), None, False
    place = (0, 0)
    for line in _statements(text):
        location = _LOCATION.match(line)
        if location:
            place = (int(location[1]), int(location[2]) or place[1])  # 0: the compiler's own, beside the line before
        elif line.startswith(".file"):
            number, name = re.match(r'\.file\s+(\d+) "(.*?)"', line).groups()  # type: ignore[union-attr]
            module.files[int(number)] = name.rsplit("/", 1)[-1]
        elif line.startswith(".section"):
            break  # line tables: behind the last kernel
        elif kernel is None:
            entry = re.match(r"\.visible \.entry (\w+)\(?", line)
            if entry:
                kernel = module.kernels.setdefault(entry[1], Kernel(entry[1]))
            elif re.match(r"(\.\w+ )*\.(shared|const|global) ", line):
                module.variables.append(_variable(line.rstrip(";")))
            elif not re.match(r"\.(version|target|address_size)\b", line):
                raise ValueError(f"PTX: outside kernels, {line!r} is not supported")
        elif not inside:
            parameter = _PARAMETER.match(line.rstrip(",)"))
            bounds = re.match(r"\.maxntid (\d+), (\d+), (\d+)", line)
            if parameter:
                kernel.parameters[parameter[2]] = parameter[1]
            elif bounds:
                kernel.threads = int(bounds[1]) * int(bounds[2]) * int(bounds[3])
            elif line == "{":
                inside = True
            elif line not in ("(", ")") and not line.startswith(".minnctapersm"):
                raise ValueError(f"PTX: before the body of {kernel.name}, {line!r} is not supported")
        elif line == "}" and kernel.scopes:
            kernel.scopes.pop()
        elif line == "}":
            kernel, inside, place = None, False, (0, 0)
        else:
            _body_line(kernel, line, place)
    return module
