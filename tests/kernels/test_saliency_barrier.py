"""Minimum barrier distance."""

from __future__ import annotations

import heapq

import numpy as np
import pytest

from figureground.kernels import saliency_barrier


def _passes(plane, rounds):
    """The definition, a pixel at a time: down, up, right, left."""
    height, width = plane.shape
    value = plane.astype(int)
    high, low = np.full(plane.shape, 255), np.zeros(plane.shape, int)
    border = np.ones(plane.shape, bool)
    border[1:-1, 1:-1] = False
    high[border] = low[border] = value[border]

    def look(y, x, from_y, from_x):
        new_high, new_low = max(high[from_y, from_x], value[y, x]), min(low[from_y, from_x], value[y, x])
        if new_high - new_low < high[y, x] - low[y, x]:
            high[y, x], low[y, x] = new_high, new_low

    for _ in range(rounds):
        for y in range(1, height):
            for x in range(width):
                look(y, x, y - 1, x)
        for y in range(height - 2, -1, -1):
            for x in range(width):
                look(y, x, y + 1, x)
        for x in range(1, width):
            for y in range(height):
                look(y, x, y, x - 1)
        for x in range(width - 2, -1, -1):
            for y in range(height):
                look(y, x, y, x + 1)
    return high - low


def _exact(plane):
    """The minimum barrier by brute force: for each floor, the minimax path to the border over pixels not below it."""
    height, width = plane.shape
    best = np.full(plane.shape, 255)
    for floor in np.unique(plane):
        peak = np.full(plane.shape, 999)
        queue = []
        for y in range(height):
            for x in range(width):
                if (y in (0, height - 1) or x in (0, width - 1)) and plane[y, x] >= floor:
                    peak[y, x] = plane[y, x]
                    heapq.heappush(queue, (int(plane[y, x]), y, x))
        while queue:
            at, y, x = heapq.heappop(queue)
            for v, u in ((y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)):
                if 0 <= v < height and 0 <= u < width and plane[v, u] >= floor:
                    new = max(at, int(plane[v, u]))
                    if new < peak[v, u]:
                        peak[v, u] = new
                        heapq.heappush(queue, (new, v, u))
        best = np.where(peak < 999, np.minimum(best, peak - int(floor)), best)
    return best


def test_by_hand():
    plane = np.array([[5, 5, 5, 5], [5, 9, 7, 5], [5, 9, 9, 5], [5, 5, 5, 5]], np.uint8)
    cost = saliency_barrier.barrier_cost(np.stack([plane, 255 - plane, plane * 0])[None])[0]
    want = [[0, 0, 0, 0], [0, 4, 2, 0], [0, 4, 4, 0], [0, 0, 0, 0]]
    assert cost.tolist() == [want, want, np.zeros((4, 4), int).tolist()]


@pytest.mark.parametrize("shape", [(1, 3, 1, 1), (2, 3, 5, 7), (5, 3, 19, 16), (1, 3, 33, 2)])
def test_equals_definition(shape):
    planes = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    got = saliency_barrier.barrier_cost(planes)
    for n in range(shape[0]):
        for c in range(3):
            np.testing.assert_array_equal(got[n, c], _passes(planes[n, c], saliency_barrier.ROUNDS))


def test_is_cost_of_a_path():
    rng = np.random.default_rng(1)
    noise = rng.integers(0, 256, (4, 3, 9, 9), dtype=np.uint8)
    smooth = np.cumsum(rng.integers(0, 3, (4, 3, 9, 9)), axis=3).astype(np.uint8)
    for planes in (noise, smooth):
        got = saliency_barrier.barrier_cost(planes)
        exact = np.array([[_exact(plane) for plane in image] for image in planes])
        assert (got >= exact).all()
    assert (got == exact).mean() > 0.9  # smooth planes: nearly always the least


@pytest.mark.parametrize("shape", [(1, 3, 1, 1), (2, 3, 16, 16), (3, 3, 37, 53), (1, 3, 20, 100)])
def test_cuda_source_equals_cpu(host_orders, shape):
    planes = np.random.default_rng(2).integers(0, 256, shape, dtype=np.uint8)
    with host_orders() as device:
        got = device.numpy(saliency_barrier._cuda(device.array(planes)))
    np.testing.assert_array_equal(got, saliency_barrier._cpu(planes))


def test_cuda_without_shared_memory(host_cuda, monkeypatch):
    planes = np.random.default_rng(4).integers(0, 256, (2, 3, 21, 34), dtype=np.uint8)
    monkeypatch.setattr(saliency_barrier, "MOST_SHARED", 100)
    with host_cuda() as device:
        got = device.numpy(saliency_barrier._cuda(device.array(planes)))
    np.testing.assert_array_equal(got, saliency_barrier._cpu(planes))


def test_channels_are_independent_and_negative_is_same():
    planes = np.random.default_rng(3).integers(0, 256, (9, 3, 12, 20), dtype=np.uint8)
    got = saliency_barrier.barrier_cost(planes)
    np.testing.assert_array_equal(saliency_barrier.barrier_cost(255 - planes), got)
    np.testing.assert_array_equal(saliency_barrier.barrier_cost(planes[::-1, ::-1].copy()), got[::-1, ::-1])
    assert saliency_barrier.barrier_cost(planes[:0]).shape == (0, 3, 12, 20)
