"""Quality and cost of the saliency methods against true masks.

    python -m figureground.bench saliency --images photos --masks truth
    python -m figureground.bench saliency --images photos --masks truth --methods fused,mb+,rbd --size 64 --half odd
    python -m figureground.bench saliency --images photos --masks truth --json quality.json --picture cases.png

An image and its mask (white or 1 = figure) share a stem; they may lie in one folder, the mask being the PNG. Images are
resized as the pipeline does, masks compared at the size of the truth. maxF and meanF (beta^2 = .3), MAE, S- and E-measure
are those of the PySODMetrics package; IoU, precision and recall are means over images, at each image's Otsu threshold
(`@otsu`) and at one half (`@.5`). CPU time is the estimate alone, without decode and resize. "center" is a bare Gaussian
center prior: what no method should lose to.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from figureground.bench.given import file_to_write
from figureground.bench.harness import print_table, write_json
from figureground.kernels.arrays import Ragged
from figureground.kernels.render_rows import full_rows
from figureground.kernels.resample import render_views
from figureground.kernels.saliency import METHODS
from figureground.pipeline.methods import check_method, resolve_method

_BETA2 = 0.3
_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
_OTHER_SHAPE = 0.05
"""Difference of the logarithms of aspect ratios above which a mask is reported: it may be turned, or another image's."""
_ROUNDS = 3


def _files(folder: str | Path, what: str) -> list[Path]:
    if not Path(folder).is_dir():
        raise ValueError(f"find_pairs: {what} must be a folder, got {folder}")
    return sorted(path for path in Path(folder).iterdir() if path.suffix.lower() in _SUFFIXES)


def find_pairs(images: str | Path, masks: str | Path, half: str | None = None) -> list[tuple[Path, Path]]:
    """Pair images with masks by stem, sorted; every second one if `half` is "even" or "odd".

    Parameters
    ----------
    images, masks : str or Path
        Folders of JPEG, PNG, BMP, WebP or TIFF files, or one for both. Of several masks of a stem, a PNG is taken first.
    half : {"even", "odd"}, optional

    Returns
    -------
    list of (Path, Path)
        Images that have a mask; stderr says how many files found no partner.

    Raises
    ------
    ValueError
        If a folder is none, or no image has a mask.
    """
    photos, truths = _files(images, "images"), _files(masks, "masks")
    truth = {path.stem: path for path in sorted(truths, key=lambda path: path.suffix.lower() == ".png")}
    pairs = [(path, truth[path.stem]) for path in photos if path.stem in truth and not path.samefile(truth[path.stem])]
    if not pairs:
        first = [f"{len(paths)} (first: {paths[0].name})" if paths else "0" for paths in (photos, truths)]
        raise ValueError(
            f"find_pairs: images must have masks of the same stem in {masks}, got {first[0]} images and {first[1]} masks"
        )
    used = {path.stem for path, _ in pairs}
    alone = sum(path.stem not in used for path in photos), sum(stem not in used for stem in truth)
    if any(alone):
        print(
            f"saliency: {alone[0]} images without a mask, {alone[1]} masks without an image: left out", file=sys.stderr
        )
    return pairs if half is None else pairs[half == "odd" :: 2]


def read_truth(path: str | Path) -> np.ndarray:
    """Read a true mask: above 127 is figure, or above 0 where the mask holds 0 and 1 only.

    Raises
    ------
    ValueError
        If the file is no image, or its greatest value lies between: labels or shades, not a mask.
    """
    grey = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if grey is None:
        raise ValueError(f"load_pairs: {path} must be a readable image, got none")
    most = int(grey.max())
    if 1 < most <= 127:
        raise ValueError(f"load_pairs: {path} must hold 0 and 255, or 0 and 1, got values up to {most}")
    return np.asarray(grey > (127 if most > 1 else 0))


def load_pairs(pairs: list[tuple[Path, Path]], sides: Iterable[int]) -> tuple[dict[int, np.ndarray], list[np.ndarray]]:
    """Read all pairs.

    Parameters
    ----------
    pairs : list of (Path, Path)
        From `find_pairs`.
    sides : iterable of int
        Sides to which images are resized [px].

    Returns
    -------
    dict of int to (N, 3, side, side) uint8
        Whole images by side, resized by the pipeline's own kernel.
    list of (h, w) bool
        The true masks.
    """
    photos, truths, other = [], [], []
    for image, mask in pairs:
        photo, truth = cv2.imread(str(image), cv2.IMREAD_COLOR), read_truth(mask)
        if photo is None:
            raise ValueError(f"load_pairs: {image} must be a readable image, got none")
        photos.append(cv2.cvtColor(photo, cv2.COLOR_BGR2RGB))
        truths.append(truth)
        if abs(np.log((photo.shape[1] / photo.shape[0]) / (truth.shape[1] / truth.shape[0]))) > _OTHER_SHAPE:
            other.append(f"{mask.name} ({truth.shape[1]} x {truth.shape[0]} for {photo.shape[1]} x {photo.shape[0]})")
    if other:
        print(f"saliency: {len(other)} masks have another shape than their images, first {other[0]}", file=sys.stderr)
    ragged = Ragged.from_arrays(photos)
    rows = full_rows(ragged.sizes)
    return {side: render_views(ragged, rows, (side, side))[0] for side in sorted(set(sides))}, truths


def center_prior(small: np.ndarray) -> np.ndarray:
    """Return the same Gaussian (sigma a third of the side) for every image: (N, H, W) uint8."""
    y, x = ((np.arange(n) + 0.5) / n - 0.5 for n in small.shape[2:])
    prior = 255 * np.exp(-(y[:, None] ** 2 + x**2) / (2 * 0.33**2))
    return np.broadcast_to(prior.astype(np.uint8), (len(small), *small.shape[2:]))


def _overlaps(mask: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Return IoU, precision and recall at the Otsu threshold and at one half."""
    otsu, _ = cv2.threshold(mask, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    scores = {}
    for name, threshold in (("otsu", otsu), (".5", 127)):
        found = mask > threshold
        both, either = int((found & truth).sum()), int((found | truth).sum())
        scores[f"IoU@{name}"] = both / max(either, 1)
        scores[f"prec@{name}"] = both / max(int(found.sum()), 1)
        scores[f"rec@{name}"] = both / max(int(truth.sum()), 1)
    return scores


def score_masks(masks: np.ndarray, truths: list[np.ndarray]) -> tuple[dict[str, float], list[float]]:
    """Score masks against the truth; also return the IoU at one half of each image.

    Parameters
    ----------
    masks : (N, H, W) uint8
    truths : list of N (h, w) bool

    Raises
    ------
    RuntimeError
        If PySODMetrics is not installed.
    """
    try:
        from py_sod_metrics import MAE, Emeasure, Fmeasure, Smeasure
    except ImportError as error:
        raise RuntimeError(
            f"score_masks: PySODMetrics must be installed, got {error}; pip install figureground[bench]"
        ) from error

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Fmeasure announces a successor that gives the same numbers
        f_measure, mae, s_measure, e_measure = Fmeasure(beta=_BETA2), MAE(), Smeasure(), Emeasure()
    overlaps = []
    for mask, truth in zip(masks, truths):
        full = cv2.resize(mask, truth.shape[::-1], interpolation=cv2.INTER_LINEAR)
        grey = truth.astype(np.uint8) * 255
        # `normalize` would stretch each map to 0..1: a mask is judged as it is.
        for measure in (f_measure, mae, s_measure, e_measure):
            measure.step(full / 255.0, truth, normalize=False)
        overlaps.append(_overlaps(full, grey > 0))
    curve = f_measure.get_results()["pr"]
    precision, recall = curve["p"], curve["r"]
    f_curve = (1 + _BETA2) * precision * recall / np.maximum(_BETA2 * precision + recall, 1e-9)
    scores = {
        "maxF": float(f_curve.max()),
        "meanF": float(f_measure.get_results()["fm"]["curve"].mean()),
        "MAE": float(mae.get_results()["mae"]),
        "S": float(s_measure.get_results()["sm"]),
        "E": float(e_measure.get_results()["em"]["curve"].mean()),
    }
    for name in overlaps[0]:
        scores[name] = float(np.mean([o[name] for o in overlaps]))
    return scores, [o["IoU@.5"] for o in overlaps]


def _timed(estimate: Callable[[np.ndarray], np.ndarray], small: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the masks and the median CPU milliseconds an image; the first call compiles and does not count."""
    estimate(small[:1])
    costs = []
    for _ in range(_ROUNDS):
        began = time.thread_time()
        masks = estimate(small)
        costs.append(1e3 * (time.thread_time() - began) / len(small))
    return masks, float(np.median(costs))


def draw_cases(path: str | Path, small: np.ndarray, masks: np.ndarray, truths: list[np.ndarray], order: Any) -> None:
    """Write a picture of the ten worst (top rows) and ten best images: image, mask, truth."""
    cells = []
    picked = [*order[:10], *order[-10:]]
    for i in picked:
        size = small.shape[3], small.shape[2]
        truth = cv2.resize(truths[i].astype(np.uint8) * 255, size, interpolation=cv2.INTER_AREA)
        mask = cv2.resize(masks[i], size, interpolation=cv2.INTER_LINEAR)
        grey = [np.repeat(m[..., None], 3, axis=2) for m in (mask, truth)]
        cell = np.hstack([small[i].transpose(1, 2, 0)[..., ::-1], *grey])
        cells.append(cv2.copyMakeBorder(cell, 2, 2, 2, 2, cv2.BORDER_CONSTANT, value=(90, 90, 90)))
    cells += [np.zeros_like(cells[0])] * (-len(cells) % 5)
    rows = [np.hstack(cells[k : k + 5]) for k in range(0, len(cells), 5)]
    if not cv2.imwrite(str(path), np.vstack(rows)):
        raise ValueError(f"draw_cases: path must be a writable image file, got {path}")


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m figureground.bench saliency", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--images", required=True, metavar="DIR")
    parser.add_argument(
        "--masks", required=True, metavar="DIR", help="true masks, by stem; may be the folder of the images"
    )
    parser.add_argument("--methods", default=",".join(METHODS), metavar="A,B", help="default: all")
    parser.add_argument("--size", type=int, default=96, metavar="PX")
    parser.add_argument(
        "--half", choices=("even", "odd"), help="every second image: tune on one half, report the other"
    )
    parser.add_argument("--json", type=file_to_write, metavar="PATH", help="write the table with the machine it was measured on")
    parser.add_argument("--picture", type=file_to_write, metavar="PATH", help="write the ten worst and best of the first method")
    return parser.parse_args(argv)


def main(argv: list[str]) -> int:
    """Run the bench; returns its exit code."""
    options = _parse(argv)
    methods = options.methods.split(",")
    try:
        for method in methods:
            check_method(method, caller="--methods")
        # As the mask job does: a method that wants a side of its own (a ViT) gets it.
        side_of = {method: resolve_method(method).side or options.size for method in methods}
        pairs = find_pairs(options.images, options.masks, options.half)
        images, truths = load_pairs(pairs, [options.size, *side_of.values()])
        table = {"center": score_masks(center_prior(images[options.size]), truths)[0]}
    except (OSError, ValueError, RuntimeError) as error:
        print(f"saliency: {error}", file=sys.stderr)
        return 2
    for number, method in enumerate(methods):
        small = images[side_of[method]]
        masks, cpu_ms = _timed(partial(resolve_method(method), size=options.size), small)
        scores, ious = score_masks(masks, truths)
        table[method] = {**scores, "cpu_ms": cpu_ms}
        if options.picture and number == 0:
            draw_cases(options.picture, small, masks, truths, np.argsort(ious))
    shown = {name: {k: f"{v:.3f}" for k, v in row.items()} for name, row in table.items()}
    print_table(shown, title=f"{len(truths)} images, {options.size} px")
    what = {"images": len(truths), "size_px": options.size, "half": options.half, "sides_px": side_of, "methods": table}
    write_json(options.json, {"saliency": what})
    return 0
