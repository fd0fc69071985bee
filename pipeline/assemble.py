"""Assemble batches: read, decode, replace what cannot be decoded, draw the plans.

A batch is known by its number alone. Its samples come from `order`; a sample that cannot be decoded is replaced by another one
that the same hash names, so every rank keeps its batch count and a second run makes the same choice. Background donors are
decoded once, with the batch; see `Order.donors` for why they usually are members of it.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections import Counter, defaultdict, deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from figureground.kernels.arrays import Ragged
from figureground.shards.pieces import Pieces

from .backgrounds import Backgrounds, JoinedImages
from .decode import Decoded, Decoder, join_decoded
from .donors import Donors
from .order import Order, Split
from .plan import draw_plan, draws_masks
from .recipe import Recipe
from .tables import Slots
from .windows import Ahead, WindowOrder

log = logging.getLogger(__name__)

_MAX_ATTEMPTS = 10_000


class ImageSource(Protocol):
    """What the assembler needs of `figureground.shards.Store`."""

    def images(self, samples: np.ndarray, /) -> Pieces: ...
    def key(self, i: int, /) -> str: ...
    def shard_of(self, i: int, /) -> int: ...
    def targets_of(self, samples: np.ndarray, /) -> np.ndarray: ...


class MaskSource(Protocol):
    """What the assembler needs of `figureground.shards.MaskStore`."""

    def masks(self, samples: np.ndarray, wanted: np.ndarray, /) -> Pieces: ...


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
        Share of `samples` that may be bad: 0 allows none, else at least one is allowed.
    samples : int
        Samples of this rank in an epoch.
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
        self._samples, self._budget = samples, budget
        self.bad: dict[int, str] = {}
        """Reason by sample id."""
        self.bad_backgrounds: dict[int, str] = {}
        """Reason by number in the user's set."""

    def __contains__(self, sample: int) -> bool:
        """Tell whether a sample, or a background by its sample id, is known to be bad."""
        ours = self._backgrounds
        return sample in self.bad or (ours is not None and sample - ours.first in self.bad_backgrounds)

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
        self._note(row, "samples", self.bad, self._samples)

    def _note(self, row: dict[str, Any], what: str, bad: dict[int, str], count: int) -> None:
        """Write a row, and stop if more than the budget's share of `count` are bad."""
        log.warning("replaced %s %s of %s: %s", what[:-1], row["key"], row["shard"], row["reason"])
        if self._path is not None:
            with open(self._path, "a", encoding="utf-8") as file:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
        if len(bad) > (0 if self._budget == 0 else max(1, math.ceil(self._budget * count))):
            counts = ", ".join(f"{n} x {why}" for why, n in Counter(bad.values()).most_common(3))
            raise ErrorBudgetExceeded(
                f"Loader: {len(bad)} {what} could not be decoded, more than error_budget = {self._budget} of "
                f"{count} allows ({counts}; last: {row['key']} in {row['shard']}); run 'figureground check' on the "
                f"shards, or raise error_budget"
            )


@dataclass
class Assembled:
    """One batch, decoded and planned."""

    samples: np.ndarray
    """(B,) int64 sample ids, after replacement."""
    images: Ragged
    masks: Ragged | None
    plans: list[np.ndarray]
    """(B,) PLAN_DTYPE for each view, and one for the swap negative."""
    slots: Slots


@dataclass
class _Request:
    epoch: int
    positions: np.ndarray
    donors: np.ndarray  # (B, V + 1) positions; -1 where none is wanted
    ids: list[int]


class Assembler:
    """Keeps a decoder busy with the batches of an epoch, in order."""

    def __init__(
        self,
        source: ImageSource,
        decoder: Decoder,
        recipe: Recipe,
        order: Order | WindowOrder,
        split: Split,
        quarantine: Quarantine,
        *,
        masks: MaskSource | None = None,
        all_masks: bool = True,
        negatives: bool = True,
        ahead: Ahead | None = None,
        backgrounds: Backgrounds | None = None,
    ) -> None:
        self._ahead = ahead
        self._source, self._decoder, self._recipe = JoinedImages(source, backgrounds), decoder, recipe
        self._donors = Donors(order, recipe, 0 if backgrounds is None else len(backgrounds))
        self._order, self.split, self._quarantine, self._mask_source = order, split, quarantine, masks
        self._negatives = negatives and recipe.swaps
        self._all_masks = all_masks or self._negatives
        self._pending: deque[_Request] = deque()
        self.seconds: defaultdict[str, float] = defaultdict(float)

    @property
    def depth(self) -> int:
        """Batches that may be in flight."""
        return self._decoder.depth

    @property
    def in_flight(self) -> int:
        """Batches submitted and not yet collected."""
        return len(self._pending)

    def resolve(self, epoch: int, positions: np.ndarray) -> np.ndarray:
        """Return the sample ids (P,) int64 at positions, each known bad one replaced; see `Donors` about backgrounds."""
        ids = self._donors.sample_ids(epoch, positions)
        bad = self._quarantine
        if not (bad.bad or bad.bad_backgrounds):
            return ids
        for i, position in enumerate(positions):
            attempt = 0
            while int(ids[i]) in bad:
                if attempt == _MAX_ATTEMPTS:
                    raise ErrorBudgetExceeded(
                        f"Loader: no decodable sample found in {attempt} draws; are all samples bad?"
                    )
                ids[i] = self._donors.replacement(epoch, int(position), attempt)
                attempt += 1
        return ids

    def submit(self, epoch: int, batch: int, start: int) -> None:
        """Read the encoded bytes of batch number `batch` after position `start` and hand them to the decoder."""
        if self._ahead is not None:
            self._ahead.need(epoch, batch, start)
        self.submit_positions(epoch, self.split.positions(batch, start))

    def submit_positions(self, epoch: int, positions: np.ndarray) -> None:
        """Read the encoded bytes of the samples at some positions and hand them to the decoder."""
        began = time.perf_counter()
        donors, masked = self._draw_donors(epoch, positions)
        wanted = np.concatenate([positions, np.unique(donors[donors >= 0])])
        ids = list(dict.fromkeys(self.resolve(epoch, wanted).tolist()))
        ids = ids[: self._decoder.max_batch]  # more than fit in (replays of scattered samples) are decoded by `_repair`
        self._decoder.submit(*self._read(ids, None if self._recipe.inpaints else masked))
        self._pending.append(_Request(epoch, positions, donors, ids))
        self.seconds["read"] += time.perf_counter() - began

    def _read(self, ids: list[int], masked: set[int] | None) -> tuple[Pieces, Pieces | None]:
        """Return the encoded images of some samples, and the masks of those in `masked` (None: of all)."""
        samples = np.array(ids, np.int64)
        if self._mask_source is None:
            return self._source.images(samples), None
        wanted = np.ones(len(ids), bool) if masked is None else np.fromiter((i in masked for i in ids), bool, len(ids))
        return self._source.images(samples), self._mask_source.masks(samples, wanted)

    def _draw_donors(self, epoch: int, positions: np.ndarray) -> tuple[np.ndarray, set[int]]:
        """Return the positions of donors (P, V + 1), -1 where none is wanted, and the samples whose masks are."""
        views = len(self._recipe.views)
        ids = self.resolve(epoch, positions)
        other = any(view.background is not None and view.background.other_class for view in self._recipe.views)
        donors = self._donors.draw(
            epoch, positions, lambda found: self._other_classes_first(epoch, ids, found) if other else found
        )
        masked = np.full(len(ids), self._all_masks)
        for view in range(views):
            masks, wanted = draws_masks(self._recipe, view, seed=self._order.seed, epoch=epoch, samples=ids)
            donors[~wanted, view] = -1
            masked |= masks
        if not self._negatives:
            donors[:, views] = -1
        return donors, set(ids[masked].tolist())

    def _other_classes_first(self, epoch: int, ids: np.ndarray, donors: np.ndarray) -> np.ndarray:
        """Move donors of the sample's own class, or of none, behind the others."""
        own = self._source.targets_of(ids)
        classes = self._source.targets_of(self.resolve(epoch, donors.reshape(-1))).reshape(donors.shape)
        unwanted = (classes == own[:, None]) | (classes < 0) | (own[:, None] < 0)
        return np.take_along_axis(donors, np.argsort(unwanted, axis=1, kind="stable"), axis=1)

    def collect(self) -> Assembled:
        """Wait for the oldest batch in flight and plan it; its images stay valid until the next `collect`."""
        request = self._pending.popleft()
        began = time.perf_counter()
        decoded = self._decoder.collect()
        self.seconds["decode (waiting)"] += time.perf_counter() - began
        began = time.perf_counter()
        assembled = self._plan(request, *self._repair(request, decoded))
        self.seconds["plan"] += time.perf_counter() - began
        return assembled

    def discard(self) -> None:
        """Forget the batches in flight."""
        while self._pending:
            self._pending.popleft()
            self._decoder.collect()

    def _repair(self, request: _Request, decoded: Decoded) -> tuple[Decoded, dict[int, int]]:
        """Replace what could not be decoded; return the images and the row of each sample id."""
        rows = {}
        parts, first, ids = [decoded], 0, request.ids
        while True:
            part = parts[-1]
            for row, sample in enumerate(ids):
                if part.valid[row]:
                    rows[sample] = first + row
                else:
                    self._quarantine.add(sample, part.reasons[row] or "could not be decoded")
            first += len(ids)
            wanted = np.concatenate([request.positions, np.unique(request.donors[request.donors >= 0])])
            ids = [i for i in dict.fromkeys(self.resolve(request.epoch, wanted).tolist()) if i not in rows]
            if not ids:
                if len(parts) > 1:
                    decoded = join_decoded(parts, self._mask_source is not None, decoded.images.cuda)
                return decoded, rows
            parts.append(self._decoder.decode(*self._read(ids, None)))

    def _plan(self, request: _Request, decoded: Decoded, rows: dict[int, int]) -> Assembled:
        recipe, epoch = self._recipe, request.epoch
        samples = self.resolve(epoch, request.positions)
        image = np.array([rows[i] for i in samples.tolist()], np.int32)
        sizes = decoded.images.sizes
        slots = Slots(
            image, np.full((len(recipe.views) + 1, len(samples)), -1, np.int32), decoded.mask_valid, decoded.mask_area
        )
        plans = []
        for view in range(len(recipe.views) + int(self._negatives)):
            wanted = request.donors[:, view] >= 0
            donors, donor_sizes = np.full(len(samples), -1, np.int64), np.full((len(samples), 2), -1, np.int32)
            if wanted.any():
                donors[wanted] = self.resolve(epoch, request.donors[wanted, view])
                slots.donor[view, wanted] = [rows[i] for i in donors[wanted].tolist()]
                donor_sizes[wanted] = sizes[slots.donor[view, wanted]]
            plans.append(
                draw_plan(
                    recipe, view, seed=self._order.seed, epoch=epoch, samples=samples, sizes=sizes[image], donors=donors,
                    donor_sizes=donor_sizes,
                )
            )  # fmt: skip
        return Assembled(samples, decoded.images, decoded.masks, plans, slots)
