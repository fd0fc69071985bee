"""The default number of threads: in a container with a quota, beside other ranks, bound by a launcher."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest

from figureground.pipeline import cli, masks_job, masks_report, processors, saliency_train, textures_job
from figureground.pipeline.masks_engines import LocalEngine
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


@pytest.mark.parametrize(("jobs", "want"), [(1, 6), (2, 3), (4, 1), (8, 1)])
def test_jobs_share_the_processors(monkeypatch, jobs, want):
    monkeypatch.setattr(processors, "own_processors", lambda: 6)
    assert processors.job_processors(jobs) == want


def test_nothing_else_counts_processors():
    """Whoever asks the system itself knows no quota: 96 threads in a container that may use 8."""
    root = Path(__file__).resolve().parents[2]
    counters = ("sched_getaffinity", "cpu_count(")
    found = {
        path.relative_to(root).as_posix()
        for folder in ("shards", "kernels", "pipeline", "bench")
        for path in (root / folder).glob("*.py")
        if any(counter in path.read_text() for counter in counters)
    }
    assert found == {"pipeline/processors.py", "bench/harness.py"}  # the latter notes what the machine has


class _Asked(Exception):
    """What was asked for is known: the work itself is not wanted."""


def _threads_of(monkeypatch, run) -> int:
    """Run a command until it names its number of threads, on a machine that allows 6."""
    for module in (processors, masks_report, saliency_train):
        monkeypatch.setattr(module, "own_processors", lambda: 6)
    asked: list[int] = []

    def note(*arguments, threads=None, **options):
        asked.append(arguments[4] if threads is None else threads)
        raise _Asked

    monkeypatch.setattr(masks_job, "EstimateMasks", note)
    monkeypatch.setattr(masks_report, "EstimateMasks", note)
    monkeypatch.setattr(textures_job, "MakeTextures", note)
    monkeypatch.setattr("figureground.pipeline.saliency_job.train_saliency", note)
    with pytest.raises(_Asked):
        run()
    return asked[0]


@pytest.mark.parametrize(
    ("words", "want"),
    [
        (["masks", "--jobs", "2"], 3),
        (["masks"], 6),
        (["masks", "--jobs", "2", "--threads", "5"], 5),
        (["textures", "--jobs", "3"], 2),
        (["textures"], 6),
        (["show", "masks", "--compare", "rbd", "--device", "cpu"], 6),
        (["train-saliency", "--out", "x.pt"], 6),
    ],
    ids=str,
)
def test_the_threads_of_commands(shards, tmp_path, monkeypatch, words, want):
    monkeypatch.chdir(tmp_path)
    verb = 2 if words[0] == "show" else 1
    assert _threads_of(monkeypatch, lambda: cli.main([*words[:verb], shards, *words[verb:]])) == want


def test_an_engine_that_is_given_says_how_many_jobs(shards, monkeypatch):
    assert _threads_of(monkeypatch, lambda: masks_job.make_masks(shards, engine=LocalEngine(3))) == 2
