"""How a loader's epochs are visited: the order that suits its shards, this rank's share of it, and room in the cache."""

from __future__ import annotations

from dataclasses import dataclass, field

from figureground.shards import Store

from .lanes import Split, lanes_of_ranks
from .order import Order
from .ranks import ranks_of_node
from .sample_groups import GroupSource
from .stratified import stratify
from .windows import WindowOrder


@dataclass(frozen=True)
class Epochs:
    """What a loader visits."""

    order: Order | WindowOrder
    split: Split
    inputs: dict[str, str] = field(default_factory=dict)
    """Fingerprints of what the order was made from, for `Loader.state_dict`."""

    @property
    def window(self) -> int:
        """Shards whose samples are shuffled together; 0: all."""
        return self.order.window if isinstance(self.order, WindowOrder) else 0


def plan_epochs(
    store: Store,
    seed: int,
    *,
    shuffle: bool,
    window: int,
    lanes: int,
    clusters: GroupSource | None,
    batch_size: int,
    rank: int,
    world_size: int,
    drop_last: bool,
) -> Epochs:
    """Choose the order of a loader's epochs: in windows where shards are fetched or read in lanes, else a shuffle of all samples.

    Parameters
    ----------
    store, seed, shuffle, window, lanes, clusters, batch_size, rank, world_size, drop_last
        As for `Loader`.

    Raises
    ------
    ValueError
        If there are too few samples for a batch or for the lanes, the lanes do not divide the global batch, or there are clusters
        and the shards are fetched or read in lanes.
    ShardError
        If the cache cannot hold what the windows (of all lanes of this rank's node) need.
    """
    if clusters is not None:
        if lanes > 1:
            raise ValueError(
                f"Loader: lanes must be 1 with clusters, whose batches take samples from all over the data set, got {lanes}"
            )
        order, named = stratify(
            store,
            clusters,
            seed,
            shuffle=shuffle,
            step=batch_size * world_size,
            world_size=world_size,
            drop_last=drop_last,
        )
        return Epochs(order, Split(order.samples, batch_size, rank, world_size, drop_last), {"clusters": named})
    split = Split(len(store), batch_size, rank, world_size, drop_last, lanes)
    if not store.is_remote and lanes == 1:
        return Epochs(Order(len(store), seed, shuffle), split)
    windows = WindowOrder(store.starts, seed, shuffle, window=window, lanes=lanes)
    beside = ranks_of_node()
    node = rank // beside * beside
    store.plan_windows(
        windows.window_shards,
        lanes=len(lanes_of_ranks(rank, rank + 1, world_size, lanes)),
        node_lanes=len(lanes_of_ranks(node, min(node + beside, world_size), world_size, lanes)),
    )
    return Epochs(windows, split)
