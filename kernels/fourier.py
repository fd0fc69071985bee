"""Views in the frequency domain: take the style of another view, or keep the texture and lose the scene.

Layout: planar uint8 views (N, 3, H, W) in and out. There is no CUDA source: the transforms are `numpy.fft` on the CPU and
`cupy.fft` (cuFFT) on the GPU, the rest are array expressions that both understand. The libraries add in different orders,
so the devices agree to one grey level, not bit for bit: a value half-way between two levels may round either way.

Source: Yang and Soatto 2020, "FDA: Fourier domain adaptation for semantic segmentation", equation 2; Scalbert, Vakalopoulou
and Couzinie-Devy, "Towards domain-invariant self-supervised learning with Batch Styles Standardization". Galerne, Gousseau
and Morel 2011, "Random phase textures: theory and synthesis"; Moisan 2011, "Periodic plus smooth image decomposition".
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from .arrays import array_module, on_gpu
from .draws import PHASE, chosen_of, keys_of, mix64
from .planar import check_views, output_like

_NONE = 1e-3
"""Coefficients below this are rounding errors of the transform: their phase counts as zero."""
_CHUNK = {False: 1, True: 64}
"""Views transformed at a time, on the CPU (what fits its cache) and on the GPU."""


def transfer_amplitude(
    views: Any, *, style: np.ndarray, window: float = 0.1, ratio: float | np.ndarray = 1.0, out: Any = None
) -> Any:
    """Give views the low-frequency amplitudes of another view, each keeping its own phase.

    Parameters
    ----------
    views : (N, 3, H, W) uint8
    style : (N,) int32, NumPy
        Row of `views` whose amplitudes are taken; -1: the view is left alone. One value for the whole batch
        standardises its style.
    window : float
        Half the side of the window of frequencies, as a share of min(H, W), 0 .. 0.5; at 0.5 every frequency takes part.
    ratio : float or (N,) floats, NumPy
        How much of the style, 0 .. 1.
    out : (N, 3, H, W) uint8, optional
        May be `views` itself.

    Returns
    -------
    (N, 3, H, W) uint8, on the device of `views`.

    Raises
    ------
    TypeError
        If the arrays are on different devices.
    ValueError
        If a shape, dtype or range does not fit.

    Notes
    -----
    Per channel, for frequencies |fy|, |fx| <= floor(window * min(H, W)): the amplitude becomes (1 - ratio) * own + ratio *
    style. The mean (frequency 0) is among them, so brightness and colour cast move as well. The change is transformed
    back and added to the view, rounded to nearest and cut to 0 .. 255. FDA's windows are 0.01, 0.05 and 0.09; those of
    Batch Styles Standardization are not in the sources that we could read. In float64: the phases of small coefficients
    need it.

    Examples
    --------
    >>> views = np.stack([np.full((3, 4, 4), 50, np.uint8), np.full((3, 4, 4), 90, np.uint8)])
    >>> transfer_amplitude(views, style=np.array([1, -1], np.int32), ratio=0.5)[:, 0, 0]
    array([[70, 70, 70, 70],
           [90, 90, 90, 90]], dtype=uint8)
    """
    gpu = on_gpu("transfer_amplitude", views=views, out=out)
    count, height, width = check_views("transfer_amplitude", views)
    style = _check_style(style, count)
    if not 0.0 <= window <= 0.5:
        raise ValueError(f"transfer_amplitude: window must be in 0 .. 0.5, got {window}")
    ratios = _check_ratio(ratio, count)
    out = output_like("transfer_amplitude", views, out)
    xp = array_module(views)
    reach = int(window * min(height, width))
    donors = np.unique(style[style >= 0])
    kept = {int(donor): i for i, donor in enumerate(donors)}
    amplitudes = [xp.abs(_low(xp, views[rows], reach)) for rows in _chunks(xp, donors, gpu)]
    if out is not views:
        out[...] = views
    if not kept:
        return out
    amplitude = xp.concatenate(amplitudes)
    for rows in _chunks(np, np.flatnonzero(style >= 0), gpu):
        places = rows if xp is np else xp.asarray(rows)
        wanted = xp.asarray(np.array([kept[int(s)] for s in style[rows]]))
        share = xp.asarray(ratios[rows])[:, None, None, None]
        own = views[places]
        low = _low(xp, own, reach)
        change = _phasor(xp, low) * (amplitude[wanted] - xp.abs(low)) * share
        out[places] = _to_bytes(xp, own + _low_inverse(xp, change, (height, width)))
    return out


def randomize_phase(views: Any, *, seeds: np.ndarray, apply: np.ndarray | None = None, out: Any = None) -> Any:
    """Turn views into textures: keep each frequency's amplitude and the relation of the colours, draw the phase.

    Parameters
    ----------
    views : (N, 3, H, W) uint8
    seeds : (N,) uint64, NumPy
    apply : (N,) bool, NumPy, optional
        False: the view is left alone.
    out : (N, 3, H, W) uint8, optional
        May be `views` itself.

    Returns
    -------
    (N, 3, H, W) uint8, on the device of `views`.

    Raises
    ------
    TypeError
        If the arrays are on different devices.
    ValueError
        If a shape, dtype or range does not fit.

    Notes
    -----
    One phase field is added to the phases of the three channels, so that colours stay together: that of the transform of
    white noise (a hash of the pixel's number), antisymmetric by itself, so the result is real. What is transformed is the
    periodic component p = u - s. The smooth component s solves a Poisson equation whose right side is the jump v across
    the borders: S(fy, fx) = V(fy, fx) / (2 cos(2 pi fy / H) + 2 cos(2 pi fx / W) - 4), S(0, 0) = 0. So the spectrum
    has no cross, and the texture no stripes. The mean is kept but for what is cut at 0 and 255. In float32.

    Examples
    --------
    >>> views = np.arange(96, 144, dtype=np.uint8).reshape(1, 3, 4, 4)
    >>> texture = randomize_phase(views, seeds=np.array([3], np.uint64))
    >>> bool((texture == views).all()), views.mean((2, 3)), np.round(texture.mean((2, 3)))
    (False, array([[103.5, 119.5, 135.5]]), array([[104., 120., 136.]]))
    """
    gpu = on_gpu("randomize_phase", views=views, out=out)
    count, height, width = check_views("randomize_phase", views)
    keys = keys_of("randomize_phase", seeds, count, PHASE)
    chosen = chosen_of("randomize_phase", apply, count)
    out = output_like("randomize_phase", views, out)
    xp = array_module(views)
    if out is not views:
        out[...] = views
    for rows in _chunks(np, np.flatnonzero(chosen), gpu):
        places = rows if xp is np else xp.asarray(rows)
        own = views[places].astype(np.float32)
        spectrum = xp.fft.rfft2(own) - _smooth(xp, own)
        noise = xp.fft.rfft2(_white(xp, xp.asarray(keys[rows]), height, width))
        turn = _phasor(xp, noise)
        turn[:, 0, 0] = 1
        spectrum *= turn[:, None]
        out[places] = _to_bytes(xp, xp.fft.irfft2(spectrum, s=(height, width)))
    return out


def _check_style(style: Any, count: int) -> np.ndarray:
    if not isinstance(style, np.ndarray) or style.shape != (count,) or style.dtype != np.int32:
        got = f"{style.shape} {style.dtype}" if isinstance(style, np.ndarray) else type(style).__name__
        raise ValueError(f"transfer_amplitude: style must be ({count},) int32 in NumPy, got {got}")
    if count and (style.min() < -1 or style.max() >= count):
        raise ValueError(f"transfer_amplitude: style must be in -1 .. {count - 1}, got {style.min()} .. {style.max()}")
    return style


def _check_ratio(ratio: Any, count: int) -> np.ndarray:
    ratios = np.asarray(ratio, np.float64)
    if ratios.shape not in ((), (count,)) or not np.all((ratios >= 0) & (ratios <= 1)):
        raise ValueError(f"transfer_amplitude: ratio must be a number or ({count},) numbers in 0 .. 1, got {ratio}")
    return np.broadcast_to(ratios, count)


def _chunks(xp: Any, rows: np.ndarray, gpu: bool) -> list[Any]:
    size = _CHUNK[gpu]
    return [xp.asarray(rows[i : i + size]) for i in range(0, len(rows), size)]


def _low(xp: Any, views: Any, reach: int) -> Any:
    """Transform of (n, 3, H, W) at |fy|, |fx| <= reach: 0 elsewhere, and columns fx > reach are not computed."""
    height, width = views.shape[2:]
    columns = xp.fft.rfft(views.astype(np.float64), axis=3)[..., : min(reach, width // 2) + 1]
    return xp.fft.fft(columns, axis=2) * _rows_in(xp, height, reach)


def _low_inverse(xp: Any, spectrum: Any, size: tuple[int, int]) -> Any:
    return xp.fft.irfft(xp.fft.ifft(spectrum, axis=2), n=size[1], axis=3)


@functools.lru_cache(maxsize=8)
def _rows_inside(height: int, reach: int) -> np.ndarray:
    return (np.abs(np.fft.fftfreq(height, 1 / height)) <= reach)[:, None]


def _rows_in(xp: Any, height: int, reach: int) -> Any:
    return xp.asarray(_rows_inside(height, reach))


def _phasor(xp: Any, spectrum: Any) -> Any:
    """exp(i * phase); 1 where there is no phase."""
    size = xp.abs(spectrum)
    none = size < _NONE
    return xp.where(none, np.float32(1), spectrum / xp.where(none, np.float32(1), size))


def _white(xp: Any, keys: Any, height: int, width: int) -> Any:
    """White noise of 24 bits, -0.5 .. 0.5, as (n, H, W) float32: the hash of the key and of the pixel's number."""
    numbers = mix64(xp.arange(height * width, dtype=np.uint64))
    bits = mix64(keys[:, None] ^ numbers) >> np.uint64(40)
    noise = bits.astype(np.float32) * np.float32(2.0**-24) - np.float32(0.5)
    return noise.reshape(-1, height, width)


def _smooth(xp: Any, views: Any) -> Any:
    """Transform of the smooth component: the jumps across the borders, over the Laplacian's symbol."""
    height, width = views.shape[2:]
    rows = views[:, :, -1, :] - views[:, :, 0, :]  # added to the first row, taken from the last
    columns = views[:, :, :, -1] - views[:, :, :, 0]
    turn_y, turn_x, symbol = (xp.asarray(a) for a in _symbols(height, width))
    # The transform of a row (column) that stands alone is the same in every row (column), but for a phase.
    jump = xp.fft.rfft(rows, axis=2)[:, :, None, :] * turn_y[:, None]
    jump += xp.fft.fft(columns, axis=2)[:, :, :, None] * turn_x
    return jump * symbol


@functools.lru_cache(maxsize=8)
def _symbols(height: int, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """1 - exp(2 pi i f / H), the same for W, and the inverse of the Laplacian's symbol (0 at frequency 0)."""
    fy, fx = np.fft.fftfreq(height), np.fft.rfftfreq(width)
    laplace = 2 * np.cos(2 * np.pi * fy)[:, None] + 2 * np.cos(2 * np.pi * fx) - 4
    laplace[0, 0] = 1
    inverse = 1 / laplace
    inverse[0, 0] = 0
    turns = (1 - np.exp(2j * np.pi * f) for f in (fy, fx))
    turn_y, turn_x = (t.astype(np.complex64) for t in turns)
    return turn_y, turn_x, inverse.astype(np.float32)


def _to_bytes(xp: Any, values: Any) -> Any:
    return xp.clip(xp.rint(values), 0, 255).astype(np.uint8)
