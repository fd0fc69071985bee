"""The formula against a cache that is played through."""

from __future__ import annotations

import numpy as np
import pytest

from figureground.bench.cache_model import kept_share


@pytest.mark.parametrize("share", [1.0, 0.5, 0.25, 0.1])
@pytest.mark.parametrize("room", [0.05, 0.1, 0.3, 0.5, 0.9])
def test_a_cache_by_last_use(room, share):
    rng, shards, epochs, kept, saved, used = np.random.default_rng(0), 400, round(60 / share), {}, 0, 0
    for epoch in range(epochs):
        for shard in rng.permutation(shards)[: round(share * shards)].tolist():
            if epoch > epochs // 4:  # by then it is full
                used += 1
                saved += shard in kept
            kept.pop(shard, None)
            kept[shard] = True
            if len(kept) > room * shards:
                del kept[next(iter(kept))]
    assert kept_share(room, share) == pytest.approx(saved / used, abs=0.01)


def test_ends():
    assert kept_share(0.0) == kept_share(0.0, 0.1) == 0.0
    assert kept_share(1.0, 0.1) == kept_share(3.0) == 1.0
    rising = [kept_share(room, 0.2) for room in np.linspace(0, 1, 50)]
    assert rising == sorted(rising)
