"""Files behind URLs: bytes, every fault with its message, lists of shards."""

from __future__ import annotations

import logging
import pickle
import socket
import sys
import threading
import time

import fsspec
import pytest
from remote_tools import read_all

from figureground.shards.errors import ShardError
from figureground.shards.patterns import expand
from figureground.shards.remote import Remote, RemoteError, Stopped
from figureground.shards.remote_errors import explain

pytest.importorskip("aiohttp")
pytestmark = pytest.mark.usefixtures("short_waits")


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
