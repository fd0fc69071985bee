"""The shards of the benches."""

from __future__ import annotations

import numpy as np

from figureground.bench.workload import default_shards, repeat_shards
from figureground.shards import MaskStore, Store


def test_made_and_repeated(tmp_path):
    shards = default_shards(str(tmp_path), 12, long_side=64, shard_mb=0.01)
    with Store(shards) as store, MaskStore(store) as masks:
        assert len(store) == 12
        assert masks.present.all()
        assert len(store.shards) > 1
        first = bytes(store.image(0))
    repeated = repeat_shards(shards, tmp_path / "more", 3)
    with Store(repeated) as store, MaskStore(store) as masks:
        assert len(store) == 36
        assert masks.present.all()
        assert bytes(store.image(0)) == bytes(store.image(12)) == first
        assert bytes(masks.mask(1)) == bytes(masks.mask(13))
        assert np.unique([store.shard_of(i) for i in range(36)]).size == len(store.shards)
