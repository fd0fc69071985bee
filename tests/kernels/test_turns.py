"""Quarter turns and permuted channels."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from PIL import Image

from figureground.kernels.turns import CHANNEL_ORDERS, turn_views


def _views(count, side, channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, channels, side, side), dtype=np.uint8)


def test_by_hand():
    views = np.array([[[[1, 2], [3, 4]], [[5, 6], [7, 8]], [[9, 10], [11, 12]]]], np.uint8)
    left = turn_views(views, rotation=np.array([1], np.uint8))
    assert left[0].tolist() == [[[2, 4], [1, 3]], [[6, 8], [5, 7]], [[10, 12], [9, 11]]]
    both = turn_views(views, rotation=np.array([2], np.uint8), channel_order=np.array([3], np.uint8))  # GBR
    assert both[0].tolist() == [[[8, 7], [6, 5]], [[12, 11], [10, 9]], [[4, 3], [2, 1]]]


def test_orders_are_the_sources():
    assert CHANNEL_ORDERS.tolist() == [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]]


@pytest.mark.parametrize("side", [1, 2, 7, 32])
def test_equals_pillow(xp, side):
    pairs = list(itertools.product(range(4), range(6)))
    views = _views(len(pairs), side)
    rotation, order = (np.array(column, np.uint8) for column in zip(*pairs, strict=True))
    got = turn_views(xp.asarray(views), rotation=rotation, channel_order=order)
    for i, (turns, number) in enumerate(pairs):
        bands = Image.fromarray(views[i].transpose(1, 2, 0)).rotate(90 * turns).split()
        want = np.stack([np.asarray(bands[c]) for c in list(itertools.permutations(range(3)))[number]])
        np.testing.assert_array_equal(got[i].get() if xp is not np else got[i], want)


def test_in_place_and_out():
    views = _views(9, 5)
    rotation, order = np.arange(9) % 4, np.arange(9) % 6
    want = turn_views(views, rotation=rotation, channel_order=order)
    out = np.empty_like(views)
    assert turn_views(views, rotation=rotation, channel_order=order, out=out) is out
    np.testing.assert_array_equal(out, want)
    turn_views(views, rotation=rotation, channel_order=order, out=views)
    np.testing.assert_array_equal(views, want)


def test_quarter_turns_are_a_group():
    views, masks = _views(4, 6), _views(4, 6, 1)
    for a, b in itertools.product(range(4), repeat=2):
        twice = turn_views(turn_views(masks, rotation=np.full(4, a)), rotation=np.full(4, b))
        np.testing.assert_array_equal(twice, turn_views(masks, rotation=np.full(4, (a + b) % 4)))
    orders = {tuple(order): i for i, order in enumerate(CHANNEL_ORDERS.tolist())}
    for a, b in itertools.product(range(6), repeat=2):
        product = orders[tuple(CHANNEL_ORDERS[a][CHANNEL_ORDERS[b]])]
        twice = turn_views(turn_views(views, channel_order=np.full(4, a)), channel_order=np.full(4, b))
        np.testing.assert_array_equal(twice, turn_views(views, channel_order=np.full(4, product)))


def test_nothing_to_do():
    views = _views(3, 4)
    copy = turn_views(views)
    np.testing.assert_array_equal(copy, views)
    assert copy is not views
    assert turn_views(views[:0], rotation=np.zeros(0, int)).shape == (0, 3, 4, 4)


@pytest.mark.parametrize(
    ("views", "options", "says"),
    [
        (np.zeros((1, 3, 4, 5), np.uint8), {}, r"views must be \(N, C, S, S\) uint8, got \(1, 3, 4, 5\) uint8"),
        (np.zeros((1, 3, 4, 4)), {}, "got .* float64"),
        (_views(2, 4)[:, :, ::-1], {}, "views must be C-contiguous"),
        (_views(2, 4), {"rotation": np.array([0, 4])}, r"rotation must be in 0 \.\. 3, got 0 \.\. 4"),
        (_views(2, 4), {"channel_order": np.array([-1, 5])}, r"channel_order must be in 0 \.\. 5, got -1 \.\. 5"),
        (_views(2, 4), {"rotation": np.zeros(3, int)}, r"rotation must be \(2,\) integers in NumPy, got \(3,\) int64"),
        (_views(2, 4), {"rotation": [0, 1]}, "got list"),
        (_views(2, 4, 1), {"channel_order": np.zeros(2, int)}, "3 channels for channel_order, got 1"),
    ],
)
def test_messages(views, options, says):
    with pytest.raises(ValueError, match=f"turn_views: .*{says}"):
        turn_views(views, **options)
