"""Masks for a batch: from sidecars, from the saliency kernel, or none."""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from figureground.kernels.arrays import Ragged, array_module
from figureground.shards import MaskStore, ShardError

from .anchors import boxes_of
from .assemble import Assembled
from .augment import Augmenter, estimate_masks
from .methods import check_method, resolve_method
from .recipe import Recipe
from .tables import Slots

MaskMode = Literal["auto", "sidecar", "kernel"] | None

log = logging.getLogger(__name__)


def check_sidecars(sidecars: MaskStore, mode: MaskMode, masks_dir: str | os.PathLike[str] | None) -> None:
    """Say what a trainer would notice too late: sidecars that are not there, or are not all of one kind.

    Parameters
    ----------
    sidecars : MaskStore
    mode : {"auto", "sidecar"}
    masks_dir : path or None
        Where the user says that they lie.

    Raises
    ------
    ShardError
        If that folder has no sidecar of any of the shards.
    """
    manifests = sidecars.manifests
    lacking = [path for path, manifest in zip(sidecars.sidecars, manifests, strict=True) if manifest is None]
    if len(lacking) == len(manifests) and masks_dir is not None:
        raise ShardError(
            f"{lacking[0]}: no shard has a sidecar in masks_dir; run 'figureground masks' with it as --out, or leave masks_dir out"
        )
    if lacking and (mode == "sidecar" or len(lacking) < len(manifests)):
        log.warning(
            "%d of %d shards have no mask sidecar, the first would be %s: their images %s; 'figureground masks' makes them",
            len(lacking), len(manifests), lacking[0],
            "are left alone" if mode == "sidecar" else "get masks as they are loaded",
        )  # fmt: skip
    having = int(sidecars.present.sum())
    if mode == "sidecar" and len(lacking) < len(manifests) and having < len(sidecars) / 2:
        log.warning(
            "only %d of %d images have a mask in their sidecars, the others are left alone", having, len(sidecars)
        )
    # What an import's parameters say of files differs from shard to shard.
    makers = Counter(
        (manifest.method, manifest.version, json.dumps({k: v for k, v in manifest.parameters.items() if k != "files"}))
        for manifest in manifests
        if manifest is not None
    )
    if len(makers) > 1:
        log.warning(
            "mask sidecars were not all made alike: %s; 'figureground masks --update' makes those again that were made otherwise",
            ", ".join(f"{count} by {method} {version}".rstrip() for (method, version, _), count in makers.most_common()),
        )  # fmt: skip


class Masker:
    """Completes the masks of assembled batches.

    Parameters
    ----------
    recipe : Recipe
    mode : {"auto", "sidecar", "kernel"} or None
        See `Loader`.
    method : str
        See `figureground.pipeline.methods`.
    all_samples : bool
        Estimate masks for all samples without one (they are handed out, or a swap negative needs them), not only for those
        whose background is to change.
    cuda : bool
        Are images on a GPU?
    """

    def __init__(
        self, recipe: Recipe, mode: MaskMode, *, method: str, all_samples: bool, cuda: bool = False
    ) -> None:
        if mode not in ("auto", "sidecar", "kernel", None):
            raise ValueError(f"Loader: masks must be 'auto', 'sidecar', 'kernel' or None, got {mode!r}")
        check_method(method, caller="Loader", cuda=cuda and mode in ("auto", "kernel"))
        self._recipe, self._mode, self._all = recipe, mode, all_samples
        self._method = resolve_method(method, caller="Loader")

    def complete(self, batch: Assembled, augmenter: Augmenter) -> tuple[Ragged | None, Slots]:
        """Return one mask per decoded image (or None: there are none at all) and the slots that say which are valid."""
        slots, masks = batch.slots, batch.masks
        if self._mode in (None, "sidecar"):
            return masks, slots
        rows = slots.shown if self._all else self._wanted(batch)
        if self._recipe.inpaints:
            rows = np.concatenate([rows, slots.donor[slots.donor >= 0]])
        rows = np.unique(rows)
        if self._mode == "auto":
            rows = rows[~slots.mask_valid[rows]]
        if not len(rows):
            return masks, slots
        made = self._estimate(batch.images, rows, augmenter)
        return _merge(batch, rows, made)

    def _wanted(self, batch: Assembled) -> np.ndarray:
        rows = []
        for number, view in enumerate(self._recipe.views):
            plan = batch.plans[number]
            drawn = plan["background"] > 0
            if view.patch_shuffle is not None and view.patch_shuffle.region != "all":
                drawn |= plan["patch_shuffle"] > 0
            drawn |= view.crop.figure is not None
            shown = batch.slots.of_view(number)
            if view.crop.anchor == "object" and batch.slots.box is not None:
                drawn |= batch.slots.box[shown, 2] == 0
            rows.append(shown[drawn])
        return np.concatenate(rows)

    def _estimate(self, images: Ragged, rows: np.ndarray, augmenter: Augmenter) -> Any:
        def subset(part: np.ndarray) -> Ragged:
            return Ragged(images.addresses[part], images.sizes[part], images.channels, images.owner, images.cuda)

        if images.cuda:
            return estimate_masks(subset(rows), method=self._method)
        made: dict[int, np.ndarray] = {}

        def work(part: slice) -> None:
            made[part.start] = estimate_masks(subset(rows[part]), method=self._method)

        augmenter.map_chunks(len(rows), work)
        return np.concatenate([made[start] for start in sorted(made)])


def _merge(batch: Assembled, rows: np.ndarray, made: Any) -> tuple[Ragged, Slots]:
    """Put estimated masks (n, S, S) uint8 in the places of `rows`, keep the others."""
    count, size = len(batch.images), made.shape[1:]
    fresh = Ragged.from_batch(made)
    if batch.masks is None:
        addresses, sizes = np.full(count, fresh.addresses[0]), np.tile(fresh.sizes[0], (count, 1))
        valid, area = np.zeros(count, bool), np.zeros(count)
    else:
        addresses, sizes = batch.masks.addresses.copy(), batch.masks.sizes.copy()
        valid, area = batch.slots.mask_valid.copy(), batch.slots.mask_area.copy()
    addresses[rows], sizes[rows], valid[rows] = fresh.addresses, fresh.sizes, True
    total = made.reshape(len(rows), -1).sum(axis=1, dtype=np.uint64)
    host = total if array_module(made) is np else total.get()
    area[rows] = host.astype(np.float64) / (255.0 * size[0] * size[1])
    owner = [batch.masks.owner if batch.masks is not None else None, made]
    masks = Ragged(addresses, sizes, 1, owner, batch.images.cuda)
    box = batch.slots.box
    if box is not None:
        unknown, box = box[rows, 2] == 0, box.copy()
        box[rows[unknown]] = boxes_of(made)[unknown] * batch.images.sizes[rows[unknown]][:, [1, 0, 1, 0]]
    return masks, replace(batch.slots, mask_valid=valid, mask_area=area, box=box)
