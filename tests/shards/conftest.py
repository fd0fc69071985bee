"""Tars made by Python's tarfile, in each of its formats; shards behind a web server of this machine."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from loopback import Site, web_server
from s3_server import s3_server

from figureground.shards import remote as remote_module
from figureground.shards.cache import ShardCache
from figureground.shards.index import write_index
from figureground.shards.remote import Remote

Files = Sequence[tuple[str | bytes, bytes]]


@pytest.fixture
def make_tar(tmp_path: Path) -> Callable[..., str]:
    """Write a tar of (name, data) pairs in the test's folder and return its path."""

    def make(name: str, files: Files, format: int = tarfile.GNU_FORMAT) -> str:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(path, "w", format=format) as tar:
            for member, data in files:
                text = member if isinstance(member, str) else member.decode("utf-8", "surrogateescape")
                info = tarfile.TarInfo(text)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
        return str(path)

    return make


@pytest.fixture(scope="session")
def jpeg() -> bytes:
    """A small JPEG."""
    rng = np.random.default_rng(0)
    _, data = cv2.imencode(".jpg", rng.integers(0, 256, (24, 32, 3), np.uint8))
    return data.tobytes()


@pytest.fixture
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests are tried again almost at once."""
    monkeypatch.setattr(remote_module, "_FIRST_DELAY_S", 0.02)


@pytest.fixture
def remote() -> Remote:
    """Asks in blocks of 10 kB, with little patience."""
    return Remote(block_bytes=10_000, timeout_s=2.0, deadline_s=0.3)


@pytest.fixture
def site() -> Iterator[Site]:
    """A web server with one file, `data`."""
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
def make_cache(tmp_path: Path) -> Callable[..., ShardCache]:
    """Make a cache in the test's folder."""

    def make(name: str = "cache", max_bytes: int = 10**6, **options) -> ShardCache:
        return ShardCache(tmp_path / name, max_bytes, **{"block_bytes": 20_000, "deadline_s": 2.0, **options})

    return make


@pytest.fixture(scope="module")
def s3() -> Iterator[dict]:
    """Storage options of an S3 server with an empty bucket "bucket"."""
    with s3_server() as options:
        yield options
