"""Copies and styles depend on the sample alone: batch size, ranks, replay, resume, bad samples, fetched shards, device."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from extras_tools import EVERYTHING, PLAIN, assert_all_same, by_sample, first_batch
from loader_tools import make
from pipeline_shards import disc_image, write_shards, write_tar

from figureground.pipeline.companions import find_companions, lookahead
from figureground.pipeline.lanes import Split
from figureground.pipeline.needs import Ahead
from figureground.pipeline.order import Order
from figureground.pipeline.windows import WindowOrder
from figureground.shards import Store
from figureground.shards.index import write_index
from figureground.shards.masks import MaskWriter


@pytest.fixture(scope="module")
def whole(shards):
    with make(shards, EVERYTHING) as loader:
        return by_sample(loader)


@pytest.mark.parametrize(
    "options", [{"batch_size": 24}, {"batch_size": 20, "threads": 1}, {"batch_size": 32, "drop_last": False}]
)
def test_content_depends_on_no_batch_size(shards, whole, options):
    with make(shards, EVERYTHING, **options) as loader:
        got = by_sample(loader)
    assert len(got) in (120, 100)
    assert_all_same(got, whole)


@pytest.mark.parametrize("drop_last", [True, False])
def test_content_does_not_depend_on_ranks(shards, whole, drop_last):
    got = {}
    for rank in range(3):
        with make(shards, EVERYTHING, rank=rank, world_size=3, batch_size=12, drop_last=drop_last) as loader:
            got |= by_sample(loader)
    assert len(got) == (120 if not drop_last else 108)
    assert_all_same(got, whole)


def test_replay_of_single_samples_is_exact(shards, whole):
    with make(shards, EVERYTHING) as loader:
        for samples in ([5], [99, 40, 7], [3, 17, 31, 45, 59, 73, 87, 101]):
            assert_all_same(by_sample([loader.replay(samples, epoch=0)]), whole)


def test_replay_of_more_than_the_decoder_holds(shards):
    recipe = PLAIN.with_background("swap", p=1.0).with_style_transfer(block=8).with_group_mixing(group=8, patch=8)
    recipe = recipe.with_block_corruption(partner_p=1.0).with_token_masks(patch=8)
    with make(shards, recipe, batch_size=40) as loader:
        want = by_sample(loader)
        assert_all_same(by_sample([loader.replay(list(range(0, 120, 3)), epoch=0)]), want)


def test_resume_is_exact(shards, whole):
    with make(shards, EVERYTHING) as loader:
        for number, _ in enumerate(loader):
            if number == 4:
                state = loader.state_dict()
                break
    with make(shards, EVERYTHING, batch_size=16) as loader:
        loader.load_state_dict(state)
        rest = by_sample(loader)
    assert len(rest) == 80
    assert_all_same(rest, whole)


def test_epochs_draw_anew(shards, whole):
    with make(shards, EVERYTHING) as loader:
        loader.set_epoch(1)
        other = by_sample(loader)
    assert np.mean([np.array_equal(a, b) for i in other for a, b in zip(other[i], whole[i], strict=True)]) < 0.2


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
    ahead = Ahead(store, None, order, split, block=lookahead(recipe))
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
        host = first_batch(str(tmp_path), recipe, batch_size=16, masks="sidecar")
        device = first_batch(str(tmp_path), recipe, batch_size=16, masks="sidecar", device="cuda")
        for name in ("mixing_source", "corruption_mask", "token_masks", "views", "corrupted", "mixed"):
            for a, b in zip(host[name], device[name], strict=True):
                assert b.is_cuda
                difference = (a.float() - b.cpu().float()).abs().max() * 255
                assert difference <= (1.01 if styled and name in ("views", "corrupted", "mixed") else 0)
