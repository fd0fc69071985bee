"""Loaders of small shards, and all that they give, for the tests of the loader."""

from __future__ import annotations

import numpy as np

from figureground.pipeline import Loader, recipes

RECIPE = recipes.moco_v2(32).with_background("swap", p=0.5)


def make(shards, recipe=RECIPE, **options):
    options = {"batch_size": 8, "device": "cpu", "threads": 2, **options}
    return Loader(shards, recipe, **options)


def collect(loader):
    """Everything by sample id: views, masks and the negative of a whole epoch."""
    samples = {}
    for batch in loader:
        for i, index in enumerate(batch["index"].tolist()):
            parts = [tensor[i].numpy() for tensor in (*batch["views"], *batch["masks"])]
            samples[index] = [*parts, batch["negatives"][i].numpy(), *[rows[i] for rows in batch["params"]]]
    return samples


def assert_same(left, right):
    assert left.keys() == right.keys()
    for index, parts in left.items():
        for a, b in zip(parts, right[index], strict=True):
            np.testing.assert_array_equal(a, b)
