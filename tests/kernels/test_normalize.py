"""Views to float tensors: torchvision's arithmetic, bit for bit, in every type and layout."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageOps

from figureground.kernels import normalize
from figureground.kernels.normalize import normalize_views

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
DTYPES = [np.float32, np.float16, "bfloat16"]
SHAPES = [(3, 3, 16, 24), (2, 3, 7, 5), (1, 3, 1, 1), (2, 3, 33, 36), (1, 3, 150, 161)]


def random_views(shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def oracle(views):
    """ToTensor and Normalize in NumPy's float32, value by value."""
    mean, std = (np.asarray(a, np.float32).reshape(3, 1, 1) for a in (MEAN, STD))
    return (views.astype(np.float32) / np.float32(255) - mean) / std


def test_by_hand():
    view = np.array([0, 51, 255], np.uint8).reshape(1, 1, 1, 3).repeat(3, 1)
    got = normalize_views(view, (0, 0.5, 1), (1, 0.5, 0.5))
    assert got.dtype == np.float32
    np.testing.assert_allclose(got[0, :, 0], [[0, 0.2, 1], [-1, -0.6, 1], [-2, -1.6, 0]], rtol=1e-6)
    got = normalize_views(view, (0, 0.5, 1), (1, 0.5, 0.5), dtype="bfloat16", channels_last=True)
    assert got.shape == (1, 1, 3, 3)
    assert got[0, 0, 2].tolist() == [0x3F80, 0x3F80, 0]  # 1, 1, 0


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels_last", [False, True])
def test_equals_torch(dtype, channels_last):
    torch = pytest.importorskip("torch")
    views = np.arange(256, dtype=np.uint8).reshape(1, 1, 4, 64).repeat(3, 1)
    got = normalize_views(views, MEAN, STD, dtype=dtype, channels_last=channels_last)
    want = torch.from_numpy(views).to(torch.float32).div(255)
    want.sub_(torch.tensor(MEAN).view(3, 1, 1)).div_(torch.tensor(STD).view(3, 1, 1))
    want = want.to({"bfloat16": torch.bfloat16, np.float16: torch.float16, np.float32: torch.float32}[dtype])
    got = torch.from_numpy(got)
    got = got.view(torch.bfloat16) if dtype == "bfloat16" else got
    assert torch.equal(got.permute(0, 3, 1, 2) if channels_last else got, want)


@pytest.mark.parametrize("shape", SHAPES)
def test_equals_numpy(shape):
    views = random_views(shape)
    want = oracle(views)
    np.testing.assert_array_equal(normalize_views(views, MEAN, STD), want)
    last = normalize_views(views, MEAN, STD, channels_last=True)
    assert last.flags.c_contiguous
    np.testing.assert_array_equal(last, want.transpose(0, 2, 3, 1))
    half = normalize_views(views, MEAN, STD, dtype=np.float16)
    np.testing.assert_array_equal(half, want.astype(np.float16))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels_last", [False, True])
def test_solarize_equals_pillow(dtype, channels_last):
    views, thresholds = random_views((6, 3, 8, 10)), np.array([-1, 0, 1, 128, 255, 256])
    turned = np.empty_like(views)
    for view, result, threshold in zip(views, turned, thresholds):
        result[...] = np.asarray(ImageOps.solarize(Image.fromarray(view.reshape(24, 10)), int(threshold))).reshape(
            3, 8, 10
        )
    options = {"dtype": dtype, "channels_last": channels_last}
    got = normalize_views(views, MEAN, STD, solarize=thresholds, **options)
    np.testing.assert_array_equal(got, normalize_views(turned, MEAN, STD, **options))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels_last", [False, True])
def test_cuda_source_equals_cpu(host_cuda, shape, dtype, channels_last):
    views, limits = random_views(shape), np.array([128, 256, 0], np.int32)[: shape[0]]
    want = normalize_views(views, MEAN, STD, dtype=dtype, channels_last=channels_last, solarize=limits)
    with host_cuda():
        got = np.zeros_like(want)
        normalize._cuda(views, normalize._table(MEAN, STD, dtype), limits, got, channels_last)
    np.testing.assert_array_equal(got, want)


def test_out_and_empty():
    views = random_views((2, 3, 4, 5))
    out = np.empty(views.shape, np.float32)
    assert normalize_views(views, MEAN, STD, out=out) is out
    np.testing.assert_array_equal(out, oracle(views))
    assert normalize_views(views[:0], MEAN, STD, channels_last=True, dtype="bfloat16").shape == (0, 4, 5, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"views": np.zeros((2, 4, 4, 3), np.uint8)}, r"views must be \(N, 3, H, W\) uint8, got \(2, 4, 4, 3\) uint8"),
        ({"views": np.zeros((2, 3, 4, 8), np.uint8)[..., ::2]}, "views must be C-contiguous"),
        ({"mean": (0.5, 0.5)}, r"mean must be three finite numbers, got \[0.5, 0.5\]"),
        ({"std": (1, 0, 1)}, r"std must be three finite numbers above 0, got \[1.0, 0.0, 1.0\]"),
        ({"dtype": np.float64}, "dtype must be float32, float16 or .bfloat16., got <class 'numpy.float64'>"),
        ({"solarize": np.zeros(2)}, r"solarize must be \(2,\) integers, got \(2,\) float64"),
        ({"out": np.zeros((2, 4, 4, 3), np.float32)}, r"out must be \(2, 3, 4, 4\) float32, got \(2, 4, 4, 3\)"),
        ({"out": np.zeros((2, 3, 4, 4), np.float16)}, "out must be .* float32, got .* float16"),
    ],
)
def test_errors(change, message):
    arguments = {"views": np.zeros((2, 3, 4, 4), np.uint8), "mean": MEAN, "std": STD, **change}
    with pytest.raises(ValueError, match="normalize_views: " + message):
        normalize_views(arguments.pop("views"), **arguments)
