"""Masks of remote shards: the same as those of local ones."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from loopback import Site, web_server

from figureground.shards.cache import ShardCache
from figureground.shards.errors import ShardError
from figureground.shards.index import write_index
from figureground.shards.mask_store import MaskStore
from figureground.shards.masks import MaskWriter
from figureground.shards.reader import Store

pytest.importorskip("aiohttp")


@pytest.fixture
def folder(make_tar, tmp_path: Path) -> Path:
    """Three shards; the second has no sidecar."""
    for shard in range(3):
        path = make_tar(f"s/t-{shard}.tar", [(f"{shard}{i}.jpg", bytes([shard, i]) * 500) for i in range(4)])
        write_index(path)
        if shard != 1:
            with MaskWriter(path, method="test") as masks:
                for i in range(3):
                    masks.add(f"{shard}{i}", np.full((9, 7), 10 * shard + i, np.uint8))
    return tmp_path / "s"


@pytest.fixture
def site(folder) -> Iterator[Site]:
    with web_server() as site:
        for path in folder.iterdir():
            site.files[f"s/{path.name}"] = path.read_bytes()
        yield site


@pytest.fixture
def store(site, tmp_path) -> Iterator[Store]:
    with Store(site.url + "s/t-{0..2}.tar", cache=ShardCache(tmp_path / "cache", 10**6, deadline_s=2.0)) as store:
        yield store


def same_masks(one: MaskStore, other: MaskStore) -> None:
    np.testing.assert_array_equal(one.present, other.present)
    for sample in range(len(one)):
        mask = one.mask(sample)
        assert (None if mask is None else bytes(mask)) == (
            None if not other.present[sample] else bytes(other.mask(sample))
        )


def test_equal_the_local_ones(site, store, folder):
    with MaskStore(store) as masks, MaskStore(Store(folder)) as local:
        tars = [(path, span) for method, path, span in site.asked if method == "GET" and span and ".masks.tar" in path]
        assert len(tars) == 2  # the manifests
        assert all(span[1] - span[0] < 400 for _, span in tars)
        assert masks.sidecars[0] == site.url + "s/t-0.masks.tar"
        assert local.present.tolist() == [True, True, True, False, *[False] * 4, True, True, True, False]
        masks.need([0, 1, 2])
        same_masks(masks, local)
        same_masks(pickle.loads(pickle.dumps(masks)), local)


def test_masks_elsewhere(site, store, folder, tmp_path):
    with MaskStore(Store(folder)) as local:
        for path in folder.glob("*.masks.*"):
            site.files[f"m/{path.name}"] = site.files.pop(f"s/{path.name}")
        with MaskStore(store) as none:
            assert not none.present.any()
        with MaskStore(store, site.url + "m") as masks:
            same_masks(masks, local)
        with MaskStore(store, folder) as masks:  # remote images, local masks
            same_masks(masks, local)
            assert masks.sidecars[0] == str(folder / "t-0.masks.tar")
            masks.need([1])


def test_messages(site, store, folder, make_tar, tmp_path):
    other = make_tar("s2/t-0.tar", [("00.jpg", b"other")])
    with MaskWriter(other, method="test") as masks:
        masks.add("00", np.zeros((3, 3), np.uint8))
    for ending in (".masks.tar", ".masks.idx"):
        site.files["s/t-0" + ending] = (tmp_path / f"s2/t-0{ending}").read_bytes()
    with pytest.raises(
        ShardError, match=r"t-0\.masks\.tar: made from another state of .*s/t-0\.tar; run 'figureground masks"
    ):
        MaskStore(store)
    plain = Path(make_tar("plain.tar", [("00.mask.png", b"1")]))
    write_index(plain)
    site.files["s/t-0.masks.tar"], site.files["s/t-0.masks.idx"] = (
        plain.read_bytes(),
        plain.with_suffix(".idx").read_bytes(),
    )
    with pytest.raises(ShardError, match=r"t-0\.masks\.tar: has no manifest\.json, so it is no complete sidecar"):
        MaskStore(store)


def test_local_shards_and_masks_behind_a_url(site, folder, tmp_path):
    """They are all fetched at once, in the background: local shards are read in any order."""
    for path in folder.glob("*.masks.*"):
        site.files[f"m/{path.name}"] = site.files.pop(f"s/{path.name}")
    with Store(folder) as store, MaskStore(store) as want:
        cache = ShardCache(tmp_path / "cache2", 10**6)
        with MaskStore(store, site.url + "m", cache=cache) as masks:
            same_masks(masks, want)
            assert masks.sidecars == [f"{site.url}m/t-{i}.masks.tar" if i != 1 else masks.sidecars[1] for i in range(3)]
            assert [manifest and manifest.count for manifest in masks.manifests] == [3, None, 3]
            assert want.manifests == masks.manifests
            same_masks(pickle.loads(pickle.dumps(masks)), want)
        assert cache.stats()["fetched"] == 2
        with pytest.raises(
            ShardError, match=r"127.0.0.1:\d+/m: sidecars behind a URL need a cache; pass cache=ShardCache"
        ):
            MaskStore(store, site.url + "m")
        with MaskWriter(folder / "t-1.tar", method="test", masks_dir=tmp_path) as masks:
            masks.add("10", np.zeros((3, 3), np.uint8))
        for ending in ("tar", "idx"):
            site.files[f"m/t-1.masks.{ending}"] = (tmp_path / f"t-1.masks.{ending}").read_bytes()
        size = sum(len(site.files[f"m/t-{i}.masks.tar"]) for i in range(3))
        message = rf"the cache must hold the sidecars of all local shards, {size} bytes, got \d+; raise it$"
        with pytest.raises(ShardError, match=message):
            MaskStore(store, site.url + "m", cache=ShardCache(tmp_path / "cache3", size - 1))


def test_names_that_a_url_escapes(site, make_tar, tmp_path):
    """One name for a sidecar, whether its shard, its folder, both or none are behind a URL."""
    path = make_tar("odd/a b.tar", [("00.jpg", b"image")])
    write_index(path)
    with MaskWriter(path, method="test") as writer:
        writer.add("00", np.full((3, 3), 7, np.uint8))
    for file in (tmp_path / "odd").iterdir():
        site.files[f"odd/{file.name.replace(' ', '%20')}"] = file.read_bytes()
    cache = ShardCache(tmp_path / "cache4", 10**6)
    for shard in (path, site.url + "odd/a%20b.tar"):
        for masks_dir in (None, str(tmp_path / "odd"), site.url + "odd", site.url + "odd/?token=1"):
            with Store(shard, cache=cache) as store, MaskStore(store, masks_dir, cache=cache) as masks:
                assert masks.present.all(), (shard, masks_dir)
