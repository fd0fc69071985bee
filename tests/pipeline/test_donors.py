"""Where donors come from: the block, the past, the store, the user's set; how many images that takes."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
from loader_tools import assert_same, collect, make
from pipeline_shards import write_shards, write_tar
from scipy import stats

from figureground.pipeline import recipes
from figureground.pipeline.decode import Decoder
from figureground.pipeline.donors import Donors, check_donors, most_images, reach_of, rule_of
from figureground.pipeline.order import DONOR_BLOCK, Order
from figureground.pipeline.windows import WindowOrder
from figureground.shards import Store
from figureground.shards.cache import ShardCache
from figureground.shards.index import write_index

PLAIN = recipes.moco_v2(32)


def _draw(recipe, samples, positions=None, *, seed=0, epoch=0, shuffle=True, backgrounds=0):
    positions = np.arange(samples) if positions is None else np.asarray(positions)
    donors = Donors(Order(samples, seed, shuffle), recipe, backgrounds)
    return donors.draw(epoch, positions, lambda found: found)


def _many(views, **background):
    """A recipe of many views that take donors, so that one draw shows many."""
    view = replace(PLAIN.views[0], background=recipes.Background("random", **background))
    return recipes.Recipe("many", (view,) * views)


def test_the_past_by_hand():
    recipe = _many(3, donors="past", past=3)
    got = _draw(recipe, 10)[:, :3]
    assert {tuple(sorted(row)) for row in got[3:].tolist()} == {(p - 3, p - 2, p - 1) for p in range(3, 10)}
    # Fewer than three lie before: the first four of the epoch, but for the sample itself.
    assert [sorted(row) for row in got[:3].tolist()] == [[1, 2, 3], [0, 2, 3], [0, 1, 3]]


def test_small_stores_by_hand():
    assert _draw(_many(2, donors="store"), 1).tolist() == [[0, 0, 0]]
    assert _draw(_many(2, donors="store"), 2).tolist() == [[1, 1, 1], [0, 0, 0]]
    assert {tuple(sorted(row[:2])) for row in _draw(_many(2, donors="past", past=99), 3).tolist()} == {
        (1, 2), (0, 2), (0, 1),
    }  # fmt: skip


def test_views_differ_however_few_candidates_are_preferred():
    """Five of the past for seven columns: two are drawn again, and a preference must not bring these together."""
    donors = Donors(Order(40), _many(3, donors="past", past=5))
    for wanted in range(40):
        got = donors.draw(0, np.arange(40), lambda found, wanted=wanted: _first(found, wanted))[:, :3]
        assert all(len(set(row)) == 3 for row in got.tolist())
    small = Donors(Order(4), _many(3))
    got = small.draw(0, np.arange(4), lambda found: _first(found, 2))[:, :3]
    assert [sorted(row) for row in got.tolist()] == [[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]]


def _first(found, wanted):
    return np.take_along_axis(found, np.argsort(found != wanted, axis=1, kind="stable"), axis=1)


@pytest.mark.parametrize("other_class", [False, True])
def test_no_stand_in_is_the_sample_that_it_lends_to(tmp_path, other_class):
    """A third of 24 images is broken: whatever takes their places is another image, the same on any layout."""
    write_shards(tmp_path / "good", 24, per_shard=24)
    with Store(str(tmp_path / "good")) as store:
        images = [b"<html>" if i % 3 == 1 else store.image(i).tobytes() for i in range(24)]
    members = [
        (f"{i:03d}.{ext}", data) for i in range(24) for ext, data in (("jpg", images[i]), ("cls", b"%d" % (i % 2)))
    ]
    write_tar(tmp_path / "bad.tar", members)
    write_index(tmp_path / "bad.tar")
    recipe = PLAIN.with_background("swap", p=1.0, other_class=other_class)
    options = {"error_budget": 0.5, "masks": None}
    for epoch in range(12):
        found = []
        for layout in ({"batch_size": 24}, {"batch_size": 6}, {"batch_size": 8, "threads": 1}):
            with make(str(tmp_path / "bad.tar"), recipe, **options, **layout) as loader:
                loader.set_epoch(epoch)
                rows = [np.concatenate([batch["params"][v] for batch in loader]) for v in range(2)]
            found.append([(of["sample"].tolist(), of["donor"].tolist()) for of in rows])
            assert all((of["donor"] != of["sample"]).all() and (of["donor"] % 3 != 1).all() for of in rows)
        assert found[0] == found[1] == found[2]


_BITS = 2**64


def _mix(x):
    z = (x + 0x9E3779B97F4A7C15) % _BITS
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % _BITS
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % _BITS
    return z ^ (z >> 31)


def _chain(h, *values):
    for value in values:
        h = _mix(h ^ _mix(value))
    return h


def _written_plainly(seed, epoch, purpose, p, candidates, count):
    """Draw from a list without putting back; when it is used up, begin anew."""
    h, drawn, left = _chain(_mix(seed), epoch, purpose, p), [], []
    for k in range(count):
        left = left or sorted(candidates)
        drawn.append(left.pop(_chain(h, k) % len(left)))
    return drawn


@pytest.mark.parametrize(
    ("samples", "reach", "views"), [(50, 7, 4), (50, 1, 3), (50, 3, 8), (50, 49, 12), (9, 400, 20)]
)
def test_draws_equal_plain_python(samples, reach, views):
    got = _draw(_many(views, donors="past", past=reach), samples, seed=5, epoch=2)
    for p in range(samples):
        window = range(max(p - reach, 0), min(max(p, reach + 1), samples))
        want = _written_plainly(5, 2, 6, p, [q for q in window if q != p], views)
        assert got[p, :views].tolist() == want


@pytest.mark.parametrize(("size", "views"), [(1, 3), (5, 3), (1000, 10)])
def test_draws_of_a_set_equal_plain_python(size, views):
    got = _draw(_many(views), 30, seed=5, epoch=2, backgrounds=size)
    for p in range(30):
        assert got[p, :views].tolist() == _written_plainly(5, 2, 7, p, range(30, 30 + size), views)


def test_draws_are_uniform():
    positions = np.arange(20_000)
    back = positions[300:] - _draw(_many(2, donors="past", past=50), 20_000, positions)[300:, 1]
    assert back.min() == 1
    assert back.max() == 50
    assert stats.chisquare(np.bincount(back)[1:]).pvalue > 1e-3
    anywhere = _draw(_many(2, donors="store"), 20_000, positions)[:, 0]
    assert stats.chisquare(np.bincount(anywhere // 1000)).pvalue > 1e-3
    ours = _draw(_many(2), 20_000, positions, backgrounds=40)[:, 1] - 20_000
    assert stats.chisquare(np.bincount(ours, minlength=40)).pvalue > 1e-3


def test_the_block_is_drawn_as_ever():
    recipe = PLAIN.with_background("swap")
    np.testing.assert_array_equal(_draw(recipe, 100), Order(100).donors(0, np.arange(100), 7)[:, :3])
    mixed = replace(recipe, views=(*_many(1, donors="store").views, recipe.views[1]))
    np.testing.assert_array_equal(_draw(mixed, 100)[:, 1], Order(100).donors(0, np.arange(100), 7)[:, 1])


def test_the_negative_shows_no_ground_of_its_views():
    for recipe in (_many(3, donors="past", past=6), _many(3, donors="past", past=300)):
        got = _draw(recipe, 400)
        assert not (got[:, :3] == got[:, 3:]).any()
        assert (got[:, 3] // DONOR_BLOCK == np.arange(400) // DONOR_BLOCK).all()


def test_a_bad_background_gets_a_stand_in_of_the_set():
    donors = Donors(Order(100), _many(1), backgrounds=5)
    for epoch in range(3):
        chain = [donors.replacement(epoch, 102, attempt) for attempt in range(110)]
        assert set(chain) == set(range(100, 105))
        assert set(chain[105:]) == set(range(100, 105))  # past the hashed attempts each one comes
        assert donors.replacement(epoch, 7, 0) == Order(100).replacement(epoch, 7, 0)
    lone = Donors(Order(100), _many(1), backgrounds=1)
    assert [lone.replacement(0, 100, attempt) for attempt in (0, 99, 100, 105)] == [100] * 4


@pytest.mark.parametrize(
    "options", [{"donors": "past", "past": 20}, {"donors": "store"}, {"donors": "past", "past": 9}]
)
def test_views_depend_on_no_layout(shards, options):
    recipe = PLAIN.with_background("swap", p=0.5, **options)
    with make(shards, recipe) as loader:
        whole = collect(loader)
    for layout in ({"batch_size": 7, "drop_last": False}, {"batch_size": 40, "threads": 1}):
        with make(shards, recipe, **layout) as loader:
            assert_same(collect(loader), whole)
    got = {}
    for rank in range(3):
        with make(shards, recipe, rank=rank, world_size=3, batch_size=4) as loader:
            got |= collect(loader)
    assert_same(got, whole)
    with make(shards, recipe) as loader:
        replayed = loader.replay([5, 99, 40], epoch=0)
        for i, index in enumerate([5, 99, 40]):
            np.testing.assert_array_equal(replayed["views"][1][i].numpy(), whole[index][1])
            np.testing.assert_array_equal(replayed["negatives"][i].numpy(), whole[index][4])
    drawn = np.array([rows["donor"] for parts in whole.values() for rows in parts[5:]])
    place = Order(120).positions(0, drawn[drawn >= 0])
    own = Order(120).positions(0, np.repeat(list(whole), 2)[drawn >= 0])
    reach = options.get("past", 119)
    assert ((place < own) | (own < reach) | (reach == 119)).all()
    assert (own - place <= reach).all()
    assert len(np.unique(drawn)) > 30


def test_resume_goes_on_with_the_same_past(shards):
    recipe = PLAIN.with_background("swap", p=0.5, donors="past", past=30)
    with make(shards, recipe) as loader:
        whole = collect(loader)
        loader.set_epoch(0)
        iterator = iter(loader)
        for _ in range(6):
            next(iterator)
        state = loader.state_dict()
    with make(shards, recipe, batch_size=12) as loader:
        loader.load_state_dict(state)
        rest = collect(loader)
    assert len(rest) == 120 - 48
    assert_same(rest, {index: whole[index] for index in rest})


def test_other_classes_are_preferred(shards):
    for donors in ("past", "store"):
        recipe = PLAIN.with_background("random", p=1.0, donors=donors, past=40, other_class=True)
        with make(shards, recipe) as loader:
            rows = np.concatenate([rows for batch in loader for rows in batch["params"]])
        assert (rows["donor"] % 5 != rows["sample"] % 5).all()


class _Counting(Decoder):
    """Notes how many images each batch takes."""

    counts: ClassVar[list[int]] = []

    def submit(self, images, masks=None):
        self.counts.append(len(images))
        super().submit(images, masks)


def _decoded(shards, recipe, monkeypatch, **options):
    _Counting.counts = []
    monkeypatch.setattr("figureground.pipeline.loader.Decoder", _Counting)
    with make(shards, recipe, **options) as loader:
        batches = len(list(loader))
    return np.array(_Counting.counts[:batches])


def test_how_many_images_are_decoded(shards, monkeypatch):
    """The table of `donors`: 0 for the block, 1 a view drawn for the store, in between for the past."""
    drawn = {}
    for donors in ("block", "past", "store"):
        recipe = PLAIN.with_background("random", p=0.5, donors=donors, past=24)
        drawn[donors] = _decoded(shards, recipe, monkeypatch, batch_size=24) - 24
    assert (drawn["block"] == 0).all()
    assert 0 < drawn["past"].mean() < drawn["store"].mean() <= 24
    # 24 views are drawn a batch; 19 of their donors lie outside it, some of them twice.
    assert 14 < drawn["store"].mean() < 21


@pytest.mark.parametrize("donors", ["block", "past", "store"])
def test_the_fullest_batches_fit(shards, monkeypatch, donors):
    def aside(*_):
        raise AssertionError("a batch of an epoch did not fit")

    monkeypatch.setattr(_Counting, "decode", aside)
    recipe = recipes.swav(32, 16, 2).with_background("swap", p=1.0, donors=donors, past=119, views=(0, 1, 2, 3))
    for batch_size in (1, 3, 17):
        most = most_images(recipe, batch_size, 120)
        assert _decoded(shards, recipe, monkeypatch, batch_size=batch_size, drop_last=False).max() <= most
    assert most_images(PLAIN, 8, 120) == most_images(PLAIN.with_background("remove", donors="store"), 8, 120) == 56


def test_replays_beyond_the_decoders_capacity(tmp_path):
    """Scattered samples share no blocks: their donors may outnumber what a batch of an epoch takes."""
    shards = write_shards(tmp_path, 800, per_shard=800)
    recipe = recipes.swav(32, 16, 2).with_background("swap", p=1.0, views=(0, 1, 2, 3))
    ids = Order(800).sample_ids(0, np.arange(0, 800, 8))
    with make(shards, recipe, batch_size=100) as loader:
        scattered = loader.replay(ids, epoch=0)
        wanted = np.unique([rows["donor"] for rows in scattered["params"]])
        assert 100 + len(wanted) > most_images(recipe, 100, 800)
        few = loader.replay(ids[:5], epoch=0)
    for v in range(4):
        np.testing.assert_array_equal(scattered["views"][v][:5].numpy(), few["views"][v].numpy())
    np.testing.assert_array_equal(scattered["negatives"][:5].numpy(), few["negatives"].numpy())


@pytest.mark.parametrize("past", [1, 20, 64])
def test_fetched_shards_that_the_past_needs_are_announced(past):
    order, recipe = WindowOrder(np.arange(31) * 40, seed=1, window=3), _many(2, donors="past", past=past)
    check_donors(recipe, order, 48, None)
    assert reach_of(recipe, order.samples) == past
    donors = Donors(order, recipe)
    for first in range(0, 1200, 48):
        positions = np.arange(first, min(first + 48, 1200))
        drawn = donors.draw(3, positions, lambda found: found)
        here = np.concatenate([positions, drawn.ravel()])
        needed = order.shards_needed(3, first, 0, 48, past)
        assert set(order.sample_ids(3, here) // 40) <= set(needed)
        assert len(needed) <= 6  # two windows, which the cache can hold


def test_the_start_of_an_epoch_reaches_ahead_into_the_second_of_two_windows():
    order, recipe = WindowOrder(np.arange(6) * 40, seed=1, window=3), _many(4, donors="past", past=150)
    check_donors(recipe, order, 8, None)
    drawn = Donors(order, recipe).draw(0, np.arange(8), lambda found: found)
    assert drawn.max() > 120
    assert set(order.sample_ids(0, drawn.ravel()) // 40) <= set(order.shards_needed(0, 0, 0, 8, 150))


def test_fetched_shards_refuse_what_may_not_be_cached():
    order = WindowOrder(np.arange(31) * 40, window=3)
    assert order.smallest_window == 120
    with pytest.raises(
        ValueError, match=r"donors must be 'block' or 'past' where shards are fetched \(URLs\) or read in lanes, got 'store'"
    ):
        check_donors(PLAIN.with_background("swap", donors="store"), order, 8, None)
    tight = PLAIN.with_background("swap", donors="past", past=65)
    with pytest.raises(
        ValueError, match=r"past \+ the 48 samples .* at most the 120 samples .* got past = 65; lower past"
    ):
        check_donors(tight, order, 48, None)
    check_donors(tight, order, 47, None)
    check_donors(tight, WindowOrder(np.arange(6) * 4, window=3), 47, None)  # two windows: all are cached
    check_donors(PLAIN.with_background("remove", donors="store"), order, 8, None)
    check_donors(PLAIN.with_background("swap", donors="store"), Order(100), 8, None)


def test_the_past_of_fetched_shards_is_that_of_local_ones(tmp_path):
    pytest.importorskip("aiohttp")
    from loopback import web_server

    folder = write_shards(tmp_path / "shards", 120, per_shard=12)
    recipe = PLAIN.with_background("random", p=0.5, donors="past", past=7)
    with web_server() as site:
        for path in (tmp_path / "shards").iterdir():
            site.files[path.name] = path.read_bytes()
        url, cache = site.url + "part-{000000..000009}.tar", ShardCache(tmp_path / "cache", 1 << 30)
        with make(url, recipe, cache=cache, window=2, batch_size=9) as remote:
            rows = np.concatenate([rows for batch in remote for rows in batch["params"]])
        used = rows[rows["donor"] >= 0]
        order = remote._order
        back = order.positions(0, used["sample"]) - order.positions(0, used["donor"])
        assert ((back > 0) & (back <= 7) | (order.positions(0, used["sample"]) < 7)).all()
        with make(folder, recipe) as local:
            assert len(local) == 15
        with pytest.raises(ValueError, match="got 'store'"):
            make(url, PLAIN.with_background("swap", donors="store"), cache=cache, window=2)
        with pytest.raises(ValueError, match="lower past or raise window"):
            make(url, PLAIN.with_background("swap", donors="past"), cache=cache, window=2)


def test_rules_and_messages():
    assert rule_of(None, 10) == rule_of(recipes.Background("remove", donors="store"), 10, 5) == 0
    assert rule_of(recipes.Background("swap"), 10, 5) == -1
    with pytest.raises(ValueError, match="donors must be 'block', 'past' or 'store', got 'ring'"):
        PLAIN.with_background("swap", donors="ring")
    with pytest.raises(ValueError, match="past must be at least 1 position, got 0"):
        PLAIN.with_background("swap", donors="past", past=0)
    assert PLAIN.with_background("swap").fingerprint != PLAIN.with_background("swap", donors="past").fingerprint
