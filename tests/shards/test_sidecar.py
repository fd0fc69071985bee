"""What a sidecar says of itself: read from its last bytes, results apart from parameters, older ones too."""

from __future__ import annotations

import json

import numpy as np
import pytest

from figureground.shards.errors import ShardError
from figureground.shards.masks import MASKS, TEXTURES, MaskWriter, read_manifest, sidecar_path
from figureground.shards.reader import Store
from figureground.shards.sidecar import manifest_in_tail, parse_manifest


@pytest.fixture
def sidecar(make_tar) -> str:
    shard = make_tar("t-0.tar", [(f"{i}.jpg", b"1") for i in range(9)])
    with MaskWriter(shard, method="test", parameters={"a": 1}, result={"masks": 8, "histogram": [1, 7]}) as masks:
        for i in range(8):
            masks.add(str(i), np.full((60, 60), i, np.uint8))
        masks.add("manifest", np.zeros((3, 3), np.uint8))
    return masks.path


def test_manifest_in_the_last_bytes(sidecar):
    with open(sidecar, "rb") as file:
        data = file.read()
    want = read_manifest(sidecar)
    assert want.result == {"masks": 8, "histogram": [1, 7]}
    assert want.parameters == {"a": 1}
    place = data.rindex(b"manifest.json")
    for start in range(0, len(data), 512):
        found = manifest_in_tail("x", data[start:])
        assert found == (want if start <= place else None), start
    assert manifest_in_tail("x", b"") is None
    assert manifest_in_tail("x", data[:place]) is None, "cut before it"
    broken = data.replace(MASKS.format.encode(), MASKS.format.encode().replace(b"1", b"9"))
    with pytest.raises(ShardError, match=r"^x: manifest\.json must be of format 'figureground masks 1'"):
        manifest_in_tail("x", broken)


def test_an_older_manifest():
    """Results were among the parameters."""
    text = {
        "format": MASKS.format,
        "method": "m",
        "source": "s",
        "count": 2,
        "parameters": {"a": 1, "result": {"masks": 2}},
        "version": "0",
    }
    manifest = parse_manifest("x", json.dumps(text).encode())
    assert (manifest.parameters, manifest.result) == ({"a": 1}, {"masks": 2})
    assert parse_manifest("x", manifest.to_json()) == manifest


def test_a_writer_for_a_shard_elsewhere(sidecar, tmp_path):
    """A known fingerprint stands for the shard; what it writes is what a writer beside the shard does."""
    shard = str(tmp_path / "t-0.tar")
    with Store(shard) as store:
        source = store.shard_fingerprint(0)
    for place in ("s3://bucket/t-0.tar", shard):
        with MaskWriter(place, method="test", masks_dir=tmp_path, source=source) as writer:
            writer.add("0", np.zeros((3, 3), np.uint8))
        made = read_manifest(sidecar_path(shard, tmp_path))
        assert (made.source, made.count) == (source, 1)
    with pytest.raises(
        ValueError, match=r"^MaskWriter: masks_dir must be a local folder, got s3://bucket/m/t-0\.masks\.tar; upload"
    ):
        MaskWriter(shard, method="test", masks_dir="s3://bucket/m")


def test_names():
    assert sidecar_path("https://host/a%20b.tar?t=1", "masks") == "masks/a b.masks.tar"
    assert sidecar_path("https://host/a%20b.tar?t=1") == "https://host/a%20b.masks.tar?t=1"
    assert sidecar_path("s3://b/x/a.tar", "gs://c/y/") == "gs://c/y/a.masks.tar"
    with pytest.raises(ShardError, match=r"^s3://b/a\.masks\.tar: a shard must be a tar of images, got a mask sidecar"):
        sidecar_path("s3://b/a.masks.tar", "masks")
    assert sidecar_path("s3://b/x/a.tar", kind=TEXTURES) == "s3://b/x/a.textures.tar"
    assert sidecar_path("s3://b/x/a.tar", "gs://c/y", TEXTURES) == "gs://c/y/a.textures.tar"
    with pytest.raises(ShardError, match=r"^https://b/a\.textures\.tar: a shard must be .*, got a texture sidecar"):
        sidecar_path("https://b/a.textures.tar?t=secret")


def test_each_kind_reads_its_own_manifest(sidecar, tmp_path):
    with MaskWriter(tmp_path / "t-0.tar", method="test", result={"masks": 1}, kind=TEXTURES) as textures:
        textures.add("0", b"\xff\xd8\xff\xe0" + bytes(20))
    for path, kind, other in ((sidecar, MASKS, TEXTURES), (textures.path, TEXTURES, MASKS)):
        with open(path, "rb") as file:
            tail = file.read()
        assert manifest_in_tail("x", tail, kind) == read_manifest(path, kind)
        with pytest.raises(ShardError, match=f"^x: manifest.json must be of format 'figureground {other.name} 1'"):
            manifest_in_tail("x", tail, other)
