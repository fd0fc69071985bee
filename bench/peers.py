"""Ours and its peers on the same shards, with the same augmentations, in the same run.

    python -m figureground.bench peers [--shards "shards/*.tar"] [--rounds 5] [--json PATH]

Two MoCo-v2 views of 224 px, float32, normalised, on the CPU; where a peer can do it at bearable cost, background swaps at p = 0.2
with sidecar masks (the DALI and kornia rows do without, which flatters them). Peers that are not installed are skipped with a note;
one that fails is an error. Before the clock starts the work is compared: shape, dtype, and the mean and standard deviation of the
views, which must agree within a few hundredths, since all draw from the same distributions.

CPU milliseconds count all threads of the process. Peers that are single-threaded by nature (PIL) run in this process, on one
thread: a DataLoader's workers divide their wall time, not their CPU time.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import os
import random
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

from figureground.bench.harness import measure, print_table, write_json
from figureground.bench.throughput import default_shards
from figureground.pipeline import Loader, recipes
from figureground.pipeline.decode import Decoder
from figureground.shards import MaskStore, Store

SIZE, SWAP_P = 224, 0.2
MEAN, STD = np.array(recipes.IMAGENET_MEAN, np.float32), np.array(recipes.IMAGENET_STD, np.float32)
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

    def _view(self, rng: random.Random, image: np.ndarray, mask: np.ndarray | None, donor: np.ndarray) -> np.ndarray:
        x, y, w, h = random_box(rng, image.shape[1], image.shape[0])
        view = cv2.resize(image[y : y + h, x : x + w], (SIZE, SIZE), interpolation=cv2.INTER_AREA)
        flip = rng.random() < 0.5
        if mask is not None and rng.random() < SWAP_P:
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
            encoded = self._masks.mask(i)
            mask = None if encoded is None else cv2.imdecode(encoded, cv2.IMREAD_GRAYSCALE)
            return cv2.imdecode(self._store.image(i), cv2.IMREAD_COLOR_RGB), mask

        for first in range(0, len(order) - self._batch + 1, self._batch):
            ids = order[first : first + self._batch]
            pairs = list(self._pool.map(decode, ids))
            out = [np.empty((self._batch, 3, SIZE, SIZE), np.float32) for _ in range(2)]

            def work(i: int, first: int = first, pairs: Any = pairs, out: Any = out) -> None:
                rng = random.Random(seed * 1_000_003 + first + i)
                for view in range(2):
                    image, mask = pairs[i]
                    done = self._view(rng, image, mask, pairs[i - 1][0])
                    done = (done.astype(np.float32) * (1 / 255) - MEAN) / STD
                    out[view][i] = done.transpose(2, 0, 1)

            list(self._pool.map(work, range(self._batch)))
            yield out


class WebDatasetPIL:
    """webdataset reading, PIL decoding and torchvision's transforms on PIL images (its own definitions where it is missing)."""

    def __init__(self, shards: Any, threads: int, batch_size: int) -> None:
        from figureground.shards import expand

        self._urls, self._batch = expand(shards), batch_size
        with Store(shards) as store, MaskStore(store) as masks:
            encoded = {store.key(i): masks.mask(i) for i in range(len(store))}
            self._masks = {key: bytes(png) for key, png in encoded.items() if png is not None}

    def _view(
        self, rng: random.Random, image: Image.Image, mask: Image.Image | None, donor: Image.Image
    ) -> Image.Image:
        x, y, w, h = random_box(rng, *image.size)
        view = image.crop((x, y, x + w, y + h)).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
        if mask is not None and rng.random() < SWAP_P:
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
        return view

    def __call__(self, seed: int) -> Batches:
        import webdataset

        rng = random.Random(seed)
        samples = webdataset.WebDataset(self._urls, shardshuffle=False, empty_check=False).shuffle(256, seed=seed)
        views: list[list[np.ndarray]] = [[], []]
        donor = None
        for sample in samples:
            name = next(ext for ext in ("jpg", "jpeg", "png") if ext in sample)
            image = Image.open(BytesIO(sample[name])).convert("RGB")
            mask = Image.open(BytesIO(self._masks[sample["__key__"]])) if sample["__key__"] in self._masks else None
            for view in range(2):
                done = np.asarray(self._view(rng, image, mask, donor or image), np.float32)
                views[view].append(((done / 255 - MEAN) / STD).transpose(2, 0, 1))
            donor = image
            if len(views[0]) == self._batch:
                yield [np.stack(v) for v in views]
                views = [[], []]


class DaliOperators:
    """DALI's own reader, decoder, crop, colour twist, blur, normalise; no backgrounds, and a fixed order of the jitter."""

    def __init__(self, shards: Any, threads: int, batch_size: int) -> None:
        from figureground.shards import expand

        self._batch = batch_size
        paths = expand(shards)
        with Store(shards) as store:
            self._samples = len(store)
        self._pipe = self._graph(paths, [str(Path(p).with_suffix(".idx")) for p in paths], threads)
        self._pipe.build()

    def _graph(self, paths: list[str], indexes: list[str], threads: int) -> Any:
        from nvidia.dali import fn, pipeline_def, types

        @pipeline_def(batch_size=self._batch, num_threads=threads, device_id=None, seed=1)
        def graph() -> Any:
            encoded = fn.readers.webdataset(paths=paths, index_paths=indexes, ext=["jpg;jpeg;png"], random_shuffle=True)
            image = fn.decoders.image(encoded, output_type=types.RGB)
            return tuple(self._view(fn, types, image) for _ in range(2))

        return graph()

    @staticmethod
    def _view(fn: Any, types: Any, image: Any) -> Any:
        def coin(p: float) -> Any:
            return fn.random.coin_flip(probability=p)

        def around(low: float, high: float, applied: Any, neutral: float) -> Any:
            return fn.random.uniform(range=[low, high]) * applied + neutral * (1 - applied)

        view = fn.random_resized_crop(
            image, size=SIZE, random_area=[0.2, 1.0], random_aspect_ratio=[3 / 4, 4 / 3], antialias=True
        )
        jitter, gray, blur = coin(0.8), coin(0.2), coin(0.5)
        view = fn.color_twist(
            view,
            brightness=around(0.6, 1.4, jitter, 1.0),
            contrast=around(0.6, 1.4, jitter, 1.0),
            saturation=around(0.6, 1.4, jitter, 1.0) * (1 - gray),
            hue=around(-36.0, 36.0, jitter, 0.0),
        )
        view = fn.gaussian_blur(view, sigma=around(0.1, 2.0, blur, 0.1))
        mean, std = [255 * float(m) for m in MEAN], [255 * float(s) for s in STD]
        return fn.crop_mirror_normalize(
            view, mirror=coin(0.5), mean=mean, std=std, output_layout="CHW", dtype=types.FLOAT
        )

    def __call__(self, seed: int) -> Batches:
        for _ in range(self._samples // self._batch):
            yield [output.as_array() for output in self._pipe.run()]


class Kornia:
    """DALI's decoder, then kornia's per-sample random augmentations, image by image before the crop, in batches after it."""

    def __init__(self, shards: Any, threads: int, batch_size: int) -> None:
        import kornia.augmentation as augmentation
        import torch

        self._torch, self._batch, self._store = torch, batch_size, Store(shards)
        torch.set_num_threads(threads)
        crop = augmentation.RandomResizedCrop((SIZE, SIZE), scale=(0.2, 1.0), resample="BILINEAR")
        self._crop = crop
        self._rest = augmentation.AugmentationSequential(
            augmentation.RandomHorizontalFlip(p=0.5),
            augmentation.ColorJitter(0.4, 0.4, 0.4, 0.1, p=0.8),
            augmentation.RandomGrayscale(p=0.2),
            augmentation.RandomGaussianBlur((23, 23), (0.1, 2.0), p=0.5),
            augmentation.Normalize(torch.from_numpy(MEAN), torch.from_numpy(STD)),
        )
        self._decoder = Decoder(batch_size, threads=threads)

    def __call__(self, seed: int) -> Batches:
        torch = self._torch
        torch.manual_seed(seed)
        order = np.random.default_rng(seed).permutation(len(self._store))
        for first in range(0, len(order) - self._batch + 1, self._batch):
            images = [
                cv2.imdecode(self._store.image(int(i)), cv2.IMREAD_COLOR_RGB)
                for i in order[first : first + self._batch]
            ]
            tensors = [torch.from_numpy(image).permute(2, 0, 1)[None].float().div_(255) for image in images]
            with torch.no_grad():
                yield [self._rest(torch.cat([self._crop(t) for t in tensors])).numpy() for _ in range(2)]


class Ours:
    """The loader."""

    def __init__(self, shards: Any, threads: int, batch_size: int) -> None:
        recipe = recipes.moco_v2().with_background("swap", p=SWAP_P)
        self._loader = Loader(
            shards, recipe, batch_size=batch_size, device="cpu", threads=threads, format="moco", masks="sidecar"
        )

    def __call__(self, seed: int) -> Batches:
        self._loader.set_epoch(seed)
        for views, _ in self._loader:
            yield [view.numpy() for view in views]


PEERS: dict[str, tuple[Callable[..., Callable[[int], Batches]], str | None]] = {
    "figureground, swap p=0.2": (Ours, None),
    "OpenCV by hand, swap p=0.2": (OpenCV, None),
    "DALI's operators, no backgrounds": (DaliOperators, None),
    "webdataset + PIL, swap p=0.2": (WebDatasetPIL, None),
    "kornia on batches, no backgrounds": (Kornia, "kornia"),
}
"""Peers by name: class, and the module that must be installed."""


def equal_work(name: str, batch: Any, reference: Any | None) -> tuple[float, float]:
    """Check shape and dtype of a batch and compare its moments with ours.

    Raises
    ------
    RuntimeError
        If a peer does other work than the others.
    """
    for view in batch:
        if view.shape[1:] != (3, SIZE, SIZE) or view.dtype != np.float32:
            raise RuntimeError(f"peers: {name} must give (B, 3, {SIZE}, {SIZE}) float32, got {view.shape} {view.dtype}")
    mean, std = float(np.mean(batch)), float(np.std(batch))
    if reference is not None and (abs(mean - reference[0]) > 0.15 or abs(std - reference[1]) > 0.15):
        raise RuntimeError(f"peers: {name} must have mean and deviation near {reference}, got {mean:.3f} and {std:.3f}")
    return mean, std


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the table, write the JSON; returns the exit code."""
    parser = argparse.ArgumentParser("python -m figureground.bench peers")
    parser.add_argument(
        "--shards", nargs="+", help="shards with indexes and mask sidecars (default: made of photographs)"
    )
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(argv)
    threads = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder:
        shards = args.shards or default_shards(folder)
        peers: dict[str, Callable[[int], Batches]] = {}
        reference = None
        for name, (make, module) in PEERS.items():
            if module and importlib.util.find_spec(module) is None:
                print(f"skipped: {name} ({module} is not installed)")
                continue
            peers[name] = make(shards, threads, args.batch_size)
            first = np.concatenate([np.stack(batch, 1) for batch in peers[name](0)])
            moments = equal_work(name, [first[:, 0], first[:, 1]], reference)
            reference = reference or moments
            print(f"{name}: mean {moments[0]:.3f}, deviation {moments[1]:.3f}")
        rounds = {"number": 0}

        def case(peer: Callable[[int], Batches]) -> Callable[[], int]:
            def run() -> int:
                rounds["number"] += 1
                return sum(len(views[0]) for views in peer(rounds["number"]))

            return run

        timings = measure({name: case(peer) for name, peer in peers.items()}, rounds=args.rounds)
        rows: dict[str, dict[str, Any]] = {name: timing.summary() for name, timing in timings.items()}
        ours = next(iter(timings.values()))
        for name, timing in timings.items():
            rows[name]["cpu_ratio"] = round(float(np.median(np.array(timing.cpu_ms) / np.array(ours.cpu_ms))), 2)
        print_table(rows, title="two MoCo-v2 views, per source image")
        write_json(args.json, {"batch_size": args.batch_size, "threads": threads, "rounds": args.rounds, "peers": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
