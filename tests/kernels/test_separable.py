"""The two integer passes on the CPU, exactly."""

from __future__ import annotations

import numpy as np
import pytest

from figureground.kernels.arrays import Ragged
from figureground.kernels.axis import fill_axis, taps_of
from figureground.kernels.render_rows import full_rows, planes_of
from figureground.kernels.separable import axes_of, buffers_of, resample_plane, resample_strip, store_strip


def _matrix(n, n_out):
    """Weights of one axis as an (n_out, n) matrix."""
    first, count = np.zeros(n_out, np.int32), np.zeros(n_out, np.int32)
    weights = np.zeros((n_out, taps_of(n / n_out)), np.int32)
    fill_axis(0.0, n / n_out, n, first, count, weights)
    matrix = np.zeros((n_out, n), np.int64)
    for i in range(n_out):
        matrix[i, first[i] : first[i] + count[i]] = weights[i, : count[i]]
    return matrix


def _oracle(array, size):
    rows, columns = _matrix(array.shape[0], size[0]), _matrix(array.shape[1], size[1])
    v = (np.einsum("yr,rjc->yjc", rows, array.astype(np.int64)) + 2**7) >> 8
    assert v.max() < 2**15
    return ((np.einsum("xj,yjc->cyx", columns, v) + 2**19) >> 20).astype(np.uint8)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("source", [(1, 1), (5, 33), (40, 41), (100, 16)])
@pytest.mark.parametrize("size", [(1, 1), (16, 16), (17, 15), (33, 64), (3, 100)])
def test_equals_matrix_products(source, size, channels):
    array = np.random.default_rng(0).integers(0, 256, (*source, 3), dtype=np.uint8)
    array[array > 200] = 255
    plane = planes_of(full_rows([source]), Ragged.from_arrays([array]), None, size)[0, 0]
    if channels == 1:  # the first of the three bytes of a row three times as wide
        wide = np.ascontiguousarray(array[..., 0])
        plane["address"], plane["pitch"], array = wide.ctypes.data, wide.shape[1], wide[..., None]
    got = np.full((channels, *size), 7, np.uint8)
    resample_plane(plane, channels, *size, got.ctypes.data)
    np.testing.assert_array_equal(got, _oracle(array, size))


@pytest.mark.parametrize("flip", [0, 1])
@pytest.mark.parametrize(("begin", "end"), [(0, 50), (0, 1), (16, 32), (32, 50), (48, 49)])
def test_strips_of_some_columns_equal_the_whole(begin, end, flip):
    image = np.random.default_rng(3).integers(0, 256, (61, 83, 3), np.uint8)
    rows = full_rows([image.shape[:2]])
    rows["box"], rows["clip"], rows["flip"] = (5, 3, 70, 55), 1, flip
    plane = planes_of(rows, Ragged.from_arrays([image]), None, (40, 50))[0, 0]
    whole, got = np.empty((3, 40, 50), np.uint8), np.full((3, 40, 50), 7, np.uint8)
    resample_plane(plane, 3, 40, 50, whole.ctypes.data)
    axes = axes_of(plane, 40, 50)
    buffers = buffers_of(plane, 3, axes, begin, end)
    for y in (16, 32):
        resample_strip(plane, 3, axes, buffers, y, begin, end)
        store_strip(buffers[3], min(16, 40 - y), begin, end, got[0, y:].ctypes.data, 40)
    np.testing.assert_array_equal(got[:, 16:, begin:end], whole[:, 16:, begin:end])
    got[:, 16:, begin:end] = 7
    assert (got == 7).all()
