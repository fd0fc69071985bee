"""One launch: its memory as the machine sees it, its faults in words, its counts."""

from __future__ import annotations

import ctypes
import re
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from host_cuda.guarded import Guarded, alive

from .encode import Encoded, pack_parameters

FIELDS = ("runs", "lanes", "sectors", "useful", "misses", "first", "waves", "least_waves", "cycles")
POISON, CELL_BYTES, SECTOR, BARRIER_LATENCY = 0xA5, 36, 32, 20
BUDGET = 1 << 26
"""Instructions that a warp may run between two barriers before a kernel counts as endless."""


class _Region(ctypes.Structure):
    _fields_ = (("start", ctypes.c_uint64), ("size", ctypes.c_uint64), ("cells", ctypes.c_void_p), ("known", ctypes.c_void_p),
                ("touched", ctypes.c_void_p), ("writable", ctypes.c_int32))  # fmt: skip


class _Variable(ctypes.Structure):
    _fields_ = (("start", ctypes.c_uint64), ("size", ctypes.c_uint64))


class _Launch(ctypes.Structure):
    _fields_ = (
        ("code", ctypes.c_void_p), ("instructions", ctypes.c_int32), ("register_bytes", ctypes.c_int32),
        ("threads", ctypes.c_int32), ("order", ctypes.c_int32), ("checks", ctypes.c_int32), ("entry_local", ctypes.c_int32),
        ("grid", ctypes.c_uint32 * 3), ("block", ctypes.c_uint32 * 3), ("seed", ctypes.c_uint64),
        ("registers", ctypes.c_void_p), ("thread_slots", ctypes.c_int32 * 3), ("block_slots", ctypes.c_int32 * 3),
        ("barrier_latency", ctypes.c_int32), ("skips", ctypes.c_int32), ("regions", ctypes.c_void_p),
        ("region_count", ctypes.c_int32), ("variable_count", ctypes.c_int32), ("variables", ctypes.c_void_p),
        ("shared", ctypes.c_void_p), ("shared_bytes", ctypes.c_uint64), ("constants", ctypes.c_void_p),
        ("constant_bytes", ctypes.c_uint64), ("parameters", ctypes.c_void_p), ("counts", ctypes.c_void_p),
        ("clocks", ctypes.c_void_p), ("skipped", ctypes.c_void_p), ("budget", ctypes.c_int64),
    )  # fmt: skip


class Fresh:
    """Memory of `empty`: which of its bytes a kernel, or the host, has given a value."""

    def __init__(self) -> None:
        self._known: dict[int, np.ndarray] = {}

    def add(self, array: np.ndarray) -> None:
        """Watch a new array for as long as it lives."""
        if array.nbytes:
            self._known[array.ctypes.data] = np.zeros(array.nbytes, np.uint8)
            weakref.finalize(array, self._known.pop, array.ctypes.data, None)

    def known(self, start: int, stop: int) -> np.ndarray | None:
        """Flags of the bytes from `start` to `stop`, to be kept up by the machine; None: all have values."""
        for first, flags in self._known.items():
            if first <= start and stop <= first + len(flags):
                part = flags[start - first : stop - first]
                part |= np.ctypeslib.as_array((ctypes.c_uint8 * len(part)).from_address(start)) != POISON  # by the host
                return part
        return None


@dataclass(frozen=True)
class Watched:
    """What a launch did."""

    name: str
    encoded: Encoded
    grid: tuple[int, ...]
    block: tuple[int, ...]
    shared: int
    """Of a block, static and dynamic [bytes]."""
    counts: np.ndarray
    """(instructions, FIELDS)."""
    clocks: np.ndarray
    """Cycles that each block takes alone, without waiting for others."""


class Run:
    """Prepares a launch and runs it."""

    def __init__(
        self,
        encoded: Encoded,
        args: Sequence[Any],
        guarded: Guarded,
        fresh: Fresh,
        checks: bool,
        count: bool,
        others: Iterable[tuple[int, int]] = (),
    ) -> None:
        self.encoded, self.checks, self.guarded = encoded, checks, guarded
        self._keep: list[Any] = []
        spans = list(zip(guarded.spans, guarded.regions))
        known = {region.address: fresh.known(span[0], span[1]) for span, region in spans if region.size}
        own = {region.address for _, region in spans}
        arrays = [(r.address, r.size, ", ".join(f"args[{i}]" for i in span[3]), span[2]) for span, r in spans]
        by_address = dict([*others, *alive()])
        arrays += [(at, size, "an array that is read by address", False) for at, size in by_address.items() if at not in own]
        arrays = sorted(a for a in arrays if a[1])
        self.names = [name for _, _, name, _ in arrays]
        self.regions = (_Region * max(len(arrays), 1))()
        for k, (at, size, _, written) in enumerate(arrays):
            cells = self._zeros(size * CELL_BYTES) if written and checks else None
            touched = self._zeros(4 * (size // SECTOR + 2)) if count else None
            flags = known.get(at) if checks else None
            self._keep.append(flags)
            self.regions[k] = _Region(at, size, cells, None if flags is None else flags.ctypes.data, touched, written)
        self.region_count = len(arrays)
        values = [_bytes_of(value, guarded) for value in args]
        self.parameters = np.frombuffer(pack_parameters(encoded, values), np.uint8)
        self.counts = np.zeros((len(encoded.code), len(FIELDS)), np.uint64) if count else None

    def _zeros(self, size: int) -> int:
        made = np.zeros(max(size, 1), np.uint8)
        self._keep.append(made)
        return int(made.ctypes.data)

    def go(self, machine: ctypes.CDLL, where: str, setup: Any, order: int, seed: int, skipped_line: int) -> None:
        """Run all blocks; a fault is a `RuntimeError`."""
        encoded = self.encoded
        self.grid, self.block = tuple(setup.grid), tuple(setup.block)
        variables = [(start, setup.shared if size < 0 else size) for _, start, size in encoded.shared]
        self.shared = sum(size for _, size in variables)
        shared = np.zeros(max([start + size for start, size in variables], default=0) + 16, np.uint8)
        places = (_Variable * max(len(variables), 1))(*variables)
        registers = encoded.registers.copy()
        for (name, axis), at in encoded.size_slots.items():
            if name in ("ntid", "nctaid"):
                registers[at : at + 128].view(np.uint32)[:] = (self.block if name == "ntid" else self.grid)[axis]
        skipped = np.array([k for k, (_, line) in enumerate(encoded.lines) if line == skipped_line and skipped_line], np.int32)
        skipped = skipped[[encoded.names[k].startswith("bar.") for k in skipped]] if len(skipped) else skipped
        constants = np.frombuffer(encoded.constants or b"\0", np.uint8)
        self.clocks = np.zeros(int(np.prod(self.grid)), np.int64)
        launch = _Launch(
            encoded.code.ctypes.data, len(encoded.code), len(registers), int(np.prod(self.block)), order, self.checks,
            encoded.local_bytes, setup.grid, setup.block, seed, registers.ctypes.data,
            (ctypes.c_int32 * 3)(*encoded.thread_slots), (ctypes.c_int32 * 3)(*encoded.block_slots),
            BARRIER_LATENCY, len(skipped), ctypes.addressof(self.regions), self.region_count, len(variables),
            ctypes.addressof(places), shared.ctypes.data, len(shared), constants.ctypes.data, len(encoded.constants),
            self.parameters.ctypes.data, None if self.counts is None else self.counts.ctypes.data,
            None if self.counts is None else self.clocks.ctypes.data, skipped.ctypes.data, BUDGET,
        )  # fmt: skip
        error, place = ctypes.create_string_buffer(512), (ctypes.c_uint32 * 4)()
        at = machine.ptx_run(ctypes.byref(launch), error, 512, place)
        if at >= 0:
            x, y, z, thread = place
            message = f"{self.explain(error.value.decode())} ({self.line(at)}, block {x},{y},{z} thread {thread})"
            raise RuntimeError(f"{where}: {message}")

    def line(self, at: int) -> str:
        """Where an instruction comes from."""
        file, line = self.encoded.lines[min(at, len(self.encoded.lines) - 1)]
        return f"{file}, line {line}"

    def explain(self, message: str) -> str:
        """Put names in the places of numbers."""
        message = re.sub(r"\{line (\d+)\}", lambda m: self.line(int(m[1])), message)
        return re.sub(r"\{(\d+)\}", lambda m: self.names[int(m[1])], message)

    def watched(self, name: str) -> Watched:
        """The counts of the launch."""
        assert self.counts is not None
        return Watched(name, self.encoded, self.grid, self.block, self.shared, self.counts, self.clocks)


def _bytes_of(value: Any, guarded: Guarded) -> bytes:
    if isinstance(value, np.ndarray):
        return guarded.address(value).to_bytes(8, "little") if value.size else b"\0" * 8
    return bytes(value.tobytes())
