"""Bicubic views: against Pillow, an exact oracle in NumPy, and the CUDA source."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import skimage.data
from PIL import Image

from figureground.kernels import resample
from figureground.kernels.arrays import Ragged
from figureground.kernels.axis_cubic import cubic_taps_of, fill_cubic_axis
from figureground.kernels.background import composite_views
from figureground.kernels.render_rows import planes_of

BOXES = (None, (60, 20, 201, 173), (10, 7, 40, 21), (33, 44, 1, 1), (0, 290, 400, 10), (7.3, 11.8, 200.5, 133.2))


@functools.cache
def _photograph(name):
    return np.ascontiguousarray(getattr(skimage.data, name)())


def _noise(height, width, seed=0, *, hard=False):
    pixels = np.random.default_rng([seed, height, width]).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return pixels // 128 * 255 if hard else pixels


def _row(array, box=None, **fields):
    row = resample.full_rows([array.shape[:2]])
    for name, value in {**fields, **({} if box is None else {"box": box})}.items():
        row[name] = value
    return row


def _render(array, size, box=None, **fields):
    row = _row(array, box, **fields)
    views, _ = resample.render_views(Ragged.from_arrays([array]), row, size, interpolation="bicubic")
    return views[0].transpose(1, 2, 0)


def _pillow(array, size, box=None, clip=1):
    """torchvision's resized_crop on PIL images. Rows first, which Pillow 13 no longer does for every shape."""
    image, how = Image.fromarray(array), Image.Resampling.BICUBIC
    x, y, width, height = (0, 0, *image.size) if box is None else (float(np.float32(b)) for b in box)
    if clip:
        left, top = np.floor(x), np.floor(y)
        image = image.crop((int(left), int(top), int(np.ceil(x + width)), int(np.ceil(y + height))))
        x, y = x - left, y - top
    image = image.resize((size[1], image.size[1]), how, box=(x, 0, x + width, image.size[1]))
    return np.asarray(image.resize(size[::-1], how, box=(0, y, size[1], y + height)))


def _difference(a, b):
    return np.abs(a.astype(int) - b.astype(int))


def test_by_hand():
    array = np.repeat(np.array([[0, 0, 0, 200, 200, 200]], np.uint8)[..., None], 3, 2)
    np.testing.assert_array_equal(_render(array, (1, 6)), array)
    np.testing.assert_array_equal(_render(array, (1, 6), flip=1), array[:, ::-1])
    # Twice as wide: 200 * (-9, 29, 99) / 128 and their mirror images at the step, cut to 0..255.
    want = [0, 0, 0, 0, 0, 41, 159, 214, 205, 200, 200, 200]
    np.testing.assert_array_equal(_render(array, (1, 12))[0, :, 0], want)


@pytest.mark.parametrize("clip", [0, 1])
@pytest.mark.parametrize("size", [(224, 224), (96, 96), (33, 47), (1, 1), (300, 5)])
@pytest.mark.parametrize("name", ["astronaut", "coffee"])
def test_photographs_equal_pillow(name, size, clip):
    array = _photograph(name)
    for box in BOXES:
        difference = _difference(_render(array, size, box, clip=clip), _pillow(array, size, box, clip))
        assert difference.max() <= 1
        assert difference.mean() < 0.3 or difference.size < 1000  # most of it is Pillow's rounding between the passes


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize(
    ("source", "size"),
    [
        ((375, 500), (224, 224)),
        ((100, 100), (224, 224)),
        ((1, 1), (7, 5)),
        ((1, 9), (4, 4)),
        ((9, 1), (16, 16)),
        ((2, 3), (35, 70)),
        ((17, 19), (17, 19)),
        ((64, 64), (63, 65)),
        ((3000, 4000), (32, 32)),
        ((1, 4000), (1, 1)),
        ((701, 3), (2, 40)),
    ],
)
def test_noise_equals_pillow(source, size, hard):
    """Hard noise overshoots almost everywhere: the order of the passes and the cut between them show."""
    array = _noise(*source, hard=hard)
    assert _difference(_render(array, size), _pillow(array, size)).max() <= 1
    assert _difference(_render(array, size, flip=1), _pillow(array, size)[:, ::-1]).max() <= 1


@pytest.mark.parametrize("seed", range(30))
def test_random_boxes_equal_pillow(seed):
    rng = np.random.default_rng(seed)
    array = _noise(*rng.integers(1, 90, 2), seed=seed, hard=seed % 2 == 0)
    height, width = array.shape[:2]
    size = tuple(int(s) for s in rng.integers(1, 60, 2))
    part = rng.uniform(0.02, 1, 2)
    corner = rng.uniform(0, 1 - part)
    whole = [int(corner[0] * width), int(corner[1] * height)]
    whole += [rng.integers(1, width - whole[0] + 1), rng.integers(1, height - whole[1] + 1)]
    for box in (whole, np.array([*corner, *part]) * [width, height, width, height]):
        for clip in (0, 1):
            assert _difference(_render(array, size, box, clip=clip), _pillow(array, size, box, clip)).max() <= 1


def _matrix(n, n_out):
    """Weights of one axis as an (n_out, n) matrix."""
    first, count = np.zeros(n_out, np.int32), np.zeros(n_out, np.int32)
    weights = np.zeros((n_out, cubic_taps_of(n / n_out)), np.int32)
    fill_cubic_axis(0.0, n / n_out, n, first, count, weights)
    matrix = np.zeros((n_out, n), np.int64)
    for i in range(n_out):
        matrix[i, first[i] : first[i] + count[i]] = weights[i, : count[i]]
    return matrix


def _oracle(array, size):
    rows, columns = _matrix(array.shape[0], size[0]), _matrix(array.shape[1], size[1])
    h = (np.einsum("xj,rjc->rxc", columns, array.astype(np.int64)) + 2**7) >> 8
    assert np.abs(h).max() < 2**15
    out = np.einsum("yr,rxc->yxc", rows, h.clip(0, 255 * 64)) + 2**19
    assert np.abs(out).max() < 2**31
    return (out >> 20).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    ("source", "size"),
    [
        ((1, 1), (1, 1)),
        ((5, 33), (16, 16)),
        ((40, 41), (17, 15)),
        ((100, 16), (3, 100)),
        ((33, 70), (33, 64)),
        ((9, 9), (40, 40)),
    ],
)
def test_equals_matrix_products(source, size):
    for array in (_noise(*source), _noise(*source, hard=True)):
        np.testing.assert_array_equal(_render(array, size), _oracle(array, size))


@pytest.mark.parametrize("n", [3, 8, 61, 448, 700])
def test_patterns_that_overshoot_most(n):
    """White where an output pixel's weight is positive, black where it is negative, and the reverse: on both axes."""
    n_out = 23
    for i in (0, 1, n_out // 2, n_out - 1):
        positive = _matrix(n, n_out)[i] > 0
        for rows in (positive, ~positive):
            for columns in (positive, ~positive):
                array = np.repeat(255 * (rows[:, None] == columns).astype(np.uint8)[..., None], 3, 2)
                got = _render(array, (n_out, n_out))
                np.testing.assert_array_equal(got, _oracle(array, (n_out, n_out)))


@pytest.mark.parametrize("grey", [0, 1, 127, 254, 255])
def test_flat_areas_keep_their_grey(grey):
    array = np.full((371, 463, 3), grey, np.uint8)
    for size in ((224, 224), (3, 500), (1, 1), (50, 7)):
        assert (_render(array, size, (1.5, 2.25, 300.1, 280.7)) == grey).all()


def test_whole_pixels_of_the_same_size_are_copied():
    array = _noise(40, 60)
    for clip in (0, 1):
        np.testing.assert_array_equal(_render(array, (20, 30), (7, 5, 30, 20), clip=clip), array[5:25, 7:37])


def test_pixels_outside_a_clipped_box_are_not_read():
    array = _noise(50, 60)
    other = 255 - array
    other[10:30, 20:45] = array[10:30, 20:45]
    box, size = (20, 10, 25, 20), (16, 12)
    np.testing.assert_array_equal(_render(array, size, box), _render(other, size, box))
    assert (_render(array, size, box, clip=0) != _render(other, size, box, clip=0)).any()


def test_donors_are_bicubic_and_masks_are_not():
    arrays = [_noise(60, 80), _noise(33, 21)]
    masks = Ragged.from_arrays([_noise(30, 30)[..., 0].copy()])
    images, size = Ragged.from_arrays(arrays), (35, 47)
    box, donor_box = (12, 8, 50, 44), (3, 2.5, 14, 30)
    rows = _row(arrays[0], box, mask=0, mode=resample.DONOR, donor=1, donor_box=donor_box, donor_flip=1)
    got, mask = resample.render_views(images, rows, size, masks=masks, interpolation="bicubic")
    figure, ground = _render(arrays[0], size, box), _render(arrays[1], size, donor_box, flip=1)
    planar = [np.ascontiguousarray(v.transpose(2, 0, 1))[None] for v in (figure, ground)]
    np.testing.assert_array_equal(got, composite_views(*planar, mask))
    np.testing.assert_array_equal(mask, resample.render_views(images, rows, size, masks=masks)[1])


def _mixed_rows(arrays, count, seed):
    """Rows of every mode, flip and crop rule, with boxes on and off the pixel grid."""
    rng = np.random.default_rng(seed)
    rows = np.zeros(count, resample.RENDER_DTYPE)
    for i, row in enumerate(rows):
        row["image"], row["donor"], row["mask"] = i % len(arrays), (i + 1) % len(arrays), i % 3 - 1
        row["mode"], row["clip"] = i % 5, rng.integers(0, 2)
        row["flip"], row["donor_flip"] = rng.integers(0, 2, 2)
        row["fill"] = rng.integers(0, 256, 3)
        for field, of in (("box", "image"), ("donor_box", "donor")):
            height, width = arrays[row[of]].shape[:2]
            part = rng.uniform(0.05, 1, 2)
            corner = rng.uniform(0, 1 - part)
            box = np.array([*corner, *part]) * [width, height, width, height]
            row[field] = box if i % 2 else [*np.floor(box[:2]), *np.ceil(box[2:])]
    return rows


def _render_on(device, arrays, masks, rows, size):
    images = Ragged.from_arrays([device.array(a) for a in arrays])
    masks = None if masks is None else Ragged.from_arrays([device.array(m) for m in masks])
    views = np.zeros((len(rows), 3, *size), np.uint8)
    view_masks = None if masks is None else np.zeros((len(rows), *size), np.uint8)
    resample._cuda(planes_of(rows, images, masks, size), rows, views, view_masks, cubic=True)
    return views, view_masks


@pytest.mark.parametrize("size", [(16, 32), (1, 1), (35, 33), (7, 90)])
def test_cuda_source_equals_cpu(host_orders, size):
    arrays = [_noise(37, 53), _noise(1, 1), _noise(90, 7, hard=True), _noise(61, 140, hard=True)]
    masks = [_noise(11, 13)[..., 0].copy(), _noise(1, 1)[..., 0].copy()]
    rows = _mixed_rows(arrays, 10, seed=sum(size))
    want = resample.render_views(
        Ragged.from_arrays(arrays), rows, size, masks=Ragged.from_arrays(masks), interpolation="bicubic"
    )
    with host_orders() as device:
        got = _render_on(device, arrays, masks, rows, size)
    np.testing.assert_array_equal(got[1], want[1])
    np.testing.assert_array_equal(got[0], want[0])


@pytest.mark.parametrize(
    ("source", "size"),
    [
        ((5, 700), (3, 2)),
        ((900, 3), (2, 5)),
        ((300, 20), (12, 8)),
        ((130, 260), (2, 20)),
        ((70, 95), (33, 40)),
        ((1, 1), (20, 40)),
    ],
)
def test_windows_longer_than_the_tables(host_cuda, source, size):
    """More than 32 source rows or columns per output pixel, and tiles taller than a chunk."""
    array = _noise(*source, hard=True)
    rows = np.repeat(resample.full_rows([source]), 2)
    rows["flip"] = [0, 1]
    want, _ = resample.render_views(Ragged.from_arrays([array]), rows, size, interpolation="bicubic")
    with host_cuda() as device:
        got, none = _render_on(device, [array], None, rows, size)
    assert none is None
    np.testing.assert_array_equal(got, want)


def test_refused_interpolation():
    array = _noise(4, 4)
    with pytest.raises(ValueError, match="interpolation must be 'bilinear' or 'bicubic', got 'lanczos'"):
        resample.render_views(Ragged.from_arrays([array]), _row(array), (2, 2), interpolation="lanczos")
