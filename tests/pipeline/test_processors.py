"""The default number of threads: in a container with a quota, beside other ranks, bound by a launcher."""

from __future__ import annotations

import math
import os

import pytest

from figureground.pipeline.processors import own_processors, quota


def test_quotas(tmp_path):
    assert quota(tmp_path / "none") == math.inf
    file = tmp_path / "cpu.max"
    for text, cores in (("max 100000\n", math.inf), ("150000 100000\n", 1.5), ("odd", math.inf)):
        file.write_text(text)
        assert quota(tmp_path) == cores
    old = tmp_path / "old" / "cpu"
    old.mkdir(parents=True)
    (old / "cpu.cfs_period_us").write_text("100000\n")
    for text, cores in (("-1\n", math.inf), ("400000\n", 4.0)):
        (old / "cpu.cfs_quota_us").write_text(text)
        assert quota(tmp_path / "old") == cores


@pytest.mark.parametrize(
    ("bound", "there", "ranks", "allowed", "want"),
    [
        (96, 96, None, "max", 96),
        (96, 96, "8", "max", 12),
        (96, 96, "8", "1600000", 2),
        (12, 96, "8", "max", 12),
        (96, 96, None, "150000", 2),
        (4, 4, "8", "max", 1),
        (4, 4, "many", "max", 4),
        (4, 4, "0", "max", 4),
    ],
)
def test_shares(tmp_path, monkeypatch, bound, there, ranks, allowed, want):
    (tmp_path / "cpu.max").write_text(f"{allowed} 100000\n")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(bound)))
    monkeypatch.setattr(os, "cpu_count", lambda: there)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    if ranks is not None:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", ranks)
    assert own_processors(tmp_path) == want
