"""The simulated trainer."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
from pipeline_shards import write_shards

from figureground.bench.stall import batch_count, busy_step, endless, measure_stalls, sleeping_step, waiting
from figureground.pipeline import Loader, recipes


class Clock:
    """A clock that only moves when told."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def spend(self, seconds):
        self.now += seconds


def test_shares_by_hand():
    clock = Clock()

    def batches():
        clock.spend(100)  # the first batch is start-up
        yield 0
        for seconds in (1.0, 0.0, 2.0):
            clock.spend(seconds)
            yield 0

    found = waiting(batches(), lambda: clock.spend(3.0), 3, clock)
    assert found == {"batches": 3, "waited_ms": 1000.0, "step_ms": 3000.0, "stall_share": 0.25}


def test_no_wait_where_batches_are_ready():
    clock = Clock()
    assert waiting(itertools.repeat(0), lambda: clock.spend(1.0), 2, clock)["stall_share"] == 0.0


def test_steps_take_their_time():
    for step in (sleeping_step(20), busy_step(20)):
        began = time.perf_counter()
        step()
        assert time.perf_counter() - began >= 0.019


def test_epochs_follow_each_other(tmp_path):
    shards = write_shards(tmp_path, 16)
    with Loader(shards, recipes.moco_v2(32), batch_size=8, device="cpu", threads=1, masks=None) as loader:
        got = [batch["index"].numpy() for batch in itertools.islice(endless(loader), 5)]
    for epoch in (got[:2], got[2:4]):
        np.testing.assert_array_equal(np.sort(np.concatenate(epoch)), np.arange(16))
    assert not np.array_equal(np.concatenate(got[:2]), np.concatenate(got[2:4]))


@pytest.mark.parametrize("kind", ["sleep", "busy"])
def test_rows(tmp_path, kind):
    rows = measure_stalls(write_shards(tmp_path, 16), [2.0], kind, "cpu", 8, 1, 0.01)
    row = rows[f"2 ms, {kind}"]
    assert row["batches"] == 5
    assert row["stall_share"] == pytest.approx(row["waited_ms"] / (row["waited_ms"] + row["step_ms"]), abs=0.01)
    assert row["images_per_s"] == pytest.approx(8e3 / (row["waited_ms"] + row["step_ms"]), rel=0.01)
    assert "gpu_memory_mb" not in row


def test_batch_count_has_bounds():
    assert [batch_count(ms, 3.0) for ms in (10, 50, 200, 5000)] == [200, 60, 15, 4]
