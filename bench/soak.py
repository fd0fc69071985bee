"""Long runs: does anything grow, does anything stay behind?

    python -m figureground.bench soak --batches 10000        # memory, file handles, threads of one long run
    python -m figureground.bench soak --cycles 200           # create, iterate, leave, close
    python -m figureground.bench soak --signals 50           # SIGTERM and SIGINT at random times: exit within 5 s, no orphan

Exit code 1 if memory grows by more than 64 MB from the first tenth of a run to its end, or handles or threads grow at all, or a
process does not end in time.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from figureground.bench.given import file_to_write
from figureground.bench.harness import write_json
from figureground.bench.photos import write_photos
from figureground.pipeline import Loader, recipes
from figureground.shards.writer import pack

_LIMIT_MB, _END_S = 64.0, 5.0


def usage() -> tuple[float, int, int]:
    """Return resident memory [MB], open file handles and threads of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6, len(os.listdir("/proc/self/fd")), threading.active_count()


def make_shards(folder: str) -> str:
    """Write 200 small photographs as shards without masks; returns their glob."""
    write_photos(f"{folder}/photos", count=200, long_side=160)
    pack(f"{folder}/photos", f"{folder}/shards", shard_size_mb=1, progress=False)
    return f"{folder}/shards/*.tar"


def _loader(shards: str, **options: Any) -> Loader:
    recipe = recipes.moco_v2(32).with_background("swap")
    return Loader(shards, recipe, batch_size=8, device="cpu", **options)


def long_run(shards: str, batches: int) -> dict[str, Any]:
    """Stream `batches` batches; returns memory, handles and threads over time."""
    samples = []
    with _loader(shards) as loader:
        taken = 0
        while taken < batches:
            for _ in loader:
                taken += 1
                if taken % max(1, batches // 100) == 0:
                    samples.append(usage())
                if taken == batches:
                    break
    table = np.array(samples)
    start = len(table) // 10
    x = np.arange(start, len(table)) * (batches / len(table)) / 1000
    slope = float(np.polyfit(x, table[start:, 0], 1)[0]) if len(x) > 1 else 0.0
    return {
        "batches": batches,
        "memory_mb": [round(float(table[start, 0]), 1), round(float(table[-1, 0]), 1)],
        "memory_mb_per_1000_batches": round(slope, 4),
        "handles": [int(table[start, 1]), int(table[-1, 1])],
        "threads": [int(table[start, 2]), int(table[-1, 2])],
    }


def cycles(shards: str, count: int) -> dict[str, Any]:
    """Make, iterate and close a loader `count` times, leaving the epoch in different ways."""
    samples = []
    for number in range(count):
        loader = _loader(shards, threads=1 + number % 2)
        for taken, _ in enumerate(loader):
            if taken == number % 4:
                break
        if number % 3:
            loader.close()
        del loader
        samples.append(usage())
    start = count // 10
    return {
        "cycles": count,
        "memory_mb": [round(samples[start][0], 1), round(samples[-1][0], 1)],
        "handles": [samples[start][1], samples[-1][1]],
        "threads": [samples[start][2], samples[-1][2]],
    }


def signals(shards: str, count: int) -> dict[str, Any]:
    """Send SIGTERM or SIGINT to a streaming process at a random time, `count` times."""
    code = (
        "import sys\nfrom figureground.bench.soak import _loader\nloader = _loader(sys.argv[1])\nprint('ready', flush=True)\n"
        "while True:\n    for _ in loader:\n        pass\n"
    )
    rng, slowest, late, orphans = random.Random(0), 0.0, 0, 0
    for number in range(count):
        process = subprocess.Popen(
            [sys.executable, "-c", code, shards],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(rng.uniform(0, 1.0))
        began = time.perf_counter()
        process.send_signal((signal.SIGTERM, signal.SIGINT)[number % 2])
        try:
            process.wait(4 * _END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        took = time.perf_counter() - began
        slowest, late = max(slowest, took), late + (took > _END_S)
        process.stdout.close()
        try:
            os.killpg(process.pid, 0)
            orphans += 1
        except ProcessLookupError:
            continue
    return {"signals": count, "slowest_s": round(slowest, 2), "later_than_5_s": late, "orphans": orphans}


def grew(result: Mapping[str, Any]) -> bool:
    """Tell whether a result shows growth or something left behind."""
    if "signals" in result:
        return bool(result["later_than_5_s"] or result["orphans"])
    memory = result["memory_mb"]
    grown = memory[1] - memory[0] > _LIMIT_MB
    return grown or any(result[kind][1] > result[kind][0] for kind in ("handles", "threads"))


def main(argv: Sequence[str] | None = None) -> int:
    """Run what was asked for; returns 1 if anything grew or stayed behind."""
    parser = argparse.ArgumentParser("python -m figureground.bench soak")
    parser.add_argument("--batches", type=int, default=0)
    parser.add_argument("--cycles", type=int, default=0)
    parser.add_argument("--signals", type=int, default=0)
    parser.add_argument("--json", type=file_to_write)
    args = parser.parse_args(argv)
    asked = {name: getattr(args, name) for name in ("batches", "cycles", "signals")}
    if min(asked.values()) < 0 or not any(asked.values()):
        print(f"soak: one of --batches, --cycles and --signals must be at least 1, got {asked}", file=sys.stderr)
        return 2
    document: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        shards = make_shards(folder)
        if args.batches:
            document["long_run"] = long_run(shards, args.batches)
        if args.cycles:
            document["cycles"] = cycles(shards, args.cycles)
        if args.signals:
            document["signals"] = signals(shards, args.signals)
    for name, result in document.items():
        print(f"{name}: {result}")
    write_json(args.json, {"soak": document})
    bad = any(grew(result) for result in document.values())
    return int(bad)


if __name__ == "__main__":
    sys.exit(main())
