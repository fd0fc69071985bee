"""Mask jobs that write into stores: the same bytes as on disk, resume, faults, kills."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import fsspec
import numpy as np
import pytest
from masks_stores import S3, contents, run, statuses
from masks_tasks import PlainTask
from pipeline_shards import write_shards

from figureground.pipeline.masks_engines import LocalEngine
from figureground.shards import ShardError
from figureground.shards.cache import ShardCache
from figureground.shards.upload import UploadRefused

pytestmark = pytest.mark.usefixtures("short_waits")

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def shards(sixty):
    """60 samples in three shards."""
    return sixty


def test_same_bytes_in_any_store_and_resume(shards, whole, bucket, s3, tmp_path):
    for out in (S3, S3 + "/deep/", "memory://job/masks", f"file://{tmp_path}/files"):
        options = bucket.options if out.startswith("s3") else None
        first = run(shards, out, storage_options=options)
        assert statuses(first) == ["made"] * 3
        assert contents(out, options) == whole if "deep" in out or not out.startswith("s3") else True
        again = run(shards, out, storage_options=options)
        assert statuses(again) == ["kept"] * 3
        for name in ("samples", "masks", "empty", "full", "undecodable"):
            assert again.total(name) == first.total(name)
        assert again.histogram == first.histogram
        assert [shard.without for shard in again.shards] == [shard.without for shard in first.shards]
        assert [shard.sidecar for shard in again.shards] == [
            f"{out.rstrip('/')}/part-{i:06d}.masks.tar" for i in range(3)
        ]
        assert statuses(run(shards, out, overwrite=True, storage_options=options)) == ["made"] * 3


def test_resume_is_cheap(shards, bucket):
    run(shards, S3, storage_options=bucket.options)
    bucket.asked.clear()
    assert statuses(run(shards, S3, storage_options=bucket.options)) == ["kept"] * 3
    assert len(bucket.asked) <= 1 + 3, "a listing, and the end of each sidecar"
    assert not bucket.puts()


def test_what_is_unfinished_stale_or_damaged_is_made_again(shards, whole, bucket, s3):
    run(shards, S3, storage_options=bucket.options)
    store = fsspec.filesystem("s3", skip_instance_cache=True, use_listings_cache=False, **s3)
    store.rm_file("bucket/masks/part-000000.masks.idx")  # killed between the two
    store.pipe_file("bucket/masks/part-000001.masks.tar", whole["part-000001.masks.tar"][:2048])
    assert statuses(run(shards, S3, storage_options=bucket.options)) == ["made", "made", "kept"]
    assert contents(S3, bucket.options) == whole
    write_shards(shards.parent / "other", 60, per_shard=20, masks=False, seed=5)
    for ending in ("tar", "idx"):
        os.replace(shards.parent / "other" / f"part-000002.{ending}", shards / f"part-000002.{ending}")
    assert statuses(run(shards, S3, storage_options=bucket.options)) == ["kept", "kept", "made"]
    bucket.asked.clear()
    with pytest.raises(
        ShardError, match=r"^s3://\S+: was made otherwise \(setting 1, asked for 2\) and 2 more; pass overwrite"
    ):
        run(shards, S3, PlainTask(setting=2), storage_options=bucket.options)
    assert not bucket.puts()


def test_a_store_that_may_not_be_listed(shards, whole, bucket):
    bucket.always.append(("GET", "list-type", 403))
    assert statuses(run(shards, S3, storage_options=bucket.options)) == ["made"] * 3
    assert statuses(run(shards, S3, storage_options=bucket.options)) == ["kept"] * 3


def test_faults_that_pass(shards, whole, bucket):
    bucket.faults.extend(
        [("PUT", "000000.masks.tar", 503), ("PUT", "000000.masks.tar", 500), ("PUT", "000001.masks.idx", 503)]
    )
    assert statuses(run(shards, S3, storage_options=bucket.options)) == ["made"] * 3
    assert not bucket.faults
    assert contents(S3, bucket.options) == whole


def test_a_store_that_fails_for_one_sidecar(shards, bucket, tmp_path):
    """Tried until the deadline, then this shard has failed; the others go on, and the next run makes it."""
    bucket.always.append(("PUT", "000001.masks.tar", 503))
    cache = ShardCache(tmp_path / "cache", 10**9, storage_options=bucket.options, deadline_s=0.3)
    report = run(shards, S3, cache=cache)
    assert statuses(report) == ["made", "failed", "made"]
    assert "part-000001.masks.tar: gave up after" in report.shards[1].error
    bucket.always.clear()
    assert statuses(run(shards, S3, cache=cache)) == ["kept", "made", "kept"]


def test_a_store_that_refuses_ends_the_run(shards, bucket):
    bucket.always.append(("PUT", "masks.tar", 403))
    for engine in (LocalEngine(), LocalEngine(2)):
        bucket.asked.clear()
        with pytest.raises(
            UploadRefused, match=r"^s3://\S+tar: cannot be written: access denied \(403\); check the cred[^\n]*$"
        ):
            run(shards, S3, engine=engine, storage_options=bucket.options)
        assert len(bucket.puts()) <= 2, "not each shard is made in vain"
    with pytest.raises(
        UploadRefused, match=r"^s3://nowhere/masks: the bucket does not exist; make it, or check the URL$"
    ):
        run(shards, "s3://nowhere/masks", storage_options=bucket.options)
    with pytest.raises(
        UploadRefused, match=r"^https://host/\S+masks.tar: a web server is read-only; name a folder, or"
    ):
        run(shards, "https://host/masks")


def test_processes_write_the_same(shards, whole, bucket, s3):
    counter = shards.parent / "part-000001"
    counter.write_text("1")
    report = run(shards, S3, PlainTask(crash=str(counter)), LocalEngine(2), storage_options=bucket.options)
    assert [shard.attempts for shard in report.shards] == [1, 2, 1]
    assert contents(S3, bucket.options) == whole


def test_killed_again_and_again(shards, whole, s3, tmp_path):
    """SIGKILL at random moments: what is in the store is whole at any time, and the next run goes on."""
    fsspec.filesystem("s3", skip_instance_cache=True, **s3).pipe_file("bucket/killed/keep", b"")
    code = (
        "import json, sys\n"
        "from masks_tasks import PlainTask\n"
        "from figureground.pipeline.masks_engines import LocalEngine\n"
        "from figureground.pipeline.masks_job import run_task\n"
        "shards, out, options = sys.argv[1:]\n"
        "import webdataset; print('ready', flush=True)\n"
        "run_task(PlainTask(batch=4, pause_s=0.02), shards, out=out, engine=LocalEngine(), progress=False,\n"
        "         storage_options=json.loads(options))\n"
    )
    python_path = os.pathsep.join([str(ROOT / "build" / "typing"), str(ROOT / "tests")])
    folder = tmp_path / "tmp"
    folder.mkdir()
    environment = {**os.environ, "PYTHONPATH": python_path, "TMPDIR": str(folder)}
    out, died = "s3://bucket/killed", 0
    arguments = [sys.executable, "-c", code, str(shards), out, json.dumps({"s3": s3})]
    rng = np.random.default_rng(0)
    for _ in range(4):
        job = subprocess.Popen(arguments, env=environment, stdout=subprocess.PIPE)
        job.stdout.readline()
        time.sleep(rng.uniform(0.05, 0.6))
        job.kill()
        died += job.wait() == -signal.SIGKILL
        there = contents(out, {"s3": s3})
        there.pop("keep", None)
        assert there.items() <= whole.items(), "half of a sidecar was seen"
    assert died >= 1
    report = run(shards, out, storage_options={"s3": s3})
    assert report.count("failed") == 0
    there = contents(out, {"s3": s3})
    there.pop("keep", None)
    assert there == whole


def test_temporary_folders_go(shards, monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    old, young, ours = (
        tmp_path / name for name in ("figureground-masks-999999999-a", "figureground-masks-999999999-b", "other")
    )
    for folder in (old, young, ours):
        folder.mkdir()
    os.utime(old, (0, 0))
    os.utime(ours, (0, 0))
    run(shards, "memory://job/leftovers", limit=1)
    assert not old.exists()
    assert young.exists(), "it may be another machine's container that shares the folder"
    assert ours.exists()
    assert not [path for path in tmp_path.glob("figureground-masks-*") if path != young]


def test_leftovers_in_a_store_that_shows_halves(shards, tmp_path):
    out = tmp_path / "files"
    out.mkdir()
    left = out / ".part-000001.masks.tar.999999999-0123abcd.tmp"
    others = out / ".elsewhere.masks.tar.999999999-0123abcd.tmp"
    young = out / ".part-000001.masks.idx.999999999-0123abcd.tmp"
    for path in (left, others, young):
        path.write_bytes(b"half")
    os.utime(left, (0, 0))
    os.utime(others, (0, 0))
    run(shards, f"file://{out}")
    assert [path.exists() for path in (left, others, young)] == [False, True, True]
