"""Mask jobs that read from and write into stores: the same bytes as on disk, resume, faults, kills."""

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
from masks_tasks import PlainTask
from pipeline_shards import write_shards
from s3_server import door_to, s3_server

from figureground.pipeline.masks_engines import LocalEngine
from figureground.pipeline.masks_job import import_masks, make_masks, run_task
from figureground.pipeline.masks_target import Lookahead, Target
from figureground.shards import MaskStore, ShardError, Store
from figureground.shards import remote as remote_module
from figureground.shards.cache import ShardCache
from figureground.shards.upload import UploadRefused

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    monkeypatch.setattr(remote_module, "_FIRST_DELAY_S", 0.02)


@pytest.fixture(scope="module")
def s3():
    with s3_server() as options:
        yield options


@pytest.fixture
def bucket(s3):
    """An empty folder `bucket/masks` behind a door."""
    store = fsspec.filesystem("s3", skip_instance_cache=True, use_listings_cache=False, **s3)
    if store.exists("bucket/masks"):
        store.rm("bucket/masks", recursive=True)
    with door_to(s3) as (door, options):
        door.options = {"s3": options}
        yield door


@pytest.fixture
def shards(tmp_path):
    """60 samples in three shards."""
    write_shards(tmp_path / "shards", 60, per_shard=20, masks=False)
    return tmp_path / "shards"


@pytest.fixture
def whole(shards, tmp_path):
    """The sidecars and indexes as they are on disk."""
    run(shards, tmp_path / "whole")
    return {path.name: path.read_bytes() for path in (tmp_path / "whole").iterdir()}


def run(shards, out, task=PlainTask(), engine=None, **options):  # noqa: B008
    return run_task(task, shards, out=out, engine=engine or LocalEngine(), progress=False, **options)


def contents(url, options=None):
    """What is behind a URL, hidden files too."""
    protocol, _, path = url.partition("://")
    store = fsspec.filesystem(
        protocol, skip_instance_cache=True, use_listings_cache=False, **(options or {}).get(protocol, {})
    )
    return {name.rsplit("/", 1)[1]: store.cat_file(name) for name in store.find(path)}


def statuses(report):
    return [shard.status for shard in report.shards]


S3 = "s3://bucket/masks"


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


# Shards behind URLs


@pytest.fixture
def remote_shards(shards, s3):
    store = fsspec.filesystem("s3", skip_instance_cache=True, **s3)
    store.put([str(path) for path in shards.iterdir()], [f"bucket/shards/{path.name}" for path in shards.iterdir()])
    yield "s3://bucket/shards/part-{000000..000002}.tar"
    store.rm("bucket/shards", recursive=True)


def test_remote_shards_give_the_same_sidecars(remote_shards, whole, bucket, tmp_path):
    largest = max(path.stat().st_size for path in (tmp_path / "shards").glob("*.tar"))
    for number, (room, engine) in enumerate(((3, LocalEngine()), (1.5, LocalEngine()), (10, LocalEngine(2)))):
        cache = ShardCache(
            tmp_path / f"cache{number}", int(room * largest), storage_options=bucket.options, deadline_s=5.0
        )
        out = f"{S3}/{number}"
        assert statuses(run(remote_shards, out, engine=engine, cache=cache)) == ["made"] * 3
        assert contents(out, bucket.options) == whole
        assert cache.used_bytes <= cache.max_bytes
        assert statuses(run(remote_shards, out, cache=cache)) == ["kept"] * 3
        assert (
            statuses(run(remote_shards, str(tmp_path / "here"), cache=cache)) == ["made" if not number else "kept"] * 3
        )
    assert {path.name: path.read_bytes() for path in (tmp_path / "here").iterdir()} == whole
    with (
        Store(remote_shards, cache=cache) as store,
        MaskStore(store, f"{S3}/0") as masks,
        Store(tmp_path / "shards") as local,
        MaskStore(local, tmp_path / "here") as want,
        MaskStore(local, f"{S3}/0", cache=cache) as fetched,
    ):
        np.testing.assert_array_equal(masks.present, want.present)
        np.testing.assert_array_equal(fetched.present, want.present)
        for sample in np.flatnonzero(want.present).tolist():
            assert bytes(masks.mask(sample)) == bytes(want.mask(sample)) == bytes(fetched.mask(sample))


def test_beside_remote_shards_and_without_indexes(remote_shards, whole, bucket, s3, tmp_path):
    store = fsspec.filesystem("s3", skip_instance_cache=True, **s3)
    store.rm_file("bucket/shards/part-000001.idx")
    cache = ShardCache(tmp_path / "cache", 10**9, storage_options=bucket.options)
    assert statuses(run(remote_shards, None, cache=cache)) == ["made"] * 3
    there = contents("s3://bucket/shards", bucket.options)
    assert {name: data for name, data in there.items() if ".masks." in name} == whole
    assert cache.stats()["fetched"] == 3, "each shard once, also the one without an index"
    assert statuses(run(remote_shards, None, cache=cache)) == ["kept"] * 3


def test_the_next_shard_is_fetched_meanwhile(remote_shards, bucket, tmp_path):
    urls = [f"s3://bucket/shards/part-00000{i}.tar" for i in range(3)]
    cache = ShardCache(tmp_path / "cache", 10**9, storage_options=bucket.options)
    ahead = Lookahead(Target(cache=cache))
    ahead.fetch(urls[1])
    end = time.monotonic() + 20
    while cache.stats()["fetched"] < 1 and time.monotonic() < end:
        time.sleep(0.01)
    assert cache.stats()["fetched"] == 1, "before it is opened"
    with ahead.open(urls[1]) as store:
        assert store.image(0).size
    with ahead.open(urls[0]) as store:  # not announced
        assert store.image(0).size
    ahead.fetch("s3://bucket/shards/none.tar")
    with pytest.raises(ShardError, match=r"none\.tar: not found \(404\)"):
        ahead.open("s3://bucket/shards/none.tar")
    ahead.fetch(urls[2])
    ahead.fetch(urls[0])  # the promise was broken
    ahead.close()
    ahead.close()


def test_a_remote_shard_that_is_missing_fails_alone(remote_shards, bucket, s3, tmp_path):
    cache = ShardCache(tmp_path / "cache", 10**9, storage_options=bucket.options)
    report = run(remote_shards.replace("02}", "03}"), tmp_path / "out", cache=cache)
    assert statuses(report) == ["made", "made", "made", "failed"]
    assert report.shards[3].error == "s3://bucket/shards/part-000003.tar: not found (404); check the URL"
    with pytest.raises(ShardError, match="got a URL"):
        run(remote_shards, tmp_path / "out")


def test_signatures_are_not_shown(shards, tmp_path):
    pytest.importorskip("aiohttp")
    from loopback import web_server

    with web_server() as site:
        for path in shards.iterdir():
            site.files[path.name] = path.read_bytes()
        urls = [f"{site.url}part-00000{i}.tar?sig=secret" for i in range(3)]
        cache = ShardCache(tmp_path / "cache", 10**9)
        report = run(urls, tmp_path / "out", cache=cache)
        assert statuses(report) == ["made"] * 3
        assert "secret" not in json.dumps(report.to_dict())
        assert report.shards[0].shard == f"{site.url}part-000000.tar"
        assert statuses(run(urls, tmp_path / "out", cache=cache)) == ["kept"] * 3
        with pytest.raises(UploadRefused, match=r"part-000000\.masks\.tar: a web server is read-only"):
            run(urls, None, cache=cache)


def test_import_into_a_store(remote_shards, bucket, tmp_path):
    from PIL import Image

    folder = tmp_path / "pngs"
    folder.mkdir()
    for key in ("00003", "surplus"):
        Image.fromarray(np.full((9, 9), 255, np.uint8)).save(folder / f"{key}.png")
    cache = ShardCache(tmp_path / "cache", 10**9, storage_options=bucket.options)
    report = import_masks(remote_shards, folder, out=S3, cache=cache, progress=False)
    assert report.total("masks") == 1
    assert report.surplus == ("surplus.png",)


def test_the_real_thing(remote_shards, bucket, tmp_path, capsys):
    """Decoder and kernels; `max_pixels`; the command line's page of masks."""
    largest = max(path.stat().st_size for path in (tmp_path / "shards").glob("*.tar"))
    cache = ShardCache(tmp_path / "cache", int(2.2 * largest), storage_options=bucket.options, deadline_s=10.0)
    here = make_masks(tmp_path / "shards", out=tmp_path / "out", size=32, max_pixels=8_000, progress=False)
    assert 0 < here.total("undecodable") < 60
    there = make_masks(remote_shards, out=S3, size=32, max_pixels=8_000, progress=False, cache=cache)
    assert there.total("undecodable") == here.total("undecodable")
    want = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert contents(S3, bucket.options) == want
    with pytest.raises(ShardError, match=r"max_pixels 8000, asked for 134217728"):
        make_masks(remote_shards, out=S3, size=32, progress=False, cache=cache)

    from figureground.pipeline.masks_report import write_page

    page = write_page(remote_shards, tmp_path / "page.html", masks_dir=S3, compare="ft", limit=25, cache=cache)
    same = write_page(
        str(tmp_path / "shards"),
        tmp_path / "same.html",
        masks_dir=tmp_path / "out",
        compare=str(tmp_path / "out"),
        limit=25,
    )
    assert (page.images, page.samples, page.masks) == (same.images, same.samples, same.masks)
    assert Path(page.path).read_text().count('"photo": ') == 25
