"""From decoded images, masks and plans to views: the recipe of the papers, one kernel after the other.

    geometry of image, mask and donor, composite (one kernel) -> colour jitter and grayscale -> blur -> turns -> patches
    -> solarize -> negatives of the query -> normalise (one kernel with solarize, where nothing comes between)

What needs several samples' views at once (styles, mixing, corruption) is a second pass over the batch: `extras`.

On the CPU a batch is cut into chunks of samples that stay in cache, worked by a few threads; the kernels release the GIL. On
a GPU each kernel is launched once per view for the whole batch, on CuPy's current stream.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from figureground.kernels.arrays import Ragged, array_module
from figureground.kernels.background import composite_views
from figureground.kernels.blur import gaussian_blur
from figureground.kernels.color import jitter_color, solarize
from figureground.kernels.fourier import randomize_phase
from figureground.kernels.ground import inpaint_figures
from figureground.kernels.ground_strips import tile_ground
from figureground.kernels.normalize import normalize_views
from figureground.kernels.patches import shuffle_patches
from figureground.kernels.resample import DONOR, KEEP, full_rows, render_views
from figureground.kernels.tiles import tile_patches
from figureground.kernels.turns import turn_views

from .config import Negatives
from .extras import Extras
from .methods import Method, resolve_method
from .recipe import Recipe, StagePoint
from .tables import Slots, color_arguments, negative_rows, render_donors, render_rows, texture_rows, without_masks

SALIENCY_PX = 112
"""Side of the square on which masks are estimated, and of sidecar masks."""
_LEAST_CHUNK, _MOST_CHUNK = 8, 32
"""Samples that a thread works on at a time: many, since every call of a kernel has its price (32 took 0.87 of the CPU time of 8);
few, so that all threads have work."""
_SEED_STEP = np.uint64(0x9E3779B97F4A7C15)


def estimate_masks(images: Ragged, *, method: str | Method = "fused", size: int = SALIENCY_PX) -> Any:
    """Estimate the saliency of whole images of any size.

    Parameters
    ----------
    images : Ragged of N RGB images
    method : str or Method
        See `figureground.pipeline.methods`. A long run hands over what `resolve_method` returned: then a file that is replaced
        meanwhile, or gone, changes nothing.
    size : int
        Side of the masks, and of the square on which the kernels work [px].

    Returns
    -------
    (N, size, size) uint8, on the device of `images`; 255 is figure.
    """
    estimate = resolve_method(method) if isinstance(method, str) else method
    side = estimate.side or size
    small, _ = render_views(images, full_rows(images.sizes), (side, side))
    return estimate(small, size)


class Augmenter:
    """Turns decoded batches into views, with the threads and buffers that this takes.

    Parameters
    ----------
    recipe : Recipe
    dtype : numpy dtype or "bfloat16"
        Of the views.
    channels_last : bool
        Write views as (B, S, S, 3) in memory.
    masks : bool
        Also return the masks of each view.
    negatives : bool
        Make the swap negative, if the recipe swaps, and the recipe's other negatives.
    threads : int
        CPU threads; ignored on a GPU.
    """

    def __init__(
        self,
        recipe: Recipe,
        *,
        dtype: Any = np.float32,
        channels_last: bool = False,
        masks: bool = False,
        negatives: bool = True,
        threads: int = 1,
    ) -> None:
        self._recipe = recipe
        self._dtype = dtype
        self._channels_last = channels_last
        self._masks = masks
        self._swaps = negatives and recipe.swaps
        self._patches = negatives and recipe.negatives is not None
        self._by_region = [v.patch_shuffle is not None and v.patch_shuffle.region != "all" for v in recipe.views]
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads, "figureground-augment") if threads > 1 else None

    def close(self) -> None:
        """Stop the threads."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def map_chunks(self, count: int, work: Callable[[slice], None]) -> None:
        """Run `work` on slices of `count` samples, on all threads; the first exception is raised after all have ended."""
        step = min(max(-(-count // self._threads), _LEAST_CHUNK), _MOST_CHUNK)
        slices = [slice(a, min(a + step, count)) for a in range(0, count, step)]
        if self._pool is None:
            for part in slices:
                work(part)
            return
        futures = [self._pool.submit(work, part) for part in slices]
        errors = [error for future in futures if (error := future.exception()) is not None]
        if errors:
            raise errors[0]

    def augment(
        self,
        images: Ragged,
        masks: Ragged | None,
        plans: list[np.ndarray],
        slots: Slots,
        empty: Callable[..., Any],
        extras: Extras | None = None,
    ) -> tuple[list[Any], list[Any] | None, Any]:
        """Make all views of a batch.

        Parameters
        ----------
        images : Ragged
            Decoded images: the batch's samples and their donors.
        masks : Ragged or None
            One mask for each decoded image.
        plans : list of (B,) PLAN_DTYPE
            One for each view, and one more for the swap negative if the recipe swaps. Settled by `settle_backgrounds`.
        slots : Slots
        empty : callable (shape, kind) -> array
            Makes output arrays on the images' device; kind is "view", "mask" (uint8), "flag" (bool) or "source" (int8).
        extras : Extras, optional
            Gets what the recipe's techniques make beside the views.

        Returns
        -------
        views : list of (B, 3, S, S) arrays, or (B, S, S, 3) with channels_last
        view_masks : list of (B, S, S) uint8, or None
        negatives : (B, n, 3, S, S), or (B, n, S, S, 3), or None
            The swap negative first.
        """
        recipe, count = self._recipe, len(plans[0])
        sizes = [view.crop.size for view in recipe.views]
        views = [empty(self._shape(count, size), "view") for size in sizes]
        view_masks = [empty((count, size, size), "mask") for size in sizes] if self._masks else None
        extra = self._swaps + (recipe.negatives.count if self._patches and recipe.negatives else 0)
        negatives = empty((count, extra, *self._shape(count, sizes[0])[1:]), "view") if extra else None
        tables = [
            render_rows(rows, slots.of_view(v), slots.donor[v], slots.mask_valid)
            for v, rows in enumerate(plans[: len(sizes)])
        ]
        fill = negative_rows(plans[-1], slots.donor[-1]) if self._swaps else None
        textures = None
        if self._patches and slots.texture is not None:
            textures = texture_rows(plans[0], plans[0]["texture_crop"], slots)
        if extras is not None:
            extras.begin(empty, masks=masks is not None, others=int(self._swaps) + int(textures is not None))

        def finish(v: int, part: slice, view: Any, mask: Any, others: list[Any]) -> None:
            rows, copied = plans[v][part], extras is not None and extras.copied(v)
            view = self._shuffle_patches(v, view, rows, mask)
            if copied or (v == 0 and self._patches):
                view = self._settle(view, rows)
                self._write(view, rows, views[v][part])
            else:
                self._normalize(view, rows, views[v][part])
            if copied and extras is not None:
                extras.keep_final(v, part, view)
            if v == 0 and negatives is not None:
                self._write_negatives([self._settle(other, rows) for other in others], view, rows, negatives[part])

        def work(part: slice) -> None:
            for v, rows in enumerate(plans[: len(sizes)]):
                shape, how, query = (sizes[v], sizes[v]), recipe.views[v].crop.interpolation, v == 0
                looked_at = self._masks or (query and self._swaps) or self._by_region[v]
                needs = looked_at or bool(tables[v]["mode"][part].any())
                table = tables[v][part] if masks is not None and needs else without_masks(tables[v][part])
                if not looked_at:
                    table["mask"][table["mode"] == KEEP] = -1
                geometry, mask = self._place(v, images, masks if needs else None, table, slots.mask_valid, looked_at)
                turned = self._turn_mask(mask, rows[part])
                if view_masks is not None:
                    view_masks[v][part] = 0 if turned is None else turned
                others = []
                if query and fill is not None:
                    hard, _ = render_views(images, fill[part], shape, interpolation=how)
                    if mask is not None:
                        shared = self._shared_ground(mask, slots.mask_valid[slots.of_view(0)[part]])
                        hard = composite_views(hard, geometry, shared)
                    others.append(self._color(0, hard, rows[part]))
                if query and textures is not None:
                    texture, _ = render_views(images, textures[part], shape, interpolation=how)
                    others.append(self._color(0, texture, rows[part]))
                view = self._color(v, geometry, rows[part])
                if extras is None or not extras.keep(v, part, view, turned, others):
                    finish(v, part, view, turned, others)

        each = _all_at_once if images.cuda else self.map_chunks
        each(count, work)
        if extras is not None:
            extras.restyle(each, finish)
            extras.make_copies(each, plans, self._write, empty, self._shape)
        return views, view_masks, negatives

    def _shared_ground(self, masks: Any, valid: np.ndarray) -> Any:
        """Return where the swap negatives of some queries show the other image: their figures.

        Without a mask, or with too little of the figure in the crop, it is everywhere: else the negative would be the query.
        """
        background = self._recipe.views[0].background
        assert background is not None
        pixels = masks.shape[1] * masks.shape[2]
        xp = array_module(masks)
        least = max(255 * pixels * background.min_area, 1)
        alone = masks.reshape(len(masks), -1).sum(axis=1, dtype=np.uint64) < least
        everywhere = (alone | xp.asarray(~valid)).astype(np.uint8) * np.uint8(255)
        return xp.maximum(masks, everywhere[:, None, None])  # an assignment by flags would make a GPU wait

    def _place(
        self,
        view: int,
        images: Ragged,
        masks: Ragged | None,
        table: np.ndarray,
        mask_valid: np.ndarray,
        return_masks: bool,
    ) -> tuple[Any, Any]:
        """Cut the views of some samples out of their images and put them on their grounds; with their masks if asked."""
        background, crop = self._recipe.views[view].background, self._recipe.views[view].crop
        how: dict[str, Any] = {"size": (crop.size, crop.size), "masks": masks, "interpolation": crop.interpolation}
        chosen = np.flatnonzero(table["mode"] == DONOR)
        if masks is None or background is None or background.source == "whole" or not len(chosen):
            return render_views(images, table, return_masks=return_masks, **how)
        donors = render_donors(table[chosen], mask_valid)
        table = table.copy()
        table["mode"][chosen], table["donor"][chosen] = KEEP, -1
        views, view_masks = render_views(images, table, **how)
        grounds, figures = render_views(images, donors, **how)
        if background.source == "strip":
            tile_ground(grounds, figures, out=grounds)
        else:
            inpaint_figures(grounds, figures, out=grounds)
        where = array_module(views).asarray(chosen)
        views[where] = composite_views(views[where], grounds, view_masks[where])
        return views, view_masks

    def _shape(self, count: int, size: int) -> tuple[int, ...]:
        return (count, size, size, 3) if self._channels_last else (count, 3, size, size)

    def _run_stages(self, point: StagePoint, views: Any, rows: np.ndarray) -> Any:
        for stage in self._recipe.stages:
            if stage.after == point:
                made = stage.function(views, rows)
                if getattr(made, "shape", None) != views.shape or made.dtype != views.dtype:
                    raise ValueError(
                        f"with_stage: the function must return {tuple(views.shape)} {views.dtype}, got "
                        f"{getattr(made, 'shape', type(made).__name__)} {getattr(made, 'dtype', '')}"
                    )
                views = made
        return views

    def _color(self, view: int, views: Any, rows: np.ndarray) -> Any:
        """Run jitter, grayscale, blur and turns, in place but for a GPU's blur; solarize is left to the normalisation."""
        views = self._run_stages("composite", views, rows)
        if rows["jitter"].any() or rows["grayscale"].any():
            jitter_color(views, **color_arguments(rows), out=views)
        blur = self._recipe.views[view].blur
        if blur is not None and rows["blur"].any():
            sigma_px = np.where(rows["blur"] == 1, rows["blur_sigma"], 0).astype(np.float32)
            # In place a GPU would copy all views first, since a tile reads its neighbours' pixels.
            out = views if isinstance(views, np.ndarray) else None
            views = gaussian_blur(views, sigma_px, taps=blur.taps, out=out)
        if rows["rotation"].any() or rows["channel_order"].any():
            turn_views(views, rotation=rows["rotation"], channel_order=rows["channel_order"], out=views)
        return views

    def _turn_mask(self, masks: Any, rows: np.ndarray) -> Any:
        """Return the masks of views as `_color` turns these; the masks themselves are left alone."""
        if masks is None or not rows["rotation"].any():
            return masks
        return turn_views(masks[:, None], rotation=rows["rotation"])[:, 0]

    def _shuffle_patches(self, view: int, views: Any, rows: np.ndarray, masks: Any) -> Any:
        shuffle = self._recipe.views[view].patch_shuffle
        if shuffle is None or not rows["patch_shuffle"].any() or (shuffle.region != "all" and masks is None):
            return views
        masks = None if shuffle.region == "all" else masks
        apply = rows["patch_shuffle"].astype(bool)
        shuffled, _ = shuffle_patches(
            views, seeds=rows["seed"], grid=shuffle.grid, fraction=shuffle.fraction, masks=masks, region=shuffle.region,
            apply=apply, out=views,
        )  # fmt: skip
        return shuffled

    def _write_negatives(self, pictures: list[Any], queries: Any, rows: np.ndarray, out: Any) -> None:
        """Normalise the negatives of queries into (n, kinds, ...): pictures of their own, and what is made of finished queries."""
        negatives = self._recipe.negatives if self._patches else None
        if negatives is not None and negatives.kind == "texture-file" and rows["texture"].any():
            missing = np.flatnonzero(rows["texture"] != 1)  # a texture by random phase stands in
            if len(missing):
                where = array_module(queries).asarray(missing)
                (pictures[-1][where],) = self._diminished(negatives, queries[where], rows[missing])
        elif negatives is not None:
            pictures = [*pictures, *self._diminished(negatives, queries, rows)]
        stacked, count = array_module(queries).stack(pictures, axis=1), len(pictures)
        stacked = stacked.reshape(len(rows) * count, *queries.shape[1:])
        self._write(stacked, np.repeat(rows, count), out.reshape(len(rows) * count, *out.shape[2:]))

    def _diminished(self, negatives: Negatives, queries: Any, rows: np.ndarray) -> list[Any]:
        """Make negatives of the query as it is handed out, but for the normalisation, which acts on pixels and commutes."""
        if negatives.kind == "patch":
            largest = min(queries.shape[2:]) - 1
            side = (min(negatives.side[0], largest), min(negatives.side[1], largest))
            tiles = tile_patches(queries, seeds=rows["seed"], side_range=side, count=negatives.count)
            return [tiles[:, k] for k in range(negatives.count)]
        steps = np.arange(1, negatives.count + 1, dtype=np.uint64) * _SEED_STEP
        return [randomize_phase(queries, seeds=rows["seed"] + step) for step in steps]

    def _settle(self, views: Any, rows: np.ndarray) -> Any:
        """Solarize, in place, and run the stages after it."""
        if rows["solarize"].any():
            solarize(views, _thresholds(rows), out=views)
        return self._run_stages("color", views, rows)

    def _normalize(self, views: Any, rows: np.ndarray, out: Any) -> None:
        if any(stage.after == "color" for stage in self._recipe.stages):
            self._write(self._settle(views, rows), rows, out)
        else:
            self._write(views, rows, out, _thresholds(rows))

    def _write(self, views: Any, rows: np.ndarray, out: Any, thresholds: np.ndarray | None = None) -> None:
        """Normalise, and solarize where thresholds are given."""
        recipe, last = self._recipe, self._channels_last
        if thresholds is None:
            thresholds = np.full(len(rows), 256, np.int32)
        normalize_views(
            views, recipe.mean, recipe.std, dtype=self._dtype, channels_last=last, solarize=thresholds, out=out
        )  # fmt: skip
        if any(stage.after == "normalize" for stage in recipe.stages):
            out[...] = self._run_stages("normalize", out, rows)


def _thresholds(rows: np.ndarray) -> np.ndarray:
    return np.where(rows["solarize"] == 1, rows["solarize_threshold"], 256).astype(np.int32)


def _all_at_once(count: int, work: Callable[[slice], None]) -> None:
    work(slice(0, count))
