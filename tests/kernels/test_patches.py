"""Patches permuted inside views and mixed across groups."""

from __future__ import annotations

import draws_oracle as oracle
import numpy as np
import pytest

from figureground.kernels import draws, patches

SHAPES = [(2, 5, 7, 2), (1, 1, 1, 1), (3, 32, 48, 2), (2, 13, 36, 3), (2, 64, 64, 4), (2, 9, 20, 9)]  # N, H, W, grid


def _views(count, height, width, seed=0):
    rng = np.random.default_rng(seed)
    masks = (rng.random((count, height, width)) < 0.5).astype(np.uint8) * 255
    masks[:, : height // 2] = rng.integers(100, 156, (count, height // 2, width))
    return rng.integers(0, 256, (count, 3, height, width), dtype=np.uint8), masks


def _seeds(count, seed=0):
    return np.random.default_rng(seed).integers(0, 2**64, count, dtype=np.uint64)


def _permutation(seed, grid, mask, region, fraction):
    """Clearest version of the draws of one view."""
    key = oracle.chain(int(seed), draws.SHUFFLE)
    h, w = mask.shape[0] // grid, mask.shape[1] // grid
    means = [mask[j // grid * h :, j % grid * w :][:h, :w].mean() for j in range(grid * grid)]
    takes_part = {"all": lambda m: True, "figure": lambda m: m >= 128, "ground": lambda m: m < 128}[region]
    cells = [j for j, mean in enumerate(means) if takes_part(mean)]
    drawn = oracle.shuffled(cells, int(fraction * len(cells) + 0.5), key)
    permutation = np.arange(grid * grid)
    permutation[sorted(drawn)] = drawn
    return permutation


def _permuted(plane, permutation, grid):
    out = plane.copy()
    h, w = plane.shape[0] // grid, plane.shape[1] // grid
    for j, k in enumerate(permutation):
        out[j // grid * h :, j % grid * w :][:h, :w] = plane[k // grid * h :, k % grid * w :][:h, :w]
    return out


def test_shuffle_by_hand():
    view = np.arange(12, dtype=np.uint8).reshape(1, 1, 3, 4).repeat(3, 1)
    got = patches.permute_patches(view, np.array([[1, 0, 3, 2]], np.int16), grid=2)
    # Cells of 1 x 2 px change places with their neighbours; the third row is not in the grid.
    assert got[0, 1].tolist() == [[2, 3, 0, 1], [6, 7, 4, 5], [8, 9, 10, 11]]


@pytest.mark.parametrize(("count", "height", "width", "grid"), SHAPES)
@pytest.mark.parametrize("region", patches.REGIONS)
@pytest.mark.parametrize("fraction", [1.0, 0.5])
def test_shuffle_equals_oracle(count, height, width, grid, region, fraction):
    views, masks = _views(count, height, width)
    seeds = _seeds(count)
    got, permutation = patches.shuffle_patches(
        views, seeds=seeds, grid=grid, masks=masks, region=region, fraction=fraction
    )
    for n in range(count):
        want = _permutation(seeds[n], grid, masks[n], region, fraction)
        np.testing.assert_array_equal(permutation[n], want)
        for c in range(3):
            np.testing.assert_array_equal(got[n, c], _permuted(views[n, c], want, grid))


@pytest.mark.parametrize("group", [2, 4, 8])
def test_mix_equals_oracle(group):
    views, _ = _views(2 * group, 6, 9)
    seeds = _seeds(2)
    mixed, source = patches.mix_patches(views, seeds=seeds, group=group, patch=3)
    for n in range(2 * group):
        for p in range(6):
            key = oracle.chain(int(seeds[n // group]), draws.MIX)
            # The last item needs no draw.
            order = oracle.shuffled(list(range(group)), group - 1, key, p * patches.MAX_GROUP)
            order += [k for k in range(group) if k not in order]
            assert source[n, p] == order[n % group]
            cell = np.s_[:, p // 3 * 3 : p // 3 * 3 + 3, p % 3 * 3 : p % 3 * 3 + 3]
            np.testing.assert_array_equal(mixed[n][cell], views[n - n % group + source[n, p]][cell])


@pytest.mark.parametrize(("count", "height", "width", "grid"), SHAPES)
@pytest.mark.parametrize("region", patches.REGIONS)
def test_shuffle_cuda_source_equals_cpu(host_orders, count, height, width, grid, region):
    views, masks = _views(count, height, width)
    keys, chosen = _seeds(count), np.arange(count) != 1
    cell = (height // grid, width // grid)
    given = None if region == "all" else masks
    how = (patches.REGIONS.index(region), 0.7, grid, cell)
    want = patches._cpu_draw(views, keys, chosen, given, *how)
    moved = np.zeros_like(views)
    patches._cpu_move(views, want, (grid, grid), cell, 0, moved)
    with host_orders() as device:
        on = device.array
        permutation = patches._cuda_draw(on(views), keys, chosen, None if given is None else on(given), *how)
        got, in_place = on(np.zeros_like(views)), on(views)
        patches._cuda_move(on(views), permutation, (grid, grid), cell, 0, got)
        patches._cuda_move(in_place, permutation, (grid, grid), cell, 0, in_place)
        permutation, got, in_place = device.numpy(permutation), device.numpy(got), device.numpy(in_place)
    np.testing.assert_array_equal(permutation, want)
    np.testing.assert_array_equal(got, moved)
    np.testing.assert_array_equal(in_place, moved)


@pytest.mark.parametrize(("height", "width", "patch"), [(6, 9, 3), (8, 12, 4), (32, 48, 16), (1, 1, 1)])
@pytest.mark.parametrize("group", [2, 4, 8])
def test_mix_cuda_source_equals_cpu(host_cuda, height, width, patch, group):
    views, _ = _views(2 * group, height, width)
    seeds = _seeds(2)
    grid = (height // patch, width // patch)
    want, source = patches.mix_patches(views, seeds=seeds, group=group, patch=patch)
    with host_cuda() as device:
        table = device.array(np.zeros(source.shape, np.int8))
        patches._cuda_sources(draws.keys_of("f", seeds, 2, draws.MIX), group, table)
        got = device.array(np.zeros_like(views))
        patches._cuda_move(device.array(views), table, grid, (patch, patch), group, got)
        table, got = device.numpy(table), device.numpy(got)
    np.testing.assert_array_equal(table, source)
    np.testing.assert_array_equal(got, want)


def test_the_public_functions_on_cuda(host_cuda):
    views, masks = _views(4, 24, 33)
    seeds = _seeds(4)

    def run():
        shuffled = patches.shuffle_patches(
            views, seeds=seeds, grid=3, masks=masks, region="figure", apply=np.arange(4) > 0
        )
        moved = patches.permute_patches(masks[:, None], shuffled[1], grid=3)
        return [*shuffled, moved, *patches.mix_patches(views, seeds=seeds[:2], patch=3)]

    want = run()
    with host_cuda(dispatch=True):
        got = run()
    for g, w in zip(got, want, strict=True):
        assert g.dtype == w.dtype
        np.testing.assert_array_equal(g, w)


def test_shuffle_properties():
    views, masks = _views(6, 28, 28)
    seeds = _seeds(6)
    shuffled, permutation = patches.shuffle_patches(views, seeds=seeds, grid=7)
    assert (np.sort(permutation) == np.arange(49)).all()
    assert len({row.tobytes() for row in permutation}) == 6
    np.testing.assert_array_equal(np.sort(shuffled.reshape(6, 3, -1)), np.sort(views.reshape(6, 3, -1)))
    # The inverse brings the view back; a view depends on its own seed alone.
    back = patches.permute_patches(shuffled, np.argsort(permutation).astype(np.int16), grid=7)
    np.testing.assert_array_equal(back, views)
    alone, _ = patches.shuffle_patches(views[3:4], seeds=seeds[3:4], grid=7)
    np.testing.assert_array_equal(alone[0], shuffled[3])
    # In place, and those left alone.
    apply = np.array([1, 0, 1, 0, 1, 0], bool)
    same = views.copy()
    assert patches.shuffle_patches(same, seeds=seeds, grid=7, apply=apply, out=same)[0] is same
    np.testing.assert_array_equal(same[apply], shuffled[apply])
    np.testing.assert_array_equal(same[~apply], views[~apply])
    # A mask of nothing: no cell is figure.
    alone, _ = patches.shuffle_patches(views, seeds=seeds, grid=7, masks=masks * 0, region="figure")
    np.testing.assert_array_equal(alone, views)


def test_fraction_counts():
    views, _ = _views(20, 20, 20)
    for fraction, most in [(0.0, 0), (0.04, 1), (0.3, 30), (1.0, 100)]:
        _, permutation = patches.shuffle_patches(views, seeds=_seeds(20), grid=10, fraction=fraction)
        moved = (permutation != np.arange(100)).sum(1)
        assert moved.max() <= max(most, 4)
        assert most < 30 or moved.min() > 0.8 * most


def test_mix_shows_every_patch_once():
    views, _ = _views(8, 32, 32)
    mixed, source = patches.mix_patches(views, seeds=_seeds(2), group=4, patch=8)
    assert source.shape == (8, 16)
    assert (np.sort(source.reshape(2, 4, 16), axis=1) == np.arange(4)[:, None]).all()
    np.testing.assert_array_equal(np.sort(mixed.reshape(2, 4, -1), axis=1), np.sort(views.reshape(2, 4, -1), axis=1))


def test_empty():
    empty, none = np.empty((0, 3, 8, 8), np.uint8), np.empty(0, np.uint64)
    shuffled, permutation = patches.shuffle_patches(empty, seeds=none, grid=2)
    assert shuffled.shape == empty.shape
    assert permutation.shape == (0, 4)
    assert patches.mix_patches(empty, seeds=none, patch=4)[1].shape == (0, 4)
    assert patches.permute_patches(empty, permutation, grid=2).shape == empty.shape


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"views": np.zeros((2, 1, 8, 8), np.uint8)}, r"views must be \(N, 3, H, W\) uint8, got \(2, 1, 8, 8\)"),
        ({"views": np.zeros((2, 3, 8, 16), np.uint8)[..., ::2]}, "views must be C-contiguous"),
        ({"seeds": np.zeros(3, np.uint64)}, r"seeds must be \(2,\) uint64"),
        ({"grid": 9}, "grid must be 1 .. 8 for views of 8 x 8 px, got 9"),
        ({"fraction": 1.5}, "fraction must be in 0 .. 1, got 1.5"),
        ({"region": "sky"}, "region must be one of all, figure, ground, got 'sky'"),
        ({"region": "figure"}, "masks must be given for region 'figure'"),
        ({"masks": np.zeros((2, 8, 9), np.uint8)}, r"masks must be \(2, 8, 8\) uint8, got \(2, 8, 9\)"),
        ({"apply": np.zeros(1, bool)}, r"apply must be \(2,\) bool"),
        ({"out": np.zeros((2, 3, 8, 9), np.uint8)}, r"out must be \(2, 3, 8, 8\) uint8"),
    ],
)
def test_shuffle_messages(change, says):
    good = {"views": np.zeros((2, 3, 8, 8), np.uint8), "seeds": np.zeros(2, np.uint64), "grid": 2}
    arguments = good | change
    with pytest.raises(ValueError, match=f"^shuffle_patches: {says}"):
        patches.shuffle_patches(arguments.pop("views"), **arguments)


def test_other_messages():
    views, seeds = np.zeros((4, 3, 8, 8), np.uint8), np.zeros(2, np.uint64)
    with pytest.raises(ValueError, match=r"mix_patches: group must be 2 .. 8 and divide N = 4, got 3"):
        patches.mix_patches(views, seeds=seeds, group=3)
    with pytest.raises(ValueError, match="mix_patches: patch must divide H and W = 8, 8, got 3"):
        patches.mix_patches(views, seeds=seeds, patch=3)
    with pytest.raises(ValueError, match="mix_patches: out must not be views"):
        patches.mix_patches(views, seeds=seeds, patch=4, out=views)
    with pytest.raises(ValueError, match=r"permute_patches: permutation must be \(4, 4\) int16, got \(4, 4\) int64"):
        patches.permute_patches(views, np.zeros((4, 4), np.int64), grid=2)
    with pytest.raises(ValueError, match=r"permute_patches: planes must be \(N, C, H, W\) uint8"):
        patches.permute_patches(views[0], np.zeros((4, 4), np.int16), grid=2)
