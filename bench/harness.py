"""Measure honestly on a noisy machine: interleaved rounds, medians with their spread, CPU time beside wall time.

Everything that is compared runs in turn within each round, so that a drift of the machine's speed hits all alike; quote ratios.
"""

from __future__ import annotations

import importlib.metadata
import json
import multiprocessing
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Timing:
    """Per-image costs of one case over the rounds."""

    wall_ms: list[float]
    """Wall milliseconds an image, one value a round."""
    cpu_ms: list[float]
    """CPU milliseconds an image of the whole process (all threads) and its workers, one value a round."""

    def summary(self) -> dict[str, float]:
        """Return medians, the spread (interquartile range) and images/s."""
        wall, cpu = np.median(self.wall_ms), np.median(self.cpu_ms)
        low, high = np.percentile(self.cpu_ms, [25, 75])
        return {
            "wall_ms": round(float(wall), 4),
            "cpu_ms": round(float(cpu), 4),
            "cpu_ms_iqr": round(float(high - low), 4),
            "images_per_s": round(1e3 / float(wall), 1),
        }


def cpu_seconds() -> float:
    """Return the CPU seconds spent so far by this process and by its live worker processes (Linux: in ticks of 10 ms)."""
    spent = time.process_time()
    for child in multiprocessing.active_children():
        fields = _lines(f"/proc/{child.pid}/stat")
        if fields:  # after the name in brackets: state, then 10 numbers, then user and system ticks
            ticks = fields[0].rpartition(")")[2].split()[11:13]
            spent += sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")
    return spent


def measure(cases: Mapping[str, Callable[[], int]], *, rounds: int, warm_up: int = 1) -> dict[str, Timing]:
    """Run each case once per round, in turn.

    Parameters
    ----------
    cases : mapping of name to callable
        A callable does its work once and returns the number of images that it handled.
    rounds : int
        Counted rounds.
    warm_up : int
        Rounds that are not counted (compilation, caches).

    Returns
    -------
    dict of Timing by name

    Examples
    --------
    >>> timings = measure({"sum": lambda: sum(range(100)) and 10}, rounds=3)
    >>> len(timings["sum"].wall_ms)
    3
    """
    timings = {name: Timing([], []) for name in cases}
    for number in range(warm_up + rounds):
        for name, case in cases.items():
            wall, cpu = time.perf_counter(), cpu_seconds()
            images = case()
            wall, cpu = time.perf_counter() - wall, cpu_seconds() - cpu
            if number >= warm_up:
                timings[name].wall_ms.append(1e3 * wall / images)
                timings[name].cpu_ms.append(1e3 * cpu / images)
    return timings


def machine() -> dict[str, Any]:
    """Return what the numbers were measured on: processor, GPU and driver if any, versions, commit, date."""
    versions = {}
    for name in (
        "numpy",
        "numba",
        "torch",
        "nvidia-dali-cuda130",
        "nvidia-dali-cuda120",
        "cupy-cuda13x",
        "cupy-cuda12x",
        "kornia",
        "torchvision",
        "webdataset",
        "opencv-python-headless",
        "pillow",
        "isal",
        "spdl",
    ):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    model = next((line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), "")
    return {
        "date": time.strftime("%Y-%m-%d"),
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "gpu": _output("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader") or None,
        "commit": _output("git", "-C", str(Path(__file__).resolve().parent), "rev-parse", "--short", "HEAD") or None,
        "versions": versions,
    }


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).is_file() else []


def _output(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def print_table(rows: Mapping[str, Mapping[str, Any]], *, title: str) -> None:
    """Print one line per row with its columns aligned."""
    columns = list(dict.fromkeys(c for row in rows.values() for c in row))
    width = max([len(name) for name in rows] + [len(title)])
    print(f"{title:<{width}}  " + "  ".join(f"{c:>12}" for c in columns))
    for name, row in rows.items():
        cells = [{True: "yes", False: "NO"}.get(v, v) if isinstance(v := row.get(c, ""), bool) else v for c in columns]
        print(f"{name:<{width}}  " + "  ".join(f"{'' if cell is None else cell:>12}" for cell in cells))


def write_json(path: str | Path | None, document: Mapping[str, Any]) -> None:
    """Write a result, with the machine it was measured on, to a file; nothing without a path."""
    if path is None:
        return
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(json.dumps({"machine": machine(), **document}, indent=2) + "\n")
    print(f"wrote {path}", file=sys.stderr)
