"""Shards handed out to workers: each once, in order, promises kept unless a worker would be idle."""

from __future__ import annotations

import random

import pytest

from figureground.pipeline.masks_queue import ShardQueue


def test_in_order_without_promises():
    queue = ShardQueue(3, workers=2, ahead=False)
    assert [queue.take(worker) for worker in "abab"] == [(0, None), (1, None), (2, None), None]
    assert not queue


def test_one_worker_knows_what_comes_next():
    queue = ShardQueue(3, workers=1, ahead=True)
    assert [queue.take("a") for _ in range(4)] == [(0, 1), (1, 2), (2, None), None]


def test_a_lost_worker():
    queue = ShardQueue(5, workers=1, ahead=True)
    assert queue.take("a") == (0, 1)
    queue.forget("a")
    queue.give_back(0)
    assert [queue.take("b") for _ in range(5)] == [(0, 1), (1, 2), (2, 3), (3, 4), (4, None)]


def test_nobody_is_idle_while_a_shard_is_promised():
    queue = ShardQueue(3, workers=1, ahead=True)
    assert queue.take("a") == (0, 1)
    assert [queue.take("b")[0], queue.take("b")[0], queue.take("b")] == [2, 1, None]
    assert queue.take("a") is None


@pytest.mark.parametrize("seed", range(20))
def test_every_shard_is_made_once(seed):
    """Any number of workers that finish, or are lost, in any order."""
    rng = random.Random(seed)
    count, workers = rng.randint(1, 30), rng.randint(1, 6)
    queue = ShardQueue(count, workers=workers, ahead=rng.random() < 0.7)
    busy, made = {}, []
    while queue or busy:
        worker = rng.randrange(workers)
        if worker in busy:
            number = busy.pop(worker)
            if rng.random() < 0.2:
                queue.forget(worker)
                queue.give_back(number)
            else:
                made.append(number)
            continue
        taken = queue.take(worker)
        if taken is None:
            assert not queue
            continue
        busy[worker], following = taken
        assert busy[worker] not in made
        assert following is None or following not in [*made, *busy.values()]
    assert sorted(made) == list(range(count))
