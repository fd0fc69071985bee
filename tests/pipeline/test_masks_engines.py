"""The local engine: processes, killed workers, errors, interruption."""

from __future__ import annotations

import multiprocessing
import time
from dataclasses import replace

import pytest
from masks_tasks import PlainTask
from pipeline_shards import write_shards

from figureground.pipeline.masks_engines import LocalEngine, make_engine
from figureground.pipeline.masks_target import Target
from figureground.shards import ShardError, Store


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    with Store(write_shards(tmp_path_factory.mktemp("engines"), 80, per_shard=20, masks=False)) as store:
        return store.shards


def run(engine, paths, out, task=PlainTask(), progress=lambda number, done: None):  # noqa: B008
    out.mkdir(exist_ok=True)
    return {report.shard: report for report in engine.run(task, paths, Target(str(out)), progress)}


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.tar")}


def test_processes_and_a_killed_worker_change_nothing(paths, tmp_path, caplog):
    run(LocalEngine(), paths, tmp_path / "one")
    counter = tmp_path / "part-000001"
    counter.write_text("1")
    seen = {}
    task = PlainTask(batch=5, pause_s=0.05, crash=str(counter))
    reports = run(
        LocalEngine(2), paths, tmp_path / "two", task, lambda number, done: seen.setdefault(number, set()).add(done)
    )
    assert {report.status for report in reports.values()} == {"made"}
    assert [reports[path].attempts for path in paths] == [1, 2, 1, 1]
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert "its worker died" in caplog.text
    assert any(0 < done < 20 for counts in seen.values() for done in counts), "progress within a shard"
    assert not multiprocessing.active_children()


def test_a_shard_that_kills_each_worker_is_given_up(paths, tmp_path):
    counter = tmp_path / "part-000000"
    counter.write_text("9")
    reports = run(LocalEngine(2, retries=0), paths[:2], tmp_path / "out", PlainTask(crash=str(counter)))
    assert reports[paths[0]].status == "failed"
    assert "its worker died 1 times" in reports[paths[0]].error
    assert reports[paths[1]].status == "made", "the others go on"
    assert list(contents(tmp_path / "out")) == ["part-000001.masks.tar"]


def test_stopping_ends_the_processes_at_once(paths, tmp_path):
    (tmp_path / "out").mkdir()
    running = LocalEngine(2).run(
        PlainTask(batch=2, pause_s=0.5), paths, Target(str(tmp_path / "out")), lambda number, done: stop(done)
    )

    def stop(done):
        if done:
            raise KeyboardInterrupt

    began = time.perf_counter()
    with pytest.raises(KeyboardInterrupt):
        list(running)
    assert not multiprocessing.active_children()
    assert time.perf_counter() - began < 15
    assert contents(tmp_path / "out") == {}


def test_a_worker_says_what_is_wrong(paths, tmp_path):
    with pytest.raises(TypeError, match="unsupported operand"):
        run(LocalEngine(2), paths[:1], tmp_path / "out", replace(PlainTask(), batch=1, setting=None))


def test_a_gone_shard_fails_alone(paths, tmp_path):
    reports = run(LocalEngine(), [paths[0], str(tmp_path / "gone.tar")], tmp_path / "out")
    assert [report.status for report in reports.values()] == ["made", "failed"]
    assert "gone.tar" in reports[str(tmp_path / "gone.tar")].error


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"name": "slurm", "jobs": 1}, "engine must be 'local' or 'ray', got 'slurm'"),
        ({"name": "local", "jobs": 0}, "jobs must be at least 1, got 0"),
        ({"name": "local", "jobs": 1, "retries": -1}, "retries must not be negative, got -1"),
    ],
)
def test_messages(arguments, says):
    with pytest.raises(ValueError, match=says):
        make_engine(**arguments)
    assert make_engine("local", jobs=3) == LocalEngine(3, 1)
    assert issubclass(ShardError, ValueError)
