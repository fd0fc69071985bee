"""Token masks, corrupted and mixed copies, block styles: what they are, and that they depend on the sample alone."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from loader_tools import make
from pipeline_shards import disc_image, write_shards, write_tar

from figureground.kernels.fourier import transfer_amplitude
from figureground.kernels.token_masks import patch_masks
from figureground.pipeline import recipes
from figureground.pipeline.companions import find_companions, lookahead
from figureground.pipeline.order import Order, Split
from figureground.pipeline.windows import Ahead, WindowOrder
from figureground.shards import Store
from figureground.shards.index import write_index
from figureground.shards.masks import MaskWriter

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


def _bytes(view):
    return np.rint(view.numpy() * 255).astype(np.uint8)


def _first(shards, recipe, **options):
    with make(shards, recipe, **options) as loader:
        return next(iter(loader))


def _by_sample(loader):
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


def _assert_same(got, want):
    for index, parts in got.items():
        for a, b in zip(parts, want[index], strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.fixture(scope="module")
def whole(shards):
    with make(shards, EVERYTHING) as loader:
        return _by_sample(loader)


# ---------------------------------------------------------------------------- token masks


def test_tokens_of_the_figure_are_hidden_first(shards):
    batch = _first(shards, PLAIN.with_token_masks(patch=8, ratio=0.25, by="figure"))
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
    batch = _first(shards, PLAIN.with_token_masks(patch=4, ratio=0.6, by=by, views=(1,)))
    assert batch["token_masks"][0] is None
    masks = np.rint(batch["masks"][1].numpy() * 255).astype(np.uint8)
    want = patch_masks(masks, seeds=batch["params"][1]["seed"], grid=(8, 8), ratio=0.6, policy=by)
    np.testing.assert_array_equal(batch["token_masks"][1].numpy(), want.reshape(8, 64))


def test_token_masks_without_a_mask_are_random(tmp_path):
    shards = write_shards(tmp_path, 16, masks=False)
    recipe = PLAIN.with_token_masks(patch=8, by="proportional")
    batch, plain = (
        _first(shards, recipe, masks="sidecar"),
        _first(shards, PLAIN.with_token_masks(patch=8), masks="sidecar"),
    )
    assert not batch["mask_valid"].any()
    assert (batch["token_masks"][0].sum(1) == 12).all()
    assert (plain["token_masks"][0].sum(1) == 12).all()
    assert len({tuple(row) for row in batch["token_masks"][0].tolist()}) > 4


def test_mae_and_dinov2_recipes_get_token_masks(shards):
    batch = _first(shards, recipes.mae(32).with_token_masks(patch=8))
    assert [tuple(t.shape) for t in batch["token_masks"]] == [(8, 16)]
    batch = _first(shards, recipes.dinov2(56, 28, 2).with_token_masks(patch=14, by="block", ratio=0.4))
    assert [None if t is None else tuple(t.shape) for t in batch["token_masks"]] == [(8, 16), (8, 16), None, None]
    batch = _first(shards, recipes.dinov2(56, 28, 2), format="dinov2")
    assert batch["collated_masks"].shape == (16, 16)


# ---------------------------------------------------------------------------- block corruption


def test_corrupted_copies_differ_where_the_mask_says(shards):
    recipe = PLAIN.with_block_corruption(grid=4, partner_p=0.0)
    batch, clean = _first(shards, recipe), _first(shards, PLAIN)
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
    batch = _first(shards, recipe, batch_size=40)
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
    batch, clean = _first(shards, recipe), _first(shards, base)
    torch.testing.assert_close(batch["views"][0], clean["views"][0], rtol=0, atol=0)
    mask = batch["corruption_mask"][0]
    zero = np.array([124, 116, 104])
    assert (_bytes(batch["corrupted"][0]).transpose(0, 2, 3, 1)[mask.numpy()] == zero).all()


# ---------------------------------------------------------------------------- group mixing


def test_mixed_patches_come_from_where_the_source_says(shards):
    batch, plain = (
        _first(shards, PLAIN.with_group_mixing(group=4, patch=8), batch_size=24),
        _first(shards, PLAIN, batch_size=24),
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
    batch = _first(shards, PLAIN.with_style_transfer(block=block, window=0.2, ratio=0.8), batch_size=48)
    plain = _first(shards, PLAIN, batch_size=48)
    lenders = []
    for v in range(2):
        style = batch["params"][v]["style"].reshape(-1, block)
        assert (style == style[:, :1]).all()
        lenders.append(style[:, 0])
        row_of = {index: i for i, index in enumerate(batch["index"].tolist())}
        which = np.array([row_of[s] for s in batch["params"][v]["style"].tolist()], np.int32)
        assert (which // block == np.arange(48) // block).all()
        want = transfer_amplitude(_bytes(plain["views"][v]), style=which, window=0.2, ratio=0.8)
        np.testing.assert_array_equal(_bytes(batch["views"][v]), want)
        assert (_bytes(plain["views"][v]) != want).mean() > 0.5
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
    batch, plain = _first(shards, recipe), _first(shards, PLAIN.with_background("swap", p=0.5))
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
    plain, styled = _first(shards, base), _first(shards, base.with_style_transfer(block=8, ratio=0.0))
    for a, b in zip([*plain["views"], plain["negatives"]], [*styled["views"], styled["negatives"]], strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    assert (styled["params"][0]["style"] >= 0).all()


def test_copies_are_made_of_what_the_stages_leave(shards):
    recipe = PLAIN.with_stage(lambda views, rows: 255 - views, after="color").with_stage(
        lambda v, r: v * 2, after="normalize"
    )
    recipe = recipe.with_block_corruption(fill="zero", partner_p=0.0).with_group_mixing(patch=8)
    batch, plain = _first(shards, recipe), _first(shards, PLAIN)
    torch.testing.assert_close(batch["views"][0], 2 * (1 - plain["views"][0]), rtol=0, atol=1e-6)
    mask = batch["corruption_mask"][0][:, None].expand(-1, 3, -1, -1)
    assert torch.equal(batch["corrupted"][0][~mask], batch["views"][0][~mask])
    zero = torch.tensor([124, 116, 104]).view(1, 3, 1, 1).expand_as(mask) * 2 / 255
    torch.testing.assert_close(batch["corrupted"][0][mask], zero[mask], rtol=0, atol=1e-6)
    assert torch.equal(batch["mixed"][0].flatten().sort().values, batch["views"][0].flatten().sort().values)


# ---------------------------------------------------------------------------- purity


@pytest.mark.parametrize(
    "options", [{"batch_size": 24}, {"batch_size": 20, "threads": 1}, {"batch_size": 32, "drop_last": False}]
)
def test_content_depends_on_no_batch_size(shards, whole, options):
    with make(shards, EVERYTHING, **options) as loader:
        got = _by_sample(loader)
    assert len(got) in (120, 100)
    _assert_same(got, whole)


@pytest.mark.parametrize("drop_last", [True, False])
def test_content_does_not_depend_on_ranks(shards, whole, drop_last):
    got = {}
    for rank in range(3):
        with make(shards, EVERYTHING, rank=rank, world_size=3, batch_size=12, drop_last=drop_last) as loader:
            got |= _by_sample(loader)
    assert len(got) == (120 if not drop_last else 108)
    _assert_same(got, whole)


def test_replay_of_single_samples_is_exact(shards, whole):
    with make(shards, EVERYTHING) as loader:
        for samples in ([5], [99, 40, 7], [3, 17, 31, 45, 59, 73, 87, 101]):
            _assert_same(_by_sample([loader.replay(samples, epoch=0)]), whole)


def test_replay_of_more_than_the_decoder_holds(shards):
    recipe = PLAIN.with_background("swap", p=1.0).with_style_transfer(block=8).with_group_mixing(group=8, patch=8)
    recipe = recipe.with_block_corruption(partner_p=1.0).with_token_masks(patch=8)
    with make(shards, recipe, batch_size=40) as loader:
        want = _by_sample(loader)
        _assert_same(_by_sample([loader.replay(list(range(0, 120, 3)), epoch=0)]), want)


def test_resume_is_exact(shards, whole):
    with make(shards, EVERYTHING) as loader:
        for number, _ in enumerate(loader):
            if number == 4:
                state = loader.state_dict()
                break
    with make(shards, EVERYTHING, batch_size=16) as loader:
        loader.load_state_dict(state)
        rest = _by_sample(loader)
    assert len(rest) == 80
    _assert_same(rest, whole)


def test_epochs_draw_anew(shards, whole):
    with make(shards, EVERYTHING) as loader:
        loader.set_epoch(1)
        other = _by_sample(loader)
    assert np.mean([np.array_equal(a, b) for i in other for a, b in zip(other[i], whole[i], strict=True)]) < 0.2


def test_dtypes_and_memory_formats_are_those_of_the_views(shards):
    want = _first(shards, EVERYTHING)
    got = _first(shards, EVERYTHING, dtype=torch.bfloat16, channels_last=True)
    for name in ("corrupted", "mixed"):
        for a, b in zip(got[name], want[name], strict=True):
            assert a.is_contiguous(memory_format=torch.channels_last)
            torch.testing.assert_close(a, b.to(torch.bfloat16), rtol=0, atol=0)


def test_multi_crop_views_that_were_not_chosen_are_none(shards):
    recipe = (
        recipes.swav(32, 16, 2).with_group_mixing(patch=8).with_block_corruption(grid=4).with_style_transfer(block=8)
    )
    batch = _first(shards, recipe)
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
    torch.testing.assert_close(q, _first(shards, recipe)["views"][0], rtol=0, atol=0)


# ---------------------------------------------------------------------------- companions


@pytest.mark.parametrize("samples", [1, 7, 22, 100])
def test_companions_of_any_samples_are_those_of_the_whole_epoch(samples):
    """By positions: who lends to whom is the same, whichever samples are asked for together."""
    order, rng = Order(samples, 3), np.random.default_rng(0)
    recipe = EVERYTHING.with_style_transfer(block=10, p=0.7)
    whole = find_companions(recipe, order, 2, np.arange(samples))
    assert len(whole.positions) == samples
    for size in (1, min(5, samples), samples):
        asked = rng.choice(samples, size, replace=False)
        some = find_companions(recipe, order, 2, asked)
        np.testing.assert_array_equal(some.positions[:size], asked)
        assert len(set(some.positions.tolist())) == len(some.positions)
        for ours, theirs in ((some.style, whole.style), (some.partner, whole.partner)):
            for view in range(2):
                lenders = np.where(ours[view] >= 0, some.positions[ours[view]], -1)[:size]
                np.testing.assert_array_equal(lenders, theirs[view][asked])
        np.testing.assert_array_equal(np.where(some.group >= 0, some.positions[some.group], -1), whole.group[asked])
        np.testing.assert_array_equal(some.place, whole.place[asked])


def test_aligned_batches_have_no_lenders_from_outside():
    recipe = EVERYTHING.with_style_transfer(block=16)
    for first in range(0, 96, 16):
        found = find_companions(recipe, Order(100, 1), 0, np.arange(first, first + 16))
        assert len(found.positions) == 16


def test_styles_are_lent_by_every_place_of_a_block():
    recipe = PLAIN.with_style_transfer(block=8)
    found = [find_companions(recipe, Order(8000, seed), 0, np.arange(8000)).style for seed in range(4)]
    counts = np.bincount(np.concatenate(found)[:, ::8].ravel() % 8, minlength=8)
    assert counts.min() > 0.85 * counts.mean()
    assert counts.max() < 1.15 * counts.mean()


def test_bad_samples_are_replaced_alike(tmp_path):
    """Lenders that cannot be decoded are replaced too, in any layout."""
    write_shards(tmp_path / "good", 40, per_shard=40)
    with Store(str(tmp_path / "good")) as store:
        members = [
            (f"{i:03d}.jpg", b"<html>not found</html>" if i % 8 == 3 else store.image(i).tobytes()) for i in range(40)
        ]
    write_tar(tmp_path / "bad.tar", members)
    write_index(tmp_path / "bad.tar")
    recipe = PLAIN.with_style_transfer(block=8).with_group_mixing(group=4, patch=8).with_block_corruption(grid=4)
    recipe = recipe.with_token_masks(patch=8).with_negatives("patch", side=(4, 12))
    found = []
    for options in ({"batch_size": 8}, {"batch_size": 20}, {"batch_size": 40, "threads": 1}):
        with make(str(tmp_path / "bad.tar"), recipe, error_budget=0.5, masks=None, **options) as loader:
            rows = [(batch, i) for batch in loader for i in range(len(batch["key"]))]
        found.append(
            [[batch[name][v][i] for name in ("views", "corrupted", "mixed") for v in range(2)] for batch, i in rows]
        )
        assert all(int(batch["index"][i]) % 8 != 3 for batch, i in rows)
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            for x, y in zip(a, b, strict=True):
                torch.testing.assert_close(x, y, rtol=0, atol=0)


def test_fetched_shards_of_lenders_are_asked_for():
    order = WindowOrder(np.arange(0, 121, 6), seed=1, window=2)
    recipe = PLAIN.with_style_transfer(block=32)

    class Recorder:
        asked: list[int] = []  # noqa: RUF012

        def need(self, shards):
            self.asked = shards

    store = Recorder()
    split = Split(120, 8)
    ahead = Ahead(store, None, order, split, 0, lookahead(recipe))
    far = 0
    for batch in range(split.batches()):
        ahead.need(0, batch, 0)
        found = find_companions(recipe, order, 0, split.positions(batch))
        shards = set((order.sample_ids(0, found.positions) // 6).tolist())
        assert shards <= set(store.asked)
        far += len(found.positions) > 8
    assert far > 5
    assert len(store.asked) < 20


@pytest.mark.gpu
def test_gpu_techniques_equal_cpu_techniques(tmp_path):
    """PNGs are decoded on the CPU for both devices. Not yet run on a GPU."""
    rng = np.random.default_rng(0)
    pictures = {f"{i:03d}": disc_image(rng, 64, 80) for i in range(32)}
    write_tar(
        tmp_path / "a.tar", [(f"{k}.png", cv2.imencode(".png", p)[1].tobytes()) for k, (p, _) in pictures.items()]
    )
    write_index(tmp_path / "a.tar")
    with MaskWriter(tmp_path / "a.tar", method="truth") as writer:
        for key, (_, mask) in pictures.items():
            writer.add(key, mask)
    unshuffled = replace(EVERYTHING, views=tuple(replace(v, patch_shuffle=None) for v in EVERYTHING.views))
    recipe = unshuffled.with_token_masks(patch=8, by="figure", ratio=0.5)
    for styled in (False, True):
        recipe = replace(recipe, style=EVERYTHING.style if styled else None)
        host = _first(str(tmp_path), recipe, batch_size=16, masks="sidecar")
        device = _first(str(tmp_path), recipe, batch_size=16, masks="sidecar", device="cuda")
        for name in ("mixing_source", "corruption_mask", "token_masks", "views", "corrupted", "mixed"):
            for a, b in zip(host[name], device[name], strict=True):
                assert b.is_cuda
                difference = (a.float() - b.cpu().float()).abs().max() * 255
                assert difference <= (1.01 if styled and name in ("views", "corrupted", "mixed") else 0)
