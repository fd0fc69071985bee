"""The shapes of a batch: what public training code unpacks.

Every format is made of the same dictionary (`format="dict"`). Containers are lists where training code assigns into them
(MoCo's `images[0] = images[0].cuda()`), and tensors belong to the caller.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Batch = dict[str, Any]


def as_dict(batch: Batch) -> Batch:
    """Everything: views, masks, mask_valid, target, index, key, params, negatives."""
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


FORMATS: dict[str, Callable[[Batch], Any]] = {
    "dict": as_dict,
    "moco": as_moco,
    "swav": as_swav,
    "dino": as_dino,
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
