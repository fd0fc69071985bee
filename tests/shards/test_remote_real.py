"""Servers that speak as Amazon's and Google's stores do, on this machine."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

import fsspec
import pytest
from remote_tools import same_samples

from figureground.shards.reader import Store
from figureground.shards.remote import Remote, RemoteError
from figureground.shards.upload import UploadRefused, list_folder, remove, upload

pytest.importorskip("aiohttp")
pytestmark = pytest.mark.usefixtures("short_waits")


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
    """As much of Google's storage server as reading and putting small files take."""

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
        self._answer(status, body)

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        _, about, rest = data.split(b"--==0==\n", 2)
        name = json.loads(about.partition(b"\n\n")[2])["name"]
        if not self.path.startswith("/upload/storage/v1/b/bucket/o?"):
            return self._answer(404, b"{}")
        if name.startswith("secret"):
            return self._answer(403, b"{}")
        self.files[name] = rest.partition(b"\n\n")[2].removesuffix(b"\n--==0==--")
        return self._answer(200, json.dumps(self._about(name)).encode())

    def do_DELETE(self) -> None:
        name = unquote(urlsplit(self.path).path.partition("/o/")[2])
        self._answer(204 if self.files.pop(name, None) is not None else 404, b"")

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _about(self, name: str) -> dict:
        data = self.files[name]
        digest = base64.b64encode(hashlib.md5(data).digest()).decode()
        return {"name": name, "bucket": "bucket", "size": str(len(data)), "md5Hash": digest, "generation": "1"}


@pytest.fixture
def gs(monkeypatch) -> Iterator[tuple[dict[str, bytes], dict]]:
    """The files of a bucket "bucket", by name, and storage options."""
    monkeypatch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    gcsfs = pytest.importorskip("gcsfs")
    files: dict[str, bytes] = {}
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Google", (_Google,), {"files": files}))
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    # Without the look-up of the kind of bucket, which speaks gRPC.
    fsspec.register_implementation("gs", gcsfs.core.GCSFileSystem, clobber=True)
    try:
        yield files, {"token": "anon", "endpoint_url": f"http://127.0.0.1:{server.server_port}"}
    finally:
        fsspec.register_implementation("gs", gcsfs.GCSFileSystem, clobber=True)
        server.shutdown()
        server.server_close()


def test_gs(folder, make_cache, gs):
    files, options = gs
    files.update((f"train/{path.name}", path.read_bytes()) for path in folder.iterdir())
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


def test_gs_takes_files(gs):
    files, options = gs
    remote = Remote({"gs": options}, deadline_s=20.0)
    assert list_folder(remote, "gs://bucket/masks") == {}
    for data in (b"first", b"\n--==0==\r\n" * 9):
        upload(remote, data, "gs://bucket/masks/a.tar")
        assert files == {"masks/a.tar": data}, "under its own name alone: a put is whole"
    upload(remote, b"1", "gs://bucket/masks/a.idx")
    assert {name: entry.size for name, entry in list_folder(remote, "gs://bucket/masks").items()} == {
        "a.tar": 90,
        "a.idx": 1,
    }
    remove(remote, "gs://bucket/masks/a.tar")
    remove(remote, "gs://bucket/masks/a.tar")
    assert list(files) == ["masks/a.idx"]
    with pytest.raises(UploadRefused, match=r"gs://bucket/secret/a\.tar: cannot be written: access denied \(403\)"):
        upload(remote, b"1", "gs://bucket/secret/a.tar")
    with pytest.raises(
        UploadRefused, match=r"gs://nowhere/a\.tar: cannot be written: not found \(404\); check the bucket"
    ):
        upload(remote, b"1", "gs://nowhere/a.tar")
