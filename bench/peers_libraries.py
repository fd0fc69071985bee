"""Peers made of libraries: torchvision on PIL images (through webdataset) and on uint8 tensors, kornia on batches; bare decoders.

The classes are like those of `peers_hand`. Libraries are imported when a peer is made, so that a missing one can be skipped.

torchvision's package index serves a CUDA build, whose compiled operators do not load beside a CPU build of torch; its import then
fails over two operators that no transform calls: `import_transforms` declares their names first. SPDL needs the shared libraries
of FFmpeg (4 to 9): the system's, or those in PyAV's wheel, which `make bench-peers` links beside SPDL's.
"""

from __future__ import annotations

import contextlib
import importlib
import random
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image, ImageFilter

from figureground.bench.peers_hand import MEAN, SIZE, STD, Batches, webdataset_loader
from figureground.shards import Store

_DECLARED: list[Any] = []
"""Keeps the declarations of `import_transforms` alive."""
_KORNIA_CHUNK = 8
"""Images that kornia handles at once on the CPU."""


def import_transforms() -> Any:
    """Return `torchvision.transforms.v2`, also where torchvision's compiled operators cannot be loaded.

    Raises
    ------
    ImportError
        If torchvision is missing, or its import fails for another reason.
    """
    with contextlib.suppress(RuntimeError):
        return importlib.import_module("torchvision.transforms.v2")
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        with contextlib.suppress(RuntimeError):  # declared already
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _DECLARED.append(library)
    try:
        return importlib.import_module("torchvision.transforms.v2")
    except RuntimeError as error:
        raise ImportError(f"torchvision does not fit this torch: {error}") from error


class PilBlur:
    """MoCo-v2's blur: PIL's, with a drawn radius."""

    def __call__(self, image: Image.Image) -> Image.Image:
        """Return the blurred image."""
        return image.filter(ImageFilter.GaussianBlur(random.uniform(0.1, 2.0)))


def moco_transform(blur: Any) -> Any:
    """Return torchvision's MoCo-v2 transform for a PIL image or a (3, H, W) uint8 tensor, with the given blur."""
    v2 = import_transforms()
    return v2.Compose(
        [
            v2.RandomResizedCrop(SIZE, scale=(0.2, 1.0), antialias=True),
            v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
            v2.RandomGrayscale(p=0.2),
            v2.RandomApply([blur], p=0.5),
            v2.RandomHorizontalFlip(p=0.5),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN.tolist(), STD.tolist()),
        ]
    )


class TwoViews:
    """Turns webdataset's samples into pairs of views; its transform is made in each worker, since it need not travel."""

    def __init__(self) -> None:
        self._transform: Any = None

    def __call__(self, samples: Iterable[dict[str, Any]]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield two tensors (3, 224, 224) float32 for each sample."""
        self._transform = self._transform or moco_transform(PilBlur())
        for sample in samples:
            name = next(ext for ext in ("jpg", "jpeg", "png") if ext in sample)
            image = Image.open(BytesIO(sample[name])).convert("RGB")
            yield self._transform(image).as_subclass(torch.Tensor), self._transform(image).as_subclass(torch.Tensor)


class WebDatasetTorchvision:
    """webdataset, PIL and torchvision in the worker processes of a DataLoader: what most training code does."""

    def __init__(self, shards: Any, threads: int, batch_size: int) -> None:
        import_transforms()
        self._loader = webdataset_loader(shards, threads, batch_size, TwoViews())

    def __call__(self, seed: int) -> Batches:
        torch.manual_seed(seed)
        for views in self._loader:
            yield [view.numpy() for view in views]


class TorchvisionTensors:
    """OpenCV's decoder, then torchvision v2 on uint8 tensors: image by image, since it draws once for a whole batch."""

    def __init__(self, shards: Any, threads: int, batch_size: int) -> None:
        torch.set_num_threads(1)
        self._store, self._batch, self._pool = Store(shards), batch_size, ThreadPoolExecutor(threads)
        self._transform = moco_transform(import_transforms().GaussianBlur(23, (0.1, 2.0)))

    def _views(self, i: int) -> list[np.ndarray]:
        image = torch.from_numpy(decode_opencv(self._store.image(i))).permute(2, 0, 1)
        return [np.asarray(self._transform(image)) for _ in range(2)]

    def __call__(self, seed: int) -> Batches:
        torch.manual_seed(seed)
        for ids in _runs(len(self._store), self._batch, seed):
            views = list(self._pool.map(self._views, ids))
            yield [np.stack(view) for view in zip(*views, strict=True)]


def kornia_rest() -> Any:
    """Return kornia's augmentations of MoCo-v2 behind the crop, for (B, 3, 224, 224) floats in [0, 1]; drawn for each sample."""
    import kornia.augmentation as augmentation

    return augmentation.AugmentationSequential(
        augmentation.ColorJitter(0.4, 0.4, 0.4, 0.1, p=0.8),
        augmentation.RandomGrayscale(p=0.2),
        augmentation.RandomGaussianBlur((23, 23), (0.1, 2.0), p=0.5),
        augmentation.RandomHorizontalFlip(p=0.5),
        augmentation.Normalize(torch.from_numpy(MEAN), torch.from_numpy(STD)),
    )


class Kornia:
    """OpenCV's decoder, then kornia: image by image for the crop (sizes differ; not antialiased), in batches after it.

    Each thread works on chunks with modules of its own and one thread of torch: torch's own threads, waiting for each other between
    small operations, cost several times more CPU time.
    """

    def __init__(self, shards: Any, threads: int, batch_size: int) -> None:
        kornia_rest()
        torch.set_num_threads(1)
        self._store, self._batch = Store(shards), batch_size
        self._pool, self._own = ThreadPoolExecutor(threads), threading.local()

    def _modules(self) -> Any:
        if not hasattr(self._own, "modules"):
            import kornia.augmentation as augmentation

            crop = augmentation.RandomResizedCrop((SIZE, SIZE), scale=(0.2, 1.0), resample="BILINEAR")
            self._own.modules = crop, kornia_rest()
        return self._own.modules

    def _chunk(self, ids: list[int]) -> list[np.ndarray]:
        crop, rest = self._modules()
        images = [torch.from_numpy(decode_opencv(self._store.image(i))) for i in ids]
        tensors = [image.permute(2, 0, 1)[None].float().div_(255) for image in images]
        with torch.no_grad():
            return [rest(torch.cat([crop(tensor) for tensor in tensors])).numpy() for _ in range(2)]

    def __call__(self, seed: int) -> Batches:
        torch.manual_seed(seed)
        for ids in _runs(len(self._store), self._batch, seed):
            parts = [ids[a : a + _KORNIA_CHUNK] for a in range(0, len(ids), _KORNIA_CHUNK)]
            yield [np.concatenate(views) for views in zip(*self._pool.map(self._chunk, parts), strict=True)]


def _runs(samples: int, batch_size: int, seed: int) -> Iterator[list[int]]:
    """Yield the samples of each whole batch of a shuffled epoch."""
    order = np.random.default_rng(seed).permutation(samples).tolist()
    for first in range(0, samples - batch_size + 1, batch_size):
        yield order[first : first + batch_size]


def decode_opencv(encoded: np.ndarray) -> np.ndarray:
    """Decode to (H, W, 3) RGB by OpenCV's libjpeg-turbo."""
    return np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR_RGB))


def decode_pil(encoded: np.ndarray) -> np.ndarray:
    """Decode to (H, W, 3) RGB by Pillow."""
    return np.asarray(Image.open(BytesIO(encoded.data)).convert("RGB"))


def spdl_decoder() -> Callable[[np.ndarray], np.ndarray]:
    """Return SPDL's decoder (FFmpeg's), without the GIL as the others.

    Raises
    ------
    ImportError
        If SPDL is missing or finds no FFmpeg.
    """
    with contextlib.suppress(ImportError):
        import av  # noqa: F401  # loads the FFmpeg of its wheel, which has no search path of its own
    import spdl.io

    def decode(encoded: np.ndarray) -> np.ndarray:
        return spdl.io.to_numpy(spdl.io.load_image(encoded.tobytes()))

    try:
        decode(cv2.imencode(".jpg", np.zeros((8, 8, 3), np.uint8))[1].ravel())
    except RuntimeError as error:
        raise ImportError(f"SPDL finds no shared libraries of FFmpeg ({str(error)[:60]}...)") from error
    return decode
