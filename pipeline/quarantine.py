"""Samples that cannot be decoded: remembered, written to a file, and too many of them stop the run."""

from __future__ import annotations

import json
import logging
import math
from collections import Counter
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from figureground.shards.pieces import Pieces

from .backgrounds import Backgrounds

log = logging.getLogger(__name__)


class ImageSource(Protocol):
    """What the assembler needs of `figureground.shards.Store`."""

    def __len__(self) -> int: ...
    def images(self, samples: np.ndarray, /) -> Pieces: ...
    def key(self, i: int, /) -> str: ...
    def shard_of(self, i: int, /) -> int: ...
    def targets_of(self, samples: np.ndarray, /) -> np.ndarray: ...
    def has(self, ext: str, /) -> bool: ...
    def component(self, i: int, ext: str, /) -> np.ndarray | None: ...


class ErrorBudgetExceeded(RuntimeError):
    """More samples could not be decoded than the loader's error budget allows."""


class Quarantine:
    """Remembers the samples that could not be decoded, writes them to a file, and stops past a budget.

    Parameters
    ----------
    source : ImageSource
    shards : list of str
        Paths by shard number.
    budget : float
        Share of the samples met that may be bad: 0 allows none, else at least one is allowed.
    samples : int
        Samples of this rank in an epoch. In later epochs a rank meets others, and their bad ones: see `see`.
    path : path, optional
        JSON lines are appended: {"shard", "key", "index", "reason"}.
    backgrounds : Backgrounds, optional
        The user's own; they have a budget of their own, the same share of the set, and one of them must be good.
    """

    def __init__(
        self,
        source: ImageSource,
        shards: list[str],
        *,
        budget: float,
        samples: int,
        path: str | Path | None = None,
        backgrounds: Backgrounds | None = None,
    ) -> None:
        if not 0.0 <= budget <= 1.0:
            raise ValueError(f"Loader: error_budget must be in [0, 1], got {budget}")
        self._source, self._shards, self._path, self._backgrounds = source, shards, path, backgrounds
        self._samples, self._budget, self._seen = samples, budget, 0
        self.bad: dict[int, str] = {}
        """Reason by sample id."""
        self.bad_backgrounds: dict[int, str] = {}
        """Reason by number in the user's set."""

    def __contains__(self, sample: int) -> bool:
        """Tell whether a sample, or a background by its sample id, is known to be bad."""
        ours = self._backgrounds
        return sample in self.bad or (ours is not None and sample - ours.first in self.bad_backgrounds)

    def see(self, count: int) -> None:
        """Take note that a batch of so many samples was read: the budget is a share of an epoch's samples, and grows with those of
        later epochs up to the share of the whole store."""
        self._seen += count

    def add(self, sample: int, reason: str) -> None:
        """Take note of a bad sample; once each.

        Raises
        ------
        ErrorBudgetExceeded
            If this one is past the budget.
        """
        if sample in self:
            return
        ours = self._backgrounds
        if ours is not None and sample >= ours.first:
            number = sample - ours.first
            self.bad_backgrounds[number] = reason
            row = {"shard": ours.shard(number), "key": ours.key(number), "index": sample, "reason": reason}
            self._note(row, "backgrounds", self.bad_backgrounds, len(ours))
            if len(self.bad_backgrounds) == len(ours):
                raise ErrorBudgetExceeded(
                    f"Loader: none of the {len(ours)} backgrounds can be decoded (last: {row['key']} in {row['shard']}: {reason}); "
                    f"look at these files"
                )
            return
        self.bad[sample] = reason
        row = {
            "shard": self._shards[self._source.shard_of(sample)],
            "key": self._source.key(sample),
            "index": sample,
            "reason": reason,
        }
        self._note(row, "samples", self.bad, min(max(self._samples, self._seen), len(self._source)))

    def exhausted(self, draws: int) -> ErrorBudgetExceeded:
        """Return the error of a loader that finds no good sample in many draws."""
        return ErrorBudgetExceeded(
            f"Loader: no decodable sample found in {draws} draws; {len(self.bad)} of {len(self._source)} are known to be bad "
            f"({_most_common(self.bad)}); run 'figureground check' on the shards"
        )

    def _note(self, row: dict[str, Any], what: str, bad: dict[int, str], count: int) -> None:
        """Write a row, and stop if more than the budget's share of `count` are bad."""
        log.warning("replaced %s %s of %s: %s", what[:-1], row["key"], row["shard"], row["reason"])
        if self._path is not None:
            try:
                # Keys need not be UTF-8: what is none is written as JSON's \\udcXX.
                with open(self._path, "a", encoding="utf-8", errors="backslashreplace") as file:
                    file.write(json.dumps(row, ensure_ascii=False) + "\n")
            except OSError as error:  # a full disk must not end a run of days
                log.warning("%s: the quarantine cannot be written: %s", self._path, error.strerror or error)
        if len(bad) > (0 if self._budget == 0 else max(1, math.ceil(self._budget * count))):
            raise ErrorBudgetExceeded(
                f"Loader: {len(bad)} {what} could not be decoded, more than error_budget = {self._budget} of "
                f"{count} allows ({_most_common(bad)}; last: {row['key']} in {row['shard']}); run 'figureground check' on the "
                f"shards, or raise error_budget"
            )


def _most_common(bad: dict[int, str]) -> str:
    return ", ".join(f"{n} x {why}" for why, n in Counter(bad.values()).most_common(3))
