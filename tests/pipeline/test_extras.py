"""Token masks, corrupted and mixed copies, block styles: what they are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from extras_tools import EVERYTHING, PLAIN, first_batch, to_bytes
from loader_tools import make
from pipeline_shards import write_shards

from figureground.kernels.fourier import transfer_amplitude
from figureground.kernels.token_masks import patch_masks
from figureground.pipeline import recipes

# ---------------------------------------------------------------------------- token masks


def test_tokens_of_the_figure_are_hidden_first(shards):
    batch = first_batch(shards, PLAIN.with_token_masks(patch=8, ratio=0.25, by="figure"))
    for view, hidden, mask in zip(batch["views"], batch["token_masks"], batch["masks"], strict=True):
        assert hidden.shape == (len(view), 16)
        assert hidden.dtype == torch.bool
        assert (hidden.sum(1) == 4).all()
        figure = torch.nn.functional.avg_pool2d(mask[:, None], 8).flatten(1) >= 128 / 255
        for h, f in zip(hidden, figure, strict=True):
            assert (h & f).sum() == min(4, int(f.sum()))
        assert figure.any()


@pytest.mark.parametrize("by", ["random", "figure", "ground", "proportional", "block"])
def test_token_masks_are_those_of_the_kernel(shards, by):
    batch = first_batch(shards, PLAIN.with_token_masks(patch=4, ratio=0.6, by=by, views=(1,)))
    assert batch["token_masks"][0] is None
    masks = np.rint(batch["masks"][1].numpy() * 255).astype(np.uint8)
    want = patch_masks(masks, seeds=batch["params"][1]["seed"], grid=(8, 8), ratio=0.6, policy=by)
    np.testing.assert_array_equal(batch["token_masks"][1].numpy(), want.reshape(8, 64))


def test_token_masks_without_a_mask_are_random(tmp_path):
    shards = write_shards(tmp_path, 16, masks=False)
    recipe = PLAIN.with_token_masks(patch=8, by="proportional")
    batch, plain = (
        first_batch(shards, recipe, masks="sidecar"),
        first_batch(shards, PLAIN.with_token_masks(patch=8), masks="sidecar"),
    )
    assert not batch["mask_valid"].any()
    assert (batch["token_masks"][0].sum(1) == 12).all()
    assert (plain["token_masks"][0].sum(1) == 12).all()
    assert len({tuple(row) for row in batch["token_masks"][0].tolist()}) > 4


def test_mae_and_dinov2_recipes_get_token_masks(shards):
    batch = first_batch(shards, recipes.mae(32).with_token_masks(patch=8))
    assert [tuple(t.shape) for t in batch["token_masks"]] == [(8, 16)]
    batch = first_batch(shards, recipes.dinov2(56, 28, 2).with_token_masks(patch=14, by="block", ratio=0.4))
    assert [None if t is None else tuple(t.shape) for t in batch["token_masks"]] == [(8, 16), (8, 16), None, None]
    batch = first_batch(shards, recipes.dinov2(56, 28, 2), format="dinov2")
    assert batch["collated_masks"].shape == (16, 16)


# ---------------------------------------------------------------------------- block corruption


def test_corrupted_copies_differ_where_the_mask_says(shards):
    recipe = PLAIN.with_block_corruption(grid=4, partner_p=0.0)
    batch, clean = first_batch(shards, recipe), first_batch(shards, PLAIN)
    for view, want, corrupted, mask in zip(
        batch["views"], clean["views"], batch["corrupted"], batch["corruption_mask"], strict=True
    ):
        torch.testing.assert_close(view, want, rtol=0, atol=0)
        assert mask.dtype == torch.bool
        assert mask.shape == (8, 32, 32)
        outside = ~mask[:, None].expand_as(view)
        assert torch.equal(corrupted[outside], view[outside])
        assert (corrupted[~outside] != view[~outside]).float().mean() > 0.9
        assert 0.5 <= mask.float().mean((1, 2)).min() <= mask.float().mean((1, 2)).max() < 0.6
    assert (batch["params"][0]["partner"] == -1).all()


def test_partners_lend_the_pixels_of_their_own_view(shards):
    recipe = PLAIN.with_block_corruption(partner_p=0.5, partner_share=0.3)
    batch = first_batch(shards, recipe, batch_size=40)
    row_of = {index: i for i, index in enumerate(batch["index"].tolist())}
    for v in range(2):
        partner = batch["params"][v]["partner"]
        assert 8 < (partner >= 0).sum() < 32
        assert (partner != batch["params"][v]["sample"]).all()
        for i in np.flatnonzero(partner >= 0):
            mask = batch["corruption_mask"][v][i].expand(3, -1, -1)
            other = batch["views"][v][row_of[int(partner[i])]]
            want = torch.where(mask, other, batch["views"][v][i])
            torch.testing.assert_close(batch["corrupted"][v][i], want, rtol=0, atol=0)
            assert 0.3 <= mask.float().mean() < 0.4
    assert (batch["params"][0]["partner"] != batch["params"][1]["partner"]).any()


def test_solarized_views_are_corrupted_after_it(shards):
    """Noise must not be inverted with the view that it covers."""
    base = replace(PLAIN, views=tuple(replace(v, solarize_p=1.0, solarize_threshold=0) for v in PLAIN.views))
    recipe = base.with_block_corruption(fill="zero", partner_p=0.0)
    batch, clean = first_batch(shards, recipe), first_batch(shards, base)
    torch.testing.assert_close(batch["views"][0], clean["views"][0], rtol=0, atol=0)
    mask = batch["corruption_mask"][0]
    zero = np.array([124, 116, 104])
    assert (to_bytes(batch["corrupted"][0]).transpose(0, 2, 3, 1)[mask.numpy()] == zero).all()


# ---------------------------------------------------------------------------- group mixing


def test_mixed_patches_come_from_where_the_source_says(shards):
    batch, plain = (
        first_batch(shards, PLAIN.with_group_mixing(group=4, patch=8), batch_size=24),
        first_batch(shards, PLAIN, batch_size=24),
    )
    for v in range(2):
        torch.testing.assert_close(batch["views"][v], plain["views"][v], rtol=0, atol=0)
        source = batch["mixing_source"][v]
        assert source.dtype == torch.int8
        assert (source.view(6, 4, 16).sort(1).values == torch.arange(4)[:, None]).all()  # each patch is shown once
        for i in range(24):
            for j in range(16):
                y, x = j // 4 * 8, j % 4 * 8
                want = batch["views"][v][i // 4 * 4 + int(source[i, j])][:, y : y + 8, x : x + 8]
                torch.testing.assert_close(batch["mixed"][v][i][:, y : y + 8, x : x + 8], want, rtol=0, atol=0)
    assert not torch.equal(batch["mixing_source"][0], batch["mixing_source"][1])
    assert torch.equal(batch["mixing_members"], batch["index"].view(6, 1, 4).expand(6, 4, 4).reshape(24, 4))


def test_a_last_partial_group_is_not_mixed(tmp_path):
    shards = write_shards(tmp_path, 22)
    with make(shards, PLAIN.with_group_mixing(group=4, patch=8), drop_last=False) as loader:
        *_, last = loader
    assert len(last["key"]) == 6
    assert torch.equal(last["mixed"][0][4:], last["views"][0][4:])
    assert not torch.equal(last["mixed"][0][:4], last["views"][0][:4])
    assert last["mixing_source"][0][4:].tolist() == [[0] * 16, [1] * 16]
    assert (last["mixing_members"][4:] == -1).all()
    assert (last["mixing_members"][:4] >= 0).all()


# ---------------------------------------------------------------------------- style


@pytest.mark.parametrize("block", [8, 24])
def test_a_block_has_the_style_of_one_of_its_views(shards, block):
    batch = first_batch(shards, PLAIN.with_style_transfer(block=block, window=0.2, ratio=0.8), batch_size=48)
    plain = first_batch(shards, PLAIN, batch_size=48)
    lenders = []
    for v in range(2):
        style = batch["params"][v]["style"].reshape(-1, block)
        assert (style == style[:, :1]).all()
        lenders.append(style[:, 0])
        row_of = {index: i for i, index in enumerate(batch["index"].tolist())}
        which = np.array([row_of[s] for s in batch["params"][v]["style"].tolist()], np.int32)
        assert (which // block == np.arange(48) // block).all()
        want = transfer_amplitude(to_bytes(plain["views"][v]), style=which, window=0.2, ratio=0.8)
        np.testing.assert_array_equal(to_bytes(batch["views"][v]), want)
        assert (to_bytes(plain["views"][v]) != want).mean() > 0.5
    assert (lenders[0] != lenders[1]).any()


def test_styles_are_drawn_with_their_probability(shards):
    recipe = PLAIN.with_style_transfer(block=2, p=0.4)
    with make(shards, recipe) as loader, make(shards, PLAIN) as plain:
        applied = []
        for batch, want in zip(loader, plain, strict=True):
            styled = batch["params"][0]["style"] >= 0
            applied += styled.tolist()
            for i in np.flatnonzero(~styled):
                torch.testing.assert_close(batch["views"][0][i], want["views"][0][i], rtol=0, atol=0)
    assert 0.2 < np.mean(applied) < 0.6


def test_negatives_have_the_style_of_their_query(shards):
    recipe = PLAIN.with_background("swap", p=0.5).with_style_transfer(block=8, window=0.0)
    batch, plain = first_batch(shards, recipe), first_batch(shards, PLAIN.with_background("swap", p=0.5))
    mean = batch["views"][0].mean((2, 3))
    assert mean.std(0).max() < 0.03  # only frequency 0 is transferred: means agree, but for what is cut
    assert plain["views"][0].mean((2, 3)).std(0).max() > 0.05
    negatives = batch["negatives"][:, 0].mean((2, 3))
    assert (negatives - mean).abs().mean() < 0.05
    assert plain["negatives"][:, 0].mean((2, 3)).std(0).max() > 0.05


def test_no_share_of_a_style_changes_nothing(shards):
    """The second pass does what the first does: negatives, shuffles by region, solarize, stages."""
    base = replace(PLAIN, views=tuple(replace(v, solarize_p=0.5) for v in PLAIN.views))
    base = base.with_background("swap", p=0.5).with_patch_shuffle(4, p=0.7, region="ground").with_negatives("texture")
    base = base.with_stage(lambda views, rows: views ^ 1, after="composite").with_stage(
        lambda views, rows: 255 - views, after="color"
    )
    plain, styled = first_batch(shards, base), first_batch(shards, base.with_style_transfer(block=8, ratio=0.0))
    for a, b in zip([*plain["views"], plain["negatives"]], [*styled["views"], styled["negatives"]], strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    assert (styled["params"][0]["style"] >= 0).all()


def test_copies_are_made_of_what_the_stages_leave(shards):
    recipe = PLAIN.with_stage(lambda views, rows: 255 - views, after="color").with_stage(
        lambda v, r: v * 2, after="normalize"
    )
    recipe = recipe.with_block_corruption(fill="zero", partner_p=0.0).with_group_mixing(patch=8)
    batch, plain = first_batch(shards, recipe), first_batch(shards, PLAIN)
    torch.testing.assert_close(batch["views"][0], 2 * (1 - plain["views"][0]), rtol=0, atol=1e-6)
    mask = batch["corruption_mask"][0][:, None].expand(-1, 3, -1, -1)
    assert torch.equal(batch["corrupted"][0][~mask], batch["views"][0][~mask])
    zero = torch.tensor([124, 116, 104]).view(1, 3, 1, 1).expand_as(mask) * 2 / 255
    torch.testing.assert_close(batch["corrupted"][0][mask], zero[mask], rtol=0, atol=1e-6)
    assert torch.equal(batch["mixed"][0].flatten().sort().values, batch["views"][0].flatten().sort().values)


def test_dtypes_and_memory_formats_are_those_of_the_views(shards):
    want = first_batch(shards, EVERYTHING)
    got = first_batch(shards, EVERYTHING, dtype=torch.bfloat16, channels_last=True)
    for name in ("corrupted", "mixed"):
        for a, b in zip(got[name], want[name], strict=True):
            assert a.is_contiguous(memory_format=torch.channels_last)
            torch.testing.assert_close(a, b.to(torch.bfloat16), rtol=0, atol=0)


def test_multi_crop_views_that_were_not_chosen_are_none(shards):
    recipe = (
        recipes.swav(32, 16, 2).with_group_mixing(patch=8).with_block_corruption(grid=4).with_style_transfer(block=8)
    )
    batch = first_batch(shards, recipe)
    for name in ("mixed", "mixing_source", "corrupted", "corruption_mask"):
        assert [t is not None for t in batch[name]] == [True, True, False, False]
    assert all((rows["style"] >= 0).all() for rows in batch["params"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.with_token_masks(patch=5), "TokenMasks: patch must divide the side of the view, 32 px, got 5"),
        (lambda r: r.with_token_masks(patch=4, by="magic"), "TokenMasks: by must be 'random'"),
        (lambda r: r.with_token_masks(patch=4, ratio=1.5), r"TokenMasks: ratio must be in \[0, 1\], got 1.5"),
        (lambda r: r.with_token_masks(views=(2,)), "views must be in 0..1, got 2"),
        (lambda r: r.with_size(256).with_token_masks(patch=2), "at most 64 tokens along 256 px, got 2"),
        (lambda r: r.with_patch_shuffle(4).with_token_masks(patch=4, by="figure"), "whose patches are shuffled"),
        (lambda r: r.with_block_corruption(fill="mean"), "BlockCorruption: fill must be 'noise' or 'zero', got 'mean'"),
        (
            lambda r: r.with_block_corruption(grid=16),
            "max_block must give blocks of more than grid = 16 px, got 0.3 of 32 px",
        ),
        (lambda r: r.with_block_corruption(partner_p=-1), r"partner_p must be in \[0, 1\]"),
        (lambda r: r.with_group_mixing(group=3), "GroupMixing: group must be 2, 4 or 8 samples, got 3"),
        (lambda r: r.with_group_mixing(patch=5), "GroupMixing: patch must divide the side of the view, 32 px, got 5"),
        (lambda r: r.with_style_transfer(block=1), "StyleTransfer: block must be at least 2 positions, got 1"),
        (lambda r: r.with_style_transfer(block=8, window=0.6), r"StyleTransfer: window must be in 0 .. 0.5, got 0.6"),
        (
            lambda r: replace(r.with_style_transfer(block=8), views=r.views[:1]),
            "StyleTransfer: views must be in 0..0, got 1",
        ),
    ],
)
def test_recipes_refuse(change, message):
    with pytest.raises(ValueError, match=message):
        change(PLAIN)


@pytest.mark.parametrize(
    ("recipe", "options", "message"),
    [
        (
            PLAIN.with_token_masks(patch=8),
            {"format": "moco"},
            "format must be 'dict' for a recipe with token masks, got 'moco'",
        ),
        (PLAIN.with_block_corruption(), {"format": "solo"}, "for a recipe with block corruption, got 'solo'"),
        (PLAIN.with_group_mixing(patch=8), {"batch_size": 10}, "multiple of the mixing group, 4, 8, 12, ..., got 10"),
        (PLAIN.with_token_masks(patch=8, by="ground"), {"masks": None}, "for token masks by 'ground', got None"),
    ],
)
def test_loaders_refuse(shards, recipe, options, message):
    with pytest.raises(ValueError, match=message):
        make(shards, recipe, **options)


def test_style_suits_every_format(shards):
    recipe = PLAIN.with_style_transfer(block=8)
    with make(shards, recipe, format="moco") as loader:
        (q, _), _ = next(iter(loader))
    torch.testing.assert_close(q, first_batch(shards, recipe)["views"][0], rtol=0, atol=0)
