"""The loader over shards that are fetched: same views, bounded cache, resume."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from loader_tools import make
from pipeline_shards import write_shards

from figureground.pipeline import recipes
from figureground.pipeline.textures_job import make_textures
from figureground.shards.cache import ShardCache
from figureground.shards.errors import ShardError

RECIPE = recipes.moco_v2(32).with_background("remove", p=0.5)


@pytest.fixture
def site(tmp_path):
    """A web server with ten shards of twelve samples, and their masks."""
    pytest.importorskip("aiohttp")
    from loopback import web_server

    write_shards(tmp_path / "shards", 120, per_shard=12)
    with web_server() as site:
        for path in (tmp_path / "shards").iterdir():
            site.files[path.name] = path.read_bytes()
        site.folder = str(tmp_path / "shards" / "part-*.tar")
        yield site


def _views(loader):
    return {int(i): view.numpy() for batch in loader for i, view in zip(batch["index"], batch["views"][0], strict=True)}


def test_views_are_those_of_local_shards(site, tmp_path):
    url, largest = site.url + "part-{000000..000009}.tar", max(len(data) for data in site.files.values())
    with (
        make(site.folder, RECIPE) as local,
        make(url, RECIPE, cache=ShardCache(tmp_path / "cache", 40 * largest), window=2) as remote,
    ):
        for _ in range(2):
            want, got = _views(local), _views(remote)
            assert want.keys() == got.keys()
            for index, view in got.items():
                np.testing.assert_array_equal(view, want[index])
        assert remote.state_dict()["window"] == 2
        noted = [{name: one.state_dict()[name] for name in ("shards", "masks", "sidecars")} for one in (local, remote)]
        assert noted[0] == noted[1]
        assert noted[0]["sidecars"].startswith("truth for 10 of 10 shards, ")
        with pytest.raises(ValueError, match=r"window \(saved 0, here 2\)"):
            remote.load_state_dict(local.state_dict())
    assert len(site.gets("part-000003.tar")) == 1  # the second epoch comes from the cache


def test_resume_on_other_ranks(site, tmp_path):
    url, cache = site.url + "part-{000000..000009}.tar", ShardCache(tmp_path / "cache", 1 << 30)
    with make(url, RECIPE, cache=cache, window=3) as loader:
        done = []
        for number, batch in enumerate(loader):
            done += batch["index"].tolist()
            if number == 4:
                break
        state = loader.state_dict()
    rest = []
    for rank in range(2):
        with make(url, RECIPE, cache=cache, window=3, rank=rank, world_size=2, batch_size=4) as loader:
            loader.load_state_dict(state)
            rest += [i for batch in loader for i in batch["index"].tolist()]
    assert sorted(done + rest) == list(range(120))


def test_messages(site, tmp_path):
    url = site.url + "part-{000000..000009}.tar"
    with pytest.raises(ShardError, match="cache"):
        make(url, RECIPE)
    with pytest.raises(ShardError):
        make(url, RECIPE, cache=ShardCache(Path(tmp_path) / "small", 1000), window=2)


def _masks(loader):
    return {int(i): m.numpy() for batch in loader for i, m in zip(batch["index"], batch["masks"][0], strict=True)}


def test_masks_in_a_store(site, tmp_path):
    """Sidecars behind a URL, shards behind one or here: the same masks and views as from local ones."""
    for path in (tmp_path / "shards").glob("*.masks.*"):
        site.files[f"masks/{path.name}"] = site.files.pop(path.name)
    url, largest = site.url + "part-{000000..000009}.tar", max(len(data) for data in site.files.values())
    cache = ShardCache(tmp_path / "cache", 40 * largest)
    sidecars = site.url + "masks"
    with (
        make(site.folder, RECIPE, masks="sidecar") as local,
        make(url, RECIPE, masks="sidecar", masks_dir=sidecars, cache=cache, window=2) as remote,
        make(site.folder, RECIPE, masks="sidecar", masks_dir=sidecars, cache=cache) as mixed,
        make(url, RECIPE, masks="sidecar", cache=cache, window=2) as none,
    ):
        want, views = _masks(local), _views(local)
        assert any(mask.any() for mask in want.values())
        for loader in (remote, mixed):
            got = _masks(loader)
            assert want.keys() == got.keys()
            for index, mask in got.items():
                np.testing.assert_array_equal(mask, want[index])
            for index, view in _views(loader).items():
                np.testing.assert_array_equal(view, views[index])
        assert not any(mask.any() for mask in _masks(none).values()), "there are none beside the shards"
    with pytest.raises(ShardError, match=r"masks: sidecars behind a URL need a cache; pass cache=ShardCache"):
        make(site.folder, RECIPE, masks="sidecar", masks_dir=sidecars)


def test_textures_in_a_store(site, tmp_path):
    """As masks: shards behind a URL or here, the same negatives as with local textures."""
    make_textures(site.folder, out=tmp_path / "textures", size=32, block=16, overlap=4, progress=False)
    for path in (tmp_path / "textures").iterdir():
        site.files[f"textures/{path.name}"] = path.read_bytes()
    url, largest = site.url + "part-{000000..000009}.tar", max(len(data) for data in site.files.values())
    cache = ShardCache(tmp_path / "cache", 40 * largest)
    recipe = recipes.moco_v2(32).with_negatives("texture-file")

    def negatives(loader):
        return {int(i): n.numpy() for batch in loader for i, n in zip(batch["index"], batch["negatives"], strict=True)}

    with (
        make(site.folder, recipe, textures_dir=tmp_path / "textures") as local,
        make(url, recipe, textures_dir=site.url + "textures", cache=cache, window=2) as remote,
        make(site.folder, recipe, textures_dir=site.url + "textures", cache=cache) as mixed,
    ):
        want = negatives(local)
        for loader in (remote, mixed):
            got = negatives(loader)
            assert want.keys() == got.keys()
            for index, found in got.items():
                np.testing.assert_array_equal(found, want[index])
    with pytest.raises(
        ValueError, match=r"found none in http://127\.0\.0\.1:\d+/elsewhere; run 'figureground textures'"
    ):
        make(site.folder, recipe, textures_dir=site.url + "elsewhere?sig=secret", cache=cache)
