"""Tiled strips as grounds: the donor's largest strip beside its figure, through the loader."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from loader_tools import RECIPE, assert_same, collect, make
from pipeline_shards import write_tar

from figureground.pipeline import recipes
from figureground.shards.index import write_index
from figureground.shards.masks import MaskWriter

BARE = recipes.Recipe("bare", (recipes.View(recipes.Crop(32, (0.3, 1.0))),) * 2, mean=(0.0,) * 3, std=(1.0,) * 3)


def _tiled_plainly(picture, mask, threshold=51):
    """The largest strip beside the mask's box, tiled from the top left corner over the box; None without any."""
    ys, xs = np.nonzero(mask >= threshold)
    if not len(ys):
        return None
    (top, bottom), (left, right) = (ys.min(), ys.max() + 1), (xs.min(), xs.max() + 1)
    strips = [picture[:top], picture[:, :left], picture[:, right:], picture[bottom:]]
    strip = max(strips, key=lambda s: s.shape[0] * s.shape[1])  # of equals the first
    if not strip.size:
        return None
    size = picture.shape[0]
    tiles = np.tile(strip, (-(-size // strip.shape[0]), -(-size // strip.shape[1]), 1))[:size, :size]
    out = picture.copy()
    out[top:bottom, left:right] = tiles[top:bottom, left:right]
    return out


def _squares(folder, count, size, place):
    """Noise with a bright square; views that show the whole image resize nothing."""
    rng, pictures, masks, members = np.random.default_rng(3), [], [], []
    for i in range(count):
        picture, mask = rng.integers(0, 90, (size, size, 3)).astype(np.uint8), np.zeros((size, size), np.uint8)
        top, left, side = place(rng)
        mask[top : top + side, left : left + side] = 255
        picture[mask > 0] += 150
        pictures.append(picture)
        masks.append(mask)
        members.append((f"{i:03d}.png", cv2.imencode(".png", picture[..., ::-1])[1].tobytes()))
    write_tar(folder / "squares.tar", members)
    write_index(folder / "squares.tar")
    with MaskWriter(folder / "squares.tar", method="truth") as writer:
        for i, mask in enumerate(masks):
            writer.add(f"{i:03d}", mask)
    return str(folder / "squares.tar"), pictures, masks


WHOLE = replace(
    BARE, views=(recipes.View(recipes.Crop(48, (1.0, 1.0), (1.0, 1.0)), flip_p=0.0),) * 2
).with_background("random", p=1.0, source="strip", max_area=1.0)  # fmt: skip


def test_a_strip_is_tiled_over_the_donors_box(tmp_path):
    shards, pictures, masks = _squares(tmp_path, 16, 48, lambda rng: (*rng.integers(0, 24, 2), 22))
    with make(shards, WHOLE) as loader:
        batches = list(loader)
    compared = 0
    for batch in batches:
        for view, rows in zip(batch["views"], batch["params"], strict=True):
            for picture, row in zip(view.numpy(), rows, strict=True):
                figure = masks[row["sample"]][..., None] > 0
                ground = _tiled_plainly(pictures[row["donor"]], masks[row["donor"]])
                want = np.where(figure, pictures[row["sample"]], ground)
                np.testing.assert_array_equal(np.rint(picture.transpose(1, 2, 0) * 255), want)
                assert ground.max() < 90  # nothing of the donor's figure is left
                compared += 1
    assert compared == 32


def test_without_a_mask_or_a_strip_the_whole_donor_is_taken(tmp_path):
    shards, pictures, masks = _squares(tmp_path, 8, 48, lambda rng: (0, 0, 48) if rng.random() < 0.5 else (9, 9, 20))
    full = [mask.all() for mask in masks]
    assert 0 < sum(full) < 8
    with make(shards, WHOLE) as loader:
        (batch,) = loader
    for picture, row in zip(batch["views"][0].numpy(), batch["params"][0], strict=True):
        donor = (
            pictures[row["donor"]]
            if full[row["donor"]]
            else _tiled_plainly(pictures[row["donor"]], masks[row["donor"]])
        )
        want = np.where(masks[row["sample"]][..., None] > 0, pictures[row["sample"]], donor)
        np.testing.assert_array_equal(np.rint(picture.transpose(1, 2, 0) * 255), want)
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "one.png").write_bytes(cv2.imencode(".png", pictures[0][..., ::-1])[1].tobytes())
    with make(shards, WHOLE, backgrounds=folder, masks="sidecar") as loader:
        (batch,) = loader
    for picture, row in zip(batch["views"][0].numpy(), batch["params"][0], strict=True):
        want = np.where(masks[row["sample"]][..., None] > 0, pictures[row["sample"]], pictures[0])
        np.testing.assert_array_equal(np.rint(picture.transpose(1, 2, 0) * 255), want)


@pytest.mark.parametrize("masks", ["sidecar", "kernel"])
def test_strips_depend_on_no_layout(shards, masks):
    recipe = RECIPE.with_background("swap", p=0.5, source="strip")
    with make(shards, recipe, masks=masks) as loader:
        whole = collect(loader)
    with make(shards, recipe, masks=masks, batch_size=24, threads=1) as loader:
        assert_same(collect(loader), whole)
    with make(shards, RECIPE, masks=masks) as loader:
        plain = collect(loader)
    assert any(not np.array_equal(parts[0], plain[index][0]) for index, parts in whole.items())
