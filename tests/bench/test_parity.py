"""The parity report: differences within their documented bounds, and a report that can say no."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from torchvision_ops import declare_operators

from figureground.bench import parity, parity_draws, parity_reference
from figureground.bench.photos import write_photos
from figureground.pipeline import recipes
from figureground.pipeline.config import Crop, View

declare_operators()


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photographs")
    write_photos(folder, count=4)
    return parity.load_images(folder, 4)


def _hold(rows):
    over = [f"{r.name} against {r.against}: {r.most}, {r.mean}" for r in rows if not r.within]
    assert not over, "; ".join(over)


def test_compare_by_hand():
    want = np.zeros((1, 3, 1, 4))
    got = want.copy()
    got[0, 1, 0, :2] = 1, 0.5
    row = parity.compare("x", "y", "blur", got, want, scale=2.0)
    assert (row.most, row.mean, row.differing) == (2, 0.25, 0.5)
    assert not row.within


def test_geometry(photographs):
    rows = parity.compare_geometry(photographs)
    _hold(rows)
    assert {r.most for r in rows if r.name == "flip"} == {0}
    assert max(r.most for r in rows if "bicubic" in r.name) == 1


def test_the_other_filter_is_seen(photographs, monkeypatch):
    """Bilinear views of a bicubic recipe, and the reverse, are over their bounds."""
    right = parity.run_recipe

    def wrong(recipe, images):
        other = {"bilinear": "bicubic", "bicubic": "bilinear"}
        views = [replace(v, crop=replace(v.crop, interpolation=other[v.crop.interpolation])) for v in recipe.views]
        return right(replace(recipe, views=tuple(views)), images)

    monkeypatch.setattr(parity, "run_recipe", wrong)
    for name in ("mae", "eval"):
        assert not any(r.within for r in parity.compare_recipe(name, photographs))


def test_colors(photographs):
    rows = parity.compare_colors(photographs)
    _hold(rows)
    exact = {"brightness", "contrast", "saturation", "hue", "grayscale", "solarize", "normalise", "composite"}
    assert {r.name for r in rows} == exact | {"blur"}
    assert all(r.most == 0 for r in rows if r.name in exact)


@pytest.mark.parametrize("name", parity.RECIPES)
def test_recipes(photographs, name):
    rows = parity.compare_recipe(name, photographs[: 2 if name in ("dino", "dinov2", "swav") else 4])
    _hold(rows)
    if name in ("mae", "eval"):
        assert rows[0].most <= 1.001


def test_a_longer_blur_is_seen(photographs, monkeypatch):
    """DINOv2's nine taps: all of the bell instead is over the bounds."""
    recipe = recipes.dinov2(local_views=0)
    wide = replace(recipe.views[0], jitter=None, blur=recipes.Blur((1.8, 2.0), 1.0, taps=9))
    monkeypatch.setitem(recipes.PRESETS, "dinov2", lambda: replace(recipe, views=(wide,)))
    assert all(r.within for r in parity.compare_recipe("dinov2", photographs))
    right = parity.run_recipe
    longer = replace(recipe, views=(replace(wide, blur=recipes.Blur((1.8, 2.0), 1.0)),))
    monkeypatch.setattr(parity, "run_recipe", lambda _, images: right(longer, images))
    assert not any(r.within for r in parity.compare_recipe("dinov2", photographs))


@pytest.mark.parametrize(("field", "change"), [("jitter_factors", 0.05), ("blur_sigma", 0.5), ("crop", 2)])
def test_a_wrong_parameter_is_seen(photographs, monkeypatch, field, change):
    right, view = parity.run_recipe, recipes.byol().views[0]
    always = replace(view, jitter=replace(view.jitter, p=1))
    monkeypatch.setitem(recipes.PRESETS, "byol", lambda: recipes.Recipe("byol", (always,)))
    assert all(r.within for r in parity.compare_recipe("byol", photographs))

    def wrong(recipe, images):
        plans, views = right(recipe, images)
        plans[0][field] += np.float32(change)  # what the reference is told, after the kernels
        return plans, views

    monkeypatch.setattr(parity, "run_recipe", wrong)
    assert not any(r.within for r in parity.compare_recipe("byol", photographs))


@pytest.mark.parametrize(("name", "view"), parity_draws.DRAWN)
def test_draws(name, view):
    results = parity_draws.compare_draws(name, view, 3000, seed=5)
    assert len(results) == 15
    low = {parameter: r["p"] for parameter, r in results.items() if r["p"] < parity_draws.LEAST_P}
    assert not low


def test_other_draws_are_seen(monkeypatch):
    """Half the range, another probability, corners that lean to one side: each has a p-value next to 0."""
    right = parity_draws.sample_view

    def wrong(view, height, width, draw):
        drawn = right(view, height, width, draw)
        return drawn | {"hue": drawn["hue"] / 2, "blur": float(draw.random() < 0.6), "crop x": drawn["crop x"] ** 1.3}

    monkeypatch.setattr(parity_draws, "sample_view", wrong)
    results = parity_draws.compare_draws("moco_v2", 0, 3000)
    assert all(results[parameter]["p"] < 1e-4 for parameter in ("hue", "blur", "crop x"))
    assert results["crop y"]["p"] > 1e-4


def test_the_sampler_falls_back_to_the_centre():
    view = View(Crop(32, scale=(0.9, 1.0), ratio=(1.0, 1.0)))
    drawn = parity_draws.sample_view(view, 20, 100, random.Random(0))
    assert (drawn["crop area"], drawn["crop aspect"], drawn["crop x"], drawn["crop y"]) == (0.2, 0, 0.5, 0.5)
    assert (drawn["jitter"], drawn["blur"], drawn["brightness"], drawn["hue"]) == (0, 0, 1, 0)


def test_references_agree(photographs):
    pytest.importorskip("torchvision")
    recipe = recipes.byol()
    plan = parity.run_recipe(recipe, photographs[:2])[0][1]
    for image, row in zip(photographs, plan):
        made = [parity_reference.make_view(r, image, row, recipe.views[1]) for r in parity_reference.references()]
        assert np.abs(np.subtract(*(m.astype(int) for m in made))).max() <= 1


def test_main_on_a_users_folder(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(parity, "RECIPES", ("mae",))
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    arguments = ["--images", str(tmp_path), "--draws", "500", "--json", str(tmp_path / "out" / "parity.json")]
    code = parity.main(arguments)
    out = capsys.readouterr().out
    assert "Pixels of 1 images" in out
    assert "| composite | Pillow | 0 |" in out
    assert "| crop area |" in out
    document = json.loads((tmp_path / "out" / "parity.json").read_text())
    rows = document["pixels"]
    assert {"crop + resize", "blur", "mae, 1 view"} <= {row["name"] for row in rows}
    assert set(document["draws"]) == {"moco_v2 0", "byol 1", "swav 2", "dino 0"}
    over = [row for row in rows if row["most"] > row["bound_most"] + 1e-3 or row["mean"] > row["bound_mean"] + 1e-3]
    assert code == (1 if over else 0)
    assert ("**over its bound**" in out) == bool(over)


def test_main_says_what_is_missing(tmp_path, capsys):
    assert parity.main(["--images", str(tmp_path)]) == 2
    assert "images must be a folder with images below it, got none in" in capsys.readouterr().err
