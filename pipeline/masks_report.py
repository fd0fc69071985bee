"""A page to look through masks: one HTML file with everything in it.

A thumbnail (JPEG) and a small copy of its mask are embedded for each image; the page draws the outline at any threshold,
sorts, filters and counts. It needs no server and no network.
"""

from __future__ import annotations

import base64
import io
import itertools
import json
import os
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib import resources
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageOps

from figureground.shards import MaskStore, ShardError, Store
from figureground.shards.cache import ShardCache
from figureground.shards.files import publish
from figureground.shards.urls import is_url, shown

from .masks_estimate import EstimateMasks, Estimator
from .masks_work import EMPTY_BELOW, FULL_ABOVE, mean_share, resize_mask
from .methods import check_method, label_method
from .outputs import new_file
from .processors import own_processors

_SIDE = 56
"""Side of the embedded masks [px]."""
_THUMB = 128
_QUALITY = 80
_DAMAGED = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)


@dataclass(frozen=True)
class Item:
    """One image of the page."""

    key: str
    shard: int
    width: int
    height: int
    photo: str
    """Base64 of a JPEG; empty if the image cannot be decoded."""
    mask: str | None
    """Base64 of the deflated mask, (56, 56) uint8; None without a mask."""
    other: str | None
    """The mask of the other method."""
    area: float | None
    """Share of the figure, 0..1."""
    confidence: float | None
    disagreement: float | None
    note: str = ""


@dataclass(frozen=True)
class PageSummary:
    """What `write_page` wrote."""

    path: str
    images: int
    samples: int
    masks: int
    size_bytes: int

    def __str__(self) -> str:
        return f"{self.path}: {self.images} of {self.samples} images, {self.masks} with a mask, {self.size_bytes / 1e6:.1f} MB"


def mask_confidence(mask: np.ndarray) -> float:
    """Measure how bimodal a soft mask is.

    Parameters
    ----------
    mask : (H, W) uint8

    Returns
    -------
    float
        Variance over the greatest one that a mask of this mean can have, mean * (1 - mean): 1 where all values are 0 or
        255, 0 where all are equal.

    Examples
    --------
    >>> mask_confidence(np.array([[0, 255]], np.uint8)), mask_confidence(np.array([[96, 160]], np.uint8))
    (1.0, 0.063)
    """
    share = mask.astype(np.float64) / 255
    mean = float(share.mean())
    return round(float(share.var()) / (mean * (1 - mean)), 4) if 0 < mean < 1 else 0.0


def mask_disagreement(mask: np.ndarray, other: np.ndarray) -> float:
    """Measure how much two soft masks differ: 1 - sum(min) / sum(max), 0 (equal) to 1 (disjoint).

    Parameters
    ----------
    mask : (H, W) uint8
    other : (h, w) uint8
        Resized to the first one's size.

    Examples
    --------
    >>> left, all_of_it = np.array([[255, 0]], np.uint8), np.array([[255, 255]], np.uint8)
    >>> mask_disagreement(left, all_of_it), mask_disagreement(left, 255 - left)
    (0.5, 1.0)
    """
    same = resize_mask(other, mask.shape[1], mask.shape[0])
    most = int(np.maximum(mask, same).sum(dtype=np.int64))
    return round(1 - int(np.minimum(mask, same).sum(dtype=np.int64)) / most, 4) if most else 0.0


def write_page(
    shards: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    masks_dir: str | os.PathLike[str] | None = None,
    limit: int = 2000,
    compare: str | None = None,
    device: str = "cpu",
    title: str | None = None,
    cache: ShardCache | None = None,
) -> PageSummary:
    """Write the page.

    Parameters
    ----------
    shards : str, path or sequence of these
        As for `figureground.shards.expand`; URLs too, with `cache`.
    out : path
        The HTML file.
    masks_dir : path, optional
        Folder of the sidecars, or its URL; by default they lie beside their shards.
    limit : int
        Images at most; of more, every n-th is taken.
    compare : str, optional
        A saliency method to compare with, or a folder of other sidecars.
    device : str
        Where that method runs.
    title : str, optional
    cache : ShardCache, optional
        Where shards and sidecars behind URLs are kept; every shard of which an image is shown is fetched, one ahead.

    Returns
    -------
    PageSummary

    Raises
    ------
    ShardError
        If shards or sidecars cannot be read, or there is no sidecar at all.
    ValueError
        If `limit` or `compare` is not legal.
    RuntimeError
        If the device is not there.
    """
    try:
        path = os.fspath(new_file(out))
    except ValueError as error:
        raise ValueError(f"write_page: out {error}") from error
    if limit < 1:
        raise ValueError(f"write_page: limit must be at least 1, got {limit}")
    with Store(shards, cache=cache) as store, MaskStore(store, masks_dir, cache=cache) as masks:
        manifests = [manifest for manifest in masks.manifests if manifest is not None]
        if not manifests:
            raise ShardError(
                f"{masks.sidecars[0]}: no shard has a sidecar there; run 'figureground masks' or name its folder"
            )
        samples = spread(len(store), limit)
        items = _items(store, masks, samples, compare, device, cache)
        methods = Counter(manifest.method for manifest in manifests)
        document = {
            "title": title or "Masks",
            "about": _about(store, len(samples), methods, masks),
            "method": " + ".join(methods),
            "compare": _name(compare),
            "side": _SIDE,
            "empty_below": EMPTY_BELOW,
            "full_above": FULL_ABOVE,
            "shards": [os.path.basename(path) for path in store.shards],
            "items": [asdict(item) for item in items],
        }
        total = len(store)
    page = _fill(document)
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    with publish(path) as file:
        file.write(page)
    return PageSummary(path, len(items), total, sum(item.area is not None for item in items), len(page))


def spread(count: int, limit: int) -> list[int]:
    """Choose at most `limit` of `count` numbers, evenly.

    Examples
    --------
    >>> spread(10, 4), spread(2, 4)
    ([0, 2, 5, 7], [0, 1])
    """
    return list(range(count)) if count <= limit else [i * count // limit for i in range(limit)]


def _about(store: Store, shown: int, methods: Iterable[str], masks: MaskStore) -> str:
    present = int(masks.present.sum())
    some = f"{shown:,} of {len(store):,} images" if shown < len(store) else f"{len(store):,} images"
    where = os.path.basename(os.path.dirname(store.shards[0])) or store.shards[0]
    return f"{some} in {len(store.shards):,} shards of {where}; {present:,} masks by {', '.join(methods)}"


def _name(compare: str | None) -> str | None:
    if compare is not None and is_url(compare):
        return shown(compare)
    if compare is None:
        return None
    return os.path.basename(os.path.normpath(compare)) if os.path.isdir(compare) else label_method(compare)


def _fill(document: dict[str, Any]) -> bytes:
    template = resources.files("figureground.pipeline").joinpath("masks_report.html").read_text("utf-8")
    # No "<" in the data: no text of a key can end the script element.
    return template.replace("__DATA__", json.dumps(document).replace("<", "\\u003c")).encode()


def _runs(store: Store, samples: Sequence[int]) -> Iterator[tuple[list[int], list[int]]]:
    """Yield samples to do together, and the shards that they and the next ones need; of local shards, all at once."""
    if not store.is_remote:
        yield list(samples), []
        return
    groups = [(shard, list(group)) for shard, group in itertools.groupby(samples, store.shard_of)]
    for number, (shard, group) in enumerate(groups):
        yield group, [shard, *(following for following, _ in groups[number + 1 : number + 2])]


def _items(
    store: Store, masks: MaskStore, samples: list[int], compare: str | None, device: str, cache: ShardCache | None
) -> list[Item]:
    items: list[Item] = []
    with (
        _other_masks(store, compare, device, cache) as others_of,
        ThreadPoolExecutor(own_processors()) as pool,
    ):
        for run, needed in _runs(store, samples):
            if needed:
                store.need(needed)
                masks.need(needed)
            items += pool.map(lambda pair: _item(store, masks, *pair), zip(run, others_of(run), strict=True))
    return items


@contextmanager
def _other_masks(
    store: Store, compare: str | None, device: str, cache: ShardCache | None
) -> Iterator[Callable[[list[int]], list[np.ndarray | None]]]:
    """Yield a function of samples that gives the masks to compare with."""
    if compare is None:
        yield lambda samples: [None] * len(samples)
    elif os.path.isdir(compare) or is_url(compare):
        with MaskStore(store, compare, cache=cache) as masks:
            if not any(masks.manifests):
                raise ShardError(
                    f"{masks.sidecars[0]}: no shard has a sidecar in the folder to compare with; name another one, or a "
                    f"saliency method (a folder of its name comes first)"
                )
            yield lambda samples: [_decoded(masks.mask(sample)) for sample in samples]
    else:
        check_method(compare, caller="write_page: compare is no folder of sidecars")
        estimator = Estimator(EstimateMasks(compare, device=device, threads=own_processors()))

        def estimated(samples: list[int]) -> list[np.ndarray | None]:
            results = [result for batch in estimator.estimates(store, samples) for result in batch]
            return [_decoded(np.frombuffer(result.png, np.uint8)) if result.png else None for result in results]

        try:
            yield estimated
        finally:
            estimator.close()


def _item(store: Store, masks: MaskStore, sample: int, other: np.ndarray | None) -> Item:
    png = masks.mask(sample)
    mask = _decoded(png)
    photo, width, height, note = _thumbnail(store.image(sample))
    if mask is None and png is not None:
        note = "its mask is damaged"
    compared = mask is not None and other is not None
    return Item(
        store.key(sample), store.shard_of(sample), width, height, photo,
        None if mask is None else _embedded(mask),
        None if other is None else _embedded(other),
        None if mask is None else round(mean_share(mask), 5),
        None if mask is None else mask_confidence(mask),
        mask_disagreement(mask, other) if compared and mask is not None and other is not None else None,
        note,
    )  # fmt: skip


def _thumbnail(data: np.ndarray) -> tuple[str, int, int, str]:
    """Return the JPEG, its width and height, and what is wrong with the image."""
    try:
        with Image.open(io.BytesIO(data.tobytes())) as image:
            image.draft("RGB", (2 * _THUMB, 2 * _THUMB))
            small = _eight_bits(ImageOps.exif_transpose(image)).convert("RGB")
    except _DAMAGED:
        return "", 1, 1, "the image cannot be decoded" if data.size else "no image"
    small.thumbnail((_THUMB, _THUMB), Image.Resampling.BICUBIC)
    stream = io.BytesIO()
    small.save(stream, "JPEG", quality=_QUALITY)
    return base64.b64encode(stream.getvalue()).decode(), small.width, small.height, ""


def _eight_bits(image: Image.Image) -> Image.Image:
    """Scale 16-bit grey, as the pipeline's decoder does; Pillow's own conversion would show most of it as white."""
    if image.mode != "I" and not image.mode.startswith("I;16"):
        return image
    wide = np.clip(np.asarray(image), 0, 65535).astype(np.uint32)
    return Image.fromarray(((wide * 255 + 32767) // 65535).astype(np.uint8))


def _decoded(png: np.ndarray | None) -> np.ndarray | None:
    return None if png is None else cv2.imdecode(png, cv2.IMREAD_GRAYSCALE)


def _embedded(mask: np.ndarray) -> str:
    return base64.b64encode(zlib.compress(resize_mask(mask, _SIDE, _SIDE).tobytes(), 9)).decode()
