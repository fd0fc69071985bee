"""Blocks of views covered by noise, the mean colour or another view."""

from __future__ import annotations

import draws_oracle as oracle
import numpy as np
import pytest

from figureground.kernels import blocks, draws

SHAPES = [(2, 9, 13, 1, 0.5), (1, 4, 4, 1, 0.9), (3, 32, 48, 4, 0.3), (2, 35, 21, 4, 0.4)]  # N, H, W, grid, max_block
MEAN, STD = 255 * np.array([0.485, 0.456, 0.406]), 255 * np.array([0.229, 0.224, 0.225])


def _case(count, height, width):
    rng = np.random.default_rng(height)
    views = rng.integers(0, 256, (count, 3, height, width), dtype=np.uint8)
    return views, rng.integers(0, 2**64, count, dtype=np.uint64), np.roll(np.arange(count, dtype=np.int32), 1)


def _mask(seed, height, width, max_share, max_block, grid):
    """Clearest version: rectangles until the share is reached; slices cut what leaves the view."""
    share = oracle.mix64(oracle.chain(int(seed), draws.BLOCK_SHARE)) >> 40
    low = min(0.5, max_share)
    wanted = (low + (max_share - low) * share / 2**24) * height * width
    key, t = oracle.chain(int(seed), draws.BLOCKS), 0
    mask = np.zeros((height, width), np.uint8)
    while (mask > 0).sum() < wanted and t < 4 * blocks.MAX_BLOCKS:
        top = oracle.below(key, t, height - grid) // grid * grid
        left = oracle.below(key, t + 1, width - grid) // grid * grid
        h = min(grid + oracle.below(key, t + 2, int(height * max_block) - grid), height - top)
        w = min(grid + oracle.below(key, t + 3, int(width * max_block) - grid), width - left)
        mask[top : top + round(h / grid) * grid, left : left + round(w / grid) * grid] = 255
        t += 4
    return mask


@pytest.mark.parametrize(("count", "height", "width", "grid", "max_block"), SHAPES)
@pytest.mark.parametrize("max_share", [0.0, 0.4, 0.8])
def test_masks_equal_oracle(count, height, width, grid, max_block, max_share):
    views, seeds, partners = _case(count, height, width)
    how = {"max_share": max_share, "max_block": max_block, "grid": grid}
    got, mask = blocks.corrupt_blocks(views, seeds=seeds, fill="partner", partners=partners, **how)
    for n in range(count):
        np.testing.assert_array_equal(mask[n], _mask(seeds[n], height, width, max_share, max_block, grid))
    np.testing.assert_array_equal(got, np.where(mask[:, None] > 0, views[partners], views))
    zero, same_mask = blocks.corrupt_blocks(views, seeds=seeds, fill="zero", **how)
    np.testing.assert_array_equal(same_mask, mask)
    colour = np.array(blocks.ZERO, np.uint8)[:, None, None]
    np.testing.assert_array_equal(zero, np.where(mask[:, None] > 0, colour, views))


def _noise(seed, pixels):
    key = oracle.chain(int(seed), draws.BLOCK_NOISE)
    i = np.arange(3 * pixels, dtype=np.uint64)

    def scramble(x):
        x = ((x ^ (x >> np.uint64(16))) * np.uint64(0x85EBCA6B)) & np.uint64(0xFFFFFFFF)
        x = ((x ^ (x >> np.uint64(13))) * np.uint64(0xC2B2AE35)) & np.uint64(0xFFFFFFFF)
        return x ^ (x >> np.uint64(16))

    h = scramble((scramble(i ^ np.uint64(key & 0xFFFFFFFF)) + np.uint64(key >> 32)) & np.uint64(0xFFFFFFFF))
    total = sum((h >> np.uint64(shift)) & np.uint64(255) for shift in (0, 8, 16, 24)).astype(float)
    z = (total - 510) / np.sqrt(4 * (256**2 - 1) / 12)
    return z.reshape(3, pixels)


def test_noise_equals_oracle():
    views, seeds, _ = _case(2, 40, 50)
    got, mask = blocks.corrupt_blocks(views, seeds=seeds, max_share=1.0, max_block=0.9)
    for n in range(2):
        z = _noise(seeds[n], 2000).reshape(3, 40, 50)
        want = np.clip(np.rint(z * STD[:, None, None] + MEAN[:, None, None]), 0, 255)
        # The gains are rounded to 2**-10: at 3.5 deviations 0.2 grey, which may round to the neighbour.
        difference = np.abs(got[n].astype(float) - want)[:, mask[n] > 0]
        assert difference.max() <= 1
        assert difference.mean() < 0.1
        np.testing.assert_array_equal(got[n][:, mask[n] == 0], views[n][:, mask[n] == 0])


def test_noise_is_normal_after_normalisation():
    view = np.zeros((1, 3, 224, 224), np.uint8)
    got, mask = blocks.corrupt_blocks(view, seeds=np.array([5], np.uint64), max_share=0.9)
    values = (got[0][:, mask[0] > 0] - MEAN[:, None]) / STD[:, None]
    assert np.abs(values.mean(1)).max() < 0.02
    assert np.abs(values.std(1) - 1).max() < 0.03
    assert np.abs(np.corrcoef(values) - np.eye(3)).max() < 0.02


@pytest.mark.parametrize(("count", "height", "width", "grid", "max_block"), SHAPES)
@pytest.mark.parametrize("fill", blocks.FILLS)
def test_cuda_source_equals_cpu(host_orders, count, height, width, grid, max_block, fill):
    views, seeds, partners = _case(count, height, width)
    spans = int(height * max_block) - grid, int(width * max_block) - grid
    keys = draws.keys_of("f", seeds, count, draws.BLOCKS)
    targets = np.full(count, 0.6 * height * width, np.int32)
    how = blocks.FILLS.index(fill), draws.keys_of("f", seeds, count, draws.BLOCK_NOISE), partners
    mask, want = np.zeros((count, height, width), np.uint8), np.zeros_like(views)
    blocks._cpu_cover(keys, targets, grid, *spans, mask)
    blocks._cpu_fill(views, mask, *how, want)
    with host_orders() as device:
        got_mask, got = device.array(np.zeros_like(mask)), device.array(np.zeros_like(views))
        blocks._cuda_cover(keys, targets, grid, *spans, got_mask)
        blocks._cuda_fill(device.array(views), got_mask, *how, got)
        got_mask, got = device.numpy(got_mask), device.numpy(got)
    np.testing.assert_array_equal(got_mask, mask)
    np.testing.assert_array_equal(got, want)


def test_the_public_function_on_cuda(host_cuda):
    views, seeds, _ = _case(3, 20, 21)

    def run():
        return blocks.corrupt_blocks(views, seeds=seeds, grid=2, max_share=0.7, apply=np.array([1, 0, 1], bool))

    want = run()
    with host_cuda(dispatch=True):
        got = run()
    for g, w in zip(got, want, strict=True):
        np.testing.assert_array_equal(g, w)


def test_properties():
    views, seeds, partners = _case(4, 64, 64)
    apply = np.array([1, 1, 0, 1], bool)
    got, mask = blocks.corrupt_blocks(views, seeds=seeds, grid=16, max_block=0.5, apply=apply)
    assert not mask[2].any()
    assert (got[2] == views[2]).all()
    cells = mask.reshape(4, 4, 16, 4, 16)
    assert (cells == cells[:, :, :1, :, :1]).all(), "blocks lie on the grid"
    share = (mask > 0).mean((1, 2))[apply]
    assert (share >= 0.5).all()
    assert (share <= 0.5 + 0.25).all()
    same = views.copy()
    assert blocks.corrupt_blocks(same, seeds=seeds, grid=16, max_block=0.5, apply=apply, out=same)[0] is same
    np.testing.assert_array_equal(same, got)
    alone, _ = blocks.corrupt_blocks(views[3:], seeds=seeds[3:], grid=16, max_block=0.5)
    np.testing.assert_array_equal(alone[0], got[3])
    itself, _ = blocks.corrupt_blocks(views, seeds=seeds, fill="partner", partners=np.arange(4, dtype=np.int32))
    np.testing.assert_array_equal(itself, views)
    assert partners.dtype == np.int32


def test_empty():
    views, mask = blocks.corrupt_blocks(np.empty((0, 3, 16, 16), np.uint8), seeds=np.empty(0, np.uint64))
    assert views.shape == (0, 3, 16, 16)
    assert mask.shape == (0, 16, 16)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"max_share": 1.2}, "max_share must be in 0 .. 1, got 1.2"),
        ({"grid": 5}, "max_block must be at most 1 and give blocks of more than grid = 5 px, got 0.3 of 16 x 18 px"),
        ({"max_block": 1.5}, "max_block must be at most 1"),
        ({"fill": "red"}, "fill must be one of noise, zero, partner, got 'red'"),
        ({"fill": "partner"}, r"partners must be \(2,\) int32 in NumPy, got NoneType"),
        ({"partners": np.zeros(2, np.int32)}, "partners must be None for fill 'noise'"),
        ({"fill": "partner", "partners": np.array([0, 2], np.int32)}, r"partners must be in 0 .. 1, got 0 .. 2"),
        ({"seeds": np.zeros(3, np.uint64)}, r"seeds must be \(2,\) uint64"),
        ({"apply": np.zeros(3, bool)}, r"apply must be \(2,\) bool"),
    ],
)
def test_messages(change, says):
    views, seeds, _ = _case(2, 16, 18)
    with pytest.raises(ValueError, match=f"^corrupt_blocks: {says}"):
        blocks.corrupt_blocks(views, **({"seeds": seeds} | change))


def test_partner_not_in_place():
    views, seeds, partners = _case(2, 16, 18)
    with pytest.raises(ValueError, match='out must not be views for fill "partner"'):
        blocks.corrupt_blocks(views, seeds=seeds, fill="partner", partners=partners, out=views)
