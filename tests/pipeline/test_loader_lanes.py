"""The loader with lanes: the same batches on any ranks, exact resume, and each shard fetched by one node."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from loader_tools import assert_same, collect, make
from pipeline_shards import disc_image, write_tar

from figureground.pipeline import recipes
from figureground.pipeline.lanes import lane_starts
from figureground.pipeline.windows import WindowOrder
from figureground.shards.cache import ShardCache
from figureground.shards.errors import ShardError
from figureground.shards.index import write_index
from figureground.shards.masks import MaskWriter

RECIPE = recipes.moco_v2(32).with_background("swap", p=0.5)
PAST = recipes.moco_v2(32).with_background("random", p=0.5, donors="past", past=6)
LENDING = (
    recipes.moco_v2(32).with_background("swap", p=0.5).with_style_transfer(block=16).with_group_mixing(group=4, patch=8)
).with_block_corruption(max_share=0.5)
SIZES = (13, 40, 7, 22, 31, 9, 28, 17, 36, 20, 11, 6)  # 240 samples in shards of all sizes


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Twelve shards of 240 samples in all, with masks."""
    made = tmp_path_factory.mktemp("uneven")
    write_uneven(made, SIZES)
    return made


def write_uneven(folder, sizes):
    """Write shards of so many samples each, by cutting up one run of equal ones."""
    rng = np.random.default_rng(3)
    first = 0
    for shard, size in enumerate(sizes):
        pictures = [disc_image(rng, *rng.integers(40, 70, 2)) for _ in range(size)]
        members = [
            (f"{first + i:05d}.jpg", cv2.imencode(".jpg", image)[1].tobytes()) for i, (image, _) in enumerate(pictures)
        ]
        path = folder / f"part-{shard:06d}.tar"
        write_tar(path, members)
        write_index(path)
        with MaskWriter(path, method="truth") as writer:
            for i, (_, mask) in enumerate(pictures):
                writer.add(f"{first + i:05d}", cv2.resize(mask, (56, 56), interpolation=cv2.INTER_AREA))
        first += size


def shards_of(folder):
    return str(folder / "part-*.tar")


def epoch_of(shards, recipe, world, step, **options):
    """What all ranks together deliver: by global batch the sample ids, and everything by sample."""
    batches, everything = [], {}
    for rank in range(world):
        with make(shards, recipe, rank=rank, world_size=world, batch_size=step // world, **options) as loader:
            for number, batch in enumerate(loader):
                if len(batches) <= number:
                    batches.append([])
                batches[number] += batch["index"].tolist()
                for i, index in enumerate(batch["index"].tolist()):
                    everything[index] = [
                        *[view[i] for view in batch["views"]],
                        *[
                            torch.from_numpy(np.ascontiguousarray(rows[i : i + 1]).view(np.uint8))
                            for rows in batch["params"]
                        ],
                        *[v[i] for name in ("corrupted", "mixed") for v in batch.get(name, ()) if v is not None],
                    ]
    return batches, everything


@pytest.mark.parametrize(("recipe", "window"), [(RECIPE, 2), (PAST, 4), (LENDING, 2)], ids=["block", "past", "lending"])
def test_any_ranks_deliver_the_same(folder, recipe, window):
    options = {"lanes": 4, "window": window, "drop_last": False}
    batches, want = epoch_of(shards_of(folder), recipe, 1, 48, **options)
    assert sorted(i for batch in batches for i in batch) == list(range(240))
    for world in (2, 3, 4, 6):
        others, got = epoch_of(shards_of(folder), recipe, world, 48, **options)
        assert others == batches
        assert want.keys() == got.keys()
        for index, parts in want.items():
            for a, b in zip(parts, got[index], strict=True):
                torch.testing.assert_close(a, b, rtol=0, atol=0)


@pytest.mark.parametrize("step", [8, 20, 64])
def test_views_do_not_depend_on_the_batch(folder, step):
    """Also where batches cut blocks of donors: the blocks are those of positions in a lane."""
    options = {"lanes": 4, "window": 2, "drop_last": False, "threads": 1}
    _, want = epoch_of(shards_of(folder), LENDING, 1, 32, **options)
    _, got = epoch_of(shards_of(folder), LENDING, 1, step, **options)
    assert want.keys() == got.keys()
    for index, parts in want.items():
        for a, b in zip(parts, got[index], strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0)


@pytest.mark.parametrize("stop", [1, 3, 5])
def test_resume_in_the_middle_elastic(folder, stop):
    options = {"lanes": 4, "window": 2, "drop_last": False}
    with make(shards_of(folder), batch_size=16, rank=0, world_size=2, **options) as loader:
        loader.set_epoch(3)
        ranks = [iter(loader)]
        with make(shards_of(folder), batch_size=16, rank=1, world_size=2, **options) as other:
            other.set_epoch(3)
            ranks.append(iter(other))
            done = [i for _ in range(stop) for it in ranks for i in next(it)["index"].tolist()]
            state = loader.state_dict()
            assert other.state_dict() == state
    assert (state["position"], state["lanes"], state["window"]) == (32 * stop, 4, 2)
    for world, batch in ((1, 24), (3, 8), (4, 2)):
        rest = []
        for rank in range(world):
            with make(shards_of(folder), batch_size=batch, rank=rank, world_size=world, **options) as loader:
                loader.load_state_dict(state)
                rest += [i for got in loader for i in got["index"].tolist()]
                assert loader.state_dict()["epoch"] == 4
        assert sorted({*done, *rest}) == list(range(240))
        assert 240 <= len(done + rest) < 240 + world


def test_resume_gives_the_same_views(folder):
    options = {"lanes": 4, "window": 3, "batch_size": 16}
    with make(shards_of(folder), **options) as loader:
        iterator = iter(loader)
        for _ in range(4):
            next(iterator)
        state = loader.state_dict()
        want = [(batch["index"].tolist(), batch["views"], batch["negatives"]) for batch in iterator]
    with make(shards_of(folder), **{**options, "batch_size": 16}) as loader:
        loader.load_state_dict(state)
        for (index, views, negatives), batch in zip(want, loader, strict=True):
            assert batch["index"].tolist() == index
            for a, b in zip([*views, negatives], [*batch["views"], batch["negatives"]], strict=True):
                torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_a_state_of_other_lanes_is_refused(folder):
    with (
        make(shards_of(folder), lanes=4, batch_size=8) as four,
        make(shards_of(folder), lanes=2, batch_size=8) as two,
        make(shards_of(folder)) as plain,
    ):
        with pytest.raises(ValueError, match=r"these differ: lanes \(saved 4, here 2\); load it into"):
            two.load_state_dict(four.state_dict())
        with pytest.raises(ValueError, match=r"window \(saved 0, here 8\); lanes \(saved 1, here 4\)"):
            four.load_state_dict(plain.state_dict())
        with pytest.raises(ValueError, match="a multiple of lanes = 4 or all of them, got 6"):
            four.load_state_dict({**four.state_dict(), "position": 6})
        early = {**plain.state_dict(), "version": 1}
        del early["lanes"]  # that version knew none
        plain.load_state_dict(early)
        with pytest.raises(ValueError, match=r"lanes \(saved 1, here 4\)"):
            four.load_state_dict(early)


def test_replay_and_params(folder):
    with make(shards_of(folder), lanes=4, window=2, batch_size=16, drop_last=False) as loader:
        loader.set_epoch(2)
        seen = collect(loader)
        order = loader._order
        again = loader.replay([200, 3, 77], epoch=2)
        for i, index in enumerate(again["index"].tolist()):
            for view in range(2):
                np.testing.assert_array_equal(again["views"][view][i].numpy(), seen[index][view])
                assert again["params"][view][i] == seen[index][-2 + view]
        lane = order.positions(2, np.array([200])) // 60
        donors = [int(rows["donor"][0]) for rows in again["params"] if rows["background_drawn"][0]]
        assert (order.positions(2, np.array(donors, np.int64)) // 60 == lane).all()


def test_bad_samples_are_replaced_alike_on_any_layout(tmp_path):
    rng = np.random.default_rng(2)
    good = [cv2.imencode(".jpg", disc_image(rng, 40, 40)[0])[1].tobytes() for _ in range(160)]
    for shard in range(10):
        bad = [16 * shard + k for k in range(16) if k % 7 == 3]
        members = [(f"{i:03d}.jpg", b"spoiled" if i in bad else good[i]) for i in range(16 * shard, 16 * shard + 16)]
        write_tar(tmp_path / f"part-{shard}.tar", members)
        write_index(tmp_path / f"part-{shard}.tar")
    shards = str(tmp_path / "part-*.tar")
    options = {"lanes": 5, "window": 1, "masks": None, "error_budget": 1.0, "drop_last": False}
    found = []
    for world, step in ((1, 40), (2, 40), (5, 40), (1, 10), (2, 80)):
        batches, _ = epoch_of(shards, RECIPE, world, step, **options)
        if step == 40:
            found.append([sorted(batch) for batch in batches])
        ids = sorted(i for batch in batches for i in batch)
        found.append(ids)
        assert all(i % 16 % 7 != 3 for i in ids)
        assert len(ids) == 160
    assert found[1] == found[3] == found[5] == found[6] == found[7]
    assert found[0] == found[2] == found[4]
    # Each stands in for one of its own window, hence lane: no node needs another's shard.
    with make(shards, RECIPE, batch_size=40, **options) as loader:
        order, starts = loader._order, lane_starts(160, 5)
        for position in range(160):
            for attempt in range(3):
                stand_in = order.positions(0, np.array([order.replacement(0, position, attempt)]))
                assert np.searchsorted(starts, stand_in, side="right") - 1 == position // 32


def test_lanes_of_local_shards_are_those_of_fetched_ones(folder, tmp_path):
    """A run may go on with shards copied to disks."""
    pytest.importorskip("aiohttp")
    from loopback import web_server

    options = {"lanes": 4, "window": 2, "batch_size": 16, "drop_last": False}
    with web_server() as site:
        for path in folder.iterdir():
            site.files[path.name] = path.read_bytes()
        url, cache = site.url + "part-{000000..000011}.tar", ShardCache(tmp_path / "cache", 1 << 30)
        with make(shards_of(folder), **options) as local, make(url, cache=cache, **options) as remote:
            assert_same(collect(local), collect(remote))
            assert local.state_dict() == remote.state_dict()


class Nodes:
    """Nodes of two ranks, each with a cache of its own, over one web server."""

    def __init__(self, site, folder, nodes, lanes, monkeypatch, cache_bytes=1 << 30):
        self.site, self.nodes, self.lanes = site, nodes, lanes
        monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
        self.url = site.url + "part-{000000..000011}.tar"
        self.caches = [ShardCache(folder / f"node-{node}", cache_bytes, deadline_s=20.0) for node in range(nodes)]

    def run(self, epochs=1, window=2):
        """Run epochs on all nodes, their ranks by turns; returns, for each node, (ids, shards fetched) of each epoch."""
        return [self._run(node, epochs, window) for node in range(self.nodes)]

    def _run(self, node, epochs, window):
        loaders = [
            make(
                self.url, RECIPE, cache=self.caches[node], rank=2 * node + k, world_size=2 * self.nodes, lanes=self.lanes,
                window=window,
            )
            for k in range(2)
        ]  # fmt: skip
        found = []
        for _ in range(epochs):
            self.site.asked.clear()
            ids = [i for batches in zip(*loaders, strict=True) for batch in batches for i in batch["index"].tolist()]
            gets = [len(self.site.gets(f"part-{n:06d}.tar")) for n in range(12)]
            assert max(gets) <= 1, "the ranks of a node share its cache"
            assert self.caches[node].used_bytes <= self.caches[node].max_bytes
            found.append((ids, {n for n in range(12) if gets[n]}))
        for loader in loaders:
            loader.close()
        return found

    def masks_of(self, node):
        """Shards whose mask sidecars a node's cache holds."""
        return {int(path.name[5:11]) for path in Path(self.caches[node].folder).rglob("*.masks.tar")}


@pytest.mark.parametrize(("lanes", "nodes"), [(4, 4), (4, 2), (8, 4), (2, 4)])
def test_a_node_fetches_the_shards_of_its_lanes(folder, tmp_path, monkeypatch, lanes, nodes):
    """Counted on a web server: all shards but those that a border cuts are fetched by one node (by the nodes that share a lane)."""
    pytest.importorskip("aiohttp")
    from loopback import web_server

    starts = np.concatenate([[0], np.cumsum(SIZES)])
    order = WindowOrder(starts, 0, window=2, lanes=lanes)
    borders = lane_starts(240, lanes)
    with web_server() as site:
        for path in folder.iterdir():
            site.files[path.name] = path.read_bytes()
        # What is read ahead for the next epoch is not of this one: let there be no next one.
        monkeypatch.setattr(WindowOrder, "shards_needed", _this_epoch_only(WindowOrder.shards_needed))
        fetched, delivered = Counter(), []
        cluster = Nodes(site, tmp_path, nodes, lanes, monkeypatch)
        for node, [(ids, shards)] in enumerate(cluster.run()):
            first, last = node * lanes // nodes, -(-(node + 1) * lanes // nodes)
            own = order.sample_ids(0, np.arange(borders[first], borders[last]))
            holds = set((np.searchsorted(starts, own, side="right") - 1).tolist())
            assert shards <= holds
            assert cluster.masks_of(node) <= holds
            assert set((np.searchsorted(starts, ids, side="right") - 1).tolist()) <= shards
            fetched.update(shards)
            delivered += ids
        per_lane = max(nodes // lanes, 1)
        assert sum(fetched.values()) - per_lane * len(fetched) <= per_lane * (min(lanes, nodes) - 1)
        step = 16 * nodes
        assert len(set(delivered)) == len(delivered) == 240 // step * step


def _this_epoch_only(shards_needed):
    def needed(self, epoch, position, ahead, count=1, past=0, lanes=range(1)):
        starts = lane_starts(self.samples, self.lanes)
        own = self.sample_ids(epoch, np.arange(starts[lanes.start], starts[lanes.stop]))
        held = set((np.searchsorted(self.starts, own, side="right") - 1).tolist())
        return [shard for shard in shards_needed(self, epoch, position, ahead, count, past, lanes) if shard in held]

    return needed


def test_without_lanes_every_node_fetches_every_shard(folder, tmp_path, monkeypatch):
    pytest.importorskip("aiohttp")
    from loopback import web_server

    with web_server() as site:
        for path in folder.iterdir():
            site.files[path.name] = path.read_bytes()
        for [(_, shards)] in Nodes(site, tmp_path, 2, 1, monkeypatch).run():
            assert shards == set(range(12))


def test_a_small_cache_serves_its_lanes_and_other_epochs_bring_other_shards(folder, tmp_path, monkeypatch):
    pytest.importorskip("aiohttp")
    from loopback import web_server

    with web_server() as site:
        for path in folder.iterdir():
            site.files[path.name] = path.read_bytes()
        sizes = sorted((path.stat().st_size for path in folder.glob("part-0*[0-9].tar")), reverse=True)
        starts = np.concatenate([[0], np.cumsum(SIZES)])
        nodes = Nodes(site, tmp_path, 4, 4, monkeypatch, cache_bytes=sum(sizes[:8]) + 50_000)
        found = nodes.run(epochs=4, window=1)
        for epoch in range(4):
            ids = [i for node in found for i in node[epoch][0]]
            assert len(set(ids)) == len(ids) == 192
        by_node = [
            [frozenset((np.searchsorted(starts, ids, side="right") - 1).tolist()) for ids, _ in node] for node in found
        ]
        assert all(len(set(epochs)) > 1 for epochs in by_node), "another epoch gives a node other shards"
        fetched = sum(len(shards) for node in found for _, shards in node)
        assert fetched <= 4 * (12 + 3), (
            "each shard once an epoch, but for three that borders cut; what a cache still holds, less"
        )


def test_messages(folder, tmp_path, monkeypatch):
    shards = shards_of(folder)
    with pytest.raises(ValueError, match="Loader: lanes must be at least 1, got 0"):
        make(shards, lanes=0)
    with pytest.raises(TypeError, match=r"Loader: lanes must be a whole number, got 2\.5"):
        make(shards, lanes=2.5)
    with pytest.raises(ValueError, match=r"lanes must be 1 to 30, so that each .* 8 of the 240 samples, got 40"):
        make(shards, lanes=40, batch_size=40)
    with pytest.raises(
        ValueError, match=r"must be a multiple of lanes = 3 .*, got 8 x 1 = 8; change batch_size, or lanes"
    ):
        make(shards, lanes=3)
    with pytest.raises(ValueError, match=r"lanes must be 1 with clusters, .*, got 4"):
        make(shards, lanes=4, clusters=np.arange(240))
    with pytest.raises(ValueError, match="or read in lanes, got 'store'"):
        make(shards, recipes.moco_v2(32).with_background("swap", donors="store"), lanes=4)
    far = recipes.moco_v2(32).with_background("swap", donors="past", past=40)
    with pytest.raises(
        ValueError, match=r"past \+ the 2 samples of a batch of all ranks in a lane \+ 8 .* got past = 40"
    ):
        make(shards, far, lanes=4, window=1)
    pytest.importorskip("aiohttp")
    from loopback import web_server

    with web_server() as site:
        for path in folder.iterdir():
            site.files[path.name] = path.read_bytes()
        url, sizes = (
            site.url + "part-{000000..000011}.tar",
            sorted(p.stat().st_size for p in folder.glob("part-0*[0-9].tar")),
        )
        cache = ShardCache(tmp_path / "small", sum(sizes) - 1)
        with pytest.raises(
            ShardError,
            match=r"must hold two windows of 4 shards for each of this node's 2 lanes and two more, \d+ bytes, got \d+; raise "
            "it or lower the window or the lanes",
        ):
            make(url, cache=cache, lanes=2, window=2)
        monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
        with pytest.raises(ShardError, match="for each of this node's 2 lanes"):
            make(url, cache=cache, lanes=4, window=2, rank=3, world_size=4)
        monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
        with make(url, cache=cache, lanes=4, window=1, rank=3, world_size=4):
            pass  # one lane
