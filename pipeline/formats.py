"""The shapes of a batch: what public training code unpacks.

Every format is made of the same dictionary (`format="dict"`). Containers are lists where training code assigns into them
(MoCo's `images[0] = images[0].cuda()`), and tensors belong to the caller.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from figureground.kernels.token_masks import patch_masks
from figureground.kernels.torch_bridge import on_tensors

Batch = dict[str, Any]


def as_dict(batch: Batch) -> Batch:
    """Everything: views, masks, mask_valid, target, index, key, params, negatives, negative_params, and what techniques add."""
    return batch


def as_moco(batch: Batch) -> list[Any]:
    """`[[q, k], target]`, as main_moco.py and main_simsiam.py unpack `(images, _)`."""
    return [batch["views"], batch["target"]]


def as_solo(batch: Batch) -> list[Any]:
    """`[index, [views], target]`, as solo-learn's `training_step` unpacks it; targets are -1 without labels."""
    return [batch["index"], batch["views"], batch["target"]]


def as_lightly(batch: Batch) -> tuple[Any, ...]:
    """`(views, target, keys)`, as lightly's collate functions give it."""
    return batch["views"], batch["target"], batch["key"]


def as_swav(batch: Batch) -> list[Any]:
    """The flat list of crops, large ones first, as main_swav.py indexes `inputs[crop_id]`; no label."""
    return batch["views"]


def as_dino(batch: Batch) -> list[Any]:
    """`[crops, target]`, as main_dino.py unpacks `(images, _)`: global crops first."""
    return [batch["views"], batch["target"]]


def as_lightly_train(batch: Batch) -> Batch:
    """A dictionary with `filename`, `views` and one mask for each view, as lightly-train's datasets collate to."""
    return {"filename": batch["key"], "views": batch["views"], "masks": batch["masks"]}


def as_vissl(batch: Batch) -> Batch:
    """VISSL's multi-crop dictionary: each entry is a list of one, `data[0]` the list of K crops.

    As its collator makes them, label, validity and number of a sample are there once for each crop: (K * B,), crop by crop.
    """
    views = batch["views"]
    index = batch["index"].repeat(len(views))
    return {
        "data": [views],
        "label": [batch["target"].repeat(len(views))],
        "data_valid": [batch["mask_valid"].new_ones(len(index))],
        "data_idx": [index],
    }


DINOV2_PATCH_PX = (14, 16)
"""Sides of the patches of DINOv2's networks: of the published ones, and of its default configuration."""


def dinov2_patch(sizes: Sequence[int]) -> int:
    """Return the side of the patches that iBOT's masks are for [px].

    Parameters
    ----------
    sizes : sequence of int
        Sides of the crops, a global one first [px].

    Returns
    -------
    int
        14; 16 where all crops are multiples of it and not all of 14, as 224 and 96 px.

    Raises
    ------
    ValueError
        If the global crops are a multiple of neither.

    Examples
    --------
    >>> dinov2_patch([224, 224, 98]), dinov2_patch([224, 224, 96])
    (14, 16)
    """
    fits = [patch for patch in DINOV2_PATCH_PX if all(size % patch == 0 for size in sizes)]
    fits += [patch for patch in DINOV2_PATCH_PX if sizes[0] % patch == 0]
    if not fits:
        raise ValueError(
            f"format='dinov2': global crops must be a multiple of {DINOV2_PATCH_PX[0]} px, or of {DINOV2_PATCH_PX[1]} px, got "
            f"{sizes[0]}; see with_size"
        )
    return fits[0]


def as_dinov2(batch: Batch) -> Batch:
    """The dictionary of DINOv2's collate function: crops stacked view by view, and iBOT's block masks over the patches.

    As there, half of the global crops are masked, by 10 to 50 % in blocks. So that the masks do not depend on the batch, they are
    one of a sample's two, and each draws its own share. `upperbound` is the number of masked patches itself. For the side of
    the patches see `dinov2_patch`.

    Raises
    ------
    ValueError
        If the global crops are no multiple of a patch.
    """
    import torch

    views, size = batch["views"], batch["views"][0].shape[-1]
    side = size // dinov2_patch([view.shape[-1] for view in views])
    large = [i for i, view in enumerate(views) if view.shape[-1] == size]
    counts = _masked_patches(np.stack([batch["params"][i]["seed"] for i in large]), side * side)
    seeds = np.concatenate([batch["params"][i]["seed"] for i in large])
    masks = torch.empty((len(seeds), side, side), dtype=torch.bool, device=views[0].device)
    on_tensors(patch_masks)(None, seeds=seeds, grid=(side, side), count=counts, policy="block", out=masks)
    masks = masks.flatten(1)
    indices = masks.flatten().nonzero().flatten()
    weights = torch.from_numpy((1 / np.maximum(counts, 1)).astype(np.float32)).to(masks.device, non_blocking=True)
    small = [view for i, view in enumerate(views) if i not in large]
    return {
        "collated_global_crops": torch.cat([views[i] for i in large]),
        "collated_local_crops": torch.cat(small) if small else views[0][:0],
        "collated_masks": masks,
        "mask_indices_list": indices,
        "masks_weight": weights[indices // masks.shape[1]],
        "upperbound": int(counts.sum()),
        "n_masked_patches": torch.full((1,), len(indices), dtype=torch.long, device=masks.device),
    }


def _masked_patches(seeds: np.ndarray, patches: int) -> np.ndarray:
    """Draw how many patches of each crop are masked, (V * B,) int32, from their seeds (V, B): 0 for half of a sample's crops.

    Of an odd number of crops the middle one in the drawn order is masked for every other sample.
    """
    share = 0.1 + 0.4 * ((seeds >> np.uint64(8)) & np.uint64(0xFFFFFF)) / 2.0**24
    place = (seeds >> np.uint64(32)).argsort(axis=0, kind="stable").argsort(axis=0)
    masked = 2 * place + (seeds[0] & np.uint64(1)).astype(np.int64) < len(seeds)
    return np.where(masked, (patches * share).astype(np.int32), 0).astype(np.int32).reshape(-1)


FORMATS: dict[str, Callable[[Batch], Any]] = {
    "dict": as_dict,
    "moco": as_moco,
    "swav": as_swav,
    "dino": as_dino,
    "dinov2": as_dinov2,
    "solo": as_solo,
    "lightly": as_lightly,
    "lightly-train": as_lightly_train,
    "vissl": as_vissl,
}
"""Formats of the loader by name."""

WITH_MASKS = frozenset({"dict", "lightly-train"})
"""Formats that hand out the masks of the views."""
WITH_NEGATIVES = frozenset({"dict"})
"""Formats that hand out the extra negatives."""
