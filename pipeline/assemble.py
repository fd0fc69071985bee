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
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from figureground.kernels.arrays import Ragged

from .companions import Companions, find_companions
from .decode import Decoded, Decoder, join_decoded
from .order import DONOR_BLOCK, Order, Split
from .plan import draw_plan, draws_masks
from .recipe import Recipe
from .tables import Slots
from .windows import Ahead, WindowOrder

log = logging.getLogger(__name__)

EXTRA_IMAGES = 6 * DONOR_BLOCK
"""Donors of a batch that are no members of it lie in the blocks at its two ends (and at the wrap of the last batch)."""
_MAX_ATTEMPTS = 10_000


class ImageSource(Protocol):
    """What the assembler needs of `figureground.shards.Store`."""

    def image(self, i: int, /) -> np.ndarray: ...
    def key(self, i: int, /) -> str: ...
    def shard_of(self, i: int, /) -> int: ...
    def target(self, i: int, /) -> int: ...


class MaskSource(Protocol):
    """What the assembler needs of `figureground.shards.MaskStore`."""

    def mask(self, i: int, /) -> np.ndarray | None: ...


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
    """

    def __init__(
        self, source: ImageSource, shards: list[str], *, budget: float, samples: int, path: str | Path | None = None
    ) -> None:
        if not 0.0 <= budget <= 1.0:
            raise ValueError(f"Loader: error_budget must be in [0, 1], got {budget}")
        self._source, self._shards, self._path = source, shards, path
        self._limit = 0 if budget == 0 else max(1, math.ceil(budget * samples))
        self._samples, self._budget = samples, budget
        self.bad: dict[int, str] = {}

    def add(self, sample: int, reason: str) -> None:
        """Take note of a bad sample; once each.

        Raises
        ------
        ErrorBudgetExceeded
            If this one is past the budget.
        """
        if sample in self.bad:
            return
        self.bad[sample] = reason
        row = {
            "shard": self._shards[self._source.shard_of(sample)],
            "key": self._source.key(sample),
            "index": sample,
            "reason": reason,
        }
        log.warning("replaced sample %s of %s: %s", row["key"], row["shard"], reason)
        if self._path is not None:
            with open(self._path, "a", encoding="utf-8") as file:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
        if len(self.bad) > self._limit:
            counts = ", ".join(f"{n} x {why}" for why, n in Counter(self.bad.values()).most_common(3))
            raise ErrorBudgetExceeded(
                f"Loader: {len(self.bad)} samples could not be decoded, more than error_budget = {self._budget} of "
                f"{self._samples} allows ({counts}; last: {row['key']} in {row['shard']}); run 'figureground check' on the "
                f"shards, or raise error_budget"
            )


@dataclass
class Assembled:
    """One batch, decoded and planned."""

    samples: np.ndarray
    """(B,) int64 sample ids, after replacement; with companions (E,), and behind the batch's own those that lend to them."""
    images: Ragged
    masks: Ragged | None
    plans: list[np.ndarray]
    """(B,) PLAN_DTYPE for each view, and one for the swap negative."""
    slots: Slots
    companions: Companions | None = None

    @property
    def count(self) -> int:
        """Samples that are handed out: the first ones."""
        return len(self.samples) if self.companions is None else self.companions.count


@dataclass
class _Request:
    epoch: int
    positions: np.ndarray
    donors: np.ndarray  # (B, V + 1) positions; -1 where none is wanted
    ids: list[int]
    companions: Companions | None
    decoded: Decoded | None = None  # of a batch too large for the decoder's pipeline
    textures: dict[int, int] = field(default_factory=dict)  # row of each sample's texture among the decoded images
    rows: int = 0  # images asked for so far; counted if there are textures


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
        textures: MaskSource | None = None,
    ) -> None:
        self._ahead, self._textures = ahead, textures
        self._source, self._decoder, self._recipe = source, decoder, recipe
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
        """Return the sample ids (P,) int64 at positions, each known bad one replaced."""
        ids = self._order.sample_ids(epoch, positions)
        bad = self._quarantine.bad
        if not bad:
            return ids
        for i, position in enumerate(positions):
            attempt = 0
            while int(ids[i]) in bad:
                if attempt == _MAX_ATTEMPTS:
                    raise ErrorBudgetExceeded(
                        f"Loader: no decodable sample found in {attempt} draws; are all samples bad?"
                    )
                ids[i] = self._order.replacement(epoch, int(position), attempt)
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
        companions = find_companions(self._recipe, self._order, epoch, positions)
        if companions is not None:
            positions = companions.positions
        donors, masked = self._donors(epoch, positions)
        wanted = np.concatenate([positions, np.unique(donors[donors >= 0])])
        ids = list(dict.fromkeys(self.resolve(epoch, wanted).tolist()))
        images = [self._source.image(i) for i in ids]
        masks: list[np.ndarray | None] | None = None
        if self._mask_source is not None:
            masks = [self._mask_source.mask(i) if i in masked or self._recipe.inpaints else None for i in ids]
        request = _Request(epoch, positions, donors, ids, companions)
        self._add_textures(request, ids, images, masks)
        if len(images) <= self._decoder.max_batch:
            self._decoder.submit(images, masks)
        else:  # a replay of samples from anywhere, each with its own donors
            request.decoded = self._decoder.decode(images, masks)
        self._pending.append(request)
        self.seconds["read"] += time.perf_counter() - began

    def _add_textures(
        self, request: _Request, ids: list[int], images: list[np.ndarray], masks: list[np.ndarray | None] | None
    ) -> None:
        """Put the textures of some samples behind their images, to be decoded with them."""
        if self._textures is None:
            return
        mine = set(self.resolve(request.epoch, request.positions).tolist())
        for i in ids:
            texture = self._textures.mask(i) if i in mine else None
            if texture is not None:
                request.textures[i] = request.rows + len(images)
                images.append(texture)
                if masks is not None:
                    masks.append(None)
        request.rows += len(images)

    def _donors(self, epoch: int, positions: np.ndarray) -> tuple[np.ndarray, set[int]]:
        """Return the positions of donors (P, V + 1), -1 where none is wanted, and the samples whose masks are."""
        views = len(self._recipe.views)
        ids = self.resolve(epoch, positions)
        donors = self._order.donors(epoch, positions, max(views + 1, DONOR_BLOCK - 1))
        if any(view.background is not None and view.background.other_class for view in self._recipe.views):
            donors = self._other_classes_first(epoch, ids, donors)
        donors = donors[:, : views + 1].copy()
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
        own = np.array([self._source.target(i) for i in ids.tolist()])
        candidates = self.resolve(epoch, donors.reshape(-1)).tolist()
        classes = np.array([self._source.target(i) for i in candidates]).reshape(donors.shape)
        unwanted = (classes == own[:, None]) | (classes < 0) | (own[:, None] < 0)
        return np.take_along_axis(donors, np.argsort(unwanted, axis=1, kind="stable"), axis=1)

    def collect(self) -> Assembled:
        """Wait for the oldest batch in flight and plan it; its images stay valid until the next `collect`."""
        request = self._pending.popleft()
        began = time.perf_counter()
        decoded = request.decoded or self._decoder.collect()
        self.seconds["decode (waiting)"] += time.perf_counter() - began
        began = time.perf_counter()
        assembled = self._plan(request, *self._repair(request, decoded))
        self.seconds["plan"] += time.perf_counter() - began
        return assembled

    def discard(self) -> None:
        """Forget the batches in flight."""
        while self._pending:
            if self._pending.popleft().decoded is None:
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
            first += len(part.valid)
            wanted = np.concatenate([request.positions, np.unique(request.donors[request.donors >= 0])])
            ids = [i for i in dict.fromkeys(self.resolve(request.epoch, wanted).tolist()) if i not in rows]
            if not ids:
                if len(parts) > 1:
                    decoded = join_decoded(parts, self._mask_source is not None, decoded.images.cuda)
                return decoded, rows
            images = [self._source.image(i) for i in ids]
            masks = None if self._mask_source is None else [self._mask_source.mask(i) for i in ids]
            self._add_textures(request, ids, images, masks)
            parts.append(self._decoder.decode(images, masks))

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
        if request.companions is not None:
            request.companions.note(plans, samples)
        if self._textures is not None:
            slots = self._plan_textures(request, decoded, samples, plans[0], slots)
        return Assembled(samples, decoded.images, decoded.masks, plans, slots, request.companions)

    def _plan_textures(
        self, request: _Request, decoded: Decoded, samples: np.ndarray, rows: np.ndarray, slots: Slots
    ) -> Slots:
        """Note in the query's plan where its texture comes from, and its crop: by the query's draws, of the texture's size."""
        asked = np.array([request.textures.get(i, -1) for i in samples.tolist()], np.int32)
        there = (asked >= 0) & decoded.valid[asked]
        rows["texture"] = np.where(there, 1, 2)
        sizes = decoded.images.sizes[asked[there]]
        drawn = draw_plan(
            self._recipe, 0, seed=self._order.seed, epoch=request.epoch, samples=samples[there], sizes=sizes
        )
        rows["texture_crop"][there] = drawn["crop"]
        return replace(slots, texture=np.where(there, asked, -1).astype(np.int32))
