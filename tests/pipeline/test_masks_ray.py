"""The Ray engine: a local cluster of two workers, one of them killed."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from masks_tasks import PlainTask
from pipeline_shards import write_shards

from figureground.pipeline.masks_engines import LocalEngine, make_engine
from figureground.pipeline.masks_estimate import EstimateMasks
from figureground.pipeline.masks_job import make_masks, run_task

ROOT = Path(__file__).resolve().parents[2]


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.tar")}


def test_ray_that_is_not_there(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(RuntimeError, match=r"engine='ray' needs Ray .*; install figureground\[ray\]"):
        make_engine("ray", jobs=1)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"jobs": 0}, "jobs must be at least 1, got 0"),
        ({"jobs": 1, "retries": -1}, "retries must not be negative"),
        ({"jobs": 1, "gpus_per_worker": -0.5}, "gpus_per_worker must not be negative, got -0.5"),
    ],
)
def test_messages(arguments, says):
    pytest.importorskip("ray")
    with pytest.raises(ValueError, match=says):
        make_engine("ray", **arguments)


def test_resources():
    pytest.importorskip("ray")
    engine = make_engine("ray", jobs=1, gpus_per_worker=0.25)
    assert engine.resources(EstimateMasks(device="cuda", threads=3)) == {"num_cpus": 3, "num_gpus": 0.25}
    assert make_engine("ray", jobs=1).resources(EstimateMasks(device="cuda")) == {"num_cpus": 1, "num_gpus": 1.0}
    assert make_engine("ray", jobs=1).resources(EstimateMasks()) == {"num_cpus": 1, "num_gpus": 0.0}


def test_no_room_for_a_worker(caplog):
    """It would wait for ever: on a machine without a GPU `--engine ray` alone did."""
    pytest.importorskip("ray")
    nodes = [
        {"Alive": True, "Resources": {"CPU": 4.0}},
        {"Alive": True, "Resources": {"CPU": 1.0, "GPU": 1.0}},
        {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}},
    ]
    cluster = SimpleNamespace(nodes=lambda: nodes)
    engine, gpu, wide = (
        make_engine("ray", jobs=1),
        EstimateMasks(device="cuda"),
        EstimateMasks(device="cuda", threads=2),
    )
    engine._check_room(cluster, gpu, final=True)
    engine._check_room(cluster, EstimateMasks(threads=4), final=True)
    with pytest.raises(
        RuntimeError, match="a Ray worker needs 2 CPU and 1 GPU, and no node has as many; pass device='cpu'"
    ):
        engine._check_room(cluster, wide, final=True)
    assert caplog.text == ""
    engine._check_room(cluster, wide, final=False)
    assert "no node has as many: waiting for one to join the cluster" in caplog.text


@pytest.fixture(scope="module")
def cluster():
    """A cluster of two processors whose workers find the package and the helpers of the tests."""
    ray = pytest.importorskip("ray")
    path = os.pathsep.join([str(ROOT / "build" / "typing"), str(ROOT / "tests")])
    ray.init(
        num_cpus=2, object_store_memory=100 * 2**20, include_dashboard=False, log_to_driver=False, logging_level="error",
        runtime_env={"env_vars": {"PYTHONPATH": path}},
    )  # fmt: skip
    yield ray
    ray.shutdown()


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_shards(tmp_path_factory.mktemp("ray"), 80, per_shard=20, masks=False)


def test_a_killed_worker_loses_nothing(cluster, shards, tmp_path, caplog):
    from figureground.pipeline.masks_ray import RayEngine

    run_task(PlainTask(), shards, out=tmp_path / "one", engine=LocalEngine(), progress=False)
    killed = []

    def kill_first(actors):
        if not killed and len(actors) == 2:
            killed.append(cluster.get(actors[0].pid.remote()))
            time.sleep(1)  # into the middle of its shard
            os.kill(killed[0], signal.SIGKILL)

    engine = RayEngine(2, watch=kill_first)
    task = PlainTask(batch=2, pause_s=0.2)
    report = run_task(task, shards, out=tmp_path / "two", engine=engine, progress=False)
    assert killed
    assert report.count("made") == 4
    assert sorted(shard.attempts for shard in report.shards) == [1, 1, 1, 2]
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert "its Ray actor died" in caplog.text


def test_a_shard_that_kills_each_worker_is_given_up(cluster, shards, tmp_path):
    from figureground.pipeline.masks_ray import RayEngine

    counter = tmp_path / "part-000002"
    counter.write_text("9")
    report = run_task(
        PlainTask(crash=str(counter)), shards, out=tmp_path / "out", engine=RayEngine(1, retries=1), progress=False
    )
    assert [shard.status for shard in report.shards] == ["made", "made", "failed", "made"]
    assert "its Ray actor died 2 times" in report.shards[2].error


def test_an_error_in_a_worker_is_raised(cluster, shards, tmp_path):
    with pytest.raises(TypeError, match="unsupported operand"):
        run_task(
            PlainTask(setting=None), shards, out=tmp_path / "out", engine=make_engine("ray", jobs=1), progress=False
        )


def test_same_bytes_as_local(cluster, shards, tmp_path):
    """The real thing: decoder and kernels in an actor."""
    make_masks(shards, out=tmp_path / "local", size=32, limit=1, progress=False)
    make_masks(shards, out=tmp_path / "ray", size=32, limit=1, engine="ray", batch_size=9, progress=False)
    assert contents(tmp_path / "local") == contents(tmp_path / "ray")


def test_into_a_store(cluster, shards, tmp_path):
    """Sidecars in an object store: the same bytes; one that refuses ends the run with one sentence."""
    import fsspec
    from s3_server import door_to, s3_server

    from figureground.pipeline.masks_ray import RayEngine
    from figureground.shards.upload import UploadRefused

    run_task(PlainTask(), shards, out=tmp_path / "one", engine=LocalEngine(), progress=False)
    with s3_server() as straight, door_to(straight) as (door, options):
        job = {"engine": RayEngine(2), "progress": False, "storage_options": {"s3": options}}
        report = run_task(PlainTask(), shards, out="s3://bucket/masks", **job)
        assert report.count("made") == 4
        assert report.shards[1].sidecar == "s3://bucket/masks/part-000001.masks.tar"
        store = fsspec.filesystem("s3", skip_instance_cache=True, **straight)
        there = {name.rsplit("/", 1)[1]: store.cat_file(name) for name in store.find("bucket/masks")}
        assert {name: data for name, data in there.items() if name.endswith(".tar")} == contents(tmp_path / "one")
        assert run_task(PlainTask(), shards, out="s3://bucket/masks", **job).count("kept") == 4
        door.always.append(("PUT", "refused", 403))
        with pytest.raises(UploadRefused, match=r"^s3://\S+tar: cannot be written: access denied \(403\)[^\n]*$"):
            run_task(PlainTask(), shards, out="s3://bucket/refused", **job)
