"""The job: resume, other parameters, stale and damaged sidecars, killed runs, the report."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from masks_tasks import PlainTask
from pipeline_shards import write_shards

from figureground.pipeline.masks_engines import LocalEngine
from figureground.pipeline.masks_job import make_masks, run_task
from figureground.shards import MaskStore, ShardError, Store
from figureground.shards.index import write_index
from figureground.shards.masks import read_manifest

KILLS = Path(__file__).resolve().parents[1] / "masks_kills.py"


@pytest.fixture
def shards(tmp_path):
    """60 samples in three shards."""
    write_shards(tmp_path / "shards", 60, per_shard=20, masks=False)
    return tmp_path / "shards"


def run(shards, out, task=PlainTask(), **options):  # noqa: B008
    return run_task(task, shards, out=out, engine=LocalEngine(), progress=False, **options)


def contents(folder):
    return {path.name: path.read_bytes() for path in Path(folder).glob("*.masks.tar")}


def test_finished_sidecars_are_kept(shards, tmp_path):
    out = tmp_path / "out"
    first = run(shards, out)
    assert first.count("made") == 3
    whole = contents(out)
    (out / "part-000001.masks.tar").unlink()
    (out / "part-000001.masks.idx").unlink()
    (out / "part-000002.masks.idx").unlink()  # a run that was killed just before its end
    (out / ".part-000000.masks.tar.999999999-0123abcd.tmp").write_bytes(b"left by a killed run")
    again = run(shards, out)
    assert [shard.status for shard in again.shards] == ["kept", "made", "kept"]
    assert contents(out) == whole
    assert not list(out.glob(".*"))
    for name in ("samples", "masks", "undecodable", "empty", "full"):
        assert again.total(name) == first.total(name) > -1
    assert again.histogram == first.histogram
    assert [shard.without for shard in again.shards] == [shard.without for shard in first.shards]


def test_other_parameters_are_refused_before_any_work(shards, tmp_path):
    run(shards, tmp_path / "out", limit=2)
    with pytest.raises(ShardError, match=r"made otherwise \(setting 1, asked for 2\) and 1 more; pass overwrite"):
        run(shards, tmp_path / "out", PlainTask(setting=2))
    assert len(contents(tmp_path / "out")) == 2
    report = run(shards, tmp_path / "out", PlainTask(setting=2), overwrite=True)
    assert report.count("made") == 3
    assert read_manifest(tmp_path / "out" / "part-000000.masks.tar").parameters["setting"] == 2


def test_damaged_and_stale_sidecars_are_made_again(shards, tmp_path):
    run(shards, tmp_path / "out")
    whole = contents(tmp_path / "out")
    damaged = tmp_path / "out" / "part-000000.masks.tar"
    damaged.write_bytes(whole[damaged.name][:2000])
    write_shards(tmp_path / "other", 60, per_shard=20, masks=False, seed=5)
    os.replace(tmp_path / "other" / "part-000002.tar", shards / "part-000002.tar")
    write_index(shards / "part-000002.tar")
    report = run(shards, tmp_path / "out")
    assert [shard.status for shard in report.shards] == ["made", "kept", "made"]
    assert contents(tmp_path / "out")[damaged.name] == whole[damaged.name]
    assert contents(tmp_path / "out")["part-000002.masks.tar"] != whole["part-000002.masks.tar"]
    with Store(shards) as store, MaskStore(store, tmp_path / "out") as masks:
        assert masks.present.sum() == report.total("masks")


def test_a_bad_shard_does_not_stop_the_others(shards, tmp_path):
    (shards / "part-000001.tar").write_bytes(b"?" * 3000)
    (shards / "part-000001.idx").unlink()
    report = run(shards, tmp_path / "out")
    assert [shard.status for shard in report.shards] == ["made", "failed", "made"]
    assert "part-000001.tar" in report.shards[1].error


def test_two_shards_of_one_name_need_two_folders(tmp_path):
    for name in "ab":
        write_shards(tmp_path / name, 5, masks=False)
    with pytest.raises(ShardError, match="would both write"):
        run([tmp_path / "a", tmp_path / "b"], tmp_path / "out")
    assert run([tmp_path / "a", tmp_path / "b"], None).count("made") == 2, "beside the shards they differ"


def test_limit(shards, tmp_path):
    assert len(run(shards, tmp_path / "out", limit=1).shards) == 1
    with pytest.raises(ValueError, match="limit must be at least 1 shard, got 0"):
        run(shards, tmp_path / "out", limit=0)


def test_report(shards, tmp_path):
    report = run(shards, tmp_path / "out")
    text, document = str(report), json.loads(json.dumps(report.to_dict()))
    assert f"3 sidecars made, 0 kept, 0 failed; {report.total('masks')} masks of 60 images" in text
    assert "x no luck" in text
    assert document["sidecars"] == {"made": 3, "kept": 0, "failed": 0}
    assert document["masks"] + document["undecodable"] == document["samples"] == 60
    assert sum(document["histogram"]) == document["masks"]
    assert len(document["shards"][0]["without"]) == document["shards"][0]["undecodable"]


def test_killed_at_any_moment(tmp_path):
    """A few kills; `python tests/masks_kills.py 50` does more."""
    done = subprocess.run([sys.executable, str(KILLS), "8"], capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stderr
    died = int(re.search(r"kills: (\d+) before the end", done.stdout)[1])
    assert died >= 1, done.stdout


def environment():
    """Of a subprocess that finds the package and the test's helpers."""
    root = KILLS.parents[1]
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(root / "build" / "typing"), str(root / "tests")])}


def test_same_bytes_for_any_jobs_batch_and_restart(shards, tmp_path):
    """The real thing: decoder and kernels."""
    whole = make_masks(shards, out=tmp_path / "one", size=32, progress=False)
    assert whole.total("masks") == 60
    make_masks(shards, out=tmp_path / "two", size=32, batch_size=7, jobs=2, progress=False)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_killed_with_all_its_workers(shards, tmp_path):
    """SIGKILL for the parent of two real workers: they end too, and the same command goes on."""
    make_masks(shards, out=tmp_path / "whole", size=32, progress=False)
    command = [
        sys.executable, "-m", "figureground.pipeline", "masks", str(shards), "--out", str(tmp_path / "out"), "--device", "cpu",
        "--size", "32", "--jobs", "2", "--quiet",
    ]  # fmt: skip
    first = subprocess.Popen(command, env=environment())
    deadline = time.monotonic() + 60
    while not contents(tmp_path / "out") and time.monotonic() < deadline and first.poll() is None:
        time.sleep(0.01)
    first.kill()
    first.wait()
    second = subprocess.run([*command, "--json"], env=environment(), capture_output=True, text=True)
    assert second.returncode == 0, second.stderr
    assert json.loads(second.stdout)["sidecars"]["kept"] >= 1
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert not list((tmp_path / "out").glob(".*"))


def test_real_photographs(tmp_path):
    """Photographs of scikit-image's wheel: every one gets a mask that is neither empty nor full."""
    data = pytest.importorskip("skimage.data")
    from pipeline_shards import write_tar

    members = []
    for name in ("astronaut", "coffee", "chelsea", "rocket"):
        try:
            image = getattr(data, name)()
        except (ModuleNotFoundError, OSError, ValueError):  # not in the wheel, and there is no network
            continue
        members.append((f"{name}.jpg", cv2.imencode(".jpg", np.ascontiguousarray(image[:, :, 2::-1]))[1].tobytes()))
    write_tar(tmp_path / "photos-0.tar", members)
    report = make_masks(tmp_path / "photos-0.tar", progress=False)
    assert report.total("masks") == len(members) >= 2
    assert report.total("empty") == report.total("full") == 0


def test_a_folder_that_may_not_be_written_is_said_before_the_work(tmp_path, monkeypatch):
    """Else every shard would be worked on, and fail at its end."""
    shards = write_shards(tmp_path / "shards", 6, per_shard=3, masks=False)
    monkeypatch.setattr(os, "access", lambda path, mode: path != str(tmp_path / "shards"))  # root may write anywhere
    with pytest.raises(
        ShardError, match=r"shards: sidecars cannot be written there \(no permission\); choose another folder"
    ):
        make_masks(shards, size=32, progress=False)
    assert make_masks(shards, size=32, out=tmp_path / "out", progress=False).count("made") == 2
