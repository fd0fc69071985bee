"""Assemble batches: read, decode, replace what cannot be decoded, draw the plans.

A batch is known by its number alone. Its samples come from `order`; a sample that cannot be decoded is replaced by another one
that the same hash names, so every rank keeps its batch count and a second run makes the same choice. Background donors and the
partners of pairs are decoded once, with the batch; see `donors` for why the former usually are members of it.
"""

from __future__ import annotations

import time
from collections import defaultdict, deque
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from figureground.kernels.arrays import Ragged
from figureground.shards.pieces import Pieces

from .anchors import clip_boxes, object_box
from .backgrounds import Backgrounds, JoinedImages
from .companions import Companions, find_companions
from .decode import Decoder
from .decoded import Decoded, join_decoded
from .donors import Donors
from .lanes import Split
from .needs import Ahead
from .order import Order
from .pairs import Partners
from .plan import draw_plan, draws_masks
from .quarantine import ImageSource, Quarantine
from .recipe import Recipe
from .tables import Slots
from .windows import WindowOrder

_MAX_ATTEMPTS = 10_000
_MOST_UNFIT = 100
"""Stand-ins that are refused because the donor would be the sample itself; after so many there seems to be no other."""


class MaskSource(Protocol):
    """What the assembler needs of `figureground.shards.MaskStore`."""

    def masks(self, samples: np.ndarray, wanted: np.ndarray, /) -> Pieces: ...


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
    asked: np.ndarray  # (B,) positions that are handed out
    positions: np.ndarray  # these, and behind them the positions of those that lend to them: (E,)
    samples: np.ndarray  # (E,) ids
    sources: np.ndarray | None  # (V, E) ids of the images that the views show; None: the samples' own
    donors: np.ndarray  # (E, V + 1) positions; -1 where none is wanted
    ids: list[int]  # of all images
    masked: set[int]  # those whose masks are needed
    companions: Companions | None
    textured: list[int]  # samples whose textures are decoded behind the images, in order
    decoded: Decoded | None = None  # of a batch too large for the decoder's pipeline


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
        partners: Partners | None = None,
        textures: MaskSource | None = None,
    ) -> None:
        self._ahead, self._partners, self._textures = ahead, partners, textures
        self._source, self._decoder, self._recipe = JoinedImages(source, backgrounds), decoder, recipe
        self._donors = Donors(order, recipe, 0 if backgrounds is None else len(backgrounds), len(source))
        self._order, self.split, self._quarantine, self._mask_source = order, split, quarantine, masks
        self._negatives = negatives and recipe.swaps
        self._all_masks = all_masks or self._negatives
        self._other_class = any(view.background is not None and view.background.other_class for view in recipe.views)
        self._pending: deque[_Request] = deque()
        self.seconds: defaultdict[str, float] = defaultdict(float)

    @property
    def seed(self) -> int:
        """Seed of order and plans."""
        return self._order.seed

    @property
    def depth(self) -> int:
        """Batches that may be in flight."""
        return self._decoder.depth

    @property
    def in_flight(self) -> int:
        """Batches submitted and not yet collected."""
        return len(self._pending)

    def resolve(self, epoch: int, positions: np.ndarray, other_than: np.ndarray | None = None) -> np.ndarray:
        """Return the sample ids (P,) int64 at positions, each known bad one replaced; see `Donors` about backgrounds.

        No stand-in is one of `other_than` (P, K): a donor's must not be what it lends to, while there are others.
        """
        ids = self._donors.sample_ids(epoch, positions)
        bad = self._quarantine
        if not (bad.bad or bad.bad_backgrounds):
            return ids
        for i, position in enumerate(positions):
            attempt = 0
            while int(ids[i]) in bad or (attempt and self._unfit(int(ids[i]), other_than, i, attempt)):
                if attempt == _MAX_ATTEMPTS:
                    raise bad.exhausted(attempt)
                ids[i] = self._donors.replacement(epoch, int(position), attempt)
                attempt += 1
        return ids

    @staticmethod
    def _unfit(stand_in: int, other_than: np.ndarray | None, row: int, attempt: int) -> bool:
        return other_than is not None and attempt < _MOST_UNFIT and stand_in in other_than[row]

    def submit(self, epoch: int, batch: int, start: int) -> None:
        """Read the encoded bytes of batch number `batch` after position `start` and hand them to the decoder."""
        if self._ahead is not None:
            self._ahead.need(epoch, batch, start)
        self.submit_positions(epoch, self.split.positions(batch, start))

    def submit_positions(self, epoch: int, positions: np.ndarray) -> None:
        """Read the encoded bytes of the samples at some positions and hand them to the decoder."""
        began = time.perf_counter()
        request = self._request(epoch, positions)
        images, masks, request.textured = self._read(request, request.ids)
        if len(images) <= self._decoder.max_batch:
            self._decoder.submit(images, masks)
        else:  # a replay of samples from anywhere, each with donors of its own
            request.decoded = self._decoder.decode(images, masks)
        self._pending.append(request)
        self.seconds["read"] += time.perf_counter() - began

    def _request(self, epoch: int, positions: np.ndarray) -> _Request:
        """Find out what a batch needs, as far as bad samples are known."""
        asked, companions = positions, find_companions(self._recipe, self._order, epoch, positions)
        if companions is not None:
            positions = companions.positions
        samples = self.resolve(epoch, positions)
        sources = None if self._partners is None else self._sources(epoch, samples, self._partners)
        donors, masked = self._draw_donors(epoch, positions, samples, sources)
        wanted = [samples, *self._donor_ids(epoch, donors, samples, sources)]
        if sources is not None:
            wanted.append(np.unique(sources))
        ids = list(dict.fromkeys(np.concatenate(wanted).tolist()))
        masked = set(ids) if self._recipe.inpaints else masked
        return _Request(epoch, asked, positions, samples, sources, donors, ids, masked, companions, [])

    def _donor_ids(
        self, epoch: int, donors: np.ndarray, samples: np.ndarray, sources: np.ndarray | None
    ) -> list[np.ndarray]:
        """Return the sample ids of the donors (P, V + 1) of each view, and of the swap negative, where one is wanted."""
        own = _own(samples, sources)
        return [self.resolve(epoch, of[of >= 0], own[of >= 0]) for of in donors.T]

    def _sources(self, epoch: int, samples: np.ndarray, partners: Partners) -> np.ndarray:
        """Return the sample ids (V, P) whose images the views show; of a known bad partner the sample's own."""
        sources = partners.draw(epoch, samples)
        if self._quarantine.bad:
            bad = np.isin(sources, list(self._quarantine.bad))
            sources = np.where(bad, samples, sources)
        return sources

    def _read(self, request: _Request, ids: list[int]) -> tuple[Pieces, Pieces | None, list[int]]:
        """Return encoded images, the masks of those that need one, and the samples whose textures lie behind the images."""
        samples = np.array(ids, np.int64)
        images, masks, textured = self._source.images(samples), None, np.empty(0, np.int64)
        if self._mask_source is not None:
            wanted = np.fromiter((i in request.masked for i in ids), bool, len(ids))
            masks = self._mask_source.masks(samples, wanted)
        if self._textures is not None:
            mine = samples[np.isin(samples, request.samples)]
            textures = self._textures.masks(mine, np.ones(len(mine), bool))
            there = [i for i, texture in enumerate(textures) if texture is not None]
            textured, textures = mine[there], textures.pick(there)
            images = images.joined(textures)
            masks = masks and masks.joined(Pieces.of([None] * len(textures)))
        return images, masks, textured.tolist()

    def _draw_donors(
        self, epoch: int, positions: np.ndarray, ids: np.ndarray, sources: np.ndarray | None
    ) -> tuple[np.ndarray, set[int]]:
        """Return the positions of donors (P, V + 1), -1 where none is wanted, and the samples whose masks are."""
        views = self._recipe.views
        donors = self._donors.draw(epoch, positions, lambda found: self._preferred_first(epoch, ids, sources, found))
        masked = set(ids.tolist() if sources is None else sources.reshape(-1).tolist()) if self._all_masks else set()
        for view, of in enumerate(views):
            masks, wanted = draws_masks(self._recipe, view, seed=self._order.seed, epoch=epoch, samples=ids)
            donors[~wanted, view] = -1
            masks = masks | (of.crop.anchor == "object")
            masked.update((ids if sources is None else sources[view])[masks].tolist())
        if not self._negatives:
            donors[:, len(views)] = -1
        return donors, masked

    def _preferred_first(
        self, epoch: int, ids: np.ndarray, sources: np.ndarray | None, found: np.ndarray
    ) -> np.ndarray:
        """Move candidates (P, K) behind the others if a view shows their image, if they are partners of the sample (of its clip,
        say), or by class if the recipe says so.

        With `other_class` those of the sample's own class, or of none, are unwanted.
        """
        if sources is None and not self._other_class and not self._quarantine.bad:
            return found
        # By the candidates themselves, not by what stands in for bad ones: which are known to be bad depends on the batch.
        candidates = self._donors.sample_ids(epoch, found.reshape(-1)).reshape(found.shape)
        unwanted = np.zeros(found.shape, bool)
        if self._partners is not None:
            unwanted |= self._partners.related(ids, candidates)
        if self._other_class:
            own, classes = (
                self._source.targets_of(ids),
                self._source.targets_of(candidates.reshape(-1)).reshape(found.shape),
            )
            unwanted |= (classes == own[:, None]) | (classes < 0) | (own[:, None] < 0)
        order = unwanted + 2 * (candidates[:, :, None] == _own(ids, sources)[:, None, :]).any(axis=2)
        return np.take_along_axis(found, np.argsort(order, axis=1, kind="stable"), axis=1)

    def collect(self) -> Assembled:
        """Wait for the oldest batch in flight and plan it; its images stay valid until the next `collect`."""
        request = self._pending.popleft()
        began = time.perf_counter()
        decoded = request.decoded or self._decoder.collect()
        self.seconds["decode (waiting)"] += time.perf_counter() - began
        began = time.perf_counter()
        self._quarantine.see(len(request.positions))
        assembled = self._plan(*self._repair(request, decoded))
        self.seconds["plan"] += time.perf_counter() - began
        return assembled

    def discard(self) -> None:
        """Forget the batches in flight."""
        while self._pending:
            if self._pending.popleft().decoded is None:
                self._decoder.collect()

    def _repair(self, request: _Request, decoded: Decoded) -> tuple[_Request, Decoded, dict[int, int], dict[int, int]]:
        """Replace what could not be decoded; return what is needed now, the images, and the rows of samples and textures."""
        rows: dict[int, int] = {}
        textures: dict[int, int] = {}
        parts, first, ids, textured, have_masks = [decoded], 0, request.ids, request.textured, set(request.masked)
        while True:
            part, complete = parts[-1], True
            for row, sample in enumerate(ids):
                if part.valid[row]:
                    rows[sample] = first + row
                else:
                    complete = False
                    self._quarantine.add(sample, part.reasons[row] or "could not be decoded")
            textures.update({sample: first + len(ids) + k for k, sample in enumerate(textured)})
            if complete:
                break
            first += len(part.valid)
            request = self._request(request.epoch, request.asked)
            if self._mask_source is None:
                have_masks.update(request.masked)
            ids = [i for i in request.ids if i not in rows or (i in request.masked and i not in have_masks)]
            if not ids:
                break
            have_masks.update(request.masked.intersection(ids))
            images, masks, textured = self._read(request, ids)
            parts.append(self._decoder.decode(images, masks))
        if len(parts) > 1:
            decoded = join_decoded(parts, self._mask_source is not None, decoded.images.cuda)
        return request, decoded, rows, textures

    def _source_rows(self, image: np.ndarray, sources: np.ndarray, rows: dict[int, int]) -> np.ndarray:
        """Return the rows (V, B) of the images that the views show."""
        found = np.tile(image, (len(sources), 1))
        for view, of in enumerate(self._recipe.views):
            if of.pair is not None:
                found[view] = [rows[i] for i in sources[view].tolist()]
        return found

    def _boxes(self, decoded: Decoded, rows: dict[int, int]) -> np.ndarray:
        """Return the object's box (decoded, 4) [px] in each image, from its document or mask; zeros where none is known."""
        sizes = decoded.images.sizes
        boxes = np.zeros((len(sizes), 4)) if decoded.mask_box is None else decoded.mask_box * sizes[:, [1, 0, 1, 0]]
        if self._source.has("json"):
            named = [(row, object_box(self._source.component(sample, "json"))) for sample, row in rows.items()]
            known = np.array([row for row, box in named if box is not None], np.int64)
            found = clip_boxes(np.array([box for _, box in named if box is not None]).reshape(-1, 4), sizes[known])
            boxes[known[found[:, 2] > 0]] = found[found[:, 2] > 0]
        return boxes

    def _plan(self, request: _Request, decoded: Decoded, rows: dict[int, int], textures: dict[int, int]) -> Assembled:
        recipe, epoch, samples, sources = self._recipe, request.epoch, request.samples, request.sources
        image = np.array([rows[i] for i in samples.tolist()], np.int32)
        sizes = decoded.images.sizes
        slots = Slots(
            image, np.full((len(recipe.views) + 1, len(samples)), -1, np.int32), decoded.mask_valid, decoded.mask_area,
            None if sources is None else self._source_rows(image, sources, rows),
        )  # fmt: skip
        if recipe.anchors:
            slots = replace(slots, box=self._boxes(decoded, rows))
        donor_ids, plans = self._donor_ids(epoch, request.donors, samples, sources), []
        for view in range(len(recipe.views) + int(self._negatives)):
            wanted = request.donors[:, view] >= 0
            donors, donor_sizes = np.full(len(samples), -1, np.int64), np.full((len(samples), 2), -1, np.int32)
            if wanted.any():
                donors[wanted] = donor_ids[view]
                slots.donor[view, wanted] = [rows[i] for i in donors[wanted].tolist()]
                donor_sizes[wanted] = sizes[slots.donor[view, wanted]]
            shown = view if view < len(recipe.views) else 0
            plans.append(
                draw_plan(
                    recipe, view, seed=self._order.seed, epoch=epoch, samples=samples, sizes=sizes[slots.of_view(shown)],
                    donors=donors, donor_sizes=donor_sizes, sources=None if sources is None else sources[shown],
                )
            )  # fmt: skip
        if request.companions is not None:
            request.companions.note(plans, samples)
        if self._textures is not None:
            slots = self._plan_textures(request, decoded, textures, plans[0], slots)
        return Assembled(samples, decoded.images, decoded.masks, plans, slots, request.companions)

    def _plan_textures(
        self, request: _Request, decoded: Decoded, textures: dict[int, int], rows: np.ndarray, slots: Slots
    ) -> Slots:
        """Note in the query's plan where its texture comes from, and its crop: by the query's draws, of the texture's size."""
        samples = request.samples
        asked = np.array([textures.get(i, -1) for i in samples.tolist()], np.int32)
        there = (asked >= 0) & decoded.valid[asked]
        rows["texture"] = np.where(there, 1, 2)
        sizes = decoded.images.sizes[asked[there]]
        drawn = draw_plan(
            self._recipe, 0, seed=self._order.seed, epoch=request.epoch, samples=samples[there], sizes=sizes
        )
        rows["texture_crop"][there] = drawn["crop"]
        return replace(slots, texture=np.where(there, asked, -1).astype(np.int32))


def _own(samples: np.ndarray, sources: np.ndarray | None) -> np.ndarray:
    """Return each sample and the images that its views show (P, K): what its donors must not be."""
    return samples[:, None] if sources is None else np.concatenate([samples[:, None], sources.T], axis=1)
