"""Which rank is this: the arguments, else torch.distributed, else the environment of torchrun, else one process."""

from __future__ import annotations

import os
import sys


def find_rank(rank: int | None, world_size: int | None) -> tuple[int, int]:
    """Return (rank, world_size).

    Raises
    ------
    ValueError
        If only one of the two is given, `RANK` and `WORLD_SIZE` are not integers, or `WORLD_SIZE` says that there are several
        ranks and nothing says which is this one (Lightning's own launcher leaves `RANK` out).

    Examples
    --------
    >>> find_rank(1, 4)
    (1, 4)
    """
    if (rank is None) != (world_size is None):
        raise ValueError(
            f"Loader: rank and world_size must be given together, got rank={rank}, world_size={world_size}"
        )
    if rank is not None and world_size is not None:
        return rank, world_size
    torch = sys.modules.get("torch")
    if torch is not None and torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        try:
            return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        except ValueError:
            raise ValueError(
                f"Loader: RANK and WORLD_SIZE must be integers, got {os.environ['RANK']!r} and "
                f"{os.environ['WORLD_SIZE']!r}; mend the environment or pass rank= and world_size="
            ) from None
    if "RANK" not in os.environ and os.environ.get("WORLD_SIZE", "1").strip() not in ("", "1"):
        raise ValueError(
            f"Loader: RANK must be set beside WORLD_SIZE={os.environ['WORLD_SIZE']}, got none; pass rank= and world_size= (with "
            f"Lightning: trainer.global_rank and trainer.world_size), or call torch.distributed.init_process_group before"
        )
    return 0, 1
