"""Peers written by hand: what a careful engineer's loop does with OpenCV, and MoCo-v2's own steps with webdataset and PIL.

A peer is a class made from (shards, threads, batch_size); called with a seed it runs an epoch and yields its batches: for each of
two views an array (B, 3, 224, 224) float32, normalised.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageFilter

from figureground.pipeline import recipes
from figureground.shards import MaskStore, Store, expand

SIZE, SWAP_P = 224, 0.2
MEAN, STD = np.array(recipes.IMAGENET_MEAN, np.float32), np.array(recipes.IMAGENET_STD, np.float32)
_SCALE, _SHIFT = 1 / (255 * STD), -MEAN / STD
Batches = Iterator[Any]


def random_box(rng: random.Random, width: int, height: int) -> tuple[int, int, int, int]:
    """Draw torchvision's RandomResizedCrop of MoCo-v2: left, top, width, height."""
    for _ in range(10):
        area = width * height * rng.uniform(0.2, 1.0)
        aspect = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return rng.randint(0, width - w), rng.randint(0, height - h), w, h
    side = min(width, height)
    return (width - side) // 2, (height - side) // 2, side, side


def _jitter_order(rng: random.Random) -> list[int]:
    order = [0, 1, 2, 3]
    rng.shuffle(order)
    return order


class OpenCV:
    """The loop a careful engineer writes: OpenCV calls, one thread pool, uint8 until the end."""

    def __init__(self, shards: Any, threads: int, batch_size: int) -> None:
        cv2.setNumThreads(1)
        self._store = Store(shards)
        self._masks, self._batch = MaskStore(self._store), batch_size
        self._pool = ThreadPoolExecutor(threads)

    def _view(self, rng: random.Random, image: np.ndarray, png: np.ndarray | None, donor: np.ndarray) -> np.ndarray:
        x, y, w, h = random_box(rng, image.shape[1], image.shape[0])
        view = cv2.resize(image[y : y + h, x : x + w], (SIZE, SIZE), interpolation=cv2.INTER_AREA)
        flip = rng.random() < 0.5
        if png is not None and rng.random() < SWAP_P:
            mask: Any = cv2.imdecode(png, cv2.IMREAD_GRAYSCALE)  # only now: most views need none
            dx, dy, dw, dh = random_box(rng, donor.shape[1], donor.shape[0])
            ground = cv2.resize(donor[dy : dy + dh, dx : dx + dw], (SIZE, SIZE), interpolation=cv2.INTER_AREA)
            sy, sx = mask.shape[0] / image.shape[0], mask.shape[1] / image.shape[1]
            part = mask[int(y * sy) : math.ceil((y + h) * sy), int(x * sx) : math.ceil((x + w) * sx)]
            alpha = cv2.merge([cv2.resize(part, (SIZE, SIZE), interpolation=cv2.INTER_LINEAR)] * 3)
            view = cv2.add(cv2.multiply(view, alpha, scale=1 / 255), cv2.multiply(ground, 255 - alpha, scale=1 / 255))
        if flip:
            view = cv2.flip(view, 1)
        if rng.random() < 0.8:
            view = self._jitter(rng, view)
        if rng.random() < 0.2:
            view = cv2.cvtColor(cv2.cvtColor(view, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
        if rng.random() < 0.5:
            view = cv2.GaussianBlur(view, (0, 0), rng.uniform(0.1, 2.0))
        return view

    @staticmethod
    def _jitter(rng: random.Random, view: np.ndarray) -> np.ndarray:
        for step in _jitter_order(rng):
            factor = rng.uniform(0.6, 1.4)
            if step == 0:
                view = cv2.convertScaleAbs(view, alpha=factor)
            elif step == 1:
                mean = cv2.cvtColor(view, cv2.COLOR_RGB2GRAY).mean()
                view = cv2.convertScaleAbs(view, alpha=factor, beta=(1 - factor) * mean)
            elif step == 2:
                gray = cv2.cvtColor(cv2.cvtColor(view, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
                view = cv2.addWeighted(view, factor, gray, 1 - factor, 0)
            else:
                hsv = cv2.cvtColor(view, cv2.COLOR_RGB2HSV_FULL)
                hsv[..., 0] = cv2.LUT(
                    hsv[..., 0], np.roll(np.arange(256, dtype=np.uint8), round(rng.uniform(-0.1, 0.1) * 255))
                )
                view = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)
        return view

    def __call__(self, seed: int) -> Batches:
        order = list(range(len(self._store)))
        random.Random(seed).shuffle(order)

        def decode(i: int) -> tuple[Any, Any]:
            return cv2.imdecode(self._store.image(i), cv2.IMREAD_COLOR_RGB), self._masks.mask(i)

        for first in range(0, len(order) - self._batch + 1, self._batch):
            ids = order[first : first + self._batch]
            pairs = list(self._pool.map(decode, ids))
            out = [np.empty((self._batch, 3, SIZE, SIZE), np.float32) for _ in range(2)]

            def work(i: int, first: int = first, pairs: Any = pairs, out: Any = out) -> None:
                rng = random.Random(seed * 1_000_003 + first + i)
                for view in range(2):
                    image, png = pairs[i]
                    done = self._view(rng, image, png, pairs[i - 1][0])
                    for c, (plane, result) in enumerate(zip(cv2.split(done), out[view][i], strict=True)):
                        np.multiply(plane, _SCALE[c], out=result)  # one pass and a half over each plane, in place
                        result += _SHIFT[c]

            list(self._pool.map(work, range(self._batch)))
            yield out


class PilViews:
    """MoCo-v2's transforms on PIL images written out: webdataset's samples in, pairs of views (3, 224, 224) float32 out."""

    def __init__(self, masks: dict[str, bytes]) -> None:
        self._masks = masks

    def _view(self, rng: random.Random, image: Image.Image, png: bytes | None, donor: Image.Image) -> np.ndarray:
        x, y, w, h = random_box(rng, *image.size)
        view = image.crop((x, y, x + w, y + h)).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
        if png is not None and rng.random() < SWAP_P:
            mask = Image.open(BytesIO(png))
            dx, dy, dw, dh = random_box(rng, *donor.size)
            ground = donor.crop((dx, dy, dx + dw, dy + dh)).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
            sx, sy = mask.width / image.width, mask.height / image.height
            box = (x * sx, y * sy, (x + w) * sx, (y + h) * sy)
            view = Image.composite(view, ground, mask.resize((SIZE, SIZE), Image.Resampling.BILINEAR, box=box))
        if rng.random() < 0.5:
            view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if rng.random() < 0.8:
            for step in _jitter_order(rng):
                if step == 3:
                    hue, s, v = view.convert("HSV").split()
                    shift = np.uint8(round(rng.uniform(-0.1, 0.1) * 255) % 256)
                    view = Image.merge("HSV", (Image.fromarray(np.asarray(hue) + shift), s, v)).convert("RGB")
                else:
                    enhance = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)[step]
                    view = enhance(view).enhance(rng.uniform(0.6, 1.4))
        if rng.random() < 0.2:
            view = view.convert("L").convert("RGB")
        if rng.random() < 0.5:
            view = view.filter(ImageFilter.GaussianBlur(rng.uniform(0.1, 2.0)))
        done = np.empty((3, SIZE, SIZE), np.float32)
        for c, (plane, result) in enumerate(zip(view.split(), done, strict=True)):
            np.multiply(np.asarray(plane), _SCALE[c], out=result)
            result += _SHIFT[c]
        return done

    def __call__(self, samples: Iterable[dict[str, Any]]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield two tensors for each sample: those pass between processes in shared memory, arrays would be copied by pipe."""
        rng, donor = random.Random(), None
        for sample in samples:
            name = next(ext for ext in ("jpg", "jpeg", "png") if ext in sample)
            image = Image.open(BytesIO(sample[name])).convert("RGB")
            png = self._masks.get(sample["__key__"])
            first, second = (torch.from_numpy(self._view(rng, image, png, donor or image)) for _ in range(2))
            donor = image
            yield first, second


class WebDatasetPIL:
    """webdataset reading, PIL decoding, `PilViews`, in the worker processes of a DataLoader."""

    def __init__(self, shards: Any, threads: int, batch_size: int) -> None:
        with Store(shards) as store, MaskStore(store) as masks:
            encoded = {store.key(i): masks.mask(i) for i in range(len(store))}
        views = PilViews({key: bytes(png) for key, png in encoded.items() if png is not None})
        self._loader = webdataset_loader(shards, threads, batch_size, views)

    def __call__(self, seed: int) -> Batches:
        for views in self._loader:
            yield [view.numpy() for view in views]


def webdataset_loader(shards: Any, workers: int, batch_size: int, make_views: Any) -> Any:
    """Return a DataLoader of webdataset's samples; `make_views` turns an iterator of samples into one of pairs of views.

    Workers are spawned, since Numba's threads do not survive a fork, and stay between epochs: starting them is not what is
    measured. A worker's last batch may be smaller: what was made is counted.
    """
    import webdataset

    dataset = webdataset.WebDataset(expand(shards), shardshuffle=False, empty_check=False)
    dataset = dataset.shuffle(256).compose(make_views).batched(batch_size, partial=True)
    return torch.utils.data.DataLoader(
        dataset, batch_size=None, num_workers=workers, multiprocessing_context="spawn", persistent_workers=True
    )
