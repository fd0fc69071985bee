"""What `render_views` is asked for, one row per output view, and where its kernels then read.

`RENDER_DTYPE` is the caller's table: boxes in px of an image, indices into batches. `planes_of` turns it into
`PLANE_DTYPE`, the table that both backends read: an address, the readable extent, and per axis an affine map. All rules
of the geometry (crop or context, mask in the box of its image) are here and nowhere else.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from .arrays import Ragged

KEEP, FILL, DONOR, MEAN, NOISE = range(5)
"""Values of `mode`: what replaces the ground of a view."""

RENDER_DTYPE = np.dtype(
    [
        ("image", "i4"),  # row in images
        ("mask", "i4"),  # row in masks; -1: none, then the view is left alone and its mask is all 0
        ("donor", "i4"),  # row in images of the one whose pixels become the ground; -1: none
        ("mode", "i4"),  # 0 leave alone, 1 colour `fill`, 2 donor, 3 mean colour of the view, 4 uniform noise
        ("box", "f4", 4),  # x0, y0, width, height [px of the image], inside it; pixel (0, 0) covers [0, 1) x [0, 1)
        ("clip", "i4"),  # 1: crop, then resize (torchvision's resized_crop); 0: also read around it (Pillow's box=)
        ("flip", "i4"),  # 1: mirror left and right
        ("donor_box", "f4", 4),  # as box, in px of the donor; always cropped first
        ("donor_flip", "i4"),
        ("fill", "i4", 3),  # red, green, blue, 0..255
        ("seed_lo", "i4"),  # the two halves of the seed of the noise, any bits
        ("seed_hi", "i4"),
    ],
    align=True,
)
"""One output view; only int32 and float32 fields."""

PLANE_DTYPE = np.dtype(
    [
        ("address", "i8"),  # of readable pixel (0, 0); 0: there is no such plane
        ("origin_y", "f8"),  # where the box begins [readable px]
        ("scale_y", "f8"),  # readable px per output px
        ("origin_x", "f8"),
        ("scale_x", "f8"),
        ("pitch", "i4"),  # bytes from row to row
        ("rows", "i4"),  # readable extent [px]
        ("cols", "i4"),
        ("flip", "i4"),
    ],
    align=True,
)
"""One image, mask or donor to be resampled; struct Plane of resample.cu."""

_SLACK_PX = 1.0 / 1024  # boxes are float32: x0 + width may end a rounding error outside


def full_rows(sizes: np.ndarray) -> np.ndarray:
    """Make the rows that resize every image as a whole: no mask, no flip.

    Parameters
    ----------
    sizes : (N, 2) integers
        Height and width of each image [px], such as `Ragged.sizes`.

    Returns
    -------
    (N,) RENDER_DTYPE

    Examples
    --------
    >>> full_rows(np.array([[4, 6]]))["box"]
    array([[0., 0., 6., 4.]], dtype=float32)
    """
    rows = np.zeros(len(sizes), RENDER_DTYPE)
    rows["image"] = np.arange(len(sizes))
    rows["mask"] = rows["donor"] = -1
    rows["box"][:, 2:] = np.asarray(sizes)[:, ::-1]
    rows["clip"] = 1
    return rows


def check_rows(rows: Any, images: Ragged, masks: Ragged | None) -> None:
    """Refuse a table that asks for what is not there; see `render_views` for the errors."""
    if not isinstance(rows, np.ndarray) or rows.dtype != RENDER_DTYPE or rows.ndim != 1:
        got = f"{rows.shape} {rows.dtype}" if isinstance(rows, np.ndarray) else type(rows).__name__
        raise ValueError(f"render_views: rows must be a (N,) NumPy array of RENDER_DTYPE, got {got}")
    if masks is None and (rows["mask"] != -1).any():
        raise ValueError("render_views: masks must be given when rows name them, got None; set rows['mask'] to -1")
    _check(rows, "image", _inside(rows["image"], images), f"in 0..{len(images) - 1}")
    if masks is not None:
        _check(rows, "mask", (rows["mask"] == -1) | _inside(rows["mask"], masks), f"-1 or in 0..{len(masks) - 1}")
    _check(rows, "mode", (rows["mode"] >= KEEP) & (rows["mode"] <= NOISE), f"in {KEEP}..{NOISE}")
    filled = rows["mode"] == FILL
    _check(rows, "fill", ~filled | ((rows["fill"] >= 0) & (rows["fill"] <= 255)).all(1), "in 0..255")
    _check_box(rows, "box", "image", np.ones(len(rows), bool), images)
    swapped = (rows["mode"] == DONOR) & (rows["mask"] >= 0)
    _check(rows, "donor", ~swapped | _inside(rows["donor"], images), f"in 0..{len(images) - 1}")
    _check_box(rows, "donor_box", "donor", swapped, images)


def planes_of(rows: np.ndarray, images: Ragged, masks: Ragged | None, size: tuple[int, int]) -> np.ndarray:
    """Return the planes to read: (N, 3) PLANE_DTYPE of image, mask and donor; refuses what `check_rows` refuses."""
    if not isinstance(rows, np.ndarray) or rows.dtype != RENDER_DTYPE or rows.ndim != 1:
        check_rows(rows, images, masks)
    planes = np.zeros((len(rows), 3), PLANE_DTYPE)
    mask_places = (_NO_ADDRESSES, _NO_SIZES) if masks is None else (masks.addresses, masks.sizes)
    places = images.addresses, images.sizes
    if not _fill_planes(np.ascontiguousarray(rows), images.channels, *places, *mask_places, size[0], size[1], planes):
        check_rows(rows, images, masks)
        raise AssertionError("render_views: rows were refused, but check_rows finds no fault in them")
    return planes


_NO_ADDRESSES, _NO_SIZES = np.empty(0, np.int64), np.empty((0, 2), np.int32)


@numba.njit(nogil=True, cache=True)
def _fill_planes(rows, channels, addresses, sizes, mask_addresses, mask_sizes, height, width, planes):  # type: ignore[no-untyped-def]
    """Fill in the planes of all rows; False: a row asks for what is not there."""
    box = np.empty(4)
    for n in range(len(rows)):
        r = rows[n]
        if not 0 <= r.image < len(sizes) or not (r.mask == -1 or 0 <= r.mask < len(mask_sizes)):
            return False
        if not KEEP <= r.mode <= NOISE:
            return False
        for c in range(3):
            if r.mode == FILL and not 0 <= r.fill[c] <= 255:
                return False
        image = sizes[r.image]
        for k in range(4):
            box[k] = r.box[k]
        if not _box_lies_in(box, image[0], image[1]):
            return False
        _fill_plane(
            planes[n, 0], addresses[r.image], image[0], image[1], channels, box, r.clip != 0, r.flip, height, width
        )
        if r.mask < 0:
            continue
        mask = mask_sizes[r.mask]
        for k in range(4):
            box[k] *= mask[1 - k % 2] / image[1 - k % 2]
        _fill_plane(planes[n, 1], mask_addresses[r.mask], mask[0], mask[1], 1, box, False, r.flip, height, width)
        if r.mode != DONOR:
            continue
        if not 0 <= r.donor < len(sizes):
            return False
        donor = sizes[r.donor]
        for k in range(4):
            box[k] = r.donor_box[k]
        if not _box_lies_in(box, donor[0], donor[1]):
            return False
        _fill_plane(
            planes[n, 2], addresses[r.donor], donor[0], donor[1], channels, box, True, r.donor_flip, height, width
        )
    return True


@numba.njit(nogil=True, cache=True)
def _box_lies_in(box, height, width):  # type: ignore[no-untyped-def]
    for k in range(4):
        if not np.isfinite(box[k]):
            return False
    inside = box[0] + box[2] <= width + _SLACK_PX and box[1] + box[3] <= height + _SLACK_PX
    return inside and min(box[0], box[1]) >= -_SLACK_PX and min(box[2], box[3]) > 0


@numba.njit(nogil=True, cache=True)
def _fill_plane(plane, address, rows, cols, channels, box, clip, flip, height, width):  # type: ignore[no-untyped-def]
    """Fill in one plane: x0, y0, width, height of `box` in an image of rows x cols px, readable inside the box only if `clip`."""
    top, bottom, left, right = 0, rows, 0, cols
    if clip:
        top = min(max(int(np.floor(box[1])), 0), rows - 1)
        left = min(max(int(np.floor(box[0])), 0), cols - 1)
        bottom = min(max(int(np.ceil(box[1] + box[3])), top + 1), rows)
        right = min(max(int(np.ceil(box[0] + box[2])), left + 1), cols)
    plane.pitch = cols * channels
    plane.address = address + (top * cols + left) * channels
    plane.origin_y, plane.origin_x = box[1] - top, box[0] - left
    plane.scale_y, plane.scale_x = box[3] / height, box[2] / width
    plane.rows, plane.cols = bottom - top, right - left
    plane.flip = flip != 0


def _inside(index: np.ndarray, batch: Any) -> np.ndarray:
    return (index >= 0) & (index < len(batch))


def _check_box(rows: np.ndarray, field: str, of: str, wanted: np.ndarray, images: Ragged) -> None:
    box = rows[field].astype(np.float64)
    extent = images.sizes[np.where(wanted, rows[of], 0)][:, ::-1]
    good = np.isfinite(box).all(1) & (box[:, 2:] > 0).all(1) & (box[:, :2] >= -_SLACK_PX).all(1)
    good &= (box[:, :2] + box[:, 2:] <= extent + _SLACK_PX).all(1)
    bad = np.flatnonzero(wanted & ~good)
    if len(bad):
        i = int(bad[0])
        width, height = extent[i].tolist()
        raise ValueError(
            f"render_views: rows[{i}]['{field}'] must be x0, y0, width > 0, height > 0 inside its image of "
            f"{width} x {height} px, got {rows[field][i].tolist()}"
        )


def _check(rows: np.ndarray, field: str, good: np.ndarray, rule: str) -> None:
    bad = np.flatnonzero(~good)
    if len(bad):
        i = int(bad[0])
        raise ValueError(f"render_views: rows[{i}]['{field}'] must be {rule}, got {rows[field][i].tolist()}")
