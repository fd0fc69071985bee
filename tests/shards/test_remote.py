"""Shards behind URLs: every fault with its message, and a Store that reads them as local ones."""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import os
import pickle
import re
import socket
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import fsspec
import numpy as np
import pytest
from loopback import Site, web_server

from figureground.shards import remote as remote_module
from figureground.shards.ahead import ReadAhead
from figureground.shards.cache import ShardCache
from figureground.shards.errors import ShardError
from figureground.shards.index import write_index
from figureground.shards.patterns import expand
from figureground.shards.reader import Store
from figureground.shards.remote import Remote, RemoteError, Stopped
from figureground.shards.remote_errors import explain

pytest.importorskip("aiohttp")


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    monkeypatch.setattr(remote_module, "_FIRST_DELAY_S", 0.02)


@pytest.fixture
def remote() -> Remote:
    return Remote(block_bytes=10_000, timeout_s=2.0, deadline_s=0.3)


@pytest.fixture
def site() -> Iterator[Site]:
    with web_server() as site:
        site.files["data"] = np.random.default_rng(0).bytes(45_678)
        yield site


@pytest.fixture
def folder(make_tar, tmp_path: Path) -> Path:
    """Five shards of unequal sizes, with indexes."""
    rng = np.random.default_rng(1)
    for shard in range(5):
        files = []
        for i in range(3 + shard):
            files += [(f"{shard}{i}.jpg", rng.bytes(8_000)), (f"{shard}{i}.cls", str(shard).encode())]
        write_index(make_tar(f"s/t-{shard:03d}.tar", files))
    return tmp_path / "s"


@pytest.fixture
def shards(site, folder) -> Site:
    """The web server with these shards in `s/`."""
    for path in folder.iterdir():
        site.files[f"s/{path.name}"] = path.read_bytes()
    return site


@pytest.fixture
def make_cache(tmp_path: Path):
    def make(name: str = "cache", max_bytes: int = 10**6, **options) -> ShardCache:
        return ShardCache(tmp_path / name, max_bytes, **{"block_bytes": 20_000, "deadline_s": 2.0, **options})

    return make


def same_samples(one: Store, other: Store) -> None:
    assert len(one) == len(other)
    for sample in range(len(one)):
        assert one.key(sample) == other.key(sample)
        assert bytes(one.image(sample)) == bytes(other.image(sample))


def read_all(remote: Remote, url: str, start: int = 0) -> bytes:
    return b"".join(remote.blocks(remote.look(url), start))


# Bytes and faults


def test_looks_and_reads(remote, site, tmp_path):
    (tmp_path / "data").write_bytes(site.files["data"])
    fsspec.filesystem("memory").pipe_file("/remote/data", site.files["data"])
    for url in (site.url + "data", f"file://{tmp_path}/data", "memory://remote/data"):
        file = remote.look(url)
        assert (file.url, file.size, file.name, file.md5) == (url, 45_678, "data", "")
        assert file.version
        assert read_all(remote, url) == site.files["data"]
        assert read_all(remote, url, start=12_345) == site.files["data"][12_345:]
        assert b"".join(remote.blocks(file, 5, 9)) == site.files["data"][5:9]
        assert remote.read(url) == site.files["data"]
        assert remote.find(url[:-4] + "none") is None
    assert pickle.loads(pickle.dumps(remote)).look(site.url + "data") == remote.look(site.url + "data")


def test_a_broken_connection_is_resumed(remote, site):
    site.faults["data"].extend([("drop", 4_000), ("drop", 0)])
    assert read_all(remote, site.url + "data") == site.files["data"]
    assert site.gets("data").count((0, 10_000)) == 3
    assert len(site.gets("data")) == 7


def test_a_fault_in_the_middle(remote, site):
    site.faults["data"].extend(["", "", 503, 503, 429, 500])
    assert read_all(remote, site.url + "data") == site.files["data"]
    assert site.gets("data").count((0, 10_000)) == 1


def test_503_for_ever(remote, site):
    site.faults["data"].extend([503] * 1000)
    with pytest.raises(
        RemoteError, match=r"data: gave up after \d+ tries in 0 s, the last failure: HTTP 503; check the network"
    ):
        read_all(remote, site.url + "data")
    assert 4 < len(site.gets("data")) < 20  # doubling pauses


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (401, r"data: access denied \(401\); check the credentials, or for a public store pass storage_options"),
        (403, r"data: access denied \(403\); check the credentials"),
        (404, r"data: not found \(404\); check the URL"),
        (400, r"data: the server refuses the request \(HTTP 400\); check the URL"),
        (416, r"data: the server refuses the request \(HTTP 416\)"),
    ],
)
def test_what_will_not_pass_is_not_tried_again(remote, site, status, message):
    site.faults["data"].append(status)
    with pytest.raises(RemoteError, match=message) as caught:
        read_all(remote, site.url + "data")
    assert caught.value.status == (403 if status == 401 else status)
    assert pickle.loads(pickle.dumps(caught.value)).status == caught.value.status
    assert len(site.gets("data")) == 1


def test_looks_at_what_is_not_there(remote, site):
    site.forbidden.add("secret")
    with pytest.raises(RemoteError, match=r"none: not found \(404\)"):
        remote.look(site.url + "none")
    with pytest.raises(RemoteError, match=r"secret: access denied \(403\)"):
        remote.look(site.url + "secret")
    with pytest.raises(RemoteError, match=r"none: not found \(404\)"):
        remote.look("memory://none")
    with pytest.raises(ShardError, match="a shard must be a tar file, got a folder; name its tars"):
        remote.look("file:///tmp")


def test_no_server(remote):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    for ask in (remote.look, remote.read):
        with pytest.raises(
            RemoteError, match=r"gave up after \d+ tries .*ConnectionRefusedError.*check the network"
        ) as caught:
            ask(f"http://127.0.0.1:{port}/data")
        assert caught.value.status is None


def test_a_stall(site):
    site.seconds_per_piece = 5.0
    began = time.monotonic()
    with pytest.raises(RemoteError, match=r"data: gave up after \d tries .* TimeoutError: no answer within 0.2 s"):
        read_all(Remote(timeout_s=0.2, deadline_s=0.4), site.url + "data")
    assert time.monotonic() - began < 3


def test_stop(remote, site):
    site.seconds_per_piece = 5.0
    stop = threading.Event()
    threading.Timer(0.2, stop.set).start()
    file = remote.look(site.url + "data")
    began = time.monotonic()
    with pytest.raises(Stopped):
        list(Remote(block_bytes=40_000).blocks(file, stop=stop))
    site.faults["data"].extend([503] * 1000)
    with pytest.raises(Stopped):
        list(remote.blocks(file, stop=stop))
    assert time.monotonic() - began < 2


def test_a_server_without_ranges(remote, site):
    site.ranges = site.etags = False
    assert remote.look(site.url + "data").version == ""
    assert read_all(remote, site.url + "data") == site.files["data"]
    assert len(site.gets("data")) == 1
    assert read_all(remote, site.url + "data", start=40_000) == site.files["data"][40_000:]


def test_a_file_that_shrank(remote, site):
    file = remote.look(site.url + "data")
    site.files["data"] = site.files["data"][:15_000]
    with pytest.raises(RemoteError, match=r"gave up after .* ConnectionError: got 5000 of 10000 bytes"):
        list(remote.blocks(file))


def test_secrets_are_not_shown(site, caplog):
    caplog.set_level(logging.DEBUG, "figureground")
    site.faults["data"].extend([503] * 1000)
    url = site.url.replace("127", "user:secret@127") + "data?X-Amz-Signature=secret"
    with pytest.raises(RemoteError, match="gave up") as caught:
        Remote(deadline_s=0.1).read(url)
    refused = explain(OSError(f"cannot open {url}: X-Amz-Signature=secret"), url, "name")[0]
    assert "secret" not in caplog.text + str(caught.value) + refused
    assert "; again in " in caplog.text


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("simplecache::http://h/a.tar", "a remote shard must be protocol://path of a store"),
        ("filecache://h/a.tar", "a remote shard must be protocol://path of a store"),
        ("reference://h/a.tar", "a remote shard must be protocol://path of a store"),
        ("nonsense://h/a.tar", "nonsense:// cannot be opened: Protocol not known: nonsense; check the URL"),
    ],
)
def test_what_is_not_opened(remote, url, message):
    with pytest.raises(ShardError, match=message):
        remote.look(url)


def test_missing_package(remote, monkeypatch):
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(
        ImportError, match=r"a\.tar: s3:// needs a package .*s3fs.*; run pip install 'figureground\[remote\]'"
    ):
        remote.look("s3://b/a.tar")


# Lists of shards


def test_expand(remote, site, tmp_path):
    store = fsspec.filesystem("memory")
    store.pipe({f"/list/{name}": b"1" for name in ("a-0.tar", "a-1.tar", "a-0.masks.tar", "a-0.idx", "b.tar")})
    want = ["memory:///list/a-0.tar", "memory:///list/a-1.tar"]
    assert expand("memory:///list/a-*.tar", remote) == want
    assert expand("memory:///list/a-{0..1}.tar", remote) == want
    assert expand("memory:///list/", remote) == [*want, "memory:///list/b.tar"]
    assert expand(["memory:///list/?-[01].tar", "memory:///list/b.tar"], remote) == [*want, "memory:///list/b.tar"]
    assert expand("memory:///list/*.masks.tar", remote) == ["memory:///list/a-0.masks.tar"]
    assert expand("https://h/a-{0..1}.tar?x=[1]", remote) == ["https://h/a-0.tar?x=[1]", "https://h/a-1.tar?x=[1]"]
    (tmp_path / "c.tar").touch()
    assert expand([want[0], str(tmp_path / "c.tar")], remote) == [str(tmp_path / "c.tar"), want[0]]
    with pytest.raises(ShardError, match=r"memory:///list/c\*\.tar: no shard matches; check the URL"):
        expand("memory:///list/c*.tar", remote)
    with pytest.raises(ShardError, match="a web server cannot be listed; write a brace pattern"):
        expand("https://h/a-*.tar", remote)
    for opener in (None, remote):
        with pytest.raises(ShardError, match="got a command, which is never run"):
            expand("pipe:touch /tmp/figureground-was-here", opener)
        with pytest.raises(ShardError, match="got a chained URL"):
            expand("simplecache::s3://b/a.tar", opener)
    with pytest.raises(ShardError, match=r"must be a local file, got a URL; fetch it .* cache=ShardCache"):
        expand("s3://b/a.tar")


# A store


def test_store_equals_the_local_one(shards, folder, make_cache):
    with Store(folder) as local, Store(shards.url + "s/t-{000..004}.tar", cache=make_cache()) as store:
        assert store.is_remote
        assert not local.is_remote
        assert store.starts.tolist() == local.starts.tolist() == [0, 3, 7, 12, 18, 25]
        assert not any(path.endswith(".tar") and method == "GET" for method, path, _ in shards.asked)  # not fetched yet
        assert store.shards[2] == shards.url + "s/t-002.tar"
        same_samples(store, local)
        assert store.fingerprint == local.fingerprint
        assert store.shard_fingerprint(3) == local.shard_fingerprint(3)
        np.testing.assert_array_equal(store.targets, local.targets)
        local.need([1])


def test_the_second_epoch_uses_the_cache(shards, folder, make_cache):
    cache = make_cache()
    with Store(shards.url + "s/t-{000..004}.tar", cache=cache) as store:
        for _ in range(2):
            for sample in range(len(store)):
                store.image(sample)
    asked = [(path, span) for method, path, span in shards.asked if method == "GET"]
    assert len(asked) == len(set(asked))
    assert cache.stats()["fetched"] == 5
    shards.asked.clear()
    with Store(shards.url + "s/t-{000..004}.tar", cache=make_cache()) as again, Store(folder) as local:
        same_samples(again, local)
    assert [method for method, _, _ in shards.asked] == ["HEAD"] * 5  # still the same? then nothing is fetched


def test_a_small_cache(shards, folder, make_cache):
    largest = max(path.stat().st_size for path in folder.glob("*.tar"))
    cache = make_cache(max_bytes=int(2.2 * largest))
    with Store(shards.url + "s/t-{000..004}.tar", cache=cache) as store, Store(folder) as local:
        for _ in range(2):
            same_samples(store, local)
            assert cache.used_bytes <= cache.max_bytes
    assert cache.stats()["evicted"] >= 5
    sizes = sorted((path.stat().st_size for path in folder.glob("*.tar")), reverse=True)
    with pytest.raises(
        ShardError, match=rf"the cache must hold two shards, {sum(sizes[:2])} bytes, got \d+; raise it$"
    ):
        Store(shards.url + "s/t-{000..004}.tar", cache=make_cache(max_bytes=sum(sizes[:2]) - 1))
    with Store(shards.url + "s/t-{000..004}.tar", cache=cache) as store:
        with pytest.raises(
            ShardError, match=rf"two windows of 1 shards and two more, {sum(sizes[:4])} bytes, .* lower the window"
        ):
            store.plan_windows(1)
        cache.max_bytes = sum(sizes)
        store.plan_windows(100)  # all of it fits


def test_views_keep_their_shard(shards, folder, make_cache):
    largest = max(path.stat().st_size for path in folder.glob("*.tar"))
    cache = make_cache(max_bytes=int(2.2 * largest), deadline_s=0.3)
    with Store(shards.url + "s/t-{000..004}.tar", cache=cache) as store, Store(folder) as local:
        first = store.image(12)
        second = store.image(7)
        with pytest.raises(ShardError, match=r"all of the cache .* is in use"):
            store.image(20)  # 61 + 51 + 72 kB
        del second
        assert bytes(store.image(20)) == bytes(local.image(20))
        assert bytes(first) == bytes(local.image(12))


def test_what_is_needed_now_goes_before_what_is_needed_later(shards, folder, make_cache):
    largest = max(path.stat().st_size for path in folder.glob("*.tar"))
    cache = make_cache(max_bytes=4 * largest, deadline_s=0.3)
    with Store(shards.url + "s/t-{000..004}.tar", cache=cache) as store, Store(folder) as local:
        store.need([3, 2, 1])
        ahead = store._fetched._ahead
        assert ahead.wait_for([3, 2], 5)
        views = [store.image(0), store.image(3)]
        cache.max_bytes = cache.used_bytes  # full
        assert bytes(store.image(20)) == bytes(local.image(20))
        assert ahead.held == []
        assert not ahead.give_way()
        del views


def test_without_indexes(shards, folder, make_cache, caplog):
    urls = shards.url + "s/t-{000..004}.tar"
    for name in ("t-001.idx", "t-003.idx"):
        del shards.files[f"s/{name}"]
    shards.forbidden.add("s/t-003.idx")  # what S3 answers for a missing file to those who may not list
    with pytest.raises(
        ShardError, match=r"t-001\.tar: has no index beside it \(2 of 5 shards\); run 'figureground index' where"
    ):
        Store(urls, cache=make_cache(), index="require")
    largest = max(path.stat().st_size for path in folder.glob("*.tar"))
    cache = make_cache(max_bytes=int(2.2 * largest))
    with Store(urls, cache=cache) as store, Store(folder) as local:
        assert cache.stats()["fetched"] == 2
        assert store.fingerprint == local.fingerprint
        same_samples(store, local)
    assert caplog.text.count("has no index beside it, so all of it is fetched now (2 of 5 shards)") == 1
    shards.asked.clear()
    Store(urls, cache=cache, index="require").close()  # kept, though the tars may be gone
    assert [method for method, _, _ in shards.asked] == ["HEAD"] * 5


def test_what_is_wrong_at_the_start(shards, make_cache, caplog):
    urls = shards.url + "s/t-{000..004}.tar"
    with pytest.raises(
        ShardError, match=r"must be a local file, got a URL; .* open it with Store\(\.\.\., cache=ShardCache"
    ):
        Store(urls)
    with pytest.raises(
        ShardError, match=r"t-005\.tar: not found \(404\); check the URL \(3 of 8 shards are not there\)"
    ):
        Store(shards.url + "s/t-{000..007}.tar", cache=make_cache())
    with pytest.raises(RemoteError, match=r"t-005\.tar: not found \(404\); check the URL$"):
        Store(shards.url + "s/t-{000..005}.tar", cache=make_cache())
    good = shards.files["s/t-001.idx"]
    for text, message in (
        (
            b"<html>no such page</html>",
            r"t-001\.idx: must start with 'v1.2 <samples>'.*; run 'figureground index' where the shard",
        ),
        (
            good.replace(b" 512 ", b" 99512 "),
            r"t-001\.idx: stale: its last member ends at byte 107512, the tar has \d+ bytes; run",
        ),
    ):
        shards.files["s/t-001.idx"] = text
        with pytest.raises(ShardError, match=message):
            Store(urls, cache=make_cache())
    shards.files["s/t-001.idx"] = good
    Store(urls, cache=make_cache()).close()
    kept = next(path for path in Path(make_cache().folder).rglob("t-001.idx"))
    kept.write_bytes(b"v1.2 7\n")
    Store(urls, cache=make_cache()).close()
    assert "t-001.idx: promises 7 samples, has 0; fetching it again" in caplog.text
    shards.files["s/t-002.tar"] = b""
    with pytest.raises(ShardError, match=r"t-002\.tar: the shard is empty \(0 bytes\)"):
        Store(urls, cache=make_cache())
    with pytest.raises(ShardError, match="no shard matches"):
        Store("memory://nowhere/*.tar", cache=make_cache())


def test_a_tar_that_fails_later(shards, make_cache):
    with Store(shards.url + "s/t-{000..004}.tar", cache=make_cache()) as store:
        tar = shards.files.pop("s/t-001.tar")
        with pytest.raises(RemoteError, match=r"t-001\.tar: not found \(404\)"):
            store.image(3)
        shards.files["s/t-001.tar"] = tar[:-1024] + bytes(1024) + b"more"
        with pytest.raises(ShardError, match=r"t-001\.tar: the shard was changed|gave up"):
            store.image(3)
        shards.files["s/t-001.tar"] = tar
        assert store.image(3).size == 8_000


def test_local_and_remote_in_one_list(shards, folder, make_cache, tmp_path):
    local = [str(folder / f"t-{number:03d}.tar") for number in (0, 1)]
    with Store([*local, shards.url + "s/t-{002..004}.tar"], cache=make_cache()) as store, Store(folder) as other:
        same_samples(store, other)
        store.need([0, 3])
        same_samples(store, other)
    with Store(local, cache=make_cache()) as store:  # a cache does no harm
        assert not store.is_remote


def test_pickled_and_closed(shards, folder, make_cache):
    store = Store(shards.url + "s/t-{000..004}.tar", cache=make_cache())
    store.need([0, 1])
    image = store.image(0)
    with pickle.loads(pickle.dumps(store)) as other, Store(folder) as local:
        same_samples(other, local)
    store.close()
    assert image.size == 8_000
    for call in (lambda: store.image(0), lambda: store.need([2])):
        with pytest.raises(RuntimeError, match="Store: is closed; open a new one"):
            call()


def test_one_slow_shard_stops_no_other(shards, make_cache):
    with Store(shards.url + "s/t-{000..004}.tar", cache=make_cache()) as store:
        store.image(0)
        shards.seconds_per_piece = 0.5
        slow = threading.Thread(target=store.image, args=(24,))
        slow.start()
        time.sleep(0.1)
        began = time.monotonic()
        store.image(1)
        assert time.monotonic() - began < 0.2
        slow.join()


# Reading ahead


def test_read_ahead(shards, make_cache):
    with Store(shards.url + "s/t-{000..004}.tar", cache=make_cache()) as store:
        store.need([3, 1, 4])
        ahead = store._fetched._ahead
        assert ahead.wait_for([3, 1, 4], 5)
        assert ahead.held == [1, 3, 4]
        shards.asked.clear()
        for sample in (3, 12, 18):
            store.image(sample)
        assert shards.asked == []
        store.need([4])
        assert ahead.held == [4]
    assert ahead.held == []


def test_read_ahead_pauses_when_all_is_in_use(shards, folder, make_cache, monkeypatch):
    monkeypatch.setattr("figureground.shards.ahead._FULL_PAUSE_S", 0.05)
    sizes = [path.stat().st_size for path in sorted(folder.glob("*.tar"))]
    cache = make_cache(max_bytes=sizes[3] + sizes[4])
    urls = [f"{shards.url}s/t-{number:03d}.tar" for number in range(5)]
    ahead = ReadAhead(cache, urls, max_bytes=10**9)
    lease = cache.lease(urls[4])
    ahead.want([3, 2])
    assert ahead.wait_for([3], 5)
    time.sleep(0.2)
    assert ahead.held == [3]
    lease.release()
    assert ahead.wait_for([2], 5)
    assert cache.used_bytes <= cache.max_bytes
    ahead.want([2])
    held = [cache.lease(urls[number]) for number in (0, 1)]
    ahead.want([3, 2])  # one of them fits: 2 is there, 3 is needed first
    assert ahead.wait_for([3], 5)
    assert ahead.held == [3]
    ahead.close()
    for lease in held:
        lease.release()
    bounded = ReadAhead(cache, urls, max_bytes=sizes[0] + sizes[1])
    bounded.want([0, 1, 2])
    assert bounded.wait_for([0, 1], 5)
    time.sleep(0.1)
    assert bounded.held == [0, 1]  # there is room for it elsewhere only
    bounded.close()
    with pytest.raises(ValueError, match="ReadAhead: threads must be at least 1, got 0"):
        ReadAhead(cache, urls, threads=0)


def test_errors_of_reading_ahead_reach_the_consumer(shards, make_cache, caplog):
    with Store(shards.url + "s/t-{000..004}.tar", cache=make_cache()) as store:
        tar = shards.files.pop("s/t-001.tar")
        store.need([1, 2])
        assert store._fetched._ahead.wait_for([1, 2], 5)
        shards.files["s/t-001.tar"] = tar
        assert store.image(7).size == 8_000  # another one
        with pytest.raises(RemoteError, match=r"t-001\.tar: not found \(404\)") as caught:
            store.image(3)
        assert caught.value.__notes__ == ["(raised while reading ahead)"]
        assert store.image(3).size == 8_000  # tried again
    assert "t-001.tar: could not be fetched ahead" in caplog.text


def test_read_ahead_ends_at_once(shards, make_cache):
    store = Store(shards.url + "s/t-{000..004}.tar", cache=make_cache())
    shards.seconds_per_piece = 3.0
    store.need([0, 1])
    threads = store._fetched._ahead._threads
    while not shards.gets("s/t-000.tar"):
        time.sleep(0.01)
    began = time.monotonic()
    store.close()
    assert time.monotonic() - began < 1
    assert not any(thread.is_alive() for thread in threads)
    store = Store(shards.url + "s/t-{000..004}.tar", cache=make_cache())
    store.need([0, 1])
    threads = store._fetched._ahead._threads
    del store  # not closed, but nobody has it any more
    assert not any(thread.is_alive() for thread in threads)


# Real stores, on this machine


@pytest.fixture(scope="module")
def s3() -> Iterator[dict]:
    """Storage options of an S3 server with an empty bucket "bucket"."""
    server = pytest.importorskip("moto.server")
    pytest.importorskip("s3fs")
    boto3 = pytest.importorskip("boto3")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    moto = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    try:
        host, port = moto.get_host_and_port()
        keys = {"aws_access_key_id": "k", "aws_secret_access_key": "s", "region_name": "us-east-1"}
        boto3.client("s3", endpoint_url=f"http://{host}:{port}", **keys).create_bucket(Bucket="bucket")
        yield {
            "key": "k", "secret": "s", "endpoint_url": f"http://{host}:{port}", "client_kwargs": {"region_name": "us-east-1"},
        }  # fmt: skip
    finally:
        moto.stop()


def test_s3(s3, folder, make_cache):
    cache = make_cache(storage_options={"s3": s3})
    store = fsspec.filesystem("s3", **s3)
    store.put([str(path) for path in folder.iterdir()], [f"bucket/train/{path.name}" for path in folder.iterdir()])
    with Store(folder) as local:
        for pattern in ("s3://bucket/train/t-{000..004}.tar", "s3://bucket/train/", "s3://bucket/train/t-*.tar"):
            with Store(pattern, cache=cache) as remote:
                assert remote.shards == [f"s3://bucket/train/t-{number:03d}.tar" for number in range(5)]
                remote.need([0, 1])
                same_samples(remote, local)
                assert remote.fingerprint == local.fingerprint
    assert cache.stats()["fetched"] == 5
    with pytest.raises(RemoteError, match=r"s3://bucket/train/t-005\.tar: not found \(404\)"):
        Store("s3://bucket/train/t-{000..005}.tar", cache=cache)
    with pytest.raises(RemoteError, match=r"s3://elsewhere/a\.tar: not found \(404\)"):
        Store("s3://elsewhere/a.tar", cache=cache)
    # A state of a shard is its ETag: a new one of the same size is fetched anew.
    tar = (folder / "t-000.tar").read_bytes()
    store.pipe_file("bucket/train/t-000.tar", tar[:512] + bytes(8_000) + tar[8_512:])
    with Store("s3://bucket/train/t-000.tar", cache=cache) as remote:
        assert bytes(remote.image(0)) == bytes(8_000)
    store.rm("bucket/train", recursive=True)


def test_s3_without_credentials(make_cache, monkeypatch, s3, tmp_path):
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    options = {key: value for key, value in s3.items() if key not in ("key", "secret")}
    with pytest.raises(RemoteError, match=r"s3://bucket/a\.tar: access denied \(403\); check the credentials"):
        make_cache(storage_options={"s3": options}).remote.look("s3://bucket/a.tar")


class _Google(BaseHTTPRequestHandler):
    """As much of Google's storage server as reading takes."""

    protocol_version = "HTTP/1.1"
    files: dict[str, bytes]

    def log_message(self, *_) -> None:
        pass

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        name = unquote(parts.path.partition("/o/")[2])
        span = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if name not in self.files and not parts.path.endswith("/o"):
            status, body = 404, b"{}"
        elif name.startswith("secret"):
            status, body = 403, b"{}"
        elif parts.path.startswith("/download/"):
            body = self.files[name]
            status, body = (206, body[int(span[1]) : int(span[2]) + 1]) if span else (200, body)
        elif name:
            status, body = 200, json.dumps(self._about(name)).encode()
        else:
            prefix = parse_qs(parts.query).get("prefix", [""])[0]
            status, body = (
                200,
                json.dumps({"items": [self._about(n) for n in self.files if n.startswith(prefix)]}).encode(),
            )
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _about(self, name: str) -> dict:
        data = self.files[name]
        digest = base64.b64encode(hashlib.md5(data).digest()).decode()
        return {"name": name, "bucket": "bucket", "size": str(len(data)), "md5Hash": digest, "generation": "1"}


def test_gs(folder, make_cache, monkeypatch):
    monkeypatch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    gcsfs = pytest.importorskip("gcsfs")
    files = {f"train/{path.name}": path.read_bytes() for path in folder.iterdir()}
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Google", (_Google,), {"files": files}))
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    options = {"token": "anon", "endpoint_url": f"http://127.0.0.1:{server.server_port}"}
    # Without the look-up of the kind of bucket, which speaks gRPC.
    fsspec.register_implementation("gs", gcsfs.core.GCSFileSystem, clobber=True)
    try:
        cache = make_cache(storage_options={"gs": options})
        with Store("gs://bucket/train/t-{000..004}.tar", cache=cache) as store, Store(folder) as local:
            same_samples(store, local)
            assert store.fingerprint == local.fingerprint
        assert cache.remote.look("gs://bucket/train/t-000.tar").md5 == hashlib.md5(files["train/t-000.tar"]).hexdigest()
        with pytest.raises(RemoteError, match=r"gs://bucket/train/t-009\.tar: not found \(404\)"):
            Store("gs://bucket/train/t-009.tar", cache=cache)
        files["secret.tar"] = b"1"
        with pytest.raises(RemoteError, match=r"gs://bucket/secret\.tar: (access denied|not found)"):
            Store("gs://bucket/secret.tar", cache=cache)
    finally:
        fsspec.register_implementation("gs", gcsfs.GCSFileSystem, clobber=True)
        server.shutdown()
        server.server_close()
