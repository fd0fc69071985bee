"""Which worker makes which shard, and which one it will get next."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable


class ShardQueue:
    """Hands out the numbers of shards in order.

    Parameters
    ----------
    count : int
        Number of shards.
    workers : int
        Workers that share them.
    ahead : bool
        Promise each worker the shard that it will get next, so that it can be fetched meanwhile. The last shards, one a
        worker, are promised to nobody, and a promise is broken rather than that a worker is idle.

    Examples
    --------
    >>> queue = ShardQueue(4, workers=2, ahead=True)
    >>> queue.take("a"), queue.take("b"), queue.take("b"), queue.take("a"), queue.take("a")
    ((0, 1), (2, None), (3, None), (1, None), None)
    """

    def __init__(self, count: int, *, workers: int, ahead: bool) -> None:
        self._waiting = deque(range(count))
        self._workers, self._ahead = workers, ahead
        self._promised: dict[Hashable, int] = {}

    def __bool__(self) -> bool:
        return bool(self._waiting or self._promised)

    def take(self, worker: Hashable) -> tuple[int, int | None] | None:
        """Return the number of the shard to make now, and of the one promised next; None if none is left."""
        number = self._promised.pop(worker, None)
        if number is None:
            if self._waiting:
                number = self._waiting.popleft()
            elif self._promised:
                number = self._promised.popitem()[1]
            else:
                return None
        if self._ahead and len(self._waiting) >= self._workers:
            self._promised[worker] = self._waiting.popleft()
        return number, self._promised.get(worker)

    def give_back(self, number: int) -> None:
        """Take back a shard that was not made: it comes next."""
        self._waiting.appendleft(number)

    def forget(self, worker: Hashable) -> None:
        """Take back what was promised to a worker that is gone."""
        if worker in self._promised:
            self._waiting.appendleft(self._promised.pop(worker))
