"""What `render_views` is asked for, one row per output view, and where its kernels then read.

`RENDER_DTYPE` is the caller's table: boxes in px of an image, indices into batches. `planes_of` turns it into
`PLANE_DTYPE`, the table that both backends read: an address, the readable extent, and per axis an affine map. All rules
of the geometry (crop or context, mask in the box of its image) are here and nowhere else.
"""

from __future__ import annotations

from typing import Any

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
    """Return the planes to read for checked rows: (N, 3) PLANE_DTYPE of image, mask and donor."""
    planes = np.zeros((len(rows), 3), PLANE_DTYPE)
    box = rows["box"].astype(np.float64)
    _fill_planes(planes[:, 0], images, rows["image"], box, rows["clip"] != 0, rows["flip"], size)
    has = np.flatnonzero(rows["mask"] >= 0)
    if masks is not None and len(has):
        of_image = images.sizes[rows["image"][has]]
        ratio = (masks.sizes[rows["mask"][has]] / of_image)[:, ::-1]
        context = np.zeros(len(has), bool)
        part = planes[has, 1]
        _fill_planes(part, masks, rows["mask"][has], box[has] * np.tile(ratio, 2), context, rows["flip"][has], size)
        planes[has, 1] = part
    has = has[rows["mode"][has] == DONOR]
    if len(has):
        part = planes[has, 2]
        donor_box, crop = rows["donor_box"][has].astype(np.float64), np.ones(len(has), bool)
        _fill_planes(part, images, rows["donor"][has], donor_box, crop, rows["donor_flip"][has], size)
        planes[has, 2] = part
    return planes


def _fill_planes(
    planes: np.ndarray,
    batch: Ragged,
    index: np.ndarray,
    box: np.ndarray,
    clip: np.ndarray,
    flip: np.ndarray,
    size: tuple[int, int],
) -> None:
    extent = batch.sizes[index].astype(np.int64)
    corner, length, clip = box[:, 1::-1], box[:, :1:-1], clip[:, None]  # y before x from here on
    begin = np.where(clip, np.floor(corner).astype(np.int64), 0).clip(0, extent - 1)
    end = np.where(clip, np.ceil(corner + length).astype(np.int64), extent).clip(begin + 1, extent)
    planes["pitch"] = extent[:, 1] * batch.channels
    planes["address"] = batch.addresses[index] + (begin[:, 0] * extent[:, 1] + begin[:, 1]) * batch.channels
    planes["origin_y"], planes["origin_x"] = (corner - begin).T
    planes["scale_y"], planes["scale_x"] = (length / size).T
    planes["rows"], planes["cols"] = (end - begin).T
    planes["flip"] = flip != 0


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
