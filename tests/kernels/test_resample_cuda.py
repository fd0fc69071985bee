"""The CUDA source of `render_views` against its CPU version, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest

from figureground.kernels import resample
from figureground.kernels.arrays import Ragged
from figureground.kernels.render_rows import planes_of

SOURCES = [(37, 53), (1, 1), (90, 7), (61, 140)]


def _render_on(device, arrays, masks, rows, size):
    """Run `_cuda` on device copies and return NumPy arrays."""
    images = Ragged.from_arrays([device.array(a) for a in arrays])
    masks = None if masks is None else Ragged.from_arrays([device.array(m) for m in masks])
    views = np.zeros((len(rows), 3, *size), np.uint8)
    view_masks = None if masks is None else np.zeros((len(rows), *size), np.uint8)
    resample._cuda(planes_of(rows, images, masks, size), rows, views, view_masks, cubic=False)
    return views, view_masks


def _mixed_rows(count, arrays, n_masks, seed):
    """Rows of every mode, flip and crop rule, with boxes on and off the pixel grid."""
    rng = np.random.default_rng(seed)
    rows = np.zeros(count, resample.RENDER_DTYPE)
    for i, row in enumerate(rows):
        row["image"], row["donor"] = rng.integers(0, len(arrays), 2)
        row["mask"] = rng.integers(-1, n_masks) if n_masks else -1
        row["mode"], row["clip"] = i % 5, rng.integers(0, 2)
        row["flip"], row["donor_flip"] = rng.integers(0, 2, 2)
        row["fill"] = rng.integers(0, 256, 3)
        row["seed_lo"], row["seed_hi"] = rng.integers(-(2**31), 2**31, 2)
        for field, of in (("box", "image"), ("donor_box", "donor")):
            height, width = arrays[row[of]].shape[:2]
            part = rng.uniform(0.05, 1, 2)
            corner = rng.uniform(0, 1 - part)
            box = np.array([*corner, *part]) * [width, height, width, height]
            row[field] = box if i % 2 else [*np.floor(box[:2]), *np.ceil(box[2:])]
    return rows


@pytest.mark.parametrize("size", [(16, 32), (1, 1), (35, 33), (7, 90), (40, 64)])
def test_cuda_source_equals_cpu(host_orders, size):
    rng = np.random.default_rng(sum(size))
    arrays = [rng.integers(0, 256, (*s, 3), dtype=np.uint8) for s in SOURCES]
    masks = [rng.integers(0, 256, s, dtype=np.uint8) for s in ((11, 13), (1, 1), (64, 48))]
    rows = _mixed_rows(10, arrays, len(masks), seed=sum(size))
    want = resample.render_views(Ragged.from_arrays(arrays), rows, size, masks=Ragged.from_arrays(masks))
    with host_orders() as device:
        got = _render_on(device, arrays, masks, rows, size)
    np.testing.assert_array_equal(got[1], want[1])
    np.testing.assert_array_equal(got[0], want[0])


@pytest.mark.parametrize(
    ("source", "size"),
    [((5, 700), (3, 2)), ((900, 3), (2, 5)), ((300, 20), (12, 8)), ((130, 260), (2, 20)), ((70, 95), (33, 40))],
)
def test_windows_longer_than_the_tables(host_cuda, source, size):
    """More than 32 source rows, or more than 64 source columns, per output pixel, and tiles wider than a chunk."""
    array = np.random.default_rng(0).integers(0, 256, (*source, 3), dtype=np.uint8)
    rows = np.repeat(resample.full_rows([source]), 2)
    rows["flip"] = [0, 1]
    want, _ = resample.render_views(Ragged.from_arrays([array]), rows, size)
    with host_cuda() as device:
        got, none = _render_on(device, [array], None, rows, size)
    assert none is None
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("size", [(16, 32), (35, 33)])
@pytest.mark.parametrize("cubic", [False, True])
def test_masks_that_nobody_asks_for_are_used_and_not_written(host_orders, size, cubic):
    rng = np.random.default_rng(sum(size))
    arrays = [rng.integers(0, 256, (*s, 3), dtype=np.uint8) for s in SOURCES]
    masks = [rng.integers(0, 256, s, dtype=np.uint8) for s in ((11, 13), (1, 1), (64, 48))]
    rows = _mixed_rows(10, arrays, len(masks), seed=sum(size))
    rows["mode"][rows["mode"] == resample.MEAN] = resample.KEEP  # whose second pass reads the written masks
    how = {"masks": Ragged.from_arrays(masks), "interpolation": "bicubic" if cubic else "bilinear", "return_masks": False}
    want, nothing = resample.render_views(Ragged.from_arrays(arrays), rows, size, **how)
    assert nothing is None
    with host_orders() as device:
        images, on_device = (Ragged.from_arrays([device.array(a) for a in each]) for each in (arrays, masks))
        views = np.zeros((len(rows), 3, *size), np.uint8)
        resample._cuda(planes_of(rows, images, on_device, size), rows, views, None, cubic=cubic)
    np.testing.assert_array_equal(views, want)


def test_more_views_than_a_grid_takes(host_cuda, monkeypatch):
    monkeypatch.setattr(resample, "_MOST_VIEWS", 4)
    rng = np.random.default_rng(1)
    arrays = [rng.integers(0, 256, (*s, 3), dtype=np.uint8) for s in SOURCES]
    masks = [rng.integers(0, 256, (9, 9), dtype=np.uint8)]
    rows = _mixed_rows(10, arrays, 1, seed=1)
    want = resample.render_views(Ragged.from_arrays(arrays), rows, (7, 40), masks=Ragged.from_arrays(masks))
    with host_cuda() as device:
        got = _render_on(device, arrays, masks, rows, (7, 40))
    np.testing.assert_array_equal(got[0], want[0])
    np.testing.assert_array_equal(got[1], want[1])


def test_a_batch_of_one_size_is_ragged_without_copies():
    batch = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
    one, other = Ragged.from_batch(batch), Ragged.from_arrays(list(batch))
    assert one.addresses.tolist() == other.addresses.tolist()
    assert one.sizes.tolist() == other.sizes.tolist()
    assert one.sizes.dtype == other.sizes.dtype
    assert one.channels == other.channels == 1
    assert Ragged.from_batch(batch[..., None].repeat(3, 3)).channels == 3
    for wrong in (batch[:, ::2], batch.astype(np.int16), batch[:0], batch[0]):
        with pytest.raises(ValueError, match=r"Ragged: batch must be a non-empty C-contiguous \(N, H, W, C\) uint8 array"):
            Ragged.from_batch(wrong)
