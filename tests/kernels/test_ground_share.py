"""The share of a figure inside crop boxes."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from figureground.kernels import ground_share


def _random(count, size, boxes, seed):
    rng = np.random.default_rng(seed)
    masks = rng.integers(0, 256, (count, *size), dtype=np.uint8)
    masks[rng.random(masks.shape) < 0.5] = 0
    corner = rng.random((count, boxes, 2))
    length = (1 - corner) * rng.uniform(0.05, 1, (count, boxes, 2))
    return masks, np.concatenate([corner, length], -1).astype(np.float32)


def _oracle(mask, box):
    """Each pixel's covered part, in exact fractions, box edges in 1/256 px."""
    height, width = mask.shape
    x, y, w, h = box.astype(float).tolist()
    sides = zip((x, y, x + w, y + h), (width, height) * 2)
    edge = [Fraction(round(min(max(e, 0.0), 1.0) * n * 256), 256) for e, n in sides]

    def covered(low, high, size):
        return [max(Fraction(0), min(high, i + 1) - max(low, i)) for i in range(size)]

    in_x, in_y = covered(edge[0], edge[2], width), covered(edge[1], edge[3], height)
    inside = sum(int(mask[y, x]) * in_y[y] * in_x[x] for y in range(height) for x in range(width))
    total = int(mask.sum())
    return float(inside / total) if total else 0.0


def test_by_hand():
    masks = np.zeros((2, 2, 4), np.uint8)
    masks[0, 0, 1], masks[0, 1, 3] = 100, 50
    boxes = np.array([[0, 0, 0.5, 1], [0.375, 0, 0.625, 0.5], [0.75, 0.75, 0.25, 0.25]], np.float32)
    shares = ground_share.figure_share(masks, np.stack([boxes, boxes]))
    np.testing.assert_array_equal(shares, np.float32([[100 / 150, 50 / 150, 25 / 150], [0, 0, 0]]))


@pytest.mark.parametrize("size", [(7, 5), (1, 1), (1, 30), (33, 20)])
def test_equals_exact_fractions(size):
    masks, boxes = _random(2, size, 6, 1)
    got = ground_share.figure_share(masks, boxes)
    want = [[_oracle(m, b) for b in bs] for m, bs in zip(masks, boxes)]
    np.testing.assert_array_equal(got, np.float32(want))


@pytest.mark.parametrize("size", [(7, 5), (1, 1), (40, 70), (3, 32)])
def test_cuda_source_equals_cpu(host_orders, size):
    masks, boxes = _random(3, size, 11, 2)
    masks[1] = 0
    with host_orders() as device:
        got = device.array(np.full((3, 11), -1, np.float32))
        ground_share._cuda(device.array(masks), ground_share._edges(boxes, 3, *size), got)
        got = device.numpy(got)
    np.testing.assert_array_equal(got, ground_share.figure_share(masks, boxes))


def test_a_large_full_mask():
    masks = np.full((1, 4096, 4095), 255, np.uint8)  # the sum just fits 32 bits
    boxes = np.array([[[0, 0, 1, 1], [0.25, 0.5, 0.5, 0.5]]], np.float32)
    np.testing.assert_allclose(ground_share.figure_share(masks, boxes), [[1, 0.25]], rtol=1e-6)


def test_parts_add_up_and_empty():
    masks, _ = _random(2, (31, 45), 1, 3)
    quarters = np.array([[x, y, 0.5, 0.5] for y in (0, 0.5) for x in (0, 0.5)], np.float32)
    shares = ground_share.figure_share(masks, np.tile(quarters, (2, 1, 1)))
    np.testing.assert_allclose(shares.sum(1), 1, atol=1e-6)
    assert ground_share.figure_share(masks[:0], np.empty((0, 4, 4), np.float32)).shape == (0, 4)
    assert ground_share.figure_share(masks, np.empty((2, 0, 4), np.float32)).shape == (2, 0)


def test_messages():
    masks, boxes = _random(2, (5, 5), 3, 4)
    with pytest.raises(ValueError, match=r"boxes must be \(2, K, 4\) float32 in NumPy, got \(2, 3, 4\) float64"):
        ground_share.figure_share(masks, boxes.astype(np.float64))
    with pytest.raises(ValueError, match=r"boxes must be \(2, K, 4\) float32 in NumPy, got \(1, 3, 4\)"):
        ground_share.figure_share(masks, boxes[:1])
    boxes[1, 2] = [0.5, 0.5, 0.6, 0.1]
    with pytest.raises(ValueError, match=r"boxes\[1, 2\] must be x0, y0, width > 0, height > 0 inside \[0, 1\]"):
        ground_share.figure_share(masks, boxes)
    with pytest.raises(ValueError, match=r"masks must be \(N, H, W\) uint8"):
        ground_share.figure_share(masks[0], boxes)
    with pytest.raises(ValueError, match="masks must have at most"):
        ground_share.figure_share(np.broadcast_to(np.zeros(1, np.uint8), (1, 5000, 4000)).copy(), boxes[:1])
