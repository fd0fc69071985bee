"""Views cut from images: against Pillow, and what must hold whatever the picture."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import skimage.data
from PIL import Image

from figureground.kernels import resample
from figureground.kernels.arrays import Ragged
from figureground.kernels.background import composite_views

PHOTOGRAPHS = ("astronaut", "coffee", "chelsea", "rocket")
BOXES = (None, (60, 20, 201, 173), (10, 7, 40, 21), (33, 44, 1, 1), (0, 290, 400, 10), (7.3, 11.8, 200.5, 133.2))


@functools.cache
def _photograph(name):
    return np.ascontiguousarray(getattr(skimage.data, name)())


def _noise(height, width, channels=3, seed=0):
    rng = np.random.default_rng([seed, height, width])
    return rng.integers(0, 256, (height, width, channels)[: 2 + (channels > 1)], dtype=np.uint8)


def _row(array, box=None, **fields):
    row = resample.full_rows([array.shape[:2]])
    for name, value in {**fields, **({} if box is None else {"box": box})}.items():
        row[name] = value
    return row


def _render(array, size, box=None, masks=None, **fields):
    """Render one view of one array; (H, W, 3), and its mask if there is one."""
    masks = None if masks is None else Ragged.from_arrays(masks)
    views, view_masks = resample.render_views(
        Ragged.from_arrays([array]), _row(array, box, **fields), size, masks=masks
    )
    view = views[0].transpose(1, 2, 0)
    return view if masks is None else (view, view_masks[0])


def _pillow(array, size, box=None, clip=1):
    """Resize as torchvision does on PIL images: crop the pixels that the box touches, or resize with context."""
    image = Image.fromarray(array)
    x, y, width, height = (0, 0, *image.size) if box is None else (float(np.float32(b)) for b in box)
    if clip:
        left, top = np.floor(x), np.floor(y)
        image = image.crop((int(left), int(top), int(np.ceil(x + width)), int(np.ceil(y + height))))
        x, y = x - left, y - top
    return np.asarray(image.resize(size[::-1], Image.Resampling.BILINEAR, box=(x, y, x + width, y + height)))


def _difference(a, b):
    return np.abs(a.astype(int) - b.astype(int))


def test_by_hand():
    array = np.array([[[0, 10, 200], [100, 10, 0]], [[40, 30, 200], [140, 30, 0]]], np.uint8)
    np.testing.assert_array_equal(_render(array, (2, 2)), array)
    np.testing.assert_array_equal(_render(array, (2, 2), flip=1), array[:, ::-1])
    np.testing.assert_array_equal(_render(array, (1, 1)), [[[70, 20, 100]]])
    np.testing.assert_array_equal(_render(array, (1, 1), box=(1, 0, 1, 2)), [[[120, 20, 0]]])
    # Twice as wide: weights 1, 3/4 and 1/4, 1/4 and 3/4, 1.
    np.testing.assert_array_equal(_render(array, (2, 4))[0, :, 0], [0, 25, 75, 100])


@pytest.mark.parametrize("clip", [0, 1])
@pytest.mark.parametrize("size", [(224, 224), (96, 96), (33, 47), (1, 1), (300, 5)])
@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_photographs_equal_pillow(name, size, clip):
    array = _photograph(name)
    for box in BOXES:
        got, want = _render(array, size, box, clip=clip), _pillow(array, size, box, clip)
        difference = _difference(got, want)
        assert difference.max() <= 1
        assert difference.mean() < 0.3 or difference.size < 1000  # most of it is Pillow's rounding between the passes


@pytest.mark.parametrize(
    ("source", "size"),
    [
        ((375, 500), (224, 224)),
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
def test_noise_equals_pillow(source, size):
    array = _noise(*source)
    assert _difference(_render(array, size), _pillow(array, size)).max() <= 1
    assert _difference(_render(array, size, flip=1), _pillow(array, size)[:, ::-1]).max() <= 1


@pytest.mark.parametrize("seed", range(30))
def test_random_boxes_equal_pillow(seed):
    rng = np.random.default_rng(seed)
    array = _noise(*rng.integers(1, 90, 2), seed=seed)
    height, width = array.shape[:2]
    size = tuple(int(s) for s in rng.integers(1, 60, 2))
    part = rng.uniform(0.02, 1, 2)
    corner = rng.uniform(0, 1 - part)
    whole = [int(corner[0] * width), int(corner[1] * height)]
    whole += [rng.integers(1, width - whole[0] + 1), rng.integers(1, height - whole[1] + 1)]
    for box in (whole, np.array([*corner, *part]) * [width, height, width, height]):
        for clip in (0, 1):
            assert _difference(_render(array, size, box, clip=clip), _pillow(array, size, box, clip)).max() <= 1


def test_whole_pixels_of_the_same_size_are_copied():
    array = _noise(40, 60)
    for clip in (0, 1):
        np.testing.assert_array_equal(_render(array, (20, 30), (7, 5, 30, 20), clip=clip), array[5:25, 7:37])


@pytest.mark.parametrize("grey", [0, 1, 127, 254, 255])
def test_flat_areas_keep_their_grey(grey):
    array = np.full((371, 463, 3), grey, np.uint8)
    for size in ((224, 224), (3, 500), (1, 1), (50, 7)):
        assert (_render(array, size, (1.5, 2.25, 300.1, 280.7)) == grey).all()


def test_pixels_outside_a_clipped_box_are_not_read():
    array = _noise(50, 60)
    other = 255 - array
    other[10:30, 20:45] = array[10:30, 20:45]
    box, size = (20, 10, 25, 20), (16, 12)
    np.testing.assert_array_equal(_render(array, size, box), _render(other, size, box))
    assert (_render(array, size, box, clip=0) != _render(other, size, box, clip=0)).any()


def test_rows_are_independent():
    arrays = [_noise(*s) for s in ((30, 40), (1, 1), (55, 21))]
    images = Ragged.from_arrays(arrays)
    rows = resample.full_rows(images.sizes)[[2, 0, 1, 0, 2]]
    rows["flip"] = [0, 1, 0, 0, 1]
    views, _ = resample.render_views(images, rows, (20, 33))
    for i, row in enumerate(rows):
        alone, _ = resample.render_views(images, rows[i : i + 1], (20, 33))
        np.testing.assert_array_equal(alone[0], views[i])
        assert row["image"] == [2, 0, 1, 0, 2][i]


@pytest.mark.parametrize("mask_size", [(112, 112), (60, 80), (1, 1), (7, 200), (300, 300)])
def test_mask_goes_through_the_view_geometry(mask_size):
    array, mask = _noise(60, 80), _noise(*mask_size, channels=1)
    box, size = (12, 8, 50, 44), (32, 48)
    scale = np.array([mask_size[1] / 80, mask_size[0] / 60] * 2)
    x, y, width, height = np.array(box) * scale
    part = (x, y, min(x + width, mask_size[1]), min(y + height, mask_size[0]))
    want = np.asarray(Image.fromarray(mask).resize(size[::-1], Image.Resampling.BILINEAR, box=part))
    for flip in (0, 1):
        _, got = _render(array, size, box, masks=[mask], mask=0, flip=flip)
        assert _difference(got, want[:, ::-1] if flip else want).max() <= 1


def _modes(mode, **fields):
    """Return the view, its mask, and the same view left alone."""
    array, mask = _noise(60, 80), _noise(30, 30, channels=1)
    box, size = (12, 8, 50, 44), (35, 47)
    view, view_mask = _render(array, size, box, masks=[mask], mask=0, mode=mode, **fields)
    return view, view_mask, _render(array, size, box)


def _composite(figure, ground, mask):
    return np.asarray(Image.composite(Image.fromarray(figure), Image.fromarray(ground), Image.fromarray(mask)))


def test_kept_and_filled_grounds_equal_pillow():
    view, mask, alone = _modes(resample.KEEP)
    np.testing.assert_array_equal(view, alone)
    view, mask, alone = _modes(resample.FILL, fill=(3, 130, 255))
    np.testing.assert_array_equal(view, _composite(alone, np.full_like(alone, (3, 130, 255)), mask))


def test_mean_ground_equals_pillow():
    view, mask, alone = _modes(resample.MEAN)
    mean = np.floor(alone.reshape(-1, 3).mean(0) + 0.5).astype(np.uint8)
    np.testing.assert_array_equal(view, _composite(alone, np.full_like(alone, mean), mask))


def test_donor_ground_is_a_view_of_the_donor():
    arrays = [_noise(60, 80), _noise(33, 21)]
    masks = Ragged.from_arrays([_noise(30, 30, channels=1)])
    images, size = Ragged.from_arrays(arrays), (35, 47)
    box, donor_box = (12, 8, 50, 44), (3, 2.5, 14, 30)
    rows = _row(arrays[0], box, mask=0, mode=resample.DONOR, donor=1, donor_box=donor_box, donor_flip=1)
    got, mask = resample.render_views(images, rows, size, masks=masks)
    grounds, _ = resample.render_views(images, _row(arrays[1], donor_box, image=1, flip=1), size)
    figures, _ = resample.render_views(images, _row(arrays[0], box), size)
    np.testing.assert_array_equal(got, composite_views(figures, grounds, mask))


def _noise_by_hand(size, seed_lo, seed_hi):
    def mix(x):
        x = (x ^ x >> 16) * 0x85EBCA6B % 2**32
        x = (x ^ x >> 13) * 0xC2B2AE35 % 2**32
        return x ^ x >> 16

    h = [mix((mix(p ^ seed_lo) + seed_hi) % 2**32) for p in range(size[0] * size[1])]
    return np.array([[x & 255, x >> 8 & 255, x >> 16 & 255] for x in h], np.uint8).reshape(*size, 3)


def test_noise_ground_is_the_documented_hash_and_uniform():
    view, mask, alone = _modes(resample.NOISE, seed_lo=-5, seed_hi=77)
    ground = _noise_by_hand(mask.shape, 2**32 - 5, 77)
    np.testing.assert_array_equal(view, _composite(alone, ground, mask))
    size = (200, 200)
    empty = np.zeros((2, 2), np.uint8)
    noise, _ = _render(_noise(8, 8), size, masks=[empty], mask=0, mode=resample.NOISE, seed_lo=1)
    counts = np.stack([np.bincount(noise[..., c].ravel(), minlength=256) for c in range(3)])
    assert ((counts - 156.25) ** 2 / 156.25).sum(1).max() < 360  # chi-squared, 255 degrees of freedom: p = 1e-5
    flat = noise.reshape(-1, 3).astype(float) - 127.5
    assert np.abs(flat[1:].T @ flat[:-1] / len(flat) / 73.9**2).max() < 0.03  # neighbours do not correlate


@pytest.mark.parametrize("mode", range(5))
def test_view_without_mask_is_left_alone(mode):
    array = _noise(20, 30)
    view, mask = _render(array, (16, 16), masks=[_noise(4, 4, 1)], mask=-1, mode=mode)
    np.testing.assert_array_equal(view, _render(array, (16, 16)))
    assert not mask.any()
    np.testing.assert_array_equal(_render(array, (16, 16), mode=mode), view)


def test_given_outputs_are_used_and_no_rows_are_legal():
    images, masks = Ragged.from_arrays([_noise(9, 9)]), Ragged.from_arrays([_noise(5, 5, 1)])
    rows = _row(_noise(9, 9), mask=0)
    out, masks_out = np.empty((1, 3, 6, 4), np.uint8), np.empty((1, 6, 4), np.uint8)
    views, view_masks = resample.render_views(images, rows, (6, 4), masks=masks, out=out, masks_out=masks_out)
    assert views is out
    assert view_masks is masks_out
    np.testing.assert_array_equal(out, resample.render_views(images, rows, (6, 4), masks=masks)[0])
    views, view_masks = resample.render_views(images, rows[:0], (6, 4), masks=masks)
    assert (views.shape, view_masks.shape) == ((0, 3, 6, 4), (0, 6, 4))
