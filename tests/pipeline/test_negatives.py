"""The parameters of a swap negative are all that it takes to make it again."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from loader_tools import make
from pipeline_shards import disc_image, write_tar

from figureground.kernels.arrays import Ragged
from figureground.kernels.background import composite_views
from figureground.kernels.blur import gaussian_blur
from figureground.kernels.color import jitter_color
from figureground.kernels.normalize import normalize_views
from figureground.kernels.resample import render_views
from figureground.pipeline import cli, recipes
from figureground.pipeline.negatives import NEGATIVE_DTYPE, describe_negative, holds_figure
from figureground.pipeline.tables import color_arguments, negative_rows, render_rows
from figureground.shards.index import write_index
from figureground.shards.masks import MaskWriter

SWAP = recipes.byol(32).with_background("swap", p=0.5)  # the preset with everything: blur, solarize, bicubic or not
SAMPLES = 24


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A shard of PNGs, which every decoder reads alike, with masks but for each fifth; and images and masks by sample id."""
    rng, path = np.random.default_rng(5), tmp_path_factory.mktemp("negatives") / "a.tar"
    made = [disc_image(rng, *rng.integers(48, 130, 2).tolist()) for _ in range(SAMPLES)]
    write_tar(path, [(f"{i:03d}.png", cv2.imencode(".png", image[..., ::-1])[1].tobytes()) for i, (image, _) in enumerate(made)])
    write_index(path)
    masks = [cv2.resize(mask, (112, 112), interpolation=cv2.INTER_AREA) for _, mask in made]
    with MaskWriter(path, method="truth") as writer:
        for i in range(SAMPLES):
            if i % 5:
                writer.add(f"{i:03d}", masks[i])
    return path, [image for image, _ in made], masks


def remake(recipe, images, masks, batch, i):
    """Make the negative of the i-th query from what is handed out, as the head of `negatives` says."""
    query, other = batch["params"][0][i : i + 1], batch["negative_params"][i : i + 1]
    view, background = recipe.views[0], recipe.views[0].background
    shape, how = (view.crop.size, view.crop.size), view.crop.interpolation
    ground = images[max(int(query["donor"][0]), 0)]  # not looked at if the query keeps its own
    decoded = Ragged.from_arrays([images[int(query["sample"][0])], ground, images[int(other["donor"][0])]])
    own = Ragged.from_arrays([masks[int(query["sample"][0])][..., None]] * 3)
    valid = np.full(3, bool(batch["mask_valid"][i]))
    shown, _ = render_views(decoded, render_rows(query, np.array([0]), np.array([1]), valid), shape, masks=own, interpolation=how)
    inside, _ = render_views(decoded, negative_rows(other, np.array([2])), shape, interpolation=how)
    mask = np.rint(batch["masks"][0][i : i + 1].numpy() * 255).astype(np.uint8)
    if not holds_figure(batch["masks"][0][i : i + 1].numpy(), background.min_area)[0]:
        mask[:] = 255
    made = jitter_color(composite_views(inside, shown, mask), **color_arguments(query))
    if query["blur"][0]:
        made = gaussian_blur(made, query["blur_sigma"], taps=view.blur.taps)
    threshold = np.where(query["solarize"] == 1, query["solarize_threshold"], 256).astype(np.int32)
    return normalize_views(made, recipe.mean, recipe.std, solarize=threshold)[0], bool((mask == 255).all())


@pytest.mark.parametrize("min_area", [0.0, 0.02])
@pytest.mark.parametrize("name", ["byol", "dino"])
def test_a_negative_is_made_again_from_its_parameters(pictures, name, min_area):
    path, images, masks = pictures
    recipe = getattr(recipes, name)(32).with_background("swap", p=0.5, min_area=min_area)
    small = replace(recipe.views[0].crop, scale=(0.02, 0.6))  # crops beside the figure, too
    recipe = replace(recipe, views=(replace(recipe.views[0], crop=small, solarize_p=0.5), *recipe.views[1:]))
    alone = swapped = 0
    with make(path, recipe, masks="sidecar") as loader:
        for _ in range(2):
            for batch in loader:
                assert batch["negative_params"].dtype == NEGATIVE_DTYPE
                assert (batch["negative_params"]["sample"] == batch["index"].numpy()).all()
                assert (batch["negative_params"]["donor"] != batch["index"].numpy()).all()
                swapped += int(batch["params"][0]["background"].astype(bool).sum())
                for i in range(len(batch["key"])):
                    made, other_alone = remake(recipe, images, masks, batch, i)
                    np.testing.assert_array_equal(batch["negatives"][i, 0].numpy(), made)
                    assert not np.array_equal(made, batch["views"][0][i].numpy()), "no query is its own negative"
                    alone += other_alone
    assert 4 < alone < 2 * SAMPLES - 4
    assert swapped > 4


def test_the_replay_and_a_part_of_a_batch_have_the_same_rows(pictures):
    path, _, _ = pictures
    with make(path, SWAP) as loader:
        rows = np.concatenate([batch["negative_params"] for batch in loader])
        again = loader.replay([3, 17, 8], epoch=0)["negative_params"]
    np.testing.assert_array_equal(again, [rows[rows["sample"] == sample][0] for sample in (3, 17, 8)])
    with make(path, SWAP, batch_size=6, rank=1, world_size=2) as loader:
        for batch in loader:
            for row in batch["negative_params"]:
                np.testing.assert_array_equal(row, rows[rows["sample"] == row["sample"]][0])


@pytest.mark.parametrize(
    "recipe",
    [recipes.byol(32), recipes.byol(32).with_background("random", p=1.0), recipes.byol(32).with_negatives("patch", side=(4, 9))],
    ids=["none", "random", "patch"],
)
def test_without_a_swap_negative_there_are_none(pictures, recipe):
    with make(pictures[0], recipe) as loader:
        assert next(iter(loader))["negative_params"] is None


def test_what_a_row_says_in_words():
    row = np.zeros(1, NEGATIVE_DTYPE)[0]
    row["donor"], row["donor_size"], row["donor_crop"], row["donor_flip"] = 7, (100, 120), (3, 5, 90, 80), 1
    other = "crop 90x80+3+5 of 120x100 of sample 7, flip"
    assert describe_negative(row, alone=False) == f"the query, its figure replaced by {other}"
    assert describe_negative(row, alone=True) == f"no figure in the query's crop, so {other} alone"


def test_the_sheet_names_the_negatives(pictures, tmp_path, capsys):
    path, _, _ = pictures
    words = ["show", "views", str(path), "--device", "cpu", "--index", *map(str, range(8)), "--out", str(tmp_path / "a.png")]
    (tmp_path / "mine.py").write_text("from figureground.pipeline import recipes\nr = recipes.byol(32).with_background('swap')\n")
    assert cli.main([*words, "--recipe", f"{tmp_path / 'mine.py'}:r"]) == 0
    out = [line for line in capsys.readouterr().out.splitlines() if ", negative: " in line]
    assert len(out) == 8
    recipe = recipes.byol(32).with_background("swap")
    with make(path, recipe) as loader:
        batch = loader.replay(list(range(8)), epoch=0)
    for i, line in enumerate(out):
        x, y, w, h = batch["negative_params"][i]["donor_crop"].astype(int)
        assert f"crop {w}x{h}+{x}+{y} of " in line
        assert f"of sample {batch['negative_params'][i]['donor']}" in line
        assert ("no figure" in line) != bool(holds_figure(batch["masks"][0].numpy(), 0.02)[i])
