"""Recipes: the papers' constants, composition, messages."""

from __future__ import annotations

from dataclasses import replace

import pytest

from figureground.pipeline import recipes


def test_moco_v2_has_its_papers_constants():
    view = recipes.moco_v2().views[0]
    assert (view.crop.size, view.crop.scale, view.crop.ratio) == (224, (0.2, 1.0), (3 / 4, 4 / 3))
    assert view.jitter == recipes.Jitter(0.4, 0.4, 0.4, 0.1, 0.8)
    assert (view.grayscale_p, view.blur, view.flip_p) == (0.2, recipes.Blur((0.1, 2.0), 0.5), 0.5)


def test_simclr_has_its_papers_constants():
    view = recipes.simclr().views[1]
    assert view.crop.scale == (0.08, 1.0)
    assert view.jitter == recipes.Jitter(0.8, 0.8, 0.8, 0.2, 0.8)


def test_asymmetric_recipes_have_their_papers_constants():
    for name in ("byol", "moco_v3", "barlow_twins", "vicreg"):
        first, second = recipes.PRESETS[name]().views
        assert (first.blur.p, second.blur.p, first.solarize_p, second.solarize_p) == (1.0, 0.1, 0.0, 0.2)
        assert first.jitter == second.jitter == recipes.Jitter(0.4, 0.4, 0.2, 0.1, 0.8)
        assert first.crop.scale == (0.08, 1.0)


def test_multi_crop_recipes_have_their_papers_constants():
    swav, dino, dinov2 = recipes.swav(), recipes.dino(), recipes.dinov2()
    assert [v.crop.size for v in swav.views] == [224] * 2 + [96] * 6
    assert [v.crop.scale for v in swav.views] == [(0.14, 1.0)] * 2 + [(0.05, 0.14)] * 6
    assert swav.std[0] == 0.228
    assert [v.crop.scale for v in dino.views] == [(0.4, 1.0)] * 2 + [(0.05, 0.4)] * 8
    assert [v.blur.p for v in dino.views[:3]] == [1.0, 0.1, 0.5]
    assert [v.solarize_p for v in dino.views[:3]] == [0.0, 0.2, 0.0]
    assert [(v.blur.p, v.blur.taps) for v in dinov2.views[:3]] == [(1.0, 9), (0.1, 9), (0.5, 9)]
    assert [v.crop.size for v in dinov2.views] == [224] * 2 + [98] * 8
    assert [v.crop.scale for v in dinov2.views[1:3]] == [(0.32, 1.0), (0.05, 0.32)]
    assert [v.background is not None for v in dino.with_background("swap").views] == [True] * 2 + [False] * 8


@pytest.mark.parametrize(("preset", "usual"), [(recipes.swav, 96), (recipes.dino, 96), (recipes.dinov2, 98)])
def test_local_crops_are_never_the_larger_ones(preset, usual):
    for size in (16, 32, 96, 224, 448):
        recipe = preset(size)
        sizes = [view.crop.size for view in recipe.views]
        assert sizes[:2] == [size] * 2
        assert set(sizes[2:]) == {min(usual, round(usual * size / 224))}
        applied = [view.background is not None for view in recipe.with_background("swap").views]
        assert applied == [True] * 2 + [False] * (len(sizes) - 2)
    assert preset(64, 64).views[2].crop.size == 64


def test_crops_are_resized_by_the_filter_of_the_papers_code():
    bicubic = {"dino", "dinov2", "mae", "barlow_twins", "vicreg"}
    for name, preset in recipes.PRESETS.items():
        recipe = preset()
        assert {v.crop.interpolation for v in recipe.views} == {"bicubic" if name in bicubic else "bilinear"}
        assert recipe.name == name
        assert {v.crop.interpolation for v in recipe.with_size(64).views} == {recipe.views[0].crop.interpolation}
    assert recipes.eval(interpolation="bicubic").views[0].crop.interpolation == "bicubic"
    assert recipes.eval(interpolation="bicubic").fingerprint != recipes.eval().fingerprint


def test_plain_recipes():
    (view,) = recipes.mae().views
    assert (view.crop.scale, view.flip_p, view.jitter) == ((0.2, 1.0), 0.5, None)
    (view,) = recipes.eval().views
    assert (view.crop.resize, view.crop.size, view.flip_p) == (256, 224, 0.0)
    assert recipes.eval(96).views[0].crop.resize == 110
    assert recipes.simsiam().views == recipes.moco_v2().views


def test_background_goes_to_the_global_views_only():
    recipe = recipes.moco_v2()
    small = replace(recipe.views[0], crop=recipes.Crop(96, (0.05, 0.14)))
    mixed = replace(recipe, views=(*recipe.views, small)).with_background("random", p=0.3)
    assert [v.background is not None for v in mixed.views] == [True, True, False]
    chosen = mixed.with_background("remove", views=(2,))
    assert [v.background.mode for v in chosen.views] == ["random", "random", "remove"]
    assert not mixed.swaps
    assert mixed.with_background("swap").swaps


def test_fingerprint_tells_recipes_apart():
    recipe = recipes.moco_v2()
    assert recipe.fingerprint == recipes.moco_v2().fingerprint
    others = [
        recipe.with_background("swap"),
        recipe.with_background("swap", p=0.3),
        recipe.with_size(96),
        recipes.simclr(),
    ]
    prints = {r.fingerprint for r in [recipe, *others, recipe.with_stage(lambda v, r: v)]}
    assert len(prints) == 6


def test_with_size_scales_all_crops():
    recipe = recipes.moco_v2()
    small = replace(recipe.views[0], crop=recipes.Crop(96))
    resized = replace(recipe, views=(*recipe.views, small)).with_size(112)
    assert [v.crop.size for v in resized.views] == [112, 112, 48]
    assert recipes.eval().with_size(96) == recipes.eval(96)
    assert recipes.eval(32, resize=32).with_size(300).views[0].crop.resize == 300


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: recipes.Crop(0), "size must be at least 1 px, got 0"),
        (lambda: recipes.Crop(224, resize=200), "resize must be 0 or at least size = 224"),
        (lambda: recipes.Crop(scale=(1.0, 0.2)), "scale must be"),
        (lambda: recipes.Crop(interpolation="area"), "interpolation must be 'bilinear' or 'bicubic', got 'area'"),
        (lambda: recipes.Jitter(p=1.2), r"p must be in \[0, 1\], got 1.2"),
        (lambda: recipes.Jitter(hue=0.6), "hue must be"),
        (lambda: recipes.Jitter(brightness=-1), "brightness must not be negative"),
        (lambda: recipes.Blur((0.1, 20.0)), "sigma must be"),
        (lambda: recipes.Blur(taps=8), "taps must be an odd number of at least 1, or None, got 8"),
        (lambda: recipes.Background("blend"), "mode must be 'remove', 'random' or 'swap', got 'blend'"),
        (lambda: recipes.Background(fill="pink"), "fill must be"),
        (lambda: recipes.Background(color=(0, 0, 256)), "color must be three values"),
        (lambda: recipes.Background(min_area=0.9, max_area=0.1), "min_area must be below max_area"),
        (lambda: recipes.View(solarize_threshold=300), "solarize_threshold must be in 0..256"),
        (lambda: recipes.Recipe("none", ()), "views must hold at least one View"),
        (lambda: replace(recipes.moco_v2(), std=(0.0, 1.0, 1.0)), "std must be positive"),
        (lambda: replace(recipes.moco_v2(), mean=(0.5, 0.5)), "three numbers each"),
        (lambda: recipes.moco_v2(22.5), "Crop: size must be a whole number, got 22.5"),
        (lambda: recipes.moco_v2().with_size(0), "size must be at least 1 px, got 0"),
        (lambda: recipes.dino(local_views=-1), "local_views must be a whole number of at least 0, got -1"),
        (lambda: recipes.dino(64, local_size=96), "local_size must be at most size = 64 px, got 96"),
        (lambda: recipes.swav(local_views=1.5), "local_views must be a whole number of at least 0, got 1.5"),
        (lambda: recipes.Background(past=2.5), "past must be a whole number"),
        (lambda: recipes.Background(color=(0.5, 0.5, 0.5)), "color must be three values in 0..255, whole numbers"),
        (lambda: recipes.Background(color=128), "color must be three values in 0..255, whole numbers, got 128"),
        (lambda: recipes.moco_v2(16).with_patch_shuffle(32), "as many cells as the view has pixels, 16, got 32"),
        (lambda: recipes.moco_v2().with_patch_shuffle(3.5), "grid must be a whole number"),
        (lambda: recipes.moco_v2().with_negatives("patch", count=1.0), "count must be a whole number"),
        (lambda: recipes.moco_v2().with_negatives("patch", side=(2.5, 9)), "side must be whole numbers"),
        (lambda: recipes.moco_v2(1).with_negatives("patch"), "at least 2 px wide for patch negatives"),
        (lambda: recipes.moco_v2().with_token_masks(patch=16.0), "patch must be a whole number, got 16.0"),
        (lambda: recipes.moco_v2().with_style_transfer(block=2.5), "block must be a whole number"),
        (lambda: recipes.moco_v2().with_background("swap", views=()), "at least one view's number"),
        (lambda: recipes.moco_v2().with_style_transfer(block=8, views=0), "at least one view's number, got 0"),
        (lambda: recipes.moco_v2().with_background("swap", views=(2,)), r"views must be in 0..1, got 2"),
        (lambda: recipes.moco_v2().with_stage(lambda v, r: v, after="never"), "after must be"),
    ],
)
def test_messages(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_stage_must_be_callable():
    with pytest.raises(TypeError, match="must be callable"):
        recipes.moco_v2().with_stage(3)
