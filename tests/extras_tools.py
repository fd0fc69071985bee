"""Recipes with every technique, and all that their batches hold, for the tests of techniques."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from loader_tools import make

from figureground.pipeline import recipes

PLAIN = replace(recipes.moco_v2(32), mean=(0.0,) * 3, std=(1.0,) * 3)
"""Views whose values are bytes / 255."""
EVERYTHING = (
    PLAIN.with_background("swap", p=0.5)
    .with_patch_shuffle(4, p=0.5)
    .with_negatives("patch", side=(4, 12))
    .with_style_transfer(block=16)
    .with_group_mixing(group=4, patch=8)
    .with_block_corruption(grid=4)
    .with_token_masks(patch=8, ratio=0.5)
)


def to_bytes(view):
    return np.rint(view.numpy() * 255).astype(np.uint8)


def first_batch(shards, recipe, **options):
    with make(shards, recipe, **options) as loader:
        return next(iter(loader))


def by_sample(loader):
    """All that a batch holds of each sample, by its id."""
    found = {}
    for batch in loader:
        for i, index in enumerate(batch["index"].tolist()):
            lists = [
                batch[name]
                for name in ("views", "masks", "corrupted", "corruption_mask", "mixed", "mixing_source", "token_masks")
            ]
            parts = [t[i].numpy() for tensors in lists for t in tensors if t is not None]
            found[index] = [
                *parts,
                batch["negatives"][i].numpy(),
                batch["mixing_members"][i].numpy(),
                *[rows[i] for rows in batch["params"]],
            ]
    return found


def assert_all_same(got, want):
    for index, parts in got.items():
        for a, b in zip(parts, want[index], strict=True):
            np.testing.assert_array_equal(a, b)
