"""Sixteen rows side by side: the vector operations against NumPy."""

from __future__ import annotations

import numba
import numpy as np
import pytest

from figureground.kernels.lanes import bytes_at, transpose_int16, transpose_uint8, weigh_byte_lanes, weigh_lanes


@numba.njit
def _transpose(wide, source, source_pitch, target, target_pitch):
    if wide:
        transpose_int16(source.ctypes.data, source_pitch, target.ctypes.data, target_pitch)
    else:
        transpose_uint8(source.ctypes.data, source_pitch, target.ctypes.data, target_pitch)


@numba.njit
def _weigh(source, step, weights, count, target):
    weigh_lanes(source.ctypes.data, step, weights.ctypes.data, count, target.ctypes.data)


@numba.njit
def _weigh_bytes(source, step, weights, count, target):
    weigh_byte_lanes(source.ctypes.data, step, weights.ctypes.data, count, target.ctypes.data)


@numba.njit
def _first_byte(address):
    return numba.carray(bytes_at(address), 1)[0]


@pytest.mark.parametrize("dtype", [np.uint8, np.int16])
def test_transpose(dtype):
    source = np.random.default_rng(0).integers(0, 250, (16, 21)).astype(dtype)
    target = np.zeros((16, 30), dtype)
    _transpose(dtype == np.int16, source, source.strides[0], target, target.strides[0])
    np.testing.assert_array_equal(target[:, :16], source[:, :16].T)
    assert not target[:, 16:].any()


@pytest.mark.parametrize("count", [1, 2, 3, 7, 40])
def test_weigh_lanes(count):
    rng = np.random.default_rng(count)
    source = rng.integers(0, 16321, (count, 3, 16)).astype(np.int16)
    weights = rng.multinomial(2**14, np.ones(count) / count).astype(np.int32)
    target = np.zeros(17, np.uint8)
    _weigh(source, source.strides[0], weights, count, target)
    want = ((source[:, 0].astype(np.int64) * weights[:, None]).sum(0) + 2**19) >> 20
    np.testing.assert_array_equal(target[:16], want)
    assert target[16] == 0


@pytest.mark.parametrize("count", [1, 2, 3, 7, 40])
def test_weigh_byte_lanes(count):
    rng = np.random.default_rng(count)
    source = rng.integers(0, 256, (count, 3, 16), dtype=np.uint8)
    weights = rng.integers(-20000, 20000, count).astype(np.int32)
    target = np.zeros(17, np.int16)
    _weigh_bytes(source, source.strides[0], weights, count, target)
    want = ((source[:, 0].astype(np.int64) * weights[:, None]).sum(0) + 2**7) >> 8
    np.testing.assert_array_equal(target[:16], want.clip(0, 255 * 64))
    assert target[16] == 0


def test_bytes_at():
    array = np.array([3, 201], np.uint8)
    assert _first_byte(array.ctypes.data + 1) == 201
