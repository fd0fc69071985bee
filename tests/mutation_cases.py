"""Calls of public functions on small arrays that reach every CUDA source: what `test_mutations.py` runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from host_cuda.guarded import poisoned

from figureground.kernels import (
    background,
    blocks,
    blur,
    color,
    ground,
    ground_share,
    ground_strips,
    normalize,
    patches,
    resample,
    saliency_barrier,
    saliency_border,
    saliency_cells,
    saliency_frame,
    saliency_graph,
    saliency_lab,
    saliency_logistic,
    saliency_pixels,
    saliency_refine,
    tiles,
    token_masks,
)
from figureground.kernels.arrays import Ragged


def _bytes(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).integers(0, 256, shape, dtype=np.uint8)


def _background() -> list[Any]:
    shapes = [(2, 3, 5, 7), (3, 3, 16, 24)]
    return [background.composite_views(_bytes(*s), 255 - _bytes(*s), _bytes(s[0], *s[2:])) for s in shapes]


def _blur() -> list[Any]:
    shapes = [(4, 3, 13, 21), (4, 3, 40, 68)]
    return [blur.gaussian_blur(_bytes(*s), np.array([0.3, 1.5, 6.0, 0], np.float32)) for s in shapes]


def _color() -> list[Any]:
    results = []
    for shape in [(3, 3, 13, 21), (3, 3, 16, 40)]:
        views = _bytes(*shape)
        factors = np.array([[1.3, 0.5, 0.4, 0.1], [0.7, 1.6, 1.5, -0.2], [1.2, 1.3, 0.9, 0.05]], np.float32)
        order = np.array([[0, 1, 2, 3], [3, 2, 1, 0], [2, 255, 0, 3]], np.uint8)
        results.append(color.jitter_color(views, factors=factors, order=order, grayscale=np.array([0, 0, 1], bool)))
        results.append(color.solarize(views, np.array([100, 256, 7])))
    return results


def _normalize() -> list[Any]:
    return [
        normalize.normalize_views(
            _bytes(*shape),
            (0.4, 0.5, 0.6),
            (0.2, 0.25, 0.3),
            dtype=dtype,
            channels_last=last,
            solarize=np.array([256, 128]),
        )
        for shape in [(2, 3, 5, 7), (2, 3, 16, 40), (2, 3, 71, 71)]
        for dtype in (np.float32, np.float16)
        for last in (False, True)
    ]


def _resample() -> list[Any]:
    images = [poisoned(_bytes(*size, 3), "end") for size in [(37, 53), (50, 70), (90, 7)]]
    masks = [poisoned(_bytes(*size), "end") for size in [(11, 13), (64, 48), (5, 5)]]
    rows = np.repeat(resample.full_rows([i.shape[:2] for i in images]), 2)
    rows["mask"] = np.arange(6) // 2
    rows["donor"] = (rows["image"] + 1) % 3
    rows["donor_box"] = [[0, 0, i.shape[1], i.shape[0]] for i in images[1:] + images[:1] for _ in "ab"]
    rows["mode"] = [0, 1, 2, 3, 4, 2]
    rows["flip"] = [0, 1, 0, 1, 0, 1]
    rows["fill"], rows["seed_lo"] = [9, 99, 200], 5
    batches = Ragged.from_arrays(images), Ragged.from_arrays(masks)
    results = [resample.render_views(batches[0], rows, size, masks=batches[1]) for size in [(20, 36), (35, 33)]]
    results.append(resample.render_views(batches[0], rows, (20, 36), masks=batches[1], interpolation="bicubic"))
    # All ground, all figure, and nearly so.
    flat = Ragged.from_arrays([poisoned(np.full((9, 9), level, np.uint8), "end") for level in (0, 1, 254, 255)])
    for mode in (resample.FILL, resample.DONOR):
        table = rows[[0, 0, 0, 0]]
        table["mask"], table["mode"] = np.arange(4), mode
        results.append(resample.render_views(batches[0], table, (20, 36), masks=flat, return_masks=False))
    # Windows longer than the tables of weights.
    large = poisoned(_bytes(130, 460, 3), "end")
    for how in ("bilinear", "bicubic"):
        row = resample.full_rows([(130, 460)])
        results.append(resample.render_views(Ragged.from_arrays([large]), row, (2, 20), interpolation=how))
    edges = poisoned(_bytes(21, 34, 3) // 128 * 255, "end")  # overshoots
    row = resample.full_rows([(21, 34)])
    results.append(resample.render_views(Ragged.from_arrays([edges]), row, (20, 36), interpolation="bicubic"))
    return [array for pair in results for array in pair if array is not None]


def _ground() -> list[Any]:
    results = []
    for shape in [(4, 3, 13, 21), (4, 3, 140, 40), (4, 3, 1, 1)]:
        masks = np.where(_bytes(shape[0], *shape[2:]) < 6, 255, 0).astype(np.uint8)
        masks[0, : shape[2] // 2], masks[1], masks[2, :, : 3 * shape[3] // 4] = 9, 255, 9
        results.append(ground.inpaint_figures(_bytes(*shape), masks))
    return results


def _ground_strips() -> list[Any]:
    results: list[Any] = []
    for shape in [(4, 3, 13, 21), (4, 3, 20, 24)]:
        masks = np.zeros((4, *shape[2:]), np.uint8)
        for mask, (y, x) in zip(masks, [(0, 2), (0, 9), (6, 9), (8, 0)]):  # strips: right, left, top, top
            mask[y : y + 5, x : x + 11] = 51
        masks[0, 11, 3] = 255
        results += ground_strips.tile_ground(_bytes(*shape), masks)
    return results


def _ground_share() -> list[Any]:
    boxes = np.array(
        [[0, 0, 1, 1], [0.1, 0.2, 0.33, 0.71], [0.52, 0.3, 0.48, 0.2], [0.985, 0.05, 0.01, 0.9]], np.float32
    )
    return [ground_share.figure_share(_bytes(3, *size), np.tile(boxes, (3, 1, 1))) for size in [(9, 40), (33, 13)]]


def _saliency_lab() -> list[Any]:
    return [plane for shape in [(2, 3, 9, 13), (1, 3, 32, 20)] for plane in saliency_lab.lab_planes(_bytes(*shape))]


def _saliency_barrier() -> list[Any]:
    return [saliency_barrier.barrier_cost(_bytes(2, 3, *size)) for size in [(9, 40), (40, 33), (16, 16)]]


def _saliency_border() -> list[Any]:
    planes = [_bytes(2, 3, 9, 13), _bytes(1, 3, 35, 55), np.full((1, 3, 4, 4), 7, np.uint8)]
    return [saliency_border.border_contrast(p) for p in planes]


def _saliency_cells() -> list[Any]:
    results: list[Any] = []
    for count, height, width in [(2, 16, 16), (1, 37, 53)]:
        raw = _bytes(count, 3, -(-height // 5), -(-width // 5)).repeat(5, 2).repeat(5, 3)[:, :, :height, :width]
        raw = np.ascontiguousarray(raw // 2 + _bytes(count, 3, height, width) // 16)
        contrast = _bytes(count, height, width).astype(np.uint16) * 16
        labels, features = saliency_cells.soft_cells(raw, _bytes(count, 3, height, width), contrast)
        results += [labels, features, saliency_cells.paint_cells(labels, _bytes(count, 256))]
    return results


def _saliency_frame() -> list[Any]:
    results = []
    for height, width in [(37, 53), (60, 40)]:
        images = np.full((4, 3, height, width), 250, np.uint8)
        for n, (top, bottom, left, right) in enumerate([(1, 2, 3, 4), (0, 0, 0, 0), (0, 3, 0, 0), (2, 0, 0, 1)]):
            inside = images[n, :, top : height - bottom, left : width - right]
            inside[:] = _bytes(*inside.shape) // 2
        images[0, :, 0, :4] = 190  # a frame that is not quite of one color
        frames = saliency_frame.find_frames(images)
        results += [frames, saliency_frame.paint_frames(images, frames)]
        results.append(saliency_frame.blank_frames(_bytes(4, height, width), frames))
    return results


def _saliency_graph() -> list[Any]:
    """A figure of another color with high cues on a noisy ground, large and at the left border, small and inside."""
    row, column = np.divmod(np.arange(256), 16)
    figure = np.stack([(row - 8) ** 2 + (column - 3) ** 2 < 16, (row - 5) ** 2 + (column - 9) ** 2 < 8])
    features = _bytes(2, 6, 256).astype(np.float32) / [[12], [12], [12], [2], [2], [0.2]]
    features += figure[:, None] * np.array([[60], [-30], [20], [0], [90], [1800]])
    features = features.astype(np.float32)
    return [saliency_graph.cell_saliency(features, cue=cue) for cue in saliency_graph.CUES]


def _saliency_logistic() -> list[Any]:
    maps = [_bytes(2, 9, 13) // 9 * 9, _bytes(1, 37, 53), np.full((1, 3, 3), 200, np.uint8)]
    maps[1][:, 9:20, 11:35] |= 192
    maps.append(np.array([[[0, 100, 200]]], np.uint8))  # two levels cut equally well
    return [saliency_logistic.sharpen_maps(m) for m in maps]


def _saliency_pixels() -> list[Any]:
    faint = np.zeros((1, 3, 4, 4), np.uint8)
    faint[:, 1, 1, 2] = 1
    results = [saliency_pixels.pixel_saliency(faint)]
    for shape in [(2, 16, 16), (1, 37, 53)]:
        cost = _bytes(shape[0], 3, *shape[1:]) // 2 + 20
        contrast = _bytes(*shape).astype(np.uint16) * 16
        results += [saliency_pixels.pixel_saliency(cost), saliency_pixels.pixel_saliency(cost, contrast)]
    return results


def _saliency_refine() -> list[Any]:
    results = []
    for count, height, width in [(2, 9, 13), (1, 20, 45)]:
        images, maps = _bytes(count, 3, height, width), _bytes(count, height, width) // 4
        images //= 2
        maps[:, 3:8, 4:11], images[:, :, 3:8, 4:11] = 255, images[:, :, 3:8, 4:11] + 128
        results.append(saliency_refine.refine_maps(images, maps))
    return results


def _seeds(count: int) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 2**64, count, dtype=np.uint64)


def _blocks() -> list[Any]:
    results: list[Any] = []
    for shape in [(3, 3, 13, 21), (2, 3, 32, 40)]:
        how: dict[str, Any] = {"seeds": _seeds(shape[0]), "max_share": 0.8, "max_block": 0.5, "grid": 4}
        how["apply"] = np.arange(shape[0]) > 0
        partners = np.arange(shape[0], dtype=np.int32)[::-1].copy()
        results.extend(blocks.corrupt_blocks(_bytes(*shape), **how))
        results.extend(blocks.corrupt_blocks(_bytes(*shape), **how, fill="partner", partners=partners))
    return results


def _patches() -> list[Any]:
    results: list[Any] = []
    for shape, grid in [((3, 3, 13, 21), 4), ((2, 3, 20, 40), 5), ((2, 3, 32, 64), 2)]:
        how = {"seeds": _seeds(shape[0]), "grid": grid, "masks": _bytes(shape[0], *shape[2:]), "fraction": 0.8}
        for region in ("all", "figure", "ground"):
            results.extend(patches.shuffle_patches(_bytes(*shape), **how, region=region))
    for shape, patch in [((4, 3, 9, 6), 3), ((8, 3, 8, 12), 4), ((4, 3, 16, 32), 16)]:
        results.extend(patches.mix_patches(_bytes(*shape), seeds=_seeds(shape[0] // 4), group=4, patch=patch))
    return results


def _tiles() -> list[Any]:
    shapes = [(3, 3, 13, 21), (2, 3, 20, 40)]
    return [tiles.tile_patches(_bytes(*s), seeds=_seeds(s[0]), side_range=(3, 9), count=2) for s in shapes]


def _token_masks() -> list[Any]:
    return [
        token_masks.patch_masks(_bytes(5, 30, 43), seeds=_seeds(5), grid=grid, policy=policy, **share)
        for grid in [(7, 7), (12, 14)]
        for policy in token_masks.POLICIES
        for share in ({"ratio": 0.6}, {"count": 29})
    ]


CASES: dict[str, Callable[[], list[Any]]] = {
    "background": _background,
    "blocks": _blocks,
    "blur": _blur,
    "color": _color,
    "ground": _ground,
    "ground_share": _ground_share,
    "ground_strips": _ground_strips,
    "normalize": _normalize,
    "patches": _patches,
    "resample": _resample,
    "saliency_barrier": _saliency_barrier,
    "saliency_border": _saliency_border,
    "saliency_cells": _saliency_cells,
    "saliency_frame": _saliency_frame,
    "saliency_graph": _saliency_graph,
    "saliency_lab": _saliency_lab,
    "saliency_logistic": _saliency_logistic,
    "saliency_pixels": _saliency_pixels,
    "saliency_refine": _saliency_refine,
    "tiles": _tiles,
    "token_masks": _token_masks,
}
