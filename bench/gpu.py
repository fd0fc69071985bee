"""Everything that only a GPU can tell, in one go: tests, compute-sanitizer, benches; results and logs in one folder.

    PYTHONPATH=build/typing python -m figureground.bench gpu --out build/gpu         (after `make tree`; nothing is installed)
    python -m figureground.bench gpu --only tests kernels --minutes 10

Each part is a process of its own with a time limit. A part that fails, hangs or lacks something does not stop the others.
`summary.json` says of each what became of it, with GPU, driver, versions and commit; `<part>.log` is what it printed, `<part>.json`
what it measured. Without --shards the parts share shards of photographs, made first (scikit-image brings the photographs).
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from figureground.bench.given import folder_to_write, in_one_sentence
from figureground.bench.harness import print_table, write_json
from figureground.bench.workload import default_shards, repeat_shards
from figureground.pipeline.processors import own_processors

_TAIL = 12
_PHOTOS, _REPEAT = 2048, 4
_TOOLKIT = ("/usr/local/cuda/bin", "/usr/local/cuda/compute-sanitizer")
"""Where compute-sanitizer lies if it is not on the PATH."""
SANITIZERS = ("memcheck", "racecheck", "initcheck")


@dataclass(frozen=True)
class Part:
    """One process: its arguments behind `python`, and what it needs."""

    arguments: tuple[str, ...]
    sanitizer: str | None = None
    """Tool of compute-sanitizer that it runs under."""
    modules: tuple[str, ...] = ()
    """Modules without which it is left out."""


def make_parts(out: Path, root: Path, shards: str, device: str, batch_size: int) -> dict[str, Part]:
    """Return the parts by name, in their order: what must be right before what is to be fast.

    Examples
    --------
    >>> list(make_parts(Path("out"), Path("."), "shards/*.tar", "cuda", 256))[:5]
    ['tests', 'kernels', 'memcheck', 'racecheck', 'initcheck']
    """
    kind = "cpu" if device == "cpu" else "cuda"
    test: tuple[str, ...] = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "--device", kind, "-m", "gpu")
    test += (f"--rootdir={root}", "-c", str(root / "pyproject.toml"))
    threads = str(own_processors())
    given = ("--shards", shards, "--batch-size", str(batch_size), "--threads", threads)

    def bench(verb: str, *options: str) -> Part:
        return Part(
            ("-m", "figureground.bench", verb, "--device", device, *options, "--json", str(out / f"{verb}.json"))
        )

    return {
        "tests": Part((*test, str(root / "tests")), modules=("pytest", "hypothesis")),
        "kernels": bench("kernels"),
        **{
            tool: Part((*test, "--exact-memory", str(root / "tests" / "kernels")), tool, ("pytest", "hypothesis"))
            for tool in SANITIZERS
        },
        "peers": bench("peers", *given, "--dtype", "float16"),
        "throughput": bench("throughput", *given),
        "scaling": bench("scaling", *given),
        "timeline": bench("timeline", *given, "--out", str(out / "timeline.svg")),
    }


def make_shards(out: str, photos: int) -> None:
    """Make `out/shards`: shards of photographs with masks, each photograph several times; all of it or nothing."""
    with tempfile.TemporaryDirectory(dir=out) as folder:
        repeat_shards(default_shards(folder, photos, shard_mb=32), f"{folder}/repeated", _REPEAT)
        os.replace(f"{folder}/repeated", f"{out}/shards")


def run_part(name: str, part: Part, out: Path, seconds: float) -> dict[str, Any]:
    """Run one part, its output into a log; returns what became of it."""
    missing = [module for module in part.modules if importlib.util.find_spec(module) is None]
    command = [sys.executable, *part.arguments]
    if part.sanitizer is not None:
        tool = shutil.which("compute-sanitizer", path=os.pathsep.join([os.environ.get("PATH", ""), *_TOOLKIT]))
        if tool is None:
            missing.append("compute-sanitizer")
        command = [str(tool), "--tool", part.sanitizer, "--error-exitcode", "9", *command]
    if missing:
        return {"result": "left out", "why": f"not there: {', '.join(missing)}", "seconds": 0.0}
    log, began = out / f"{name}.log", time.monotonic()
    with log.open("w") as file:
        try:
            code = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, timeout=seconds).returncode
        except subprocess.TimeoutExpired:
            code = None
    last = [line for line in log.read_text(errors="replace").splitlines() if line.strip()][-_TAIL:]
    result = "too slow" if code is None else "passed" if code == 0 else "failed"
    return {
        "result": result, "why": "" if code == 0 else f"limit of {seconds:.0f} s" if code is None else f"exit code {code}",
        "seconds": round(time.monotonic() - began, 1), "command": command, "last_lines": last,
    }  # fmt: skip


def run_parts(parts: Mapping[str, Part], out: Path, minutes: float) -> dict[str, dict[str, Any]]:
    """Run parts one after the other, `minutes` at most for each; the summary is written after each one."""
    out.mkdir(parents=True, exist_ok=True)
    found: dict[str, dict[str, Any]] = {}
    for name, part in parts.items():
        print(f"{name} ...", file=sys.stderr, flush=True)
        found[name] = run_part(name, part, out, 60 * minutes)
        if found[name]["result"] in ("failed", "too slow"):
            print("\n".join(f"    {line}" for line in found[name]["last_lines"]), file=sys.stderr, flush=True)
        write_json(out / "summary.json", {"parts": found})
    return found


@in_one_sentence
def main(argv: Sequence[str] | None = None) -> int:
    """Run the parts, print the table; 1 if a part failed or was too slow (or was asked for by name and left out), else 0."""
    parser = argparse.ArgumentParser("python -m figureground.bench gpu")
    parser.add_argument("--out", type=folder_to_write, default=Path("build/gpu"))
    parser.add_argument("--shards", help="pattern of shards with mask sidecars (default: made of photographs)")
    parser.add_argument("--device", default="cuda", help="cpu: to try the script itself")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--photos", type=int, default=_PHOTOS, help=f"to make without --shards; each is used {_REPEAT} times")
    parser.add_argument("--minutes", type=float, default=30, help="at most, for each part")
    parser.add_argument("--only", nargs="+", metavar="PART", help="these parts alone")
    args = parser.parse_args(argv)
    root = Path(__file__).resolve().parents[1]
    out = args.out.resolve()
    parts = make_parts(out, root, args.shards or str(out / "shards" / "r*[0-9].tar"), args.device, args.batch_size)
    unknown = sorted(set(args.only or ()) - set(parts))
    if unknown or args.minutes <= 0 or args.batch_size < 1:
        rule = f"--only takes {', '.join(parts)}; --minutes and --batch-size must be more than 0"
        print(f"gpu: {rule}, got {vars(args)}", file=sys.stderr)
        return 2
    chosen = {name: part for name, part in parts.items() if not args.only or name in args.only}
    if args.shards is None and not (out / "shards").exists() and any("--shards" in p.arguments for p in chosen.values()):
        code = f"from figureground.bench.gpu import make_shards; make_shards({str(out)!r}, {args.photos})"
        chosen = {"shards": Part(("-c", code), modules=("skimage",)), **chosen}
    found = run_parts(chosen, out, args.minutes)
    print_table({name: {k: row[k] for k in ("result", "seconds", "why")} for name, row in found.items()}, title="part")
    bad = ("failed", "too slow", *(["left out"] if args.only else []))
    return int(any(row["result"] in bad for row in found.values()))


if __name__ == "__main__":
    sys.exit(main())
