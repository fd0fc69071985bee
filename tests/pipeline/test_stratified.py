"""Batches without two samples of one cluster."""

from __future__ import annotations

import json
import logging

import cv2
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from loader_tools import RECIPE, assert_same, collect, make
from pipeline_shards import disc_image, write_shards, write_tar

from figureground.pipeline.lanes import Split
from figureground.pipeline.order import DONOR_BLOCK
from figureground.pipeline.stratified import StratifiedOrder
from figureground.shards import Store
from figureground.shards.index import write_index


def batches_of(order, step, epoch=0):
    ids = order.sample_ids(epoch, np.arange(order.samples)).tolist()
    return [ids[a : a + step] for a in range(0, len(ids), step)]


def assert_stratified(batches, labels):
    for batch in batches:
        named = [labels[i] for i in batch if labels[i] >= 0]
        assert len(set(named)) == len(named)
        assert len(set(batch)) == len(batch)


def most_batches(labels, step):
    """Full batches by a search over all counts, in plain Python."""
    sizes = [labels.count(c) for c in set(labels) if c >= 0] + [1] * labels.count(-1)
    return max(b for b in range(len(labels) // step + 1) if sum(min(n, b) for n in sizes) >= b * step)


@given(st.lists(st.integers(-1, 12), min_size=1, max_size=150), st.integers(1, 12), st.integers(0, 5), st.booleans())
@settings(max_examples=300, deadline=None)
def test_every_batch_has_distinct_clusters(labels, step, epoch, drop_last):
    full = most_batches(labels, step)
    if drop_last and not full:
        with pytest.raises(ValueError, match="of different clusters cannot be made of"):
            StratifiedOrder(np.array(labels), 1, step=step, drop_last=True)
        return
    order = StratifiedOrder(np.array(labels), 1, step=step, drop_last=drop_last)
    batches = batches_of(order, step, epoch)
    assert_stratified(batches, labels)
    ids = [i for batch in batches for i in batch]
    assert len(set(ids)) == len(ids) == order.samples
    assert [len(batch) for batch in batches[:full]] == [step] * full
    assert len(batches) - full <= (not drop_last)
    if not drop_last:  # nobody is left out but the surplus of large clusters
        limit = len(batches)
        sizes = {c: labels.count(c) for c in set(labels) - {-1}}
        assert len(labels) - len(ids) == sum(max(n - limit, 0) for n in sizes.values()) == order.left_out
    np.testing.assert_array_equal(order.positions(epoch, np.array(ids)), np.arange(order.samples))


@given(st.lists(st.integers(-1, 9), min_size=8, max_size=80), st.integers(1, 4), st.integers(1, 4))
@settings(max_examples=100, deadline=None)
def test_ranks_share_the_global_batches(labels, world, per_rank):
    assume(len(set(labels) - {-1}) + labels.count(-1) >= world)  # else no batch can be made: an error, tested below
    step = world * per_rank
    order = StratifiedOrder(np.array(labels), 4, step=step, world_size=world, drop_last=False)
    assert (order.samples % step) % world == 0
    splits = [Split(order.samples, per_rank, rank, world, drop_last=False) for rank in range(world)]
    assert len({split.batches() for split in splits}) == 1
    together = [
        [i for split in splits for i in order.sample_ids(0, split.positions(b)).tolist()]
        for b in range(splits[0].batches())
    ]
    assert_stratified(together, labels)
    alone = StratifiedOrder(np.array(labels), 4, step=step, drop_last=False)
    for b, batch in enumerate(batches_of(alone, step)):
        if len(batch) == step:
            assert together[b] == batch
        else:
            assert together[b:] == [] or set(together[b]) <= set(batch)


def test_over_epochs_every_sample_occurs_equally():
    labels = np.repeat([0, 1, 2, 3, 4, -1], [60, 30, 10, 4, 1, 15])
    order = StratifiedOrder(labels, 2, step=8)
    counts = np.zeros(len(labels), int)
    epochs = 600
    for epoch in range(epochs):
        counts[order.sample_ids(epoch, np.arange(order.samples))] += 1
    assert counts.min() > 0
    share = np.array([counts[labels == c].mean() / epochs for c in range(5)])
    full = order.samples // 8
    np.testing.assert_allclose(share[:3], np.minimum(1, full / np.array([60, 30, 10])), atol=0.06)
    for c in range(4):  # within a cluster all alike
        mine = counts[labels == c]
        assert np.abs(mine - mine.mean()).max() < 6 * np.sqrt(epochs * 0.25)


def test_places_are_random():
    """Without large clusters any two samples of different clusters meet alike, and any sample visits any batch and place."""
    labels = np.arange(64) // 4
    order = StratifiedOrder(labels, 3, step=8)
    assert order.samples == 64
    epochs = 3000
    where = np.array([order.positions(e, np.array([0, 5, 63])) for e in range(epochs)])
    for column in where.T:
        counts = np.bincount(column, minlength=64)
        assert ((counts - epochs / 64) ** 2 / (epochs / 64)).sum() < 110  # chi-square of 63 degrees: p > 0.0002
    together = (where[:, 0] // 8 == where[:, 1] // 8).mean()
    # Seven of the 60 samples of other clusters share the batch.
    assert abs(together - 7 / 60) < 0.025


def test_pure_in_seed_and_epoch():
    labels = np.random.default_rng(0).integers(-1, 40, 1000)
    first = StratifiedOrder(labels, 1, step=16)
    ids = first.sample_ids(3, np.arange(first.samples))
    for epoch in (0, 1, 2):  # whatever was asked before
        first.sample_ids(epoch, np.arange(5))
    np.testing.assert_array_equal(first.sample_ids(3, np.arange(first.samples)), ids)
    for seed, epoch in ((2, 3), (1, 4)):
        other = StratifiedOrder(labels, seed, step=16).sample_ids(epoch, np.arange(first.samples))
        assert (other == ids).mean() < 0.02


def test_surplus_is_told_once(caplog):
    labels = np.repeat([7, 8, 9], [50, 3, 3])
    with caplog.at_level(logging.WARNING):
        order = StratifiedOrder(labels, step=3)
        for epoch in range(3):
            order.sample_ids(epoch, np.arange(order.samples))
    assert [record.getMessage() for record in caplog.records] == [
        "clusters: 1 clusters have more samples than the epoch has batches (3), so 47 of 56 samples are left out of each "
        "epoch, others each time"
    ]
    caplog.clear()
    StratifiedOrder(np.arange(30) // 3, step=5)
    assert not caplog.records


def test_stand_ins_are_of_the_same_cluster():
    labels = np.repeat([0, 1, 2, 3, 4], [6, 6, 6, 6, 1])
    order = StratifiedOrder(labels, 5, step=4, drop_last=False)
    for position in range(order.samples):
        sample = int(order.sample_ids(2, np.array([position]))[0])
        drawn = [order.replacement(2, position, attempt) for attempt in range(40)]
        if labels[sample] < 4:
            assert set(drawn) == set(np.flatnonzero(labels == labels[sample]))
        begin = position // 4 * 4
        batch = order.sample_ids(2, np.arange(begin, min(begin + 4, order.samples)))
        far = {order.replacement(2, position, attempt) for attempt in range(50, 90)}
        assert not set(labels[list(far)]) & set(labels[batch])


def test_donors_are_of_the_same_batch():
    labels = np.arange(200) // 4
    order = StratifiedOrder(labels, 5, step=16)
    positions = np.arange(order.samples)
    donors = order.donors(1, positions, 3)
    assert (donors // 16 == positions[:, None] // 16).all()
    assert (donors // DONOR_BLOCK == positions[:, None] // DONOR_BLOCK).all()
    ids = order.sample_ids(1, positions)
    assert (labels[ids[donors]] != labels[ids][:, None]).all()


def test_order_messages():
    order = StratifiedOrder(np.repeat([0, 1], [9, 3]), step=2)
    with pytest.raises(ValueError, match=r"positions must be in \[0, 6\), got 0 .. 6"):
        order.sample_ids(0, np.array([0, 6]))
    with pytest.raises(ValueError, match=r"sample ids must be in \[0, 12\), got 0 .. 12"):
        order.positions(0, np.array([0, 12]))
    with pytest.raises(ValueError, match=r"samples must be visited in epoch 0, got \[\d+, .*\], which it leaves out"):
        order.positions(0, np.arange(12))
    with pytest.raises(ValueError, match="6 samples of different clusters cannot be made of 2 clusters and 1 samples"):
        StratifiedOrder(np.array([0, 0, 1, 1, 1, 1, -1, 0, 0]), step=6)
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        StratifiedOrder(np.arange(4), step=0)
    assert repr(order) == "StratifiedOrder(6 positions, 12 samples, global batch 2)"


# ---- the loader -------------------------------------------------------------------------------------------------------

LABELS = np.where(np.arange(120) % 10 == 0, -1, np.arange(120) % 13)


@pytest.fixture(scope="module")
def whole(shards):
    with make(shards, clusters=LABELS) as loader:
        assert len(loader) == 15
        return collect(loader)


def test_loader_batches_are_stratified(shards, tmp_path):
    with Store(shards) as store:
        table = {store.key(i): f"c{LABELS[i]}" for i in range(120) if LABELS[i] >= 0}
    path = tmp_path / "clusters.json"
    path.write_text(json.dumps(table))
    with make(shards, clusters=path) as loader:
        for _ in range(3):
            batches = [batch["index"].tolist() for batch in loader]
            assert len(batches) == len(loader) == 15
            assert_stratified(batches, LABELS.tolist())
            assert sorted(i for batch in batches for i in batch) == list(range(120))
        named = loader.state_dict()
    with make(shards, clusters=LABELS) as loader:
        assert loader.state_dict()["clusters"] == named["clusters"]


def test_ranks_give_the_same_global_batches(shards, whole):
    got, batches = {}, [[] for _ in range(15)]
    for rank in range(2):
        with make(shards, clusters=LABELS, batch_size=4, rank=rank, world_size=2) as loader:
            assert len(loader) == 15
            for number, batch in enumerate(loader):
                batches[number] += batch["index"].tolist()
            loader.set_epoch(0)
            got |= collect(loader)
    assert_stratified(batches, LABELS.tolist())
    assert_same(got, whole)


def test_resume_elastic_and_replay(shards, whole):
    with make(shards, clusters=LABELS) as loader:
        done = []
        for number, batch in enumerate(loader):
            done += batch["index"].tolist()
            if number == 4:
                break
        state = json.loads(json.dumps(loader.state_dict()))
        batch = loader.replay([5, 99, 40], epoch=0)
        for i, index in enumerate([5, 99, 40]):
            np.testing.assert_array_equal(batch["views"][1][i].numpy(), whole[index][1])
            np.testing.assert_array_equal(batch["negatives"][i].numpy(), whole[index][4])
    rest = {}
    for rank in range(4):
        with make(shards, clusters=LABELS, batch_size=2, rank=rank, world_size=4) as loader:
            loader.load_state_dict(state)
            rest |= collect(loader)
    assert not rest.keys() & set(done)
    assert_same(rest, {i: whole[i] for i in whole.keys() - set(done)})
    for options in ({"clusters": LABELS, "batch_size": 4}, {"clusters": LABELS % 11}, {}):
        with make(shards, **options) as loader, pytest.raises(ValueError, match=r"these differ: clusters \(saved"):
            loader.load_state_dict(state)


def test_surplus_leaves_the_length_constant(shards):
    labels = np.where(np.arange(120) < 60, 0, np.arange(120))
    with make(shards, clusters=labels) as loader:
        seen, lengths = set(), set()
        for _ in range(40):
            ids = [i for batch in loader for i in batch["index"].tolist()]
            assert_stratified([ids[a : a + 8] for a in range(0, len(ids), 8)], labels.tolist())
            lengths.add(len(ids))
            seen |= set(ids)
        assert lengths == {8 * len(loader)} == {64}
        assert seen == set(range(120))
        with pytest.raises(ValueError, match="samples must be visited in epoch 0"):
            loader.replay(list(range(8)), epoch=0)


def test_bad_samples_keep_batches_stratified(tmp_path):
    rng = np.random.default_rng(1)
    jpeg = cv2.imencode(".jpg", disc_image(rng, 64, 80)[0])[1].tobytes()
    write_tar(tmp_path / "bad.tar", [(f"{i:03d}.jpg", b"" if i in (3, 17, 30) else jpeg) for i in range(40)])
    write_index(tmp_path / "bad.tar")
    labels = np.arange(40) % 8
    with make(str(tmp_path / "bad.tar"), RECIPE, clusters=labels, error_budget=0.5, masks=None) as loader:
        for _ in range(2):
            batches = [batch["index"].tolist() for batch in loader]
            assert_stratified(batches, labels.tolist())
            assert not {3, 17, 30} & {i for batch in batches for i in batch}


def test_with_pairs(shards):
    with make(shards, RECIPE.with_pairs("class"), clusters=LABELS) as loader:
        batches = [batch["index"].tolist() for batch in loader]
    assert_stratified(batches, LABELS.tolist())


def test_messages(shards, tmp_path):
    for options, message in (
        ({"clusters": LABELS, "shuffle": False}, "shuffle must be True with clusters, got False"),
        ({"clusters": np.zeros(120, int)}, "8 samples of different clusters cannot be made of 1 clusters"),
        ({"clusters": np.zeros(3, int)}, r"clusters must be \(120,\) integers"),
        ({"clusters": {"x": 1}}, "clusters must name keys of the shards"),
        ({"clusters": LABELS, "batch_size": 0}, "batch_size must be at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            make(shards, **options)


def test_fetched_shards_are_refused(tmp_path):
    pytest.importorskip("aiohttp")
    from loopback import web_server

    from figureground.shards.cache import ShardCache

    write_shards(tmp_path / "shards", 24, per_shard=12)
    with web_server() as site:
        for path in (tmp_path / "shards").iterdir():
            site.files[path.name] = path.read_bytes()
        cache = ShardCache(tmp_path / "cache", 1 << 30)
        with pytest.raises(ValueError, match="clusters need local shards, got URLs"):
            make(site.url + "part-{000000..000001}.tar", clusters=np.arange(24), cache=cache)
