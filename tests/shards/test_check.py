"""Findings: each kind once, and none for sound shards."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from figureground.shards.check import check
from figureground.shards.errors import ShardError
from figureground.shards.index import index_path, write_index
from figureground.shards.masks import TEXTURES, MaskWriter, sidecar_path


def found(*args, **options):
    return [(finding.kind, finding.key, finding.message) for finding in check(*args, **options)]


def indexed(make_tar, name, files):
    tar = make_tar(name, files)
    write_index(tar)
    return tar


def test_sound(make_tar, tmp_path: Path):
    shard = indexed(make_tar, "a.tar", [("1.jpg", b"x"), ("1.cls", b"2"), ("ü ö.png", b"y")])
    with MaskWriter(shard, method="x") as masks:
        masks.add("ü ö", np.zeros((2, 2), np.uint8))
    assert check(tmp_path) == []


def test_structure(make_tar):
    shard = indexed(make_tar, "a.tar", [("1.jpg", b"x" * 600)])
    os.truncate(shard, 700)
    assert found(shard) == [
        ("tar", None, "cut short in 1.jpg, which ends at byte 1112 of 700; fetch or pack the shard again")
    ]
    assert str(check(shard)[0]).startswith(f"{shard}: cut short in 1.jpg")
    shard = indexed(make_tar, "b.tar", [])
    assert found(shard) == [("tar", None, "holds no sample")]
    shard = indexed(make_tar, "c.tar", [("1.jpg", b"x")])
    with open(shard, "ab") as file:
        file.write(b"more")
    assert found(shard) == [("tar", None, "4 bytes after the end-of-archive marker at byte 1024 are not read")]


def test_index(make_tar):
    shard = make_tar("a.tar", [("1.jpg", b"x"), ("2.jpg", b"y")])
    assert found(shard) == [("index", None, f"has no index; run 'figureground index {shard}'")]
    write_index(shard)
    text = Path(index_path(shard)).read_text()
    Path(index_path(shard)).write_text(text.replace("2.jpg", "3.jpg"))
    message = f"stale: sample 1 is not what the tar has; run 'figureground index --force {shard}'"
    assert found(shard) == [("index", "2", message)]
    Path(index_path(shard)).write_text(text.replace("v1.2 2", "v1.2 1").rsplit("jpg", 1)[0][:-4] + "\n")
    assert found(shard)[0][0] == "index"
    Path(index_path(shard)).write_text("nonsense")
    assert "must start with 'v1.2 <samples>'" in found(shard)[0][2]


def test_samples(make_tar):
    shard = indexed(make_tar, "a.tar", [("1.jpg", b""), ("2.txt", b"x"), ("2.CLS", b"x"), ("3.jpg", b"x")])
    assert found(shard) == [
        ("image", "1", "its image is empty (0 bytes)"),
        ("image", "2", "has no image, only cls, txt"),
    ]
    assert str(check(shard)[1]) == f"{shard}: 2: has no image, only cls, txt"


def test_duplicates(make_tar):
    first = indexed(make_tar, "a.tar", [("1.jpg", b"x"), ("2.jpg", b"x"), ("1.jpg", b"x")])
    second = indexed(make_tar, "b.tar", [("2.jpg", b"x")])
    assert found([first, second]) == [
        ("duplicate", "1", "this key is twice in this shard; masks are matched by key"),
        ("duplicate", "2", f"this key is also in {first}; masks are matched by key"),
    ]


def test_inspect(make_tar):
    shard = indexed(make_tar, "a.tar", [("1.jpg", b"good"), ("2.jpg", b"bad"), ("3.jpg", b"")])
    seen = []

    def inspect(data):
        seen.append((data.dtype, data.ndim))
        return None if bytes(data) == b"good" else "its bytes are bad"

    assert found(shard, inspect=inspect) == [
        ("image", "2", "its bytes are bad"),
        ("image", "3", "its image is empty (0 bytes)"),
    ]
    assert seen == [(np.uint8, 1)] * 2


def test_masks(make_tar, tmp_path: Path):
    shard = indexed(make_tar, "a.tar", [("1.jpg", b"x")])
    (tmp_path / "m").mkdir()
    with MaskWriter(shard, method="x", masks_dir=tmp_path / "m") as masks:
        masks.add("stranger", np.zeros((2, 2), np.uint8))
    assert found(shard) == []
    assert found(shard, masks_dir=tmp_path / "m") == [("mask", "stranger", "no sample of the shard has this key")]
    indexed(make_tar, "a.tar", [("1.jpg", b"xy")])
    assert found(shard, masks_dir=tmp_path / "m")[1] == (
        "mask", None, f"made from another state of {shard}; run 'figureground masks {shard}' again",
    )  # fmt: skip


def test_masks_are_looked_into_as_images_are(make_tar):
    shard = indexed(make_tar, "a.tar", [("1.jpg", b"x"), ("2.jpg", b"x")])
    with MaskWriter(shard, method="x") as masks:
        masks.add("1", np.zeros((2, 2), np.uint8))
        masks.add("2", np.zeros((3, 3), np.uint8))
    png = lambda data: bytes(data[:4]) == b"\x89PNG"  # noqa: E731
    large = lambda data: "broken" if png(data) and data[19] == 3 else None  # noqa: E731  (its width)
    assert found(shard, inspect=large) == [("mask", "2", "its mask: broken")]


def test_damaged_masks(make_tar):
    shard = indexed(make_tar, "a.tar", [("1.jpg", b"x"), ("2.jpg", b"x")])
    with MaskWriter(shard, method="x") as masks:
        pass
    manifest = Path(masks.path).read_bytes()[512:].split(b"\0")[0]
    indexed(make_tar, "a.masks.tar", [("1.mask.png", b"GIF"), ("2.mask.png", b""), ("manifest.json", manifest)])
    assert found(shard) == [
        ("mask", "1", "its mask is no PNG"),
        ("mask", "2", "its mask is no PNG"),
        ("mask", None, f"promises 0 masks, has 2; run 'figureground masks {shard}' again"),
    ]
    os.unlink(index_path(sidecar_path(shard)))
    assert ("index", None, f"has no index; run 'figureground index {masks.path}'") in found(shard)
    make_tar("a.masks.tar", [("1.txt", b"")])
    assert found(shard)[-1][2].startswith("has no manifest.json, so it is no complete sidecar")
    os.truncate(masks.path, 100)
    assert found(shard)[0][2].startswith("the shard must be a tar file")


def test_messages(make_tar):
    with pytest.raises(ShardError, match="no shard matches"):
        check("none-*.tar")
    with pytest.raises(ShardError, match="got a mask sidecar; name the shard itself"):
        check(make_tar("x.masks.tar", [("a.mask.png", b"")]))


def test_sidecars_behind_a_url_are_no_local_ones(make_tar):
    """Not found is not fine: it is said."""
    with pytest.raises(
        ShardError, match=r"^s3://bucket/masks: check: masks_dir must be a local folder, got a URL; copy it first$"
    ):
        check(make_tar("a.tar", [("a.jpg", b"1")]), masks_dir="s3://bucket/masks")


def test_textures(make_tar):
    shard = indexed(make_tar, "a.tar", [("1.jpg", b"1"), ("2.jpg", b"2")])
    jpeg = b"\xff\xd8\xff\xe0" + bytes(20)
    with MaskWriter(shard, method="x", kind=TEXTURES) as textures:
        textures.add("1", jpeg)
        textures.add("stranger", jpeg)
        with pytest.raises(ValueError, match="mask must be a JPEG"):
            textures.add("2", b"GIF")
    assert found(shard) == [("texture", "stranger", "no sample of the shard has this key")]
    manifest = Path(textures.path).read_bytes().rpartition(b"manifest.json")[2][499:].split(b"\0")[0]
    indexed(make_tar, "a.textures.tar", [("1.texture.jpg", b"GIF89a.."), ("manifest.json", manifest)])
    assert found(shard) == [
        ("texture", "1", "its texture is no JPEG"),
        ("texture", None, f"promises 2 textures, has 1; run 'figureground textures {shard}' again"),
    ]
