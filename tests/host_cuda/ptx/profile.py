"""Profile of the kernels' PTX without a GPU: instructions, sectors, bank conflicts, divergence, and an estimate of the time.

    PYTHONPATH=build/typing:tests python tests/host_cuda/ptx/profile.py [--only TEXT] [--views 4] [--lines 12] [--json PATH]

The cases are those of `figureground.bench kernels`, with few views, counted up to 256. Times are bounds of a model (estimate.py),
not measurements: a real GPU may be slower, and where it is, this table says what to look at.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

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


def cases(views: int) -> dict[str, Any]:
    """The cases of the bench on the executor's arrays."""
    from figureground.bench import kernels

    return kernels.make_cases(HostModule("cupy"), views)


def _report(name: str, launches: list[Watched], moved: float, scale: float, lines: int) -> dict[str, Any]:
    """Print one case; give its numbers."""
    registers = {kernel: limits["registers"] for kernel, limits in json.loads(BUDGET.read_text()).items()}
    rows, others = (
        [summarise(w, scale=scale, registers=registers.get(w.name, 64), gpu=gpu) for w in launches] for gpu in (H200, H100)
    )
    total, on_h100 = (sum(float(row["us"]) for row in of) for of in (rows, others))
    share = moved / (H200.dram_gb_s * 1e3) / total if total else 0.0
    print(f"\n{name}: {total:.1f} us on an H200, {on_h100:.1f} on an H100 (estimates, {BATCH} views); ", end="")
    print(f"floor {moved / 1e6:.1f} MB, {100 * share:.0f} % of copy")
    for row, watched in zip(rows, launches, strict=True):
        row["MB"] = round(float(row["bytes"]) / 1e6, 1)
        bounds = ", ".join(f"{k[3:]} {v:.1f}" for k, v in row.items() if k.startswith("us_") and float(v) >= 0.2)
        print(f"  {watched.name:32} " + "  ".join(f"{column} {row[column]}" for column in COLUMNS) + f"  [{bounds}]")
        for place, shares in hot_lines(watched, lines):
            print(f"      {place:34} " + "  ".join(f"{k} {v} %" for k, v in shares.items() if v))
    return {"us_h200": round(total, 1), "us_h100": round(on_h100, 1), "floor_bytes": moved, "launches": rows}


def profile(only: str, views: int, lines: int) -> dict[str, Any]:
    """Run the cases whose names have `only` in them, print tables, give the numbers."""
    executor = PtxExecutor(checks=False)
    document: dict[str, Any] = {}
    import figureground.bench.kernels  # noqa: F401 (what is loaded now is patched)

    with in_place_of_launch(executor.launch, host_module=True, dispatch=True):
        for name, case in cases(views).items():
            if only not in name:
                continue
            launches = watch(case.run, executor)
            if launches:  # else array expressions and library calls alone
                document[name] = _report(name, launches, case.moved * BATCH / views, BATCH / views, lines)
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
    if args.json:
        args.json.write_text(json.dumps(document, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
