"""Profile of the kernels' PTX without a GPU: instructions, sectors, bank conflicts, divergence, and an estimate of the time.

    PYTHONPATH=build/typing:tests python tests/host_cuda/ptx/profile.py --profile [--only TEXT] [--views 4] [--lines 12] [--json PATH]

The cases are those of `figureground.bench kernels`, with few views, counted up to 256. Times are bounds of a model (estimate.py),
not measurements: a real GPU may be slower, and where it is, this table says what to look at.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from host_cuda.guarded import poisoned
from host_cuda.ptx.estimate import H100, H200, hot_lines, summarise
from host_cuda.ptx.executor import PtxExecutor
from host_cuda.ptx.run import Watched
from host_cuda.stand_in import HostModule, in_place_of_launch

BATCH = 256
BUDGET = Path(__file__).resolve().parents[2] / "cuda_budget.json"
COLUMNS = ("us", "limit", "lanes", "sectors_over_ideal", "bank_passes_over_least", "MB")


def watch(run: Callable[[], Any], executor: PtxExecutor) -> list[Watched]:
    """Run a case; give what its launches did."""
    found: list[Watched] = []
    executor.watch = found.append
    run()
    executor.watch = None
    return found


def cases(views: int) -> tuple[Any, dict[str, Any]]:
    """The cases of the bench on the executor's arrays."""
    from figureground.bench import kernels

    module = HostModule("cupy")
    module.asarray = lambda values, *_: poisoned(np.asarray(values), "end")
    return kernels, kernels.make_cases(module, views)


def profile(only: str, views: int, lines: int) -> dict[str, Any]:
    """Run the cases whose names have `only` in them, print tables, give the numbers."""
    registers = {name: limits["registers"] for name, limits in json.loads(BUDGET.read_text()).items()}
    executor = PtxExecutor(checks=False)
    document: dict[str, Any] = {}
    import figureground.bench.kernels  # noqa: F401 (what is loaded now is patched)

    with in_place_of_launch(executor.launch, host_module=True, dispatch=True):
        _, found = cases(views)
        for name, case in found.items():
            if only not in name:
                continue
            began = time.perf_counter()
            try:
                launches = watch(case.run, executor)
            except (RuntimeError, TypeError, ValueError, AttributeError) as error:
                print(f"{name}: not profiled: {error}")
                continue
            rows = [summarise(w, scale=BATCH / views, registers=registers.get(w.name, 64)) for w in launches]
            on_h100 = sum(
                float(summarise(w, scale=BATCH / views, registers=registers.get(w.name, 64), gpu=H100)["us"]) for w in launches
            )
            total = sum(float(r["us"]) for r in rows)
            floor = case.moved * BATCH / views
            document[name] = {"us_h200": round(total, 1), "us_h100": round(on_h100, 1), "floor_bytes": floor, "launches": rows}
            share = floor / (H200.dram_gb_s * 1e3) / total if total else 0.0
            print(f"\n{name}: {total:.1f} us on an H200, {on_h100:.1f} on an H100 (estimates, {BATCH} views); floor {floor / 1e6:.1f} MB,"
                  f" {100 * share:.0f} % of copy; {time.perf_counter() - began:.1f} s")  # fmt: skip
            for row, w in zip(rows, launches):
                row["MB"] = round(float(row["bytes"]) / 1e6, 1)
                bounds = ", ".join(f"{k[3:]} {v:.1f}" for k, v in row.items() if k.startswith("us_") and float(v) >= 0.2)
                print(f"  {w.name:32} " + "  ".join(f"{c} {row[c]}" for c in COLUMNS) + f"  [{bounds}]")
                for place, shares in hot_lines(w, lines):
                    print(f"      {place:34} " + "  ".join(f"{k} {v} %" for k, v in shares.items() if v))
    return document


def main(argv: list[str] | None = None) -> int:
    """Parse, profile, write; returns the exit code."""
    parser = argparse.ArgumentParser("ptx profile", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--profile", action="store_true", help="what this tool does anyway")
    parser.add_argument("--only", default="", help="cases with this text in their names")
    parser.add_argument("--views", type=int, default=4, help="views a case is run with")
    parser.add_argument("--lines", type=int, default=0, help="hottest source lines of each kernel")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(argv)
    document = profile(args.only, args.views, args.lines)
    print(f"\ngpu: {H200} (H200)")
    if args.json:
        args.json.write_text(json.dumps(document, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
