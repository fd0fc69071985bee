"""Every random number of every view, before anything is computed: a table with one row per sample and view.

`draw_plan` is a pure function of (seed, epoch, sample id, view) and of what it is about (the image's size, the recipe, the
donors that `order` assigns). So a batch is the same on CPU and GPU, for any batch size, rank or thread; any view can be made
again from its row; and the rows are handed to the trainer. Distributions are torchvision's: RandomResizedCrop (ten tries,
then the central fallback), ColorJitter (factor ranges, random order), GaussianBlur's sigma.

Each draw has a fixed purpose number, so a changed probability or a further draw moves no other number.
"""

from __future__ import annotations

from collections.abc import Sequence

import numba
import numpy as np

from .config import View
from .hashing import chain, uniform, view_key
from .recipe import Recipe

PLAN_DTYPE = np.dtype(
    [
        ("sample", np.int64),  # sample id: index in the sorted list of all shards' samples
        ("epoch", np.int32),
        ("view", np.int32),
        ("size", np.int32, 2),  # height, width of the upright source image [px]
        ("crop", np.float32, 4),  # x0, y0, width, height in the source [px]
        ("crop_try", np.uint8),  # which of the crops drawn it is: above 0 only with a `Crop.figure`
        ("figure_share", np.float32),  # share of the figure inside the crop, 0..1; -1 where it was not measured
        ("crop_clip", np.uint8),  # 1: cropped, then resized; 0: resized with context, then cropped ("eval")
        ("flip", np.uint8),  # 1: mirrored left to right, after the crop
        ("jitter", np.uint8),  # 1: colour jitter applied
        ("jitter_order", np.uint8, 4),  # 0 brightness, 1 contrast, 2 saturation, 3 hue, in the order of execution
        ("jitter_factors", np.float32, 4),  # brightness, contrast, saturation factors; hue shift [turns]
        ("grayscale", np.uint8),
        ("blur", np.uint8),
        ("blur_sigma", np.float32),  # [px of the view]; drawn also where blur is 0
        ("solarize", np.uint8),
        ("solarize_threshold", np.int32),
        ("background", np.uint8),  # BACKGROUND_MODES index that is applied; 0: left alone
        ("background_drawn", np.uint8),  # the same before masks were looked at: 1 where p was met
        ("fill", np.uint8, 3),  # RGB of a constant or grey fill
        # Sample id whose image is (or would be) the background; -1 if the recipe needs none. From the number of samples on it
        # is one of the user's own backgrounds: that many less is its number.
        ("donor", np.int64),
        ("donor_size", np.int32, 2),  # height, width of the donor [px]; -1 where it was not decoded
        ("donor_crop", np.float32, 4),  # x0, y0, width, height in the donor [px]
        ("donor_flip", np.uint8),
        ("patch_shuffle", np.uint8),  # 1: the cells of a grid are permuted, by `seed`
        ("rotation", np.uint8),  # label augmentation: quarter turns to the left, 0..3, after colour and blur
        ("channel_order", np.uint8),  # label augmentation: row of kernels.turns.CHANNEL_ORDERS; 0: RGB
        ("style", np.int64),  # sample id whose style the view has; -1: its own
        (
            "texture",
            np.uint8,
        ),  # of the query's negative: 1 from a file, 2 by random phase for want of one; 0: none was asked
        ("texture_crop", np.float32, 4),  # x0, y0, width, height in the texture [px]; 0 where there is none
        ("partner", np.int64),  # sample id whose pixels cover blocks of the corrupted copy; -1: none
        ("seed", np.uint64),  # key of this view for per-pixel noise, patch operations and extra negatives
        ("box", np.float32, 4),  # x0, y0, width, height of the object [px] that the crop follows; zeros: of none
        ("source", np.int64),  # sample id of the image that the view shows: `sample`, or its partner (see `pairs`)
    ]
)
"""One row of a plan. Flags are 0 or 1; parameters are drawn, and given, also where their flag is 0."""

BACKGROUND_MODES = ("none", "constant", "grey", "mean", "noise", "random", "swap")
"""Names of `PLAN_DTYPE`'s background codes."""

(
    _FLIP, _JITTER, _ORDER, _BRIGHTNESS, _CONTRAST, _SATURATION, _HUE, _GRAY, _BLUR, _SIGMA, _SOLARIZE,
    _BACKGROUND, _GREY_LEVEL, _DONOR_FLIP, _SEED, _PATCH_SHUFFLE,
) = range(1, 17)  # fmt: skip
_CROP, _DONOR_CROP = 1000, 2000
_ROTATION, _CHANNEL_ORDER = 3000, 3001
_TRIES = 10

_SPEC_DTYPE = np.dtype(
    [
        ("resize", np.int32), ("out", np.int32), ("scale", np.float64, 2), ("log_ratio", np.float64, 2), ("ratio", np.float64, 2),
        ("flip_p", np.float64), ("jitter_p", np.float64), ("jitter", np.float64, 4), ("gray_p", np.float64), ("blur_p", np.float64),
        ("sigma", np.float64, 2), ("solarize_p", np.float64), ("threshold", np.int32), ("background_p", np.float64),
        ("background", np.int32), ("color", np.uint8, 3),
        ("shuffle_p", np.float64),
        ("rotations", np.int32), ("channel_orders", np.int32),
    ]
)  # fmt: skip


def background_code(view: View) -> int:
    """Return the `BACKGROUND_MODES` index that a view's recipe asks for."""
    if view.background is None:
        return 0
    name = view.background.fill if view.background.mode == "remove" else view.background.mode
    return BACKGROUND_MODES.index(name)


def _spec(view: View) -> np.ndarray:
    crop, jitter, blur, background = view.crop, view.jitter, view.blur, view.background
    spec = np.zeros(1, _SPEC_DTYPE)[0]
    spec["resize"], spec["out"], spec["scale"], spec["ratio"] = crop.resize, crop.size, crop.scale, crop.ratio
    spec["log_ratio"] = np.log(crop.ratio)
    spec["flip_p"], spec["gray_p"] = view.flip_p, view.grayscale_p
    spec["solarize_p"], spec["threshold"] = view.solarize_p, view.solarize_threshold
    if jitter is not None:
        spec["jitter_p"] = jitter.p
        spec["jitter"] = (jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue)
    if blur is not None:
        spec["blur_p"], spec["sigma"] = blur.p, blur.sigma
    if view.patch_shuffle is not None:
        spec["shuffle_p"] = view.patch_shuffle.p
    if view.label_augmentation is not None:
        spec["rotations"] = 4 * view.label_augmentation.rotation
        spec["channel_orders"] = 6 * view.label_augmentation.colors
    if background is not None:
        spec["background_p"], spec["color"] = background.p, background.color
        spec["background"] = background_code(view)
    return spec


@numba.njit(nogil=True, cache=True)
def _random_crop(h, purpose, height, width, scale, log_ratio, ratio, box):  # type: ignore[no-untyped-def]
    """torchvision's RandomResizedCrop.get_params; Python's and NumPy's round (halves to even) agree."""
    area = float(height) * float(width)
    for attempt in range(_TRIES):
        base = purpose + 4 * attempt
        target = area * (scale[0] + (scale[1] - scale[0]) * uniform(h, base))
        aspect = np.exp(log_ratio[0] + (log_ratio[1] - log_ratio[0]) * uniform(h, base + 1))
        w = int(np.rint(np.sqrt(target * aspect)))
        h_px = int(np.rint(np.sqrt(target / aspect)))
        if 0 < w <= width and 0 < h_px <= height:
            box[0] = np.float32(int(uniform(h, base + 3) * (width - w + 1)))
            box[1] = np.float32(int(uniform(h, base + 2) * (height - h_px + 1)))
            box[2], box[3] = np.float32(w), np.float32(h_px)
            return
    w, h_px = width, height
    if width < ratio[0] * height:
        h_px = int(np.rint(width / ratio[0]))
    elif width > ratio[1] * height:
        w = int(np.rint(height * ratio[1]))
    w, h_px = max(1, min(w, width)), max(1, min(h_px, height))
    box[0], box[1] = np.float32((width - w) // 2), np.float32((height - h_px) // 2)
    box[2], box[3] = np.float32(w), np.float32(h_px)


@numba.njit(nogil=True, cache=True)
def _center_crop(height, width, resize, out, box):  # type: ignore[no-untyped-def]
    """Resize the shorter side to `resize` px, cut the centre `out` px: the same box in source pixels."""
    short = float(min(height, width))
    new_h = int(resize * height / short)
    new_w = int(resize * width / short)
    top = int(np.rint((new_h - out) / 2.0))
    left = int(np.rint((new_w - out) / 2.0))
    box[0], box[1] = np.float32(left * width / new_w), np.float32(top * height / new_h)
    box[2], box[3] = np.float32(out * width / new_w), np.float32(out * height / new_h)


@numba.njit(nogil=True, cache=True)
def _draw(seed, epoch, view, samples, sizes, donors, donor_sizes, spec, rows):  # type: ignore[no-untyped-def]
    for i in range(len(samples)):
        r = rows[i]
        h = view_key(seed, epoch, samples[i], view)
        r.sample, r.epoch, r.view = samples[i], epoch, view
        height, width = sizes[i, 0], sizes[i, 1]
        r.size[0], r.size[1] = height, width
        if spec.resize > 0:
            _center_crop(height, width, spec.resize, spec.out, r.crop)
            r.crop_clip = 0
        else:
            _random_crop(h, _CROP, height, width, spec.scale, spec.log_ratio, spec.ratio, r.crop)
            r.crop_clip = 1
        r.figure_share = -1.0
        r.flip = uniform(h, _FLIP) < spec.flip_p
        r.jitter = uniform(h, _JITTER) < spec.jitter_p
        for k in range(4):
            r.jitter_order[k] = k
        for k in range(3):
            j = k + int(uniform(h, _ORDER + 100 * (k + 1)) * (4 - k))
            r.jitter_order[k], r.jitter_order[j] = r.jitter_order[j], r.jitter_order[k]
            low = max(0.0, 1.0 - spec.jitter[k])
            r.jitter_factors[k] = low + (1.0 + spec.jitter[k] - low) * uniform(h, _BRIGHTNESS + k)
        r.jitter_factors[3] = spec.jitter[3] * (2.0 * uniform(h, _HUE) - 1.0)
        r.grayscale = uniform(h, _GRAY) < spec.gray_p
        r.blur = uniform(h, _BLUR) < spec.blur_p
        r.blur_sigma = spec.sigma[0] + (spec.sigma[1] - spec.sigma[0]) * uniform(h, _SIGMA)
        r.solarize = uniform(h, _SOLARIZE) < spec.solarize_p
        r.solarize_threshold = spec.threshold
        r.background_drawn = uniform(h, _BACKGROUND) < spec.background_p
        r.background = spec.background if r.background_drawn else 0
        for c in range(3):
            r.fill[c] = int(uniform(h, _GREY_LEVEL) * 256.0) if spec.background == 2 else spec.color[c]
        r.donor = donors[i]
        r.donor_size[0], r.donor_size[1] = donor_sizes[i, 0], donor_sizes[i, 1]
        if donor_sizes[i, 0] > 0:
            _random_crop(
                h,
                _DONOR_CROP,
                donor_sizes[i, 0],
                donor_sizes[i, 1],
                spec.scale,
                spec.log_ratio,
                spec.ratio,
                r.donor_crop,
            )
        r.donor_flip = uniform(h, _DONOR_FLIP) < spec.flip_p
        r.patch_shuffle = uniform(h, _PATCH_SHUFFLE) < spec.shuffle_p
        r.rotation = int(uniform(h, _ROTATION) * spec.rotations)
        r.channel_order = int(uniform(h, _CHANNEL_ORDER) * spec.channel_orders)
        r.style, r.partner = -1, -1  # `companions` knows
        r.seed = chain(h, _SEED)


def draw_plan(
    recipe: Recipe,
    view: int,
    *,
    seed: int,
    epoch: int,
    samples: np.ndarray,
    sizes: np.ndarray,
    donors: np.ndarray | None = None,
    donor_sizes: np.ndarray | None = None,
    sources: np.ndarray | None = None,
) -> np.ndarray:
    """Draw the parameters of one view of a batch.

    Parameters
    ----------
    recipe : Recipe
    view : int
        Index in `recipe.views`; `len(recipe.views) + k` draws the geometry of the k-th extra negative like view 0's.
    seed, epoch : int
    samples : (N,) int64
        Sample ids.
    sizes : (N, 2) int
        Height and width of the upright images that the view shows [px].
    donors : (N,) int64, optional
        Sample id of each row's background donor.
    donor_sizes : (N, 2) int, optional
        Their heights and widths [px]; -1 where a donor was not decoded.
    sources : (N,) int64, optional
        Sample ids of the images that the view shows; by default the samples' own.

    Returns
    -------
    (N,) PLAN_DTYPE

    Examples
    --------
    >>> from figureground.pipeline import recipes
    >>> rows = draw_plan(recipes.moco_v2(), 0, seed=0, epoch=0, samples=np.array([7]), sizes=np.array([[375, 500]]))
    >>> bool((rows["crop"][:, 2] <= 500).all()), rows["sample"].tolist()
    (True, [7])
    """
    count = len(samples)
    rows = np.zeros(count, PLAN_DTYPE)
    if donors is None:
        donors = np.full(count, -1, np.int64)
    if donor_sizes is None:
        donor_sizes = np.full((count, 2), -1, np.int32)
    spec = _spec(recipe.views[view] if view < len(recipe.views) else recipe.views[0])
    _draw(
        np.uint64(seed % 2**64), epoch, view, np.ascontiguousarray(samples, np.int64), np.ascontiguousarray(sizes, np.int32),
        np.ascontiguousarray(donors, np.int64), np.ascontiguousarray(donor_sizes, np.int32), spec, rows,
    )  # fmt: skip
    rows["source"] = rows["sample"] if sources is None else sources
    return rows


def draws_masks(
    recipe: Recipe, view: int, *, seed: int, epoch: int, samples: Sequence[int] | np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Tell, before anything is decoded, which samples of a view need what.

    Parameters
    ----------
    recipe, view, seed, epoch, samples
        As for `draw_plan`.

    Returns
    -------
    masks : (N,) bool
        The view changes its background, shuffles patches or chooses its crop by its mask.
    donors : (N,) bool
        The view takes its background from a donor.
    """
    samples = np.asarray(samples, np.int64)
    code, shuffle = background_code(recipe.views[view]), recipe.views[view].patch_shuffle
    by_region = shuffle is not None and shuffle.region != "all"
    by_figure = np.full(len(samples), recipe.views[view].crop.figure is not None)
    if not code and not by_region:
        return by_figure, np.zeros(len(samples), bool)
    rows = draw_plan(
        recipe, view, seed=seed, epoch=epoch, samples=samples, sizes=np.ones((len(samples), 2), np.int32)
    )  # fmt: skip
    drawn = rows["background_drawn"].astype(bool) & (code > 0)
    shuffled = rows["patch_shuffle"].astype(bool) & by_region
    return drawn | shuffled | by_figure, drawn & (code >= BACKGROUND_MODES.index("random"))
