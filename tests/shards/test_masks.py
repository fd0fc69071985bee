"""Sidecar masks: written whole or not at all, read by key, refused when they belong to another shard."""

from __future__ import annotations

import json
import os
import pickle
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from figureground.shards.errors import ShardError
from figureground.shards.index import index_is_fresh, index_path, write_index
from figureground.shards.masks import (
    MaskStore,
    MaskWriter,
    encode_mask,
    read_manifest,
    sidecar_is_valid,
    sidecar_path,
)
from figureground.shards.reader import Store, shard_fingerprint

KEYS = ["x/1", "x/2", "ü ö", "b" * 150]


def gray(value: int) -> np.ndarray:
    return np.full((4, 6), value, np.uint8)


@pytest.fixture
def shard(make_tar) -> str:
    return make_tar("s/t-0.tar", [(f"{key}.jpg", key.encode()) for key in KEYS])


def write(shard, keys=KEYS, **options):
    made_by = {"method": "centre", "parameters": {"size": (112, 112)}, "version": "1"}
    with MaskWriter(shard, **made_by, **options) as masks:
        for i, key in enumerate(keys):
            masks.add(key, gray(i))
    return masks.path


def value(png):
    return None if png is None else cv2.imdecode(png, cv2.IMREAD_UNCHANGED)[0, 0]


def test_round_trip(shard):
    path = write(shard)
    assert os.path.basename(path) == "t-0.masks.tar"
    assert sorted(os.listdir(os.path.dirname(path))) == ["t-0.idx", "t-0.masks.idx", "t-0.masks.tar", "t-0.tar"]
    masks = MaskStore(Store(shard))
    assert [value(masks.mask(i)) for i in range(4)] == [0, 1, 2, 3]
    assert masks.present.tolist() == [True] * 4
    assert masks.mask(0).dtype == np.uint8
    assert masks.mask(0).ndim == 1


def test_manifest(shard):
    path = write(shard)
    manifest = read_manifest(path)
    assert (manifest.method, manifest.version, manifest.count) == ("centre", "1", 4)
    assert manifest.parameters == {"size": [112, 112]}
    assert manifest.source == shard_fingerprint(shard)
    with tarfile.open(path) as tar:
        assert tar.getnames()[-1] == "manifest.json"
        assert {(info.mtime, info.uid, info.gid) for info in tar} == {(0, 0, 0)}


def test_png_is_gray_and_stable():
    mask = np.random.default_rng(0).integers(0, 256, (112, 112), np.uint8)
    np.testing.assert_array_equal(cv2.imdecode(np.frombuffer(encode_mask(mask), np.uint8), cv2.IMREAD_UNCHANGED), mask)
    assert encode_mask(mask) == encode_mask(mask[::-1][::-1])


def test_same_masks_same_bytes(shard, tmp_path: Path):
    (tmp_path / "m").mkdir()
    first = Path(write(shard)).read_bytes()
    assert Path(write(shard, masks_dir=tmp_path / "m")).read_bytes() == first


def test_bytes_of_a_png(shard):
    with MaskWriter(shard, method="given") as masks:
        masks.add(KEYS[1], encode_mask(gray(9)))
    store = MaskStore(Store(shard))
    assert [value(store.mask(i)) for i in range(4)] == [None, 9, None, None]
    assert store.present.tolist() == [False, True, False, False]


def test_any_order_and_any_subset(shard):
    write(shard, [KEYS[3], "stranger", KEYS[0]])
    store = MaskStore(Store(shard))
    assert [value(store.mask(i)) for i in range(4)] == [2, None, None, 0]
    many = store.masks(np.array([3, 1, 0, 3]))
    assert [value(mask) for mask in many] == [0, None, 2, 0]
    assert [0 if mask is None else mask.ctypes.data for mask in many] == many.addresses.tolist()
    assert [value(mask) for mask in store.masks(np.array([3, 0]), np.array([False, True]))] == [None, 2]
    with pytest.raises(IndexError, match=r"samples must be in 0\.\.3, got 4\.\.4"):
        store.masks(np.array([4]))


def test_many_shards_some_without_sidecar(make_tar, tmp_path: Path):
    shards = [make_tar(f"s/{i}.tar", [(f"{i}-{j}.jpg", b"x") for j in range(i)]) for i in range(4)]
    (tmp_path / "m").mkdir()
    write(shards[3], ["3-1"], masks_dir=tmp_path / "m")
    write(shards[0], [], masks_dir=tmp_path / "m")
    store = Store(shards)
    assert MaskStore(store).present.sum() == 0
    masks = MaskStore(store, tmp_path / "m")
    assert masks.present.tolist() == [False, False, False, False, True, False]
    assert len(masks) == 6
    copy = pickle.loads(pickle.dumps(masks))
    assert value(copy.mask(4)) == 0
    assert copy.mask(5) is None
    view = masks.mask(4)
    masks.close()
    assert value(view) == 0


def test_ambiguous_keys_get_no_mask(make_tar):
    shard = make_tar("x.tar", [("a.jpg", b"1"), ("b.jpg", b"2"), ("a.jpg", b"3")])
    write(shard, ["a", "b"])
    assert MaskStore(Store(shard)).present.tolist() == [False, True, False]


def test_a_sample_called_manifest(make_tar):
    shard = make_tar("x.tar", [("manifest.jpg", b"1"), ("manifest.json", b"{}")])
    write(shard, ["manifest"])
    assert value(MaskStore(Store(shard)).mask(0)) == 0


def test_webdataset_reads_it(shard):
    webdataset = pytest.importorskip("webdataset")
    samples = list(webdataset.WebDataset(write(shard), shardshuffle=False, empty_check=False))
    assert [sample["__key__"] for sample in samples] == [*KEYS, "manifest"]
    assert [value(np.frombuffer(sample["mask.png"], np.uint8)) for sample in samples[:-1]] == [0, 1, 2, 3]
    assert json.loads(samples[-1]["json"])["count"] == 4


def test_dali_reads_it(shard):
    fn = pytest.importorskip("nvidia.dali.fn")
    from nvidia.dali import pipeline_def

    path = write(shard)

    @pipeline_def(batch_size=5, num_threads=1, device_id=None)
    def pipeline():
        return fn.readers.webdataset(paths=[path], index_paths=[index_path(path)], ext=["mask.png"])

    reader = pipeline()
    reader.build()
    masks = reader.run()[0]
    assert [value(np.array(masks[i])) for i in range(4)] == [0, 1, 2, 3]
    assert np.array(masks[4]).size == 0


def test_nothing_left_after_an_error(shard):
    folder = os.path.dirname(shard)
    Store(shard)
    before = sorted(os.listdir(folder))
    with pytest.raises(ValueError, match="key must be new"):
        write(shard, ["x/1", "x/1"])
    assert sorted(os.listdir(folder)) == before
    old = Path(write(shard)).read_bytes()
    with pytest.raises(KeyboardInterrupt), MaskWriter(shard, method="x"):
        raise KeyboardInterrupt
    assert Path(sidecar_path(shard)).read_bytes() == old
    assert index_is_fresh(sidecar_path(shard))


def test_replacing(shard):
    write(shard)
    write(shard, KEYS[:1])
    assert MaskStore(Store(shard)).present.tolist() == [True, False, False, False]


def test_is_valid(shard, make_tar):
    path = sidecar_path(shard)
    assert not sidecar_is_valid(path, shard)
    write(shard)
    assert sidecar_is_valid(path, shard)
    assert sidecar_is_valid(path, shard, method="centre", version="1", parameters={"size": (112, 112)})
    assert not sidecar_is_valid(path, shard, method="other")
    assert not sidecar_is_valid(path, shard, version="2")
    assert not sidecar_is_valid(path, shard, parameters={})
    os.truncate(path, 1024)
    assert not sidecar_is_valid(path, shard)
    write(shard)
    make_tar("s/t-0.tar", [("x/1.jpg", b"longer than before")])
    write_index(shard)
    assert not sidecar_is_valid(path, shard)
    with pytest.raises(ShardError, match="does not exist"):
        sidecar_is_valid(path, shard + ".gone.tar")


def test_another_state_of_the_shard(shard, make_tar):
    write(shard)
    make_tar("s/t-0.tar", [("x/1.jpg", b"longer than before")])
    write_index(shard)
    message = r"t-0.masks.tar: made from another state of .*t-0.tar; run 'figureground masks .*t-0.tar' again, or"
    with pytest.raises(ShardError, match=message):
        MaskStore(Store(shard))


def test_changed_sidecar(shard):
    assert MaskStore(Store(shard)).mask(0) is None
    write(shard)
    store = MaskStore(Store(shard))
    os.utime(sidecar_path(shard), (1, 1))
    with pytest.raises(ShardError, match=r"t-0.masks.tar: the shard was changed since its index was read"):
        store.mask(0)
    with pytest.raises(IndexError, match=r"a sample must be in 0..3, got 4"):
        store.mask(4)


def test_messages(shard, make_tar):
    with pytest.raises(ShardError, match="must be a tar of images, got a mask sidecar"):
        sidecar_path("x.masks.tar")
    with pytest.raises(ShardError, match=r"p.masks.tar: has no manifest.json, so it is no complete sidecar; run"):
        read_manifest(make_tar("p.masks.tar", [("a.mask.png", b"")]))
    for text in (b"?", b"[]", b"{}", b'{"format": "figureground masks 9"}', b'{"format": "figureground masks 1"}'):
        tar = make_tar("q.masks.tar", [("manifest.json", text)])
        write_index(tar)
        with pytest.raises(ShardError, match=r"manifest.json must be of format 'figureground masks 1', got b'"):
            read_manifest(tar)
    with pytest.raises(TypeError, match="JSON"):
        MaskWriter(shard, method="x", parameters={"size": {1}})
    writer = MaskWriter(shard, method="x")
    with pytest.raises(RuntimeError, match="the writer must be open; call it inside its 'with' block"):
        writer.add("a", gray(0))
    with writer:
        writer.add("a", gray(0))
        with pytest.raises(ValueError, match="key must be new, got 'a' again"):
            writer.add("a", gray(0))
        for key in ("a.b", "", "d/", ".x"):
            with pytest.raises(ValueError, match="key must be a sample's key without a dot in its base name, got '"):
                writer.add(key, gray(0))
        with pytest.raises(ValueError, match="mask must be a PNG, got bytes that start with b'JPEG'"):
            writer.add("b", b"JPEG")
        with pytest.raises(ValueError, match=r"must be a non-empty \(H, W\) uint8 array, got \(2, 2\) float64"):
            writer.add("b", np.zeros((2, 2)))
        with pytest.raises(ValueError, match=r"got \(2, 0\) uint8"):
            writer.add("b", np.zeros((2, 0), np.uint8))
        with pytest.raises(ValueError, match="got list"):
            writer.add("b", [[1]])
    assert read_manifest(writer.path).count == 1
