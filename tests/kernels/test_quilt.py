"""Textures quilted of exemplars."""

from __future__ import annotations

import draws_oracle as oracle
import numpy as np
import pytest

from figureground.kernels import draws
from figureground.kernels.quilt import _cut, quilt_textures


def _exemplars(count, kinds, height, width, seed=0):
    rng = np.random.default_rng(seed)
    noise = rng.integers(0, 256, (count, kinds, 3, height, width)).astype(float)
    for axis in (3, 4):  # neighbours resemble each other
        noise = (noise + np.roll(noise, 1, axis) + np.roll(noise, 2, axis)) / 3
    return noise.astype(np.uint8), rng.integers(0, 2**64, count, dtype=np.uint64)


def _path(cost):
    """Least path from the first line to the last, the smaller index of equal ones: by all sums, then backwards."""
    sums = cost.astype(int).tolist()
    for a in range(1, len(sums)):
        for b in range(len(sums[0])):
            sums[a][b] += min(sums[a - 1][max(b - 1, 0) : b + 2])
    path = [sums[-1].index(min(sums[-1]))]
    for line in reversed(sums[:-1]):
        near = {b: line[b] for b in range(max(path[0] - 1, 0), min(path[0] + 2, len(line)))}
        path.insert(0, min(near, key=lambda b: (near[b], b)))
    return path


def _quilt(exemplars, seed, size, block, overlap, tolerance):
    """Clearest version: all places are compared in full, with a mask of what is there already."""
    key, step = oracle.chain(int(seed), draws.QUILT), block - overlap
    across = 1
    while block + (across - 1) * step < size:
        across += 1
    side = block + (across - 1) * step
    canvas = np.zeros((side, side, 3), int)
    images = exemplars.transpose(0, 2, 3, 1).astype(int)
    places = [
        (image, y, x)
        for image in images
        for y in range(image.shape[0] - block + 1)
        for x in range(image.shape[1] - block + 1)
    ]
    for number in range(across * across):
        i, j = divmod(number, across)
        there = canvas[i * step : i * step + block, j * step : j * step + block]
        old = np.zeros((block, block), bool)
        old[:overlap] |= i > 0
        old[:, :overlap] |= j > 0
        blocks = [image[y : y + block, x : x + block] for image, y, x in places]
        sums = [int(((new - there)[old] ** 2).sum()) for new in blocks]
        limit = min(sums) + min(sums) * round(1024 * tolerance) // 1024
        near = [new for new, total in zip(blocks, sums, strict=True) if total <= limit]
        new = near[oracle.below(key, number, len(near))]
        square, keep = ((new - there) ** 2).sum(2), np.zeros((block, block), bool)
        if j > 0:
            for r, at in enumerate(_path(square[:, :overlap])):
                keep[r, :at] = True
        if i > 0:
            for c, at in enumerate(_path(square[:overlap].T)):
                keep[:at, c] = True
        there[~keep] = new[~keep]
    return canvas[:size, :size].transpose(2, 0, 1).astype(np.uint8)


def test_one_block_is_a_piece_of_an_exemplar():
    exemplars = np.arange(2 * 3 * 4 * 5, dtype=np.uint8).reshape(1, 2, 3, 4, 5)
    pieces = {exemplars[0, k, :, y : y + 3, x : x + 3].tobytes() for k in range(2) for y in range(2) for x in range(3)}
    found = {
        quilt_textures(exemplars, seeds=np.array([seed], np.uint64), size=3, block=3, overlap=1)[0].tobytes()
        for seed in range(200)
    }
    assert found == pieces  # each one is drawn


def test_cuts_by_hand():
    """Sums of least paths, then back from the smallest: of equal ones the smaller index, nearer to the old side."""
    for costs, want in (
        ([[1, 9, 9], [9, 1, 9], [9, 9, 1]], [0, 1, 2]),
        ([[9, 9, 1], [9, 1, 9], [9, 9, 1]], [2, 1, 2]),
        ([[0, 0, 0], [0, 0, 0]], [0, 0]),
        ([[5, 0, 9], [9, 9, 0], [0, 9, 9]], [1, 0, 0]),  # three paths of 9; from 2 to 0 is too far
        ([[3], [4]], [0, 0]),
    ):
        cut = np.empty(len(want), np.int64)
        _cut(np.array(costs, np.int64), cut)
        assert cut.tolist() == want


def test_a_ramp_goes_on_while_it_can():
    """The best continuation of a ramp is the ramp itself: no step but its own, until the exemplar ends."""
    ramp = np.tile(np.arange(0, 240, 12, dtype=np.uint8), (3, 6, 1))[None, None]  # (1, 1, 3, 6, 20)
    long = 0
    for seed in range(20):
        texture = quilt_textures(ramp, seeds=np.array([seed], np.uint64), size=9, block=6, overlap=3, tolerance=0.0)[0]
        first = oracle.below(oracle.chain(seed, draws.QUILT), 0, 15)
        if first + 9 <= 20:
            assert (texture[:, :6] == 12 * (first + np.arange(9))).all()
            long += 1
    assert long > 5


@pytest.mark.parametrize(
    ("kinds", "height", "width", "size", "block", "overlap", "tolerance"),
    [
        (2, 14, 14, 23, 8, 3, 0.1),
        (1, 9, 16, 20, 6, 2, 0.0),
        (3, 8, 9, 5, 8, 4, 0.5),
        (1, 7, 7, 13, 5, 1, 2.0),
        (2, 12, 10, 11, 2, 1, 0.1),
    ],
)
def test_textures_equal_oracle(kinds, height, width, size, block, overlap, tolerance):
    exemplars, seeds = _exemplars(3, kinds, height, width)
    got = quilt_textures(exemplars, seeds=seeds, size=size, block=block, overlap=overlap, tolerance=tolerance)
    for texture, source, seed in zip(got, exemplars, seeds, strict=True):
        np.testing.assert_array_equal(texture, _quilt(source, seed, size, block, overlap, tolerance))


def test_a_flat_exemplar_gives_a_flat_texture():
    flat = np.full((1, 2, 3, 40, 40), 77, np.uint8)
    assert (quilt_textures(flat, seeds=np.array([1], np.uint64), size=100) == 77).all()


def test_extreme_colours_do_not_overflow():
    """The largest block whose sums fit 31 bits, nothing but black and white."""
    exemplars = np.zeros((1, 2, 3, 90, 90), np.uint8)
    exemplars[0, 1] = 255
    texture = quilt_textures(exemplars, seeds=np.array([3], np.uint64), size=200, block=88, overlap=44, tolerance=10.0)
    assert len(np.unique(texture)) == 1  # the other colour is never near


def test_textures_are_pure_and_seeds_matter():
    exemplars, seeds = _exemplars(4, 2, 40, 40)
    together = quilt_textures(exemplars, seeds=seeds, size=64)
    for i in (3, 1):
        np.testing.assert_array_equal(
            quilt_textures(exemplars[i : i + 1], seeds=seeds[i : i + 1], size=64)[0], together[i]
        )
    other = quilt_textures(exemplars, seeds=seeds + np.uint64(1), size=64)
    assert (other != together).mean() > 0.5


def test_a_texture_is_locally_like_its_exemplar():
    """Each 3 x 3 neighbourhood away from seams is one of the exemplar's: most are."""
    exemplars, seeds = _exemplars(1, 1, 48, 48)
    texture = quilt_textures(exemplars, seeds=seeds, size=96, block=24, overlap=4)[0]
    source = exemplars[0, 0]
    known = {source[:, y : y + 3, x : x + 3].tobytes() for y in range(46) for x in range(46)}
    found = [texture[:, y : y + 3, x : x + 3].tobytes() in known for y in range(94) for x in range(94)]
    assert 0.6 < np.mean(found) < 1.0


def test_no_textures_at_all():
    assert quilt_textures(np.zeros((0, 2, 3, 40, 40), np.uint8), seeds=np.zeros(0, np.uint64)).shape == (0, 3, 224, 224)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"exemplars": np.zeros((1, 3, 40, 40), np.uint8)},
            r"exemplars must be \(N, K, 3, E, F\) uint8 .*got \(1, 3, 40, 40\)",
        ),
        ({"exemplars": np.zeros((1, 1, 3, 40, 40), np.int16)}, "got .* int16"),
        ({"seeds": np.zeros(2, np.uint64)}, r"seeds must be \(1,\) uint64"),
        ({"size": 0}, "size must be at least 1 px, got 0"),
        ({"block": 41}, r"block must be 2 .. 40 px, got 41"),
        ({"overlap": 0}, r"overlap must be 1 .. 16 px, half a block, got 0"),
        ({"tolerance": -0.1}, r"tolerance must be in 0 .. 10, got -0.1"),
        (
            {"exemplars": np.zeros((1, 1, 3, 200, 200), np.uint8), "block": 200, "overlap": 99},
            "must cover at most 11008 px, got 29799",
        ),
    ],
)
def test_messages(change, message):
    arguments = {"exemplars": np.zeros((1, 2, 3, 40, 40), np.uint8), "seeds": np.zeros(1, np.uint64), **change}
    with pytest.raises(ValueError, match=message):
        quilt_textures(arguments.pop("exemplars"), **arguments)


def test_a_gpu_is_refused():
    class Cuda:
        __cuda_array_interface__ = {}  # noqa: RUF012

    with pytest.raises(TypeError, match=r"must be a NumPy array, got a CUDA array; move it with cupy\.asnumpy"):
        quilt_textures(Cuda(), seeds=np.zeros(1, np.uint64))
