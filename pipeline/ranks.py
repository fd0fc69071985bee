"""Which rank is this: the arguments, else torch.distributed, else the environment of torchrun, else one process."""

from __future__ import annotations

import os
import sys

from .whole_numbers import as_integer


def find_rank(rank: int | None, world_size: int | None) -> tuple[int, int]:
    """Return (rank, world_size).

    Raises
    ------
    ValueError
        If only one of the two is given, `RANK` and `WORLD_SIZE` are not integers, or `WORLD_SIZE` says that there are several
        ranks and nothing says which is this one (Lightning's own launcher leaves `RANK` out), or `RANK` names another than the
        first and nothing says of how many.

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
        return as_integer("Loader: rank", rank), as_integer("Loader: world_size", world_size)
    group = _group()
    if group is not None:
        return group
    if os.environ.get("RANK", "0").strip() not in ("", "0") and "WORLD_SIZE" not in os.environ:
        raise ValueError(
            f"Loader: WORLD_SIZE must be set beside RANK={os.environ['RANK']}, got none; pass rank= and world_size=, or call "
            f"torch.distributed.init_process_group before"
        )
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


def ranks_of_node() -> int:
    """Return how many ranks share this machine, as torchrun says (`LOCAL_WORLD_SIZE`); 1 where nothing says so."""
    ranks = os.environ.get("LOCAL_WORLD_SIZE", "1").strip()
    return max(1, int(ranks)) if ranks.isdecimal() else 1


def confirm_rank(rank: int, world_size: int) -> None:
    """Make sure that torch.distributed, if it was initialised since, agrees with what `find_rank` found.

    Raises
    ------
    RuntimeError
        If not: all processes would train on the same samples, each as the only rank.
    """
    group = _group()
    if group is not None and group != (rank, world_size):
        raise RuntimeError(
            f"Loader: was made as rank {rank} of {world_size}, but torch.distributed says rank {group[0]} of {group[1]}; make the "
            f"loader after init_process_group, or pass rank= and world_size="
        )


def _group() -> tuple[int, int] | None:
    """Return (rank, world size) of torch.distributed; None if it is not initialised."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return None
    return torch.distributed.get_rank(), torch.distributed.get_world_size()
