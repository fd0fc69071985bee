"""Each format through what the loops of its public code do with loader and batch, in own words: schedules made from `len` before
training, `sampler.set_epoch`, assignment into lists, indexing, chunks. A loop that reads or writes something else fails here first.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from loader_tools import make

from figureground.pipeline import recipes
from figureground.pipeline.formats import FORMATS

EPOCHS, BATCH = 2, 24
STEPS = 120 // BATCH


def _moco(loader):
    """main_moco.py, and main_simsiam.py, which assigns both: meters from len(loader), images moved by assignment."""
    for epoch in range(EPOCHS):
        loader.sampler.set_epoch(epoch)
        total = len(loader)
        for i, (images, _) in enumerate(loader):
            images[0] = images[0].to("cpu", non_blocking=True)
            images[1] = images[1].to("cpu", non_blocking=True)
            assert images[0].size(0) == BATCH
            assert i < total
            yield epoch, images[0] @ images[0].transpose(2, 3) + images[1].mean()


def _swav(loader):
    """main_swav.py: a schedule of len(loader) * epochs, crops by number, batch size from the first crop, no label."""
    warmup = np.linspace(0, 1, len(loader))
    schedule = np.concatenate((warmup, np.cos(np.arange(len(loader) * (EPOCHS - 1)))))
    assert len(loader.dataset) == 120
    for epoch in range(EPOCHS):
        loader.sampler.set_epoch(epoch)
        for it, inputs in enumerate(loader):
            rate = schedule[epoch * len(loader) + it]
            size = inputs[0].size(0)
            widths = torch.tensor([crop.shape[-1] for crop in inputs])
            ends = torch.cumsum(torch.unique_consecutive(widths, return_counts=True)[1], 0)
            assert ends.tolist() == [2, 4]  # one forward pass for each run of crops of the same size
            merged = torch.cat(inputs[:2])
            assert merged[size : 2 * size].equal(inputs[1])
            yield epoch, merged.mean() * rate


def _dino(loader):
    """main_dino.py: three schedules of epochs * len(loader); the list of crops is rebuilt; the first two go to the teacher."""
    schedules = [np.arange(EPOCHS * len(loader)) for _ in range(3)]
    for epoch in range(EPOCHS):
        loader.sampler.set_epoch(epoch)
        for it, (images, _) in enumerate(loader):
            step = len(loader) * epoch + it
            assert [s[step] for s in schedules] == [step] * 3
            images = [image.to("cpu", non_blocking=True) for image in images]
            assert torch.cat(images[:2]).shape == (2 * BATCH, 3, 32, 32)
            yield epoch, torch.cat(images[2:]).shape[0] / BATCH


def _dinov2(loader):
    """dinov2/train/ssl_meta_arch.py: two chunks of global crops, masked patches by flat index, weights, bounds."""
    for data in loader:
        crops, masks = data["collated_global_crops"], data["collated_masks"]
        first, second = crops.chunk(2)
        assert first.shape == second.shape == (BATCH, 3, 56, 56)
        patches = torch.arange(2 * BATCH * 16).reshape(2 * BATCH, 16)
        chosen = torch.zeros(data["upperbound"], dtype=patches.dtype)
        count = data["mask_indices_list"].shape[0]
        chosen[:count] = torch.index_select(patches.flatten(), 0, data["mask_indices_list"])
        assert chosen[:count].equal(patches[masks])
        assert data["n_masked_patches"].item() == count
        loss = (chosen[:count] * data["masks_weight"]).sum() / masks.shape[0]
        assert data["collated_local_crops"].shape[0] % BATCH == 0
        yield 0, loss


def _solo(loader):
    """solo/methods/base.py: three items; a lone tensor would be put in a list; as many views as crops; targets may be -1."""
    for _, views, targets in loader:
        views = [views] if isinstance(views, torch.Tensor) else views
        assert len(views) == 2
        large = views[:2]
        valid = targets[targets >= 0]
        yield 0, sum(view.mean() for view in large) + valid.float().mean()


def _lightly(loader):
    """lightly's examples: `views = batch[0]`, or all three names; file names are a list of str."""
    for batch in loader:
        first, second = batch[0]
        _, targets, names = batch
        assert all(isinstance(name, str) for name in names)
        yield 0, (first - second).mean() + targets.float().mean()


def _lightly_train(loader):
    """lightly-train's methods: views by key, one mask for each view, in the same order and geometry."""
    for batch in loader:
        views, masks = batch["views"], batch["masks"]
        assert len(views) == len(masks) == 2
        assert len(batch["filename"]) == BATCH
        yield 0, sum((view * mask[:, None]).mean() for view, mask in zip(views, masks, strict=True))


def _vissl(loader):
    """VISSL: sample["data"][0] is the list of crops, and is assigned to; labels, validity and numbers come once a crop, as
    DeepCluster-v2's memory bank takes the numbers: the first of so many parts as there are crops.
    """
    for sample in loader:
        assert set(sample) == {"data", "label", "data_valid", "data_idx"}
        sample["data"][0] = [crop.to("cpu") for crop in sample["data"][0]]
        crops = len(sample["data"][0])
        assert {len(sample[name][0]) for name in ("label", "data_valid", "data_idx")} == {crops * BATCH}
        numbers = sample["data_idx"][0].chunk(crops)
        assert all(part.equal(numbers[0]) for part in numbers)
        assert len(set(numbers[0].tolist())) == BATCH
        assert sample["data_valid"][0].all()
        yield 0, torch.stack([crop.mean() for crop in sample["data"][0]])


def _dict(loader):
    """Our own: everything by name; lists may be changed."""
    for batch in loader:
        assert list(batch) == ["views", "masks", "mask_valid", "target", "index", "key", "params", "negatives", "negative_params"]
        batch["views"][0] = batch["views"][0].half()
        batch["views"].append(batch["negatives"][:, 0])
        assert batch["key"] == [f"{i:05d}" for i in batch["index"].tolist()]
        yield 0, batch["views"][-1]


TWO = recipes.moco_v2(32).with_background("swap", p=0.5)
LOOPS = {
    "moco": (_moco, TWO, EPOCHS),
    "swav": (_swav, recipes.swav(32, 16, 2), EPOCHS),
    "dino": (_dino, recipes.dino(32, 16, 2), EPOCHS),
    "dinov2": (_dinov2, recipes.dinov2(56, 28, 2), 1),
    "solo": (_solo, TWO, 1),
    "lightly": (_lightly, TWO, 1),
    "lightly-train": (_lightly_train, TWO, 1),
    "vissl": (_vissl, recipes.swav(32, 16, 2), 1),
    "dict": (_dict, TWO, 1),
}


def test_every_format_has_a_loop():
    assert set(LOOPS) == set(FORMATS)


@pytest.mark.parametrize("name", LOOPS)
def test_loops_of_public_code(shards, name):
    loop, recipe, epochs = LOOPS[name]
    with make(shards, recipe, format=name, batch_size=BATCH) as loader:
        assert (len(loader), loader.batch_size, loader.drop_last) == (STEPS, BATCH, True)
        steps = [(epoch, torch.as_tensor(value)) for epoch, value in loop(loader)]
        assert len(loader) == STEPS
    assert [epoch for epoch, _ in steps] == [e for e in range(epochs) for _ in range(STEPS)]
    assert all(torch.isfinite(value).all() for _, value in steps)


@pytest.mark.parametrize("name", ["moco", "dino", "solo", "swav", "lightly", "lightly-train", "vissl", "dict"])
def test_lists_and_tensors_belong_to_the_trainer(shards, name):
    """What a loop does to a batch reaches no later one."""
    _, recipe, _ = LOOPS[name]

    def views(batch):
        first = batch["data"][0] if name == "vissl" else batch["views"] if isinstance(batch, dict) else batch
        return first if isinstance(first[0], torch.Tensor) and first[0].ndim == 4 else first[name == "solo"]

    with make(shards, recipe, format=name, batch_size=BATCH) as loader:
        clean = [[view.clone() for view in views(batch)] for batch in loader]
        loader.set_epoch(0)
        for want, batch in zip(clean, loader, strict=True):
            got = views(batch)
            assert isinstance(got, list)
            assert all(torch.equal(a, b) for a, b in zip(want, got, strict=True))
            for view in got:
                view.zero_()
            got.clear()
