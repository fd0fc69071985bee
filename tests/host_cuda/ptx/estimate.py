"""From the counts of a launch to the time it would take on a Hopper GPU: an estimate, made of bounds, never a measurement.

    time of a launch = the longest of: instructions issued, each pipe, shared memory's banks, L1, L2, DRAM, and the blocks one after
                       another where too few fit on the GPU to hide their latencies; plus the start of a launch
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from .costs import PIPES, cost_of
from .run import FIELDS, Watched

START_US = 1.5
"""From the end of a launch to the begin of the next one of the same stream."""
RUNS, LANES, SECTORS, USEFUL, MISSES, FIRST, WAVES, LEAST_WAVES, CYCLES = range(len(FIELDS))


@dataclass(frozen=True)
class Gpu:
    """What bounds a kernel."""

    sms: int = 132
    ghz: float = 1.75
    dram_gb_s: float = 4300.0
    """What a copy reaches, not the data sheet's peak."""
    registers: int = 65536
    shared: int = 228 * 1024
    warps: int = 64


H200, H100 = Gpu(), Gpu(dram_gb_s=3000.0)


def resident_blocks(gpu: Gpu, threads: int, registers: int, shared: int) -> int:
    """Blocks that an SM holds at once; 32 at most.

    Examples
    --------
    >>> resident_blocks(H200, 256, 64, 17608), resident_blocks(H200, 1024, 64, 0)
    (4, 1)
    """
    warps = -(-threads // 32)
    by_registers = gpu.registers // (-(-registers // 8) * 8 * 32 * warps)
    return max(min(32, gpu.warps // warps, by_registers, gpu.shared // (shared + 1024)), 1)


def instruction_costs(watched: Watched) -> tuple[np.ndarray, list[str], list[str]]:
    """Slots, pipe and class of each record."""
    costs = [cost_of(name) if name else None for name in watched.encoded.names]
    slots = np.array([c.slots if c else 0.0 for c in costs])
    return slots, [c.pipe if c else "int" for c in costs], [c.kind if c else "int" for c in costs]


def summarise(watched: Watched, *, scale: float, registers: int, gpu: Gpu = H200) -> dict[str, float | str]:
    """Counts, bounds [us] and the estimate of one launch whose blocks are `scale` times as many.

    Parameters
    ----------
    watched : Watched
    scale : float
        Blocks of the launch that is meant, over those of the one that was run.
    registers : int
        Of a thread.
    gpu : Gpu
    """
    counts = watched.counts.astype(float)
    slots, pipes, kinds = instruction_costs(watched)
    work = counts[:, RUNS] * slots
    cycle_us = 1e-3 / gpu.ghz
    per_sm = scale * cycle_us / gpu.sms
    total = counts.sum(0)
    busy = {pipe: sum(w for w, p in zip(work, pipes) if p == pipe) * cycles for pipe, cycles in PIPES.items()}
    bounds = {"issue": work.sum() / 4 * per_sm} | {pipe: cycles * per_sm for pipe, cycles in busy.items()}
    bounds["shared"] = max(bounds["shared"], total[WAVES] * per_sm)
    bounds["L1"] = total[SECTORS] / 4 * per_sm
    bounds["L2"] = total[MISSES] / 2 * per_sm
    bounds["DRAM"] = total[FIRST] * 32 * scale / (gpu.dram_gb_s * 1e3)
    blocks = len(watched.clocks) * scale
    threads = int(np.prod(watched.block))
    at_once = gpu.sms * resident_blocks(gpu, threads, registers, watched.shared)
    mean, longest = float(watched.clocks.mean()), float(watched.clocks.max())
    bounds["latency"] = max(blocks / at_once * mean, longest * math.ceil(min(blocks / at_once, 1))) * cycle_us
    limit = max(bounds, key=lambda name: bounds[name])
    by_kind = {kind: sum(w for w, k in zip(work, kinds) if k == kind) * scale for kind in sorted(set(kinds))}
    return {
        "kernel": watched.name,
        "blocks": round(blocks),
        "us": round(bounds[limit] + START_US, 2),
        "limit": limit,
        **{f"us_{name}": round(value, 2) for name, value in bounds.items()},
        **{f"slots_{kind}": round(value) for kind, value in by_kind.items()},
        "lanes": round(total[LANES] / max(total[RUNS], 1), 1),
        "sectors": round(total[SECTORS] * scale),
        "sectors_over_ideal": round(total[SECTORS] * 32 / total[USEFUL], 2) if total[USEFUL] else 1.0,
        "bytes": round(total[FIRST] * 32 * scale),
        "bank_passes_over_least": round(total[WAVES] / total[LEAST_WAVES], 2) if total[LEAST_WAVES] else 1.0,
    }


def hot_lines(watched: Watched, most: int) -> list[tuple[str, Mapping[str, float]]]:
    """The source lines that take the most issue slots and cycles of a warp, with their shares of these and of memory's work."""
    slots, _, _ = instruction_costs(watched)
    found: dict[str, np.ndarray] = {}
    for (file, line), row, cost in zip(watched.encoded.lines, watched.counts.astype(float), slots):
        here = found.setdefault(f"{file}:{line}", np.zeros(5))
        here += [row[RUNS] * cost, row[CYCLES], row[SECTORS], row[WAVES], row[WAVES] - row[LEAST_WAVES]]
    total = np.maximum(sum(found.values()), 1)  # type: ignore[arg-type]
    rows = sorted(found.items(), key=lambda item: -item[1][0] - item[1][1])[:most]
    names = ("slots", "cycles", "sectors", "bank passes", "bank conflicts")
    return [(place, dict(zip(names, (100 * values / total).round(1).tolist()))) for place, values in rows]
