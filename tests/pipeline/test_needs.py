"""What a batch needs is announced before it is read, and no other lane's shards."""

from __future__ import annotations

import numpy as np
import pytest

from figureground.pipeline import recipes
from figureground.pipeline.companions import find_companions, lookahead
from figureground.pipeline.donors import Donors, check_donors, reach_of
from figureground.pipeline.lanes import Split, lane_starts
from figureground.pipeline.needs import Ahead
from figureground.pipeline.windows import WindowOrder

RECIPES = [
    recipes.moco_v2().with_background("swap"),
    recipes.moco_v2().with_background("swap", donors="past", past=20),
    recipes.moco_v2().with_background("swap").with_style_transfer(block=32),
]


class Recorder:
    """A store that keeps what it is told."""

    def __init__(self):
        self.asked = []

    def need(self, shards):
        self.asked = shards


@pytest.mark.parametrize("recipe", RECIPES, ids=["block", "past", "style"])
@pytest.mark.parametrize(("lanes", "world", "batch"), [(1, 2, 16), (4, 2, 16), (4, 3, 16), (4, 8, 4), (6, 1, 48)])
def test_all_that_a_batch_needs(recipe, lanes, world, batch):
    rng = np.random.default_rng(1)
    starts = np.concatenate([[0], np.cumsum(rng.integers(20, 60, 40))])
    samples = int(starts[-1])
    order, borders = WindowOrder(starts, 5, window=4, lanes=lanes), lane_starts(samples, lanes)
    check_donors(recipe, order, batch * world // lanes, None)
    for rank in range(world):
        split, store, sidecars = Split(samples, batch, rank, world, False, lanes), Recorder(), Recorder()
        ahead = Ahead(store, [sidecars, None], order, split, past=reach_of(recipe, samples), block=lookahead(recipe))
        donors = Donors(order, recipe)
        most = 0
        for number in range(split.batches()):
            ahead.need(2, number, 0)
            positions = split.positions(number)
            found = find_companions(recipe, order, 2, positions)
            rows = positions if found is None else found.positions
            drawn = donors.draw(2, rows, lambda candidates: candidates)
            shards = order.sample_ids(2, np.concatenate([rows, drawn.ravel()]))
            assert set((np.searchsorted(starts, shards, side="right") - 1).tolist()) <= set(store.asked)
            assert sidecars.asked == store.asked
            read = split.lanes_read(number)
            own = [order.sample_ids(epoch, np.arange(borders[read.start], borders[read.stop])) for epoch in (2, 3)]
            holds = np.searchsorted(starts, np.concatenate(own), side="right") - 1
            assert set(store.asked) <= set(holds.tolist())
            most = max(most, len(store.asked) / len(read))
        assert most <= 2 * order.window_shards + order.window
