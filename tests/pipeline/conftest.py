"""Shards of generated images with known figures; an S3 server for mask jobs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from masks_stores import run
from pipeline_shards import write_shards
from s3_server import Door, door_to, s3_server

from figureground.shards import remote as remote_module


@pytest.fixture(scope="session")
def shards(tmp_path_factory) -> str:
    """120 samples in three shards, with masks."""
    return write_shards(tmp_path_factory.mktemp("shards"), 120)


@pytest.fixture
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests are tried again almost at once."""
    monkeypatch.setattr(remote_module, "_FIRST_DELAY_S", 0.02)


@pytest.fixture(scope="module")
def s3() -> Iterator[dict]:
    """Storage options of an S3 server with a bucket "bucket"."""
    with s3_server() as options:
        yield options


@pytest.fixture
def bucket(s3: dict) -> Iterator[Door]:
    """A door to that bucket, whose folder `masks` is empty."""
    store = fsspec.filesystem("s3", skip_instance_cache=True, use_listings_cache=False, **s3)
    if store.exists("bucket/masks"):
        store.rm("bucket/masks", recursive=True)
    with door_to(s3) as (door, _):
        yield door


@pytest.fixture
def sixty(tmp_path: Path) -> Path:
    """60 samples in three shards, without masks."""
    write_shards(tmp_path / "shards", 60, per_shard=20, masks=False)
    return tmp_path / "shards"


@pytest.fixture
def whole(sixty: Path, tmp_path: Path) -> dict[str, bytes]:
    """The sidecars and indexes of these as they are on disk."""
    run(sixty, tmp_path / "whole")
    return {path.name: path.read_bytes() for path in (tmp_path / "whole").iterdir()}
