"""Hidden patches: exact counts, led by the figure, or in blocks."""

from __future__ import annotations

import math

import draws_oracle as oracle
import numpy as np
import pytest

from figureground.kernels import draws, token_masks

SHAPES = [(3, 28, 28, (7, 7)), (1, 1, 1, (1, 1)), (2, 33, 47, (4, 9)), (2, 14, 14, (14, 14))]  # N, H, W, grid


def _case(count, height, width):
    rng = np.random.default_rng(width)
    masks = rng.integers(0, 256, (count, height, width), dtype=np.uint8)
    masks[:, : height // 2] //= 2
    return masks, rng.integers(0, 2**64, count, dtype=np.uint64)


def _chosen(seed, mask, grid, count, policy, ratio=None):
    """Clearest version for one view, without blocks; `ratio` is what `count` is made of, if it is."""
    key = oracle.chain(int(seed), draws.PATCH_MASK)
    rows, columns = grid
    patches = list(range(rows * columns))
    h, w = mask.shape[0] // rows, mask.shape[1] // columns
    means = [mask[j // columns * h :, j % columns * w :][:h, :w].mean() for j in patches]
    figure = [j for j in patches if policy == "random" or means[j] >= 128]
    ground = [j for j in patches if j not in figure]
    of_figure = {
        "random": count,
        "figure": min(count, len(figure)),
        "ground": count - min(count, len(ground)),
        "proportional": math.floor((count / len(patches) if ratio is None else ratio) * len(figure) + 0.5),
    }[policy]
    of_figure = min(max(of_figure, count - len(ground)), count, len(figure))
    hidden = np.zeros(rows * columns, bool)
    hidden[oracle.shuffled(figure, of_figure, key)] = True
    hidden[oracle.shuffled(ground, count - of_figure, key, 1 << 16)] = True
    return hidden.reshape(grid)


def _blocks(seed, grid, count):
    """Clearest version of the block policy."""
    key = oracle.chain(int(seed), draws.PATCH_MASK)
    rows, columns = grid
    hidden, failed, t = np.zeros(grid, bool), 0, 0
    while hidden.sum() < count and failed < 10:
        most = min(count - hidden.sum(), max(rows * columns // 2, 1))
        area = 4 + (most - 4) * oracle.uniform(key, 4 * t)
        step = (oracle.below(key, 4 * t + 1, 1024) + 0.5) / 1024
        aspect = math.exp(math.log(0.3) * (1 - 2 * step))
        h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        failed += 1
        if h < rows and w < columns:
            top, left = oracle.below(key, 4 * t + 2, rows - h + 1), oracle.below(key, 4 * t + 3, columns - w + 1)
            block = hidden[top : top + h, left : left + w]
            if 0 < (~block).sum() <= most:
                block[:] = True
                failed = 0
        t += 1
    rest = np.flatnonzero(~hidden).tolist()
    hidden.reshape(-1)[oracle.shuffled(rest, count - int(hidden.sum()), key, 1 << 16)] = True
    return hidden


def test_by_hand():
    mask = np.zeros((1, 4, 4), np.uint8)
    mask[0, :2] = 255
    seeds = np.array([1], np.uint64)
    for policy, want in [("figure", [[1, 1], [0, 0]]), ("ground", [[0, 0], [1, 1]])]:
        assert token_masks.patch_masks(mask, seeds=seeds, grid=(2, 2), count=2, policy=policy)[0].tolist() == want
    both = token_masks.patch_masks(mask, seeds=seeds, grid=(2, 2), count=2, policy="proportional")
    assert both.sum(2).tolist() == [[1, 1]]
    more = token_masks.patch_masks(mask, seeds=seeds, grid=(2, 2), count=3, policy="figure")
    assert more.sum(2).tolist() == [[2, 1]]


@pytest.mark.parametrize(("count", "height", "width", "grid"), SHAPES)
@pytest.mark.parametrize("policy", token_masks.POLICIES[:4])
def test_equals_oracle(count, height, width, grid, policy):
    masks, seeds = _case(count, height, width)
    for hide in {0, 1, grid[0] * grid[1] // 3, grid[0] * grid[1]}:
        got = token_masks.patch_masks(masks, seeds=seeds, grid=grid, count=hide, policy=policy)
        for n in range(count):
            np.testing.assert_array_equal(got[n], _chosen(seeds[n], masks[n], grid, hide, policy))
    for ratio in (0.0, 0.31, 0.6, 1.0):
        hide = math.floor(ratio * grid[0] * grid[1] + 0.5)
        got = token_masks.patch_masks(masks, seeds=seeds, grid=grid, ratio=ratio, policy=policy)
        for n in range(count):
            np.testing.assert_array_equal(got[n], _chosen(seeds[n], masks[n], grid, hide, policy, ratio))


def test_shares_of_the_source():
    """Of 49 cells, f of them figure, round(ratio * f / 49 * 49) of the figure are hidden, the rest in the ground."""
    for figures in range(50):
        mask = np.where(np.arange(49) < figures, 255, 0).astype(np.uint8).reshape(1, 7, 7).repeat(4, 1).repeat(4, 2)
        for ratio in (0.3, 0.6, 0.75):
            hidden = token_masks.patch_masks(
                mask, seeds=np.array([figures], np.uint64), grid=(7, 7), ratio=ratio, policy="proportional"
            ).reshape(-1)
            assert hidden[:figures].sum() == min(round(ratio * (figures / 49) * 49 + 1e-9), round(ratio * 49))
            assert hidden.sum() == round(ratio * 49)


@pytest.mark.parametrize("grid", [(14, 14), (7, 10), (2, 2), (1, 1), (16, 5)])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.45, 0.8, 1.0])
def test_blocks_equal_oracle(grid, share):
    seeds = np.random.default_rng(4).integers(0, 2**64, 6, dtype=np.uint64)
    count = int(share * grid[0] * grid[1])
    got = token_masks.patch_masks(None, seeds=seeds, grid=grid, count=count, policy="block")
    for n in range(6):
        np.testing.assert_array_equal(got[n], _blocks(seeds[n], grid, count))


@pytest.mark.parametrize(("count", "height", "width", "grid"), SHAPES)
@pytest.mark.parametrize("policy", token_masks.POLICIES)
def test_cuda_source_equals_cpu(host_orders, count, height, width, grid, policy):
    masks, seeds = _case(count, height, width)
    keys = draws.keys_of("f", seeds, count, draws.PATCH_MASK)
    counts = np.linspace(grid[0] * grid[1], 0, count).astype(np.int32)
    want = np.zeros((count, *grid), bool)
    given = masks if policy in ("figure", "ground", "proportional") else None
    for ratio in (-1.0, 0.37):
        how = keys, counts, token_masks.POLICIES.index(policy), ratio
        token_masks._cpu(given, *how, want)
        with host_orders() as device:
            got = device.array(np.zeros_like(want))
            token_masks._cuda(None if given is None else device.array(given), *how, got)
            got = device.numpy(got)
        np.testing.assert_array_equal(got, want)


def test_the_public_function_on_cuda(host_cuda):
    masks, seeds = _case(3, 28, 30)

    def run(policy):
        return token_masks.patch_masks(masks, seeds=seeds, grid=(7, 6), ratio=0.4, policy=policy)

    want = {policy: run(policy) for policy in token_masks.POLICIES}
    with host_cuda(dispatch=True):
        got = {policy: run(policy) for policy in token_masks.POLICIES}
    for policy in token_masks.POLICIES:
        np.testing.assert_array_equal(got[policy], want[policy])


def test_counts_are_exact():
    masks, _ = _case(1, 28, 28)
    seeds = np.arange(300, dtype=np.uint64)
    counts = np.arange(300) % 197
    for policy in token_masks.POLICIES:
        given = np.broadcast_to(masks, (300, 28, 28)).copy()
        got = token_masks.patch_masks(given, seeds=seeds, grid=(14, 14), count=counts, policy=policy)
        assert got.dtype == bool
        assert (got.sum((1, 2)) == counts).all()
    assert (token_masks.patch_masks(None, seeds=seeds, grid=(14, 14), ratio=0.75).sum((1, 2)) == 147).all()


def test_random_is_uniform_and_blocks_hang_together():
    seeds = np.arange(2000, dtype=np.uint64)
    scattered = token_masks.patch_masks(None, seeds=seeds, grid=(14, 14), ratio=0.5)
    blocks = token_masks.patch_masks(None, seeds=seeds, grid=(14, 14), ratio=0.5, policy="block")
    assert np.abs(scattered.mean(0) - 0.5).max() < 4.5 * 0.5 / np.sqrt(2000)
    neighbours = [(m[:, 1:] == m[:, :-1]).mean() for m in (scattered, blocks)]
    assert abs(neighbours[0] - 0.5) < 0.01
    assert neighbours[1] > 0.8


def test_out_and_empty():
    seeds = np.arange(2, dtype=np.uint64)
    out = np.ones((2, 4, 4), bool)
    assert token_masks.patch_masks(None, seeds=seeds, grid=(4, 4), count=0, out=out) is out
    assert not out.any()
    assert token_masks.patch_masks(None, seeds=seeds[:0], grid=(4, 5), ratio=0.5).shape == (0, 4, 5)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"grid": (0, 4)}, r"grid must be 1 .. 64 patches both ways, got \(0, 4\)"),
        ({"count": 3}, "ratio or count must be given, and not both, got 0.5 and 3"),
        ({"ratio": None}, "ratio or count must be given"),
        ({"ratio": 1.5}, "ratio must be in 0 .. 1, got 1.5"),
        ({"ratio": None, "count": 17}, "count must be in 0 .. 16, got 17 .. 17"),
        ({"ratio": None, "count": np.zeros(3, int)}, r"count must be an integer or \(2,\) integers, got \(3,\) int64"),
        ({"ratio": None, "count": 1.0}, r"count must be an integer or \(2,\) integers, got \(\) float64"),
        ({"policy": "sky"}, "policy must be one of random, figure, ground, proportional, block, got 'sky'"),
        ({"masks": None, "policy": "figure"}, "masks must be given for policy 'figure', got None"),
        (
            {"masks": np.zeros((2, 3, 9), np.uint8), "policy": "figure"},
            r"masks must be \(N, H, W\) uint8 of at least 4 x",
        ),
        ({"masks": np.zeros((3, 9, 9), np.uint8), "policy": "ground"}, r"masks must be \(2, 9, 9\) uint8"),
        ({"seeds": np.zeros((2, 1), np.uint64)}, r"seeds must be \(2,\) uint64"),
        ({"out": np.zeros((2, 4, 4), np.uint8)}, r"out must be \(2, 4, 4\) bool, got \(2, 4, 4\) uint8"),
    ],
)
def test_messages(change, says):
    arguments = {"masks": np.zeros((2, 8, 8), np.uint8), "seeds": np.zeros(2, np.uint64), "grid": (4, 4), "ratio": 0.5}
    arguments |= change
    with pytest.raises(ValueError, match=f"^patch_masks: {says}"):
        token_masks.patch_masks(arguments.pop("masks"), **arguments)
