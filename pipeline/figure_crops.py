"""Random crops that hold a given share of the figure: enough of it to keep the object, or little for hard views.

For a view whose `Crop.figure` is (low, high), `Crop.tries` boxes are drawn by the crop's own distribution. The share of the
mask's mass inside each is measured, relative to the whole figure, and the first box whose share is in [low, high] is taken; if
none is, the one nearest to the range, the first of equals. Box 0 is the plan's: the crop that the recipe would take
without the constraint. It is also taken where there is nothing to measure: no valid mask, or one without mass. The other
boxes are drawn from the view's own key (`seed` of its plan row), so a crop depends on no batch or rank.

The plan says what happened: `crop` is the box taken, `crop_try` its number, `figure_share` its share (-1: not measured).

Each sample needs its mask then, not only those whose background changes. Measured beside 1.36 ms of CPU an image for
`moco_v2` at 224 px: 0.2 ms more with sidecars, 0.9 ms more with masks of the saliency kernel. The constraint changes how crops
are distributed: they become larger and move to the figure (or away from it). With `low` near 1 and a small `scale` most boxes
fail, so look at the shares before training.

Source: Selvaraju et al. 2021, "CASTing your model: learning to localize improves self-supervised representations"; its
numbers were not at hand, so the range is a parameter.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np

from figureground.kernels.arrays import Ragged
from figureground.kernels.ground_share import figure_share
from figureground.kernels.resample import full_rows, render_views

from .config import Crop
from .plan import _random_crop
from .recipe import Recipe
from .tables import Slots

MASK_PX = 112
"""Side of the square on which shares are measured: that of sidecar and estimated masks, which stay as they are."""
_FIGURE_CROP = 10_000  # purposes of the boxes, 40 a box
_PURPOSES_A_BOX = 40


@numba.njit(nogil=True, cache=True)
def _draw_boxes(seeds, sizes, scale, log_ratio, ratio, boxes):  # type: ignore[no-untyped-def]
    for i in range(len(seeds)):
        for k in range(1, boxes.shape[1]):
            purpose = _FIGURE_CROP + _PURPOSES_A_BOX * k
            _random_crop(seeds[i], purpose, sizes[i, 0], sizes[i, 1], scale, log_ratio, ratio, boxes[i, k])


def candidate_boxes(crop: Crop, rows: np.ndarray) -> np.ndarray:
    """Return the boxes that a view may take: (N, tries, 4) float32 x0, y0, width, height [px], the plan's first.

    Parameters
    ----------
    crop : Crop
    rows : (N,) PLAN_DTYPE
        As drawn, not yet settled.
    """
    boxes = np.zeros((len(rows), crop.tries, 4), np.float32)
    boxes[:, 0] = rows["crop"]
    scale, ratio = np.array(crop.scale, np.float64), np.array(crop.ratio, np.float64)
    _draw_boxes(
        np.ascontiguousarray(rows["seed"]), np.ascontiguousarray(rows["size"]), scale, np.log(ratio), ratio, boxes
    )
    return boxes


def choose_boxes(shares: np.ndarray, figure: tuple[float, float]) -> np.ndarray:
    """Choose, for each view, the first box whose share lies in a range, else the nearest to it.

    Parameters
    ----------
    shares : (N, K) float32
        Share of the figure in each box.
    figure : (float, float)
        The range, ends included, compared as float32.

    Returns
    -------
    (N,) int64

    Examples
    --------
    >>> choose_boxes(np.array([[0.1, 0.6, 0.9], [0.1, 0.3, 0.2], [0.9, 1.0, 0.9]], np.float32), (0.5, 0.8)).tolist()
    [1, 1, 0]
    """
    low, high = np.float32(figure[0]), np.float32(figure[1])
    outside = np.maximum(np.maximum(low - shares, shares - high), 0)
    return outside.argmin(axis=1)


def settle_crops(
    recipe: Recipe,
    plans: list[np.ndarray],
    masks: Ragged | None,
    slots: Slots,
    map_chunks: Callable[[int, Callable[[slice], None]], None],
) -> None:
    """Choose the crops of views with a `Crop.figure`, in place, now that masks are known.

    Parameters
    ----------
    recipe : Recipe
    plans : list of (B,) PLAN_DTYPE
        One for each view; `crop`, `crop_try` and `figure_share` are written.
    masks : Ragged or None
        One mask for each decoded image, on the host or a GPU.
    slots : Slots
    map_chunks : callable (count, work)
        Runs `work` on slices of samples: `Augmenter.map_chunks`.
    """
    if masks is None:
        return
    for v, view in enumerate(recipe.views):
        image = slots.of_view(v)
        known = np.flatnonzero(slots.mask_valid[image] & (slots.mask_area[image] > 0))
        if view.crop.figure is None or not len(known):
            continue
        boxes = candidate_boxes(view.crop, plans[v][known])
        sides = plans[v]["size"][known][:, ::-1].astype(np.float32)  # width, height, as the boxes
        shares = _measure(masks, image[known], boxes / np.tile(sides, 2)[:, None], map_chunks)
        taken, every = choose_boxes(shares, view.crop.figure), np.arange(len(known))
        plans[v]["crop"][known] = boxes[every, taken]
        plans[v]["crop_try"][known] = taken
        plans[v]["figure_share"][known] = shares[every, taken]


def _measure(
    masks: Ragged,
    rows: np.ndarray,
    relative: np.ndarray,
    map_chunks: Callable[[int, Callable[[slice], None]], None],
) -> np.ndarray:
    """Return the share (n, K) of each mask's mass inside boxes (n, K, 4) given in parts of the image."""
    shares = np.empty(relative.shape[:2], np.float32)

    def measure(part: slice) -> None:
        found = figure_share(_square_masks(masks, rows[part]), relative[part])
        shares[part] = found if isinstance(found, np.ndarray) else found.get()

    if masks.cuda:
        measure(slice(0, len(rows)))
    else:
        map_chunks(len(rows), measure)
    return shares


def _square_masks(masks: Ragged, rows: np.ndarray) -> Any:
    """Return some masks as (n, MASK_PX, MASK_PX) uint8 on their device; those of this size as they are."""
    # The kernel that cuts views brings its masks along; the image it asks for is a single pixel.
    dot: Any = np.zeros((1, 1, 3), np.uint8)
    if masks.cuda:
        import cupy

        dot = cupy.asarray(dot)
    table = full_rows(np.ones((len(rows), 2), np.int32))
    table["image"], table["mask"] = 0, rows
    return render_views(Ragged.from_arrays([dot]), table, (MASK_PX, MASK_PX), masks=masks)[1]


def check_masks(recipe: Recipe, masks: str | None) -> None:
    """Refuse figure crops without masks.

    Raises
    ------
    ValueError
        If the recipe has them and `masks` is None.
    """
    if masks is None and any(view.crop.figure is not None for view in recipe.views):
        raise ValueError(
            "Loader: masks must be 'auto', 'sidecar' or 'kernel' for a recipe with figure crops, got None; leave out "
            "with_figure_crops"
        )
