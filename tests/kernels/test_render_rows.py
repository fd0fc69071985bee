"""The caller's table: what is refused, and what the kernels are told to read."""

from __future__ import annotations

import numpy as np
import pytest

from figureground.kernels import render_rows, resample
from figureground.kernels.arrays import Ragged

IMAGES = Ragged.from_arrays([np.zeros((40, 60, 3), np.uint8), np.zeros((9, 7, 3), np.uint8)])
MASKS = Ragged.from_arrays([np.zeros((20, 15), np.uint8)])


def _rows(**fields):
    rows = render_rows.full_rows(IMAGES.sizes)
    for name, value in fields.items():
        rows[name][1] = value
    return rows


def _render(rows, size=(4, 4), masks=MASKS, **arrays):
    return resample.render_views(IMAGES, rows, size, masks=masks, **arrays)


def test_tables_are_those_of_the_cuda_source():
    """Sizes and offsets of struct Row and struct Plane, counted by hand."""
    assert resample.RENDER_DTYPE.itemsize == 20 * 4
    assert resample.RENDER_DTYPE.fields["donor_box"][1] == 40
    assert render_rows.PLANE_DTYPE.itemsize == 56
    assert render_rows.PLANE_DTYPE.fields["pitch"][1] == 40


def test_planes_by_hand():
    rows = render_rows.full_rows([(40, 60), (40, 60)])
    rows["image"], rows["mask"], rows["flip"] = 0, 0, [0, 1]
    rows["box"], rows["clip"] = (30.5, 8, 12, 16), [1, 0]
    planes = render_rows.planes_of(rows, IMAGES, MASKS, (4, 8))
    clipped, context = planes[:, 0]
    assert clipped["address"] - IMAGES.addresses[0] == (8 * 60 + 30) * 3
    assert clipped.tolist()[1:] == (0, 4, 0.5, 1.5, 180, 16, 13, 0)
    assert context.tolist() == (IMAGES.addresses[0], 8, 4, 30.5, 1.5, 180, 40, 60, 1)
    assert planes[0, 1].tolist() == (MASKS.addresses[0], 4, 2, 7.625, 0.375, 15, 20, 15, 0)
    assert (planes[:, 2]["address"] == 0).all()


def test_rounding_errors_of_float32_boxes_are_forgiven():
    rows = _rows(box=(-1e-4, 0, 7.0005, 9.0005))
    plane = render_rows.planes_of(rows, IMAGES, None, (4, 4))[1, 0]
    assert (plane["rows"], plane["cols"]) == (9, 7)
    _render(rows)
    _render(_rows(box=(7, 0, 1e-4, 9)))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"image": 2}, r"rows\[1\]\['image'\] must be in 0..1, got 2"),
        ({"image": -1}, r"rows\[1\]\['image'\] must be in 0..1, got -1"),
        ({"mask": 1}, r"rows\[1\]\['mask'\] must be -1 or in 0..0, got 1"),
        ({"mask": -2}, r"rows\[1\]\['mask'\] must be -1 or in 0..0, got -2"),
        ({"mode": 5}, r"rows\[1\]\['mode'\] must be in 0..4, got 5"),
        ({"mode": 1, "fill": (0, 256, 0)}, r"rows\[1\]\['fill'\] must be in 0..255, got \[0, 256, 0\]"),
        ({"mode": 2, "mask": 0}, r"rows\[1\]\['donor'\] must be in 0..1, got -1"),
        (
            {"mode": 2, "mask": 0, "donor": 0},
            r"rows\[1\]\['donor_box'\] must be .* 60 x 40 px, got \[0.0, 0.0, 0.0, 0.0",
        ),
        ({"box": (0, 0, 7, 10)}, r"rows\[1\]\['box'\] must be .* its image of 7 x 9 px, got \[0.0, 0.0, 7.0, 10.0\]"),
        ({"box": (-1, 0, 3, 3)}, r"rows\[1\]\['box'\] must be"),
        ({"box": (1, 1, 0, 3)}, r"rows\[1\]\['box'\] must be"),
        ({"box": (1, 1, np.nan, 3)}, r"rows\[1\]\['box'\] must be"),
        ({"box": (1, 1, np.inf, 3)}, r"rows\[1\]\['box'\] must be"),
    ],
)
def test_refused_rows(fields, message):
    with pytest.raises(ValueError, match=message):
        _render(_rows(**fields))


def test_donors_matter_only_where_they_are_used():
    _render(_rows(mode=2, mask=-1, donor=99))
    _render(_rows(mode=1, mask=0, donor=99))


def test_refused_arguments():
    with pytest.raises(ValueError, match=r"rows must be a \(N,\) NumPy array of RENDER_DTYPE, got list"):
        _render([1])
    with pytest.raises(ValueError, match=r"RENDER_DTYPE, got \(2,\) float64"):
        _render(np.zeros(2))
    with pytest.raises(ValueError, match="masks must be given when rows name them, got None"):
        _render(_rows(mask=0), masks=None)
    with pytest.raises(ValueError, match="images must have 3 channels, got 1"):
        resample.render_views(MASKS, _rows(), (4, 4))
    with pytest.raises(ValueError, match="masks must have 1 channel, got 3"):
        _render(_rows(), masks=IMAGES)
    with pytest.raises(ValueError, match=r"size must be .* at least 1 px, got \(4, 0\)"):
        _render(_rows(), size=(4, 0))
    with pytest.raises(ValueError, match=r"out must be \(2, 3, 4, 4\) uint8, C-contiguous, got \(2, 3, 4, 5\) uint8"):
        _render(_rows(), out=np.zeros((2, 3, 4, 5), np.uint8))
    with pytest.raises(ValueError, match=r"masks_out must be \(2, 4, 4\) uint8, C-contiguous, got \(2, 4, 4\) float32"):
        _render(_rows(), masks_out=np.zeros((2, 4, 4), np.float32))
    with pytest.raises(ValueError, match="masks_out must be None without masks"):
        _render(_rows(), masks=None, masks_out=np.zeros((2, 4, 4), np.uint8))
    with pytest.raises(TypeError, match="out must be a NumPy or CUDA array, got list"):
        _render(_rows(), out=[])
