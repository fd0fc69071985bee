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


FORMATS: dict[str, Callable[[Batch], Any]] = {
    "dict": as_dict,
    "moco": as_moco,
    "solo": as_solo,
    "lightly": as_lightly,
}
"""Formats of the loader by name."""

WITH_MASKS = frozenset({"dict"})
"""Formats that hand out the masks of the views."""
WITH_NEGATIVES = frozenset({"dict"})
"""Formats that hand out the extra negatives."""
