"""The door to the saliency kernels: masks of whole images."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from figureground.kernels.saliency import METHODS, estimate_saliency

GOOD = ("fused", "cells", "rbd", "mb+", "mbd")
EXACT = GOOD  # on CPU and CUDA alike


def _disc(size=64, figure=(230, 60, 40), ground=(40, 90, 120), noise=6):
    """A disc left of the center on a noisy ground, and the truth."""
    y, x = np.mgrid[:size, :size]
    truth = (y - 0.5 * size) ** 2 + (x - 0.42 * size) ** 2 < (0.22 * size) ** 2
    image = np.where(truth, np.reshape(figure, (3, 1, 1)), np.reshape(ground, (3, 1, 1)))
    image = image + np.random.default_rng(0).integers(-noise, noise + 1, image.shape)
    return image.clip(0, 255).astype(np.uint8)[None], truth


def _scenes(count, height=64, width=64):
    """Different scenes: blobs of color on blobs of color."""
    rng = np.random.default_rng(7)
    coarse = rng.integers(0, 256, (count, 3, -(-height // 12), -(-width // 12))).repeat(12, 2).repeat(12, 3)
    return (coarse[..., :height, :width] * 0.8 + rng.integers(0, 40, (count, 3, height, width))).astype(np.uint8)


def _iou(mask, truth):
    found = mask > 127
    return (found & truth).sum() / (found | truth).sum()


@pytest.mark.parametrize("method", GOOD)
@pytest.mark.parametrize("size", [64, 96])
def test_disc(method, size):
    image, truth = _disc(size)
    mask = estimate_saliency(image, method=method)[0]
    assert _iou(mask, truth) > 0.93


@pytest.mark.parametrize("method", METHODS)
def test_flat_images_have_no_figure(method):
    assert estimate_saliency(np.full((2, 3, 64, 64), 130, np.uint8), method=method).max() == 0


@pytest.mark.parametrize("method", EXACT)
@pytest.mark.parametrize("shape", [(1, 64, 64), (3, 37, 53), (1, 16, 16)])
def test_cuda_source_equals_cpu(host_cuda, method, shape):
    images = _scenes(*shape)
    want = estimate_saliency(images, method=method)
    with host_cuda(dispatch=True):
        got = estimate_saliency(images, method=method)
    np.testing.assert_array_equal(got, want)


@pytest.mark.gpu
@pytest.mark.parametrize("method", EXACT)
def test_gpu_equals_cpu(method):
    import cupy

    images = _scenes(40, 112, 112)
    got = estimate_saliency(cupy.asarray(images), method=method)
    np.testing.assert_array_equal(cupy.asnumpy(got), estimate_saliency(images, method=method))


@pytest.mark.parametrize("method", METHODS)
def test_images_do_not_see_their_batch(method):
    images = _scenes(37)  # more than a chunk
    masks = estimate_saliency(images, method=method)
    order = np.random.default_rng(8).permutation(len(images))
    np.testing.assert_array_equal(estimate_saliency(images[order], method=method), masks[order])
    for n in (0, 31, 32, 36):
        np.testing.assert_array_equal(estimate_saliency(images[n : n + 1], method=method)[0], masks[n])


def test_out_and_empty():
    images = _scenes(2)
    out = np.zeros((2, 64, 64), np.uint8)
    assert estimate_saliency(images, out=out) is out
    np.testing.assert_array_equal(out, estimate_saliency(images))
    assert estimate_saliency(images[:0]).shape == (0, 64, 64)


@pytest.mark.parametrize(("height", "width"), [(16, 256), (100, 61), (256, 256)])
def test_any_size_in_bounds(height, width):
    masks = estimate_saliency(_scenes(2, height, width))
    assert masks.shape == (2, height, width)
    assert masks.min() < 64 < 192 < masks.max()


def test_quality_on_photographs(shared_data):
    folder = shared_data / "duts_tr_400"
    names = sorted(path.stem for path in (folder / "images").glob("*.jpg"))[1::4]
    images, truths = [], []
    for name in names:
        photo = cv2.cvtColor(cv2.imread(str(folder / "images" / f"{name}.jpg")), cv2.COLOR_BGR2RGB)
        images.append(cv2.resize(photo, (64, 64), interpolation=cv2.INTER_AREA).transpose(2, 0, 1))
        truths.append(cv2.imread(str(folder / "masks" / f"{name}.png"), cv2.IMREAD_GRAYSCALE) > 127)
    quality = {}
    for method in ("fused", "cells", "rbd", "mb+"):
        masks = estimate_saliency(np.ascontiguousarray(images), method=method)
        full = [cv2.resize(mask, truth.shape[::-1]) for mask, truth in zip(masks, truths)]
        quality[method] = np.mean([_iou(mask, truth) for mask, truth in zip(full, truths)])
    # Measured on these hundred: see bench/saliency.py. A fall below means that a step has broken.
    assert quality["fused"] > 0.735
    assert quality["cells"] > 0.715
    assert quality["rbd"] > 0.72
    assert quality["mb+"] > 0.635
    assert quality["fused"] == max(quality.values())


def test_messages():
    images = _scenes(1)
    with pytest.raises(ValueError, match=r"images must be \(N, 3, H, W\) uint8, got \(3, 64, 64\) uint8"):
        estimate_saliency(images[0])
    with pytest.raises(ValueError, match=r"height and width must be in 16\.\.256, got 8 x 64; resize"):
        estimate_saliency(images[:, :, :8].copy())
    with pytest.raises(ValueError, match=r"method must be one of fused, cells, rbd, mb.*, got 'u2net'"):
        estimate_saliency(images, method="u2net")
    with pytest.raises(ValueError, match="images must be C-contiguous"):
        estimate_saliency(images[..., ::-1])
    with pytest.raises(ValueError, match=r"out must be \(1, 64, 64\) uint8, got \(1, 64, 32\) uint8"):
        estimate_saliency(images, out=np.zeros((1, 64, 32), np.uint8))
    with pytest.raises(TypeError, match="images must be a NumPy or CUDA array, got list"):
        estimate_saliency([1])
