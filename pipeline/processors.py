"""How many processors this process may use: those it is bound to, within a container's quota, shared with the ranks beside it."""

from __future__ import annotations

import math
import os
from pathlib import Path

from .ranks import ranks_of_node

_GROUPS = Path("/sys/fs/cgroup")


def quota(groups: Path = _GROUPS) -> float:
    """Return the processors that a container's CPU quota amounts to; infinite without a quota.

    A thread for each processor of a 96-core host, under a quota of 8, would be throttled for nine tenths of the time.
    """
    try:
        if (groups / "cpu.max").exists():
            allowed, period = (groups / "cpu.max").read_text().split()
        else:
            allowed, period = ((groups / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return math.inf if allowed == "max" or int(allowed) <= 0 else int(allowed) / int(period)
    except (OSError, ValueError):  # no such file: no quota that could be known
        return math.inf


def job_processors(jobs: int) -> int:
    """Return the share of `own_processors` for each of some jobs that run at a time, at least 1."""
    return max(1, own_processors() // max(1, jobs))


def own_processors(groups: Path = _GROUPS) -> int:
    """Return the processors of this process, at least 1.

    With several ranks on a node (`LOCAL_WORLD_SIZE`, as torchrun sets it) its share of all, unless the launcher has bound it to
    some of them.
    """
    bound = len(os.sched_getaffinity(0))
    shared = ranks_of_node() if bound == os.cpu_count() else 1
    return max(1, math.ceil(min(bound, quota(groups)) / shared))
