"""What training scripts look for on a `DataLoader`: its data set and its sampler."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .loader import Loader


class Sized:
    """`loader.dataset`: what training scripts ask of it is its length."""

    def __init__(self, size: int) -> None:
        self._size = size

    def __len__(self) -> int:
        return self._size


class Sampler:
    """`loader.sampler`: training scripts call its `set_epoch`."""

    def __init__(self, loader: Loader) -> None:
        self._loader = weakref.proxy(loader)

    def __len__(self) -> int:
        return len(self._loader) * self._loader.batch_size

    def set_epoch(self, epoch: int) -> None:
        """Same as `Loader.set_epoch`."""
        self._loader.set_epoch(epoch)
