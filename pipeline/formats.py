"""The shapes of a batch: what public training code unpacks.

Every format is made of the same dictionary (`format="dict"`). Containers are lists where training code assigns into them
(MoCo's `images[0] = images[0].cuda()`), and tensors belong to the caller.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from figureground.kernels.token_masks import patch_masks

Batch = dict[str, Any]


def as_dict(batch: Batch) -> Batch:
    """Everything: views, masks, mask_valid, target, index, key, params, negatives, and what the recipe's techniques add."""
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
    """VISSL's multi-crop dictionary: each entry is a list of one, `data[0]` the list of crops."""
    views = batch["views"]
    return {
        "data": [views],
        "label": [batch["target"]],
        "data_valid": [batch["mask_valid"].new_ones(len(batch["key"]))],
        "data_idx": [batch["index"]],
    }


DINOV2_PATCH_PX = 14
"""Side of DINOv2's patches; the global crops must be a multiple of it."""


def as_dinov2(batch: Batch) -> Batch:
    """The dictionary of DINOv2's collate function: crops stacked view by view, and iBOT's block masks over the patches.

    As there, half of the global crops are masked, by 10 to 50 % in blocks; here each crop draws its own share, so that the masks do
    not depend on the batch.

    Raises
    ------
    ValueError
        If the global crops are no multiple of `DINOV2_PATCH_PX`.
    """
    import torch

    views, size = batch["views"], batch["views"][0].shape[-1]
    if size % DINOV2_PATCH_PX:
        raise ValueError(
            f"format='dinov2': global crops must be a multiple of {DINOV2_PATCH_PX} px, got {size}; see with_size"
        )
    large = [i for i, view in enumerate(views) if view.shape[-1] == size]
    side = size // DINOV2_PATCH_PX
    seeds = np.concatenate([batch["params"][i]["seed"] for i in large])
    share = 0.1 + 0.4 * ((seeds >> np.uint64(8)) & np.uint64(0xFFFFFF)) / 2.0**24
    counts = np.where(seeds & np.uint64(1), (side * side * share).astype(np.int32), 0).astype(np.int32)
    drawn = patch_masks(None, seeds=seeds, grid=(side, side), count=counts, policy="block")
    masks = torch.from_numpy(drawn.reshape(len(seeds), side * side)).to(views[0].device)
    weight = (1 / masks.sum(-1).clamp(min=1.0)).unsqueeze(-1).expand_as(masks)[masks]
    indices = masks.flatten().nonzero().flatten()
    small = [view for i, view in enumerate(views) if i not in large]
    return {
        "collated_global_crops": torch.cat([views[i] for i in large]),
        "collated_local_crops": torch.cat(small) if small else views[0][:0],
        "collated_masks": masks,
        "mask_indices_list": indices,
        "masks_weight": weight,
        "upperbound": int(counts.sum()),
        "n_masked_patches": torch.full((1,), len(indices), dtype=torch.long, device=masks.device),
    }


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
