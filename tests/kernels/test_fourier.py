"""Style by amplitude, texture by random phase."""

from __future__ import annotations

import draws_oracle as oracle
import numpy as np
import pytest

from figureground.kernels import draws, fourier

SHAPES = [(3, 16, 24), (2, 15, 9), (1, 1, 1), (2, 1, 7), (2, 8, 1), (2, 33, 20)]


def _case(count, height, width, low=0, high=256):
    rng = np.random.default_rng(height)
    views = rng.integers(low, high, (count, 3, height, width)).astype(np.uint8)
    ramp = np.linspace(0, (high - low) / 4, height)[:, None] + np.linspace(0, (high - low) / 4, width)
    views = (views // 2 + low // 2 + ramp).astype(np.uint8)
    return views, rng.integers(0, 2**64, count, dtype=np.uint64)


def _frequencies(height, width):
    return np.meshgrid(np.fft.fftfreq(height, 1 / height), np.fft.fftfreq(width, 1 / width), indexing="ij")


def _styled(own, style, window, ratio):
    """Clearest version for one channel."""
    spectrum, other = np.fft.fft2(own), np.fft.fft2(style)
    fy, fx = _frequencies(*own.shape)
    reach = int(window * min(own.shape))
    inside = (np.abs(fy) <= reach) & (np.abs(fx) <= reach)
    amplitude = np.abs(spectrum)
    amplitude[inside] = (1 - ratio) * amplitude[inside] + ratio * np.abs(other)[inside]
    phase = np.where(np.abs(spectrum) < 1e-3, 0, np.angle(spectrum))
    result = np.fft.ifft2(amplitude * np.exp(1j * phase))
    assert np.abs(result.imag).max() < 1e-6
    return result.real


def _periodic(plane):
    """Moisan's periodic component: the plane minus the solution of the Poisson equation of its border jumps."""
    jumps = np.zeros(plane.shape)
    jumps[0] += plane[-1] - plane[0]
    jumps[-1] += plane[0] - plane[-1]
    jumps[:, 0] += plane[:, -1] - plane[:, 0]
    jumps[:, -1] += plane[:, 0] - plane[:, -1]
    fy, fx = _frequencies(*plane.shape)
    symbol = 2 * np.cos(2 * np.pi * fy / plane.shape[0]) + 2 * np.cos(2 * np.pi * fx / plane.shape[1]) - 4
    symbol[0, 0] = 1
    smooth = np.fft.fft2(jumps) / symbol
    smooth[0, 0] = 0
    smooth = np.fft.ifft2(smooth).real
    laplacian = sum(np.roll(smooth, step, axis) for step in (1, -1) for axis in (0, 1)) - 4 * smooth
    np.testing.assert_allclose(laplacian, jumps, atol=1e-9)
    return plane - smooth


def _texture(view, seed):
    """Clearest version for one view, not yet rounded."""
    key = oracle.chain(int(seed), draws.PHASE)
    height, width = view.shape[1:]
    noise = np.array([oracle.uniform(key, i) - 0.5 for i in range(height * width)]).reshape(height, width)
    phase = np.angle(np.fft.fft2(noise))
    phase[0, 0] = 0
    planes = [np.fft.ifft2(np.fft.fft2(_periodic(plane.astype(float))) * np.exp(1j * phase)) for plane in view]
    assert np.abs(np.imag(planes)).max() < 1e-6
    return np.real(planes)


def _rounded_close(got, want):
    """Equal to the rounded values, but for those half-way between two levels."""
    np.testing.assert_allclose(got, np.clip(want, 0, 255), atol=0.5 + 1e-3)


def test_amplitude_by_hand():
    # Only the mean is inside a window of 0: it becomes that of the style, and the figure stays.
    views = np.array([[10, 30], [100, 120]], np.uint8)[:, None, None].repeat(3, 1)
    got = fourier.transfer_amplitude(views, style=np.array([1, -1], np.int32), window=0)
    assert got[0, 0].tolist() == [[100, 120]]
    assert got[1, 0].tolist() == [[100, 120]]
    half = fourier.transfer_amplitude(views, style=np.array([1, 0], np.int32), window=0, ratio=np.array([0.5, 0.1]))
    assert half[0, 0].tolist() == [[55, 75]]
    assert half[1, 0].tolist() == [[91, 111]]


@pytest.mark.parametrize(("count", "height", "width"), SHAPES)
@pytest.mark.parametrize("window", [0.0, 0.1, 0.3, 0.5])
def test_amplitude_equals_oracle(count, height, width, window):
    views, _ = _case(count, height, width)
    style = np.roll(np.arange(count, dtype=np.int32), 1)
    ratio = np.linspace(1, 0.3, count)
    got = fourier.transfer_amplitude(views, style=style, window=window, ratio=ratio)
    for n in range(count):
        for c in range(3):
            _rounded_close(got[n, c], _styled(views[n, c], views[style[n], c], window, ratio[n]))


@pytest.mark.parametrize(("count", "height", "width"), SHAPES)
def test_texture_equals_oracle(count, height, width):
    views, seeds = _case(count, height, width)
    got = fourier.randomize_phase(views, seeds=seeds)
    for n in range(count):
        _rounded_close(got[n], _texture(views[n], seeds[n]))


@pytest.mark.parametrize(("count", "height", "width"), SHAPES)
def test_devices_agree_to_one_level(xp, count, height, width):
    views, seeds = _case(count, height, width)
    style = np.zeros(count, np.int32)
    want = [fourier.transfer_amplitude(views, style=style), fourier.randomize_phase(views, seeds=seeds)]
    on = xp.asarray(views)
    got = [fourier.transfer_amplitude(on, style=style), fourier.randomize_phase(on, seeds=seeds)]
    for g, w in zip(got, want, strict=True):
        host = g if xp is np else xp.asnumpy(g)
        assert host.dtype == np.uint8
        assert np.abs(host.astype(int) - w).max() <= 1


def test_the_path_of_the_gpu(host_cuda):
    views, seeds = _case(5, 16, 10)
    style, apply = np.array([1, 1, -1, 0, 4], np.int32), np.array([1, 1, 0, 1, 1], bool)

    def run():
        return fourier.transfer_amplitude(views, style=style), fourier.randomize_phase(views, seeds=seeds, apply=apply)

    want = run()
    with host_cuda(dispatch=True):
        got = run()
    for g, w in zip(got, want, strict=True):
        np.testing.assert_array_equal(g, w)


def test_amplitude_properties():
    views, _ = _case(4, 32, 32, 90, 160)
    own = np.arange(4, dtype=np.int32)
    np.testing.assert_array_equal(fourier.transfer_amplitude(views, style=own, window=0.5), views)
    np.testing.assert_array_equal(fourier.transfer_amplitude(views, style=own[::-1].copy(), ratio=0.0), views)
    np.testing.assert_array_equal(fourier.transfer_amplitude(views, style=own * 0 - 1), views)
    # One style for the batch: afterwards all views have its low-frequency amplitudes.
    got = fourier.transfer_amplitude(views, style=own * 0, window=0.1)
    amplitude = np.abs(np.fft.fft2(got))[:, :, :3, :3]
    np.testing.assert_allclose(amplitude, np.broadcast_to(amplitude[:1], amplitude.shape), rtol=0.05, atol=40)
    same = views.copy()
    assert fourier.transfer_amplitude(same, style=own * 0, out=same) is same
    np.testing.assert_array_equal(same, got)


def test_texture_properties():
    views, seeds = _case(3, 48, 64, 100, 156)
    got = fourier.randomize_phase(views, seeds=seeds)
    assert (got != views).mean() > 0.5
    np.testing.assert_allclose(got.mean((2, 3)), views.mean((2, 3)), atol=0.1)
    # The amplitudes of the periodic component stay, up to rounding; the colours' correlation as well.
    periodic = np.array([[_periodic(plane.astype(float)) for plane in view] for view in views])
    want, have = np.abs(np.fft.fft2(periodic)), np.abs(np.fft.fft2(got))
    assert np.abs(want - have).mean() < 0.3 * np.sqrt(48 * 64)
    for n in range(3):
        pairs = [np.corrcoef(a[n].reshape(3, -1)) for a in (periodic, got)]
        np.testing.assert_allclose(pairs[0], pairs[1], atol=0.02)
    alone = fourier.randomize_phase(views[1:2], seeds=seeds[1:2])
    np.testing.assert_array_equal(alone[0], got[1])
    other = fourier.randomize_phase(views, seeds=seeds + np.uint64(1))
    assert (other != got).mean() > 0.5


def test_texture_has_no_cross():
    # A ramp has a jump at its border, hence a cross in its spectrum; its periodic component is nearly flat.
    ramp = np.broadcast_to(np.linspace(40, 215, 64), (1, 3, 64, 64)).round().astype(np.uint8)
    got = fourier.randomize_phase(np.ascontiguousarray(ramp), seeds=np.array([1], np.uint64))
    assert got.std() < 0.2 * ramp.std()


def test_in_place_apply_and_empty():
    views, seeds = _case(3, 12, 12)
    want = fourier.randomize_phase(views, seeds=seeds)
    apply = np.array([0, 1, 1], bool)
    same = views.copy()
    assert fourier.randomize_phase(same, seeds=seeds, apply=apply, out=same) is same
    np.testing.assert_array_equal(same, np.where(apply[:, None, None, None], want, views))
    empty = np.empty((0, 3, 8, 8), np.uint8)
    assert fourier.randomize_phase(empty, seeds=seeds[:0]).shape == empty.shape
    assert fourier.transfer_amplitude(empty, style=np.empty(0, np.int32)).shape == empty.shape


def test_messages():
    views, seeds = _case(2, 8, 8)
    style = np.zeros(2, np.int32)
    with pytest.raises(ValueError, match=r"transfer_amplitude: style must be \(2,\) int32 in NumPy, got \(2,\) int64"):
        fourier.transfer_amplitude(views, style=style.astype(np.int64))
    with pytest.raises(ValueError, match=r"transfer_amplitude: style must be in -1 .. 1, got 0 .. 2"):
        fourier.transfer_amplitude(views, style=np.array([0, 2], np.int32))
    with pytest.raises(ValueError, match=r"transfer_amplitude: window must be in 0 .. 0.5, got 0.7"):
        fourier.transfer_amplitude(views, style=style, window=0.7)
    with pytest.raises(ValueError, match=r"ratio must be a number or \(2,\) numbers in 0 .. 1, got 1.5"):
        fourier.transfer_amplitude(views, style=style, ratio=1.5)
    with pytest.raises(ValueError, match=r"randomize_phase: seeds must be \(2,\) uint64 in NumPy"):
        fourier.randomize_phase(views, seeds=seeds[:1])
    with pytest.raises(ValueError, match=r"randomize_phase: views must be \(N, 3, H, W\) uint8, got \(3, 8, 8\)"):
        fourier.randomize_phase(views[0], seeds=seeds)
