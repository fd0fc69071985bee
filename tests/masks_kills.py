"""Kill mask jobs at random moments, continue them, compare the sidecars: `python tests/masks_kills.py 50`.

One process imports everything once and forks the jobs, so a kill costs a fraction of a second.
"""

from __future__ import annotations

import hashlib
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

import webdataset  # noqa: F401  (imported before the forks, it takes seconds)
from masks_tasks import PlainTask
from pipeline_shards import write_shards

from figureground.pipeline.masks_engines import LocalEngine
from figureground.pipeline.masks_job import run_task

TASK = PlainTask(batch=8, pause_s=0.002)


def digests(folder: Path) -> dict[str, str]:
    """Every file of a folder and its SHA-256; indexes are left out, they follow from the sidecars."""
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir()) if p.suffix != ".idx"}


def run(shards: str, out: Path) -> float:
    """Run the job to its end; return the seconds."""
    began = time.perf_counter()
    report = run_task(TASK, shards, out=out, engine=LocalEngine(), progress=False)
    assert report.count("failed") == 0
    return time.perf_counter() - began


def start(shards: str, out: Path) -> int:
    """Start the job in a forked child; return its process number."""
    child = os.fork()
    if child == 0:
        try:
            run(shards, out)
        finally:
            os._exit(0)
    return child


def kill_often(kills: int, seed: int = 0) -> tuple[int, int]:
    """Kill `kills` jobs; return how many died before their end, and how many left a temporary file."""
    rng = random.Random(seed)
    died = left = 0
    with tempfile.TemporaryDirectory() as name:
        shards = write_shards(Path(name) / "shards", 120, masks=False)
        whole = min(run(shards, Path(name) / folder) for folder in ("warm", "again", "whole"))
        expected = digests(Path(name) / "whole")
        done = 0
        while done < kills:
            out = Path(name) / f"killed-{done}"
            for _ in range(min(rng.randint(1, 3), kills - done)):
                child = start(shards, out)
                time.sleep(rng.uniform(0, whole))
                os.kill(child, signal.SIGKILL)
                died += os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
                left += out.exists() and any(p.suffix == ".tmp" for p in out.iterdir())
                done += 1
                half = {k: v for k, v in digests(out).items() if not k.endswith(".tmp")} if out.exists() else {}
                assert half.items() <= expected.items(), "a half-made sidecar was published"
            run(shards, out)
            assert digests(out) == expected, "sidecars differ after a kill and a second run"
    return died, left


if __name__ == "__main__":
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 50
    dead, left_over = kill_often(count)
    print(f"{count} kills: {dead} before the end, {left_over} left a temporary file; all sidecars equal")
