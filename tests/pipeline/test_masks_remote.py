"""Mask jobs and pages of shards behind URLs: the same sidecars as of local ones, the next shard fetched meanwhile."""

from __future__ import annotations

import json
import time
from pathlib import Path

import fsspec
import numpy as np
import pytest
from masks_stores import S3, contents, run, statuses

from figureground.pipeline.masks_engines import LocalEngine
from figureground.pipeline.masks_job import import_masks, make_masks
from figureground.pipeline.masks_target import Lookahead, Target
from figureground.pipeline.textures_job import make_textures
from figureground.shards import MaskStore, ShardError, Store
from figureground.shards.cache import ShardCache
from figureground.shards.masks import TEXTURES
from figureground.shards.upload import UploadRefused

pytestmark = pytest.mark.usefixtures("short_waits")


@pytest.fixture
def shards(sixty):
    """60 samples in three shards."""
    return sixty


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


def test_textures_go_the_same_way(remote_shards, bucket, tmp_path):
    """Beside masks in the same folder; made again of another state alone; read by a store of their kind."""
    here, settings = tmp_path / "out", {"size": 32, "block": 16, "overlap": 4, "threads": 1, "progress": False}
    make_textures(tmp_path / "shards", out=here, **settings)
    want = {path.name: path.read_bytes() for path in here.iterdir()}
    assert sorted(want)[1] == "part-000000.textures.tar"
    cache = ShardCache(tmp_path / "cache", 10**9, storage_options=bucket.options)
    run(remote_shards, S3, cache=cache)
    made = make_textures(remote_shards, out=S3, cache=cache, jobs=2, **settings)
    assert made["sidecars"] == {"made": 3, "kept": 0, "failed": 0}
    assert made["shards"][0]["sidecar"] == f"{S3}/part-000000.textures.tar"
    there = contents(S3, bucket.options)
    assert {name: data for name, data in there.items() if ".textures." in name} == want
    assert len(there) == 12, "the masks are still there"
    kept = make_textures(remote_shards, out=S3, cache=cache, **settings)
    assert kept["sidecars"] == {"made": 0, "kept": 3, "failed": 0}
    assert kept["textures"] == made["textures"] == 60
    with pytest.raises(ShardError, match=r"part-000000\.textures\.tar: was made otherwise \(seed 0, asked for 1\)"):
        make_textures(remote_shards, out=S3, cache=cache, seed=1, **settings)
    with (
        Store(remote_shards, cache=cache) as store,
        MaskStore(store, S3, kind=TEXTURES) as textures,
        MaskStore(store, S3) as masks,
        Store(tmp_path / "shards") as local,
        MaskStore(local, here, kind=TEXTURES) as others,
    ):
        for sample in (0, 33, 59):
            assert bytes(textures.mask(sample)) == bytes(others.mask(sample)) != bytes(masks.mask(sample))
