"""Who takes what: equal, disjoint and complete shares for any ranks, of runs or of lanes; and what stays within a lane."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from figureground.pipeline import recipes
from figureground.pipeline.companions import find_companions
from figureground.pipeline.donors import Donors, most_images
from figureground.pipeline.lanes import Split, lane_of, lane_starts, lanes_of_ranks
from figureground.pipeline.order import Order
from figureground.pipeline.windows import WindowOrder


def lane_by_hand(position: int, samples: int, lanes: int) -> int:
    return next(lane for lane in range(lanes) if position < (lane + 1) * samples // lanes)


@given(st.integers(1, 2000), st.integers(1, 60), st.data())
@settings(max_examples=100, deadline=None)
def test_lanes_are_equal_runs(samples, lanes, data):
    starts = lane_starts(samples, lanes)
    assert (starts[0], starts[-1]) == (0, samples)
    assert set(np.diff(starts).tolist()) <= {samples // lanes, -(-samples // lanes)}
    position = data.draw(st.integers(0, samples - 1))
    assert lane_of(position, samples, lanes) == lane_by_hand(position, samples, lanes)
    assert starts[lane_of(position, samples, lanes)] <= position


@given(st.integers(1, 200), st.integers(1, 9), st.integers(1, 5), st.booleans(), st.integers(0, 150))
@settings(max_examples=200, deadline=None)
def test_ranks_are_equal_disjoint_and_complete(samples, batch, world, drop_last, start):
    start = min(start, samples)
    if drop_last and samples < batch * world:
        with pytest.raises(ValueError, match="drop_last=True needs at least"):
            Split(samples, batch, 0, world, drop_last)
        return
    splits = [Split(samples, batch, r, world, drop_last) for r in range(world)]
    counts = {s.batches(start) for s in splits}
    assert len(counts) == 1
    taken = []
    for b in range(counts.pop()):
        parts = [s.positions(b, start) for s in splits]
        assert len({len(p) for p in parts}) == 1
        assert 1 <= len(parts[0]) <= batch
        taken += np.concatenate(parts).tolist()
    left = samples - start
    if drop_last:
        assert taken == list(range(start, start + left // (batch * world) * batch * world))
    else:
        assert taken[:left] == list(range(start, samples))
        assert len(taken) - left < world


def test_resume_with_other_ranks_takes_the_rest_once():
    samples = 1000
    done = Split(samples, 8, 0, 3).step * 5
    rest = [
        p
        for r in range(2)
        for s in [Split(samples, 4, r, 2, False)]
        for b in range(s.batches(done))
        for p in s.positions(b, done)
    ]
    assert sorted(rest) == list(range(done, samples))


def test_lanes_by_hand():
    # 41 samples in 4 lanes of 10, 10, 10 and 11, that begin at 0, 10, 20 and 30.
    ranks = [Split(41, 4, rank, 2, False, lanes=4) for rank in range(2)]
    assert ranks[0].positions(0).tolist() == [0, 1, 10, 11]
    assert ranks[1].positions(1).tolist() == [22, 23, 32, 33]
    assert ranks[0].batches() == 6
    # One lane has a sample more: rank 0, which has none left, repeats what comes first.
    assert [rank.positions(5).tolist() for rank in ranks] == [[40], [40]]
    assert [rank.lanes_read(0) for rank in ranks] == [range(2), range(2, 4)]
    assert Split(41, 12, 0, 1, lanes=4).positions(0).tolist() == [0, 1, 2, 10, 11, 12, 20, 21, 22, 30, 31, 32]
    # Three ranks: the middle one takes the ends of two lanes, so it needs both.
    third = [Split(48, 4, rank, 3, lanes=4) for rank in range(3)]
    assert [split.positions(1).tolist() for split in third] == [[3, 4, 5, 15], [16, 17, 27, 28], [29, 39, 40, 41]]
    assert [split.lanes_read(1) for split in third] == [range(2), range(1, 3), range(2, 4)]


@st.composite
def layouts(draw):
    """(samples, lanes, lane_step, start): an epoch, and where it goes on."""
    lanes = draw(st.integers(2, 12))
    samples = draw(st.integers(8 * lanes, 40 * lanes))
    start = lanes * draw(st.integers(0, samples // lanes))
    return samples, lanes, draw(st.integers(1, 17)), start


def ranks_for(step: int) -> list[int]:
    return [world for world in range(1, step + 1) if step % world == 0]


@given(layouts(), st.booleans(), st.data())
@settings(max_examples=200, deadline=None)
def test_any_ranks_make_the_same_batches_of_lanes(layout, drop_last, data):
    samples, lanes, lane_step, start = layout
    step = lanes * lane_step
    if drop_last and samples < step:
        return
    world = data.draw(st.sampled_from(ranks_for(step)))
    alone = Split(samples, step, 0, 1, drop_last, lanes)
    splits = [Split(samples, step // world, rank, world, drop_last, lanes) for rank in range(world)]
    assert {split.batches(start) for split in splits} == {alone.batches(start)}
    taken, repeated = [], 0
    for batch in range(alone.batches(start)):
        parts = [split.positions(batch, start) for split in splits]
        assert len({len(part) for part in parts}) == 1
        together, want = np.concatenate(parts), alone.positions(batch, start)
        repeated += len(together) - len(want)
        if len(together) == len(want):
            assert together.tolist() == want.tolist()
        assert sorted(set(together.tolist())) == sorted(want.tolist())
        for split, part in zip(splits, parts, strict=True):
            assert {lane_by_hand(p, samples, lanes) for p in part.tolist()} <= set(split.lanes_read(batch, start))
        taken += want.tolist()
    # Each lane's front before `start`, then these, each once; all of them but for what drop_last leaves out.
    assert len(set(taken)) == len(taken)
    depth = [p - lane_starts(samples, lanes)[lane_by_hand(p, samples, lanes)] for p in taken]
    assert all(d >= start // lanes for d in depth)
    assert repeated < world
    assert len(taken) == ((samples - start) // step * step if drop_last else samples - start)


@given(layouts(), st.data())
@settings(max_examples=100, deadline=None)
def test_ranks_that_divide_the_lanes_keep_to_their_own(layout, data):
    samples, lanes, lane_step, start = layout
    world = data.draw(st.sampled_from([world for world in range(2, lanes + 1) if lanes % world == 0]))
    starts = lane_starts(samples, lanes)
    splits = [Split(samples, lanes * lane_step // world, rank, world, False, lanes) for rank in range(world)]
    for batch in range(splits[0].batches(start)):
        full = start // lanes + (batch + 1) * lane_step <= samples // lanes
        for rank, split in enumerate(splits):
            own = lanes_of_ranks(rank, rank + 1, world, lanes)
            assert own == range(rank * lanes // world, (rank + 1) * lanes // world)
            positions = split.positions(batch, start)
            # In the last batch a rank whose lanes are empty must repeat something.
            if full or samples - start - batch * lanes * lane_step >= world:
                assert starts[own.start] <= positions.min() <= positions.max() < starts[own.stop]


@given(layouts(), st.integers(1, 40), st.data())
@settings(max_examples=100, deadline=None)
def test_a_resume_with_other_batches_takes_the_rest_of_each_lane(layout, other, data):
    samples, lanes, lane_step, _ = layout
    first = Split(samples, lanes * lane_step, lanes=lanes, drop_last=False)
    batches = data.draw(st.integers(0, samples // (lanes * lane_step)))
    done = [p for batch in range(batches) for p in first.positions(batch).tolist()]
    start = batches * first.step
    first.check_start(start)
    later = Split(samples, lanes * other, lanes=lanes, drop_last=False)
    rest = [p for batch in range(later.batches(start)) for p in later.positions(batch, start).tolist()]
    assert sorted(done + rest) == list(range(samples))


def test_an_epoch_goes_on_where_all_lanes_are_equally_far():
    split = Split(130, 8, lanes=4)
    for start in (0, 4, 64, 130):
        split.check_start(start)
    for start in (3, 131):
        with pytest.raises(
            ValueError,
            match=f"position of a state must be at most 130, .*, a multiple of lanes = 4 or all of them, got {start}",
        ):
            split.check_start(start)


@pytest.mark.parametrize(("samples", "lanes"), [(100, 4), (103, 4), (64, 8), (1000, 7)])
def test_all_that_a_sample_needs_lies_in_its_lane(samples, lanes):
    starts = lane_starts(samples, lanes)
    recipe = recipes.moco_v2().with_background("swap", donors="past", past=50)
    lending = recipes.moco_v2().with_group_mixing(group=4).with_style_transfer(block=16, p=1.0)
    lending = lending.with_block_corruption(max_share=0.5)
    shards = np.linspace(0, samples, 9).astype(int)
    for order in (Order(samples, 3, lanes=lanes), WindowOrder(shards, 3, window=2, lanes=lanes)):
        for lane in range(lanes):
            begin, end = int(starts[lane]), int(starts[lane + 1])
            positions = np.arange(begin, end)
            donors = order.donors(1, positions, 7)
            assert begin <= donors.min() <= donors.max() < end
            block = (donors - begin) // 8 == (positions[:, None] - begin) // 8
            assert block[: (end - begin) // 8 * 8].all(), "blocks are aligned with the lane"
            assert (np.sort(donors, axis=1)[:, 1:] != np.sort(donors, axis=1)[:, :-1]).all()
            past = Donors(order, recipe).draw(1, positions, lambda found: found)[:, :2]
            assert begin <= past.min() <= past.max() < end
            assert (past != positions[:, None]).all()
            found = find_companions(lending, order, 1, positions)
            lenders = found.positions[np.concatenate([found.style.ravel(), found.partner.ravel(), found.group.ravel()])]
            assert begin <= lenders.min() <= lenders.max() < end
            assert (found.group >= 0).all(axis=1).sum() == (end - begin) // 4 * 4


def test_styles_of_lanes_differ():
    # The first blocks of all lanes are drawn apart, each by its own key: not all have lenders of the same place.
    order, recipe = Order(8 * 160, 5, lanes=8), recipes.moco_v2().with_style_transfer(block=16, p=1.0)
    firsts = []
    for lane in range(8):
        found = find_companions(recipe, order, 0, np.arange(160 * lane, 160 * lane + 16))
        firsts.append(found.positions[found.style[0][0]] - 160 * lane)
    assert len(set(firsts)) > 2


def test_the_past_of_a_lane_is_that_of_an_epoch():
    recipe = recipes.moco_v2().with_background("swap", donors="past", past=5)
    drawn = Donors(Order(100, 3, lanes=4), recipe).draw(0, np.arange(100), lambda found: found)[:, :2]
    for position, row in enumerate(drawn.tolist()):
        begin = position // 25 * 25
        low = max(position - 5, begin)
        assert all(low <= donor <= max(position, begin + 5) for donor in row)


def test_lanes_of_ranks():
    assert lanes_of_ranks(0, 8, 64, 8) == range(1)  # a node of eight ranks, one lane
    assert lanes_of_ranks(56, 64, 64, 8) == range(7, 8)
    assert lanes_of_ranks(3, 4, 64, 8) == range(1)  # one of its ranks
    assert lanes_of_ranks(1, 2, 4, 64) == range(16, 32)
    assert lanes_of_ranks(1, 2, 3, 8) == range(2, 6)
    assert lanes_of_ranks(0, 1, 1, 1) == range(1)


def test_room_for_what_lies_around_the_runs_of_a_batch():
    recipe = recipes.moco_v2().with_background("swap")
    whole = Split(10_000, 64, 1, 2, lanes=8)  # 16 of each lane
    cut = Split(10_000, 48, 1, 2, lanes=8)  # 12 of each
    assert (whole.cut_runs(8), cut.cut_runs(8), cut.cut_runs(4), replace(cut, lanes=1).cut_runs(8)) == (1, 4, 1, 1)
    order = Order(10_000, 0, lanes=8)
    for batch in range(20):
        positions = cut.positions(batch)
        donors = Donors(order, recipe).draw(0, positions, lambda found: found)
        images = len(np.union1d(positions, donors))
        assert images <= most_images(recipe, 48, 10_000, cut_runs=4)
    assert most_images(recipe, 48, 10_000, cut_runs=4) == 48 + 48 + 48 * 3
    assert most_images(recipe, 256, 10_000, cut_runs=2) == 256 + 48 + 48


def test_messages():
    with pytest.raises(ValueError, match=r"rank must be in \[0, world_size = 2\), got 2"):
        Split(10, 1, 2, 2)
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        Split(10, 0)
    with pytest.raises(
        ValueError,
        match=r"batch_size x world_size must be a multiple of lanes = 8 .*, got 6 x 2 = 12; change batch_size",
    ):
        Split(100, 6, 0, 2, lanes=8)
