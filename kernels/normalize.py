"""Views to the trainer's numbers: scale, mean, standard deviation, floating-point type and memory layout in one step.

Layout: planar uint8 views (N, 3, H, W) in; planar or channels-last float32, float16 or bfloat16 out. A value has only
256 possible results per channel, so these are computed once, on the host, in torchvision's own float32 order; both
devices then give exactly those bits.

Source: torchvision.transforms.ToTensor and Normalize.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from .arrays import aligned, array_module, on_gpu, table_on
from .launch import launch

_F = np.float32


def normalize_views(
    views: Any,
    mean: Any,
    std: Any,
    *,
    dtype: Any = np.float32,
    channels_last: bool = False,
    solarize: Any = None,
    out: Any = None,
) -> Any:
    """Turn bytes into (v / 255 - mean) / std, and solarize views on the way.

    Parameters
    ----------
    views : (N, 3, H, W) uint8
    mean, std : (3,) float
        Per channel, in units of the full scale; std above 0.
    dtype : float32, float16 or "bfloat16"
    channels_last : bool
        Write (N, H, W, 3) instead of (N, 3, H, W).
    solarize : (N,) integer, host, optional
        Threshold of each view: v becomes 255 - v where v >= threshold; 256 or more leaves the view alone.
    out : array, optional
        Of the result's shape and dtype.

    Returns
    -------
    (N, 3, H, W) or (N, H, W, 3), C-contiguous, on the device of `views`
        float32, float16, or uint16 with the bits of bfloat16, which NumPy lacks (`torch.Tensor.view(torch.bfloat16)`).

    Raises
    ------
    TypeError
        If `views` and `out` are on different devices.
    ValueError
        If a shape, dtype or value does not fit.

    Notes
    -----
    A division by 255, a subtraction and a division, each rounded to float32, as torchvision does them on the CPU; the
    narrower types are rounded from that to nearest, halves to even. Too large a result for float16 is infinite.

    Examples
    --------
    >>> view = np.array([0, 255], np.uint8).reshape(1, 1, 1, 2).repeat(3, 1)
    >>> normalize_views(view, (0.5, 0.5, 0.0), (0.5, 0.25, 1.0))[0, :, 0].tolist()
    [[-1.0, 1.0], [-2.0, 2.0], [0.0, 1.0]]
    """
    gpu = on_gpu("normalize_views", views=views, out=out)
    if views.ndim != 4 or views.shape[1] != 3 or views.dtype != np.uint8:
        raise ValueError(f"normalize_views: views must be (N, 3, H, W) uint8, got {tuple(views.shape)} {views.dtype}")
    count, _, height, width = views.shape
    table = _table(mean, std, dtype)
    limits = _limits(count, solarize)
    shape = (count, height, width, 3) if channels_last else (count, 3, height, width)
    if out is None:
        out = array_module(views).empty(shape, table.dtype)
    elif tuple(out.shape) != shape or out.dtype != table.dtype:
        raise ValueError(f"normalize_views: out must be {shape} {table.dtype}, got {tuple(out.shape)} {out.dtype}")
    for name, array in (("views", views), ("out", out)):
        if not array.flags.c_contiguous:
            raise ValueError(f"normalize_views: {name} must be C-contiguous, got strides {array.strides}; pass a copy")
    if views.size == 0:
        return out
    if gpu:
        return _cuda(views, table, limits, out, channels_last)
    return _cpu(views, mean, std, table, limits, out, channels_last)


def _table(mean: Any, std: Any, dtype: Any) -> np.ndarray:
    """Return the results of all 256 bytes in each channel, (3, 256)."""
    mean, std = np.asarray(mean, np.float32), np.asarray(std, np.float32)
    if mean.shape != (3,) or not np.isfinite(mean).all():
        raise ValueError(f"normalize_views: mean must be three finite numbers, got {mean.tolist()}")
    if std.shape != (3,) or not (np.isfinite(std) & (std > 0)).all():
        raise ValueError(f"normalize_views: std must be three finite numbers above 0, got {std.tolist()}")
    table = (np.arange(256, dtype=np.float32) / _F(255) - mean[:, None]) / std[:, None]
    if isinstance(dtype, str) and dtype == "bfloat16":
        bits = table.view(np.uint32)
        return ((bits + np.uint32(0x7FFF) + (bits >> 16 & 1)) >> 16).astype(np.uint16)
    if dtype not in (np.float32, np.float16):
        raise ValueError(f'normalize_views: dtype must be float32, float16 or "bfloat16", got {dtype!r}')
    with np.errstate(over="ignore"):
        return table.astype(dtype)


def _limits(count: int, solarize: Any) -> np.ndarray:
    if solarize is None:
        return np.full(count, 256, np.int32)
    limits = np.asarray(solarize)
    if limits.shape != (count,) or limits.dtype.kind not in "iu":
        raise ValueError(f"normalize_views: solarize must be ({count},) integers, got {limits.shape} {limits.dtype}")
    return np.clip(limits, 0, 256).astype(np.int32)


def _cpu(
    views: np.ndarray, mean: Any, std: Any, table: np.ndarray, limits: np.ndarray, out: np.ndarray, channels_last: bool
) -> np.ndarray:
    count = len(views)
    planes = views.reshape(count, 3, -1)
    if table.dtype == np.float32 and not channels_last:
        _planar_arithmetic(
            planes, np.asarray(mean, np.float32), np.asarray(std, np.float32), limits, out.reshape(planes.shape)
        )
        return out
    # Numba has no 16-bit floats: their bits are copied. Solarize is a change of the view's own table.
    bits = table.view(np.uint32 if table.dtype == np.float32 else np.uint16)
    result = out.view(bits.dtype)
    if channels_last:
        _last(planes, bits, limits, result.reshape(count, -1, 3))
    else:
        _planar(planes, bits, limits, result.reshape(planes.shape))
    return out


@numba.njit(nogil=True, cache=True)
def _planar_arithmetic(views, mean, std, limits, out):  # type: ignore[no-untyped-def]
    """Compute again instead of looking up: three times as fast, since lookups do not vectorise, and the same bits."""
    for n in range(views.shape[0]):
        limit = np.uint16(limits[n])
        for c in range(3):
            values, result, center, spread = views[n, c], out[n, c], mean[c], std[c]
            for i in range(values.size):
                v = np.uint16(values[i])
                v = v if v < limit else np.uint16(255) - v
                result[i] = (_F(np.uint8(v)) / _F(255) - center) / spread


@numba.njit(nogil=True, cache=True)
def _view_table(table, limit, own):  # type: ignore[no-untyped-def]
    for c in range(3):
        for v in range(256):
            own[c, v] = table[c, v if v < limit else 255 - v]


@numba.njit(nogil=True, cache=True)
def _planar(views, table, limits, out):  # type: ignore[no-untyped-def]
    own = np.empty_like(table)
    for n in range(views.shape[0]):
        _view_table(table, limits[n], own)
        for c in range(3):
            values, result, row = views[n, c], out[n, c], own[c]
            for i in range(values.size):
                result[i] = row[values[i]]


@numba.njit(nogil=True, cache=True)
def _last(views, table, limits, out):  # type: ignore[no-untyped-def]
    own = np.empty_like(table)
    for n in range(views.shape[0]):
        _view_table(table, limits[n], own)
        reds, greens, blues, result = views[n, 0], views[n, 1], views[n, 2], out[n]
        for i in range(reds.size):
            result[i, 0], result[i, 1], result[i, 2] = own[0, reds[i]], own[1, greens[i]], own[2, blues[i]]


def _cuda(views: Any, table: np.ndarray, limits: np.ndarray, out: Any, channels_last: bool) -> Any:
    xp = array_module(views)
    count, pixels, bits = len(views), views.shape[2] * views.shape[3], 8 * table.dtype.itemsize
    several = 128 // bits  # pixels a thread: as many as fill 16 bytes
    wide = pixels % several == 0 and aligned(views, out)
    groups = pixels // several if wide else pixels
    chunks = -(-groups // 4096)  # blocks per plane (planar) or view (channels last): 256 threads, up to 16 groups each
    span = -(-groups // chunks)
    name = f"normalize_{'last' if channels_last else 'planar'}{bits}" + ("x" if wide else "")
    grid = (chunks * count * (1 if channels_last else 3),)
    tables = (table_on(xp, table), table_on(xp, limits))
    launch("normalize", name, grid, (256,), (views, *tables, out, np.int64(groups), np.int32(chunks), np.int64(span)))
    return out
