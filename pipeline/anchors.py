"""Crops that follow the object: their centre lies in its box.

The size of a crop is drawn as ever; then it is moved so that its centre is a random point of the object's box, and back into
the image where it sticks out. So every crop shows some of the object, and two frames of a clip show the same object wherever
it went. The box is that of the sample's `.json` ("box": [x0, y0, width, height] in px of the upright image), else that of
the pixels of its mask from 128 on; without either the crop stays where it is.

Sources: Peng et al. 2022, "Crafting better contrastive views for siamese representation learning" (ContrastiveCrop: centres
in the box; here uniform, that is their alpha = 1); Purushwalkam and Gupta 2020 (regions of tracked objects).
"""

from __future__ import annotations

import json
from typing import Any

import numba
import numpy as np

from figureground.kernels.arrays import array_module
from figureground.kernels.lanes import bytes_at

from .hashing import uniform, view_key
from .recipe import Recipe
from .tables import Slots

_X, _Y = 7100, 7101  # purposes of draws; beyond those of `plan`
_FIGURE = 128


def object_box(document: np.ndarray | None) -> tuple[float, float, float, float] | None:
    """Return the "box" of a `.json` component, x0, y0, width, height [px]; None where there is none, or not four numbers.

    Examples
    --------
    >>> object_box(np.frombuffer(b'{"label": 3, "box": [10, 20.5, 30, 40]}', np.uint8))
    (10.0, 20.5, 30.0, 40.0)
    >>> object_box(np.frombuffer(b'{"box": null}', np.uint8))
    """
    if document is None:
        return None
    try:
        found: Any = json.loads(document.tobytes())
    except (ValueError, RecursionError):
        return None
    box = found.get("box") if isinstance(found, dict) else None
    if not isinstance(box, list) or len(box) != 4:
        return None
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in box):
        return None
    x0, y0, width, height = (float(value) for value in box)
    return (x0, y0, width, height) if np.isfinite([x0, y0, width, height]).all() else None


def clip_boxes(boxes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Cut boxes (N, 4) float64 [px] to their images, of `sizes` (N, 2) height, width; zeros where nothing is left."""
    low = np.clip(boxes[:, :2], 0, sizes[:, ::-1])
    high = np.clip(boxes[:, :2] + np.maximum(boxes[:, 2:], 0), 0, sizes[:, ::-1])
    clipped = np.concatenate([low, high - low], axis=1)
    clipped[(clipped[:, 2:] <= 0).any(axis=1)] = 0
    return clipped


@numba.njit(nogil=True, cache=True)
def find_boxes(addresses, sizes, valid, boxes):  # type: ignore[no-untyped-def]
    """Write the bounding box of each valid mask's figure, x0, y0, width, height as shares of the mask; zeros if empty."""
    for i in range(len(addresses)):
        boxes[i, :] = 0.0
        if not valid[i]:
            continue
        height, width = int(sizes[i, 0]), int(sizes[i, 1])
        pixels = numba.carray(bytes_at(addresses[i]), (height * width,))
        left, right, top, bottom = width, -1, height, -1
        for y in range(height):
            for x in range(width):
                if pixels[y * width + x] >= _FIGURE:
                    left, right = min(left, x), max(right, x)
                    top, bottom = min(top, y), y
        if bottom >= 0:
            boxes[i, 0], boxes[i, 1] = left / width, top / height
            boxes[i, 2], boxes[i, 3] = (right + 1 - left) / width, (bottom + 1 - top) / height


def boxes_of(masks: Any) -> np.ndarray:
    """Return the bounding boxes (N, 4) float64 of masks (N, S, S) uint8 on any device, as `find_boxes` does.

    Examples
    --------
    >>> mask = np.zeros((1, 4, 4), np.uint8)
    >>> mask[0, 1:3, 2:] = 255
    >>> boxes_of(mask).tolist()
    [[0.5, 0.25, 0.5, 0.5]]
    """
    figure = masks >= _FIGURE
    sides = [figure.any(axis=axis) for axis in (1, 2)]
    columns, rows = sides if array_module(masks) is np else [side.get() for side in sides]
    found = np.zeros((len(columns), 4))
    for k, there in enumerate((columns, rows)):
        first, last = there.argmax(axis=1), there.shape[1] - there[:, ::-1].argmax(axis=1)
        found[:, k] = first / there.shape[1]
        found[:, 2 + k] = (last - first) / there.shape[1]
    found[~columns.any(axis=1)] = 0
    return found


@numba.njit(nogil=True, cache=True)
def _points(seed, epoch, view, samples, out):  # type: ignore[no-untyped-def]
    for i in range(len(samples)):
        h = view_key(seed, epoch, samples[i], view)
        out[i, 0], out[i, 1] = uniform(h, _X), uniform(h, _Y)


def anchor_crops(recipe: Recipe, plans: list[np.ndarray], slots: Slots, seed: int) -> None:
    """Move the crops of anchored views onto their objects, in place, and write the boxes into the rows.

    Parameters
    ----------
    recipe : Recipe
    plans : list of (B,) PLAN_DTYPE
    slots : Slots
        With boxes, if a view is anchored.
    seed : int
    """
    for view, rows in enumerate(plans[: len(recipe.views)]):
        if recipe.views[view].crop.anchor == "image" or slots.box is None or not len(rows):
            continue
        box = slots.box[slots.of_view(view)]
        rows["box"] = box
        there = np.flatnonzero(box[:, 2] > 0)
        point = np.empty((len(rows), 2))
        _points(np.uint64(seed % 2**64), int(rows["epoch"][0]), view, rows["sample"], point)
        center = box[there, :2] + point[there] * box[there, 2:]
        crop = rows["crop"][there].astype(np.float64)
        room = rows["size"][there, ::-1] - crop[:, 2:]
        crop[:, :2] = np.clip(np.floor(center - crop[:, 2:] / 2 + 0.5), 0, room)
        rows["crop"][there] = crop
