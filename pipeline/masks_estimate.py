"""Masks by the library's saliency kernels, a batch at a time."""

from __future__ import annotations

import functools
import hashlib
import importlib
import re
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib import resources
from itertools import chain
from typing import Any

import numpy as np

from figureground.shards import Store
from figureground.shards.masks import encode_mask

from .masks_work import OpenTask, Result, mean_share, usable_samples

_CHUNK = 8
"""Images a thread works on at a time, so that what lies between the steps stays in the cache."""


@dataclass(frozen=True)
class EstimateMasks:
    """Masks by a saliency method of the library."""

    method: str = "fused"
    """A key of `figureground.kernels.saliency.METHODS`, or a file: see `methods`."""
    size: int = 112
    """Side of the masks [px]."""
    device: str = "cpu"
    """"cpu", "cuda" or "cuda:1"."""
    batch_size: int = 64
    """Images decoded at a time."""
    threads: int = 1
    """CPU threads for decoding and, on the CPU, for the kernels."""
    max_pixels: int = 2**27
    """Images with more pixels count as undecodable."""
    record: dict[str, Any] = field(init=False, repr=False, compare=False)
    """What `method_record` said when the task was made: a worker that finds another file refuses."""

    def __post_init__(self) -> None:
        from figureground.kernels.saliency import MOST_SIZE

        from .methods import absolute_method, check_method, method_record, resolve_method

        object.__setattr__(self, "method", absolute_method(self.method, caller="make_masks"))  # it travels
        check_method(self.method, caller="make_masks", cuda=self.device != "cpu")
        least = resolve_method(self.method, caller="make_masks").least
        if not least <= self.size <= MOST_SIZE:
            raise ValueError(
                f"make_masks: size must be {least} to {MOST_SIZE} px, got {self.size} for method {self.label!r}"
            )
        object.__setattr__(self, "record", method_record(self.method))
        for name in ("batch_size", "threads", "max_pixels"):
            if getattr(self, name) < 1:
                raise ValueError(f"make_masks: {name} must be at least 1, got {getattr(self, name)}")
        if self.device != "cpu" and re.fullmatch(r"cuda(:\d+)?", self.device) is None:
            raise ValueError(f"make_masks: device must be 'cpu', 'cuda' or 'cuda:N', got {self.device!r}")

    @property
    def label(self) -> str:
        """Name of the method, for the manifest: of a file its base name alone, its digest is among the parameters."""
        from .methods import label_method

        return label_method(self.method)

    def parameters(self, store: Store) -> dict[str, Any]:
        """Return what the masks depend on."""
        return {"size": self.size, "max_pixels": self.max_pixels, **kernel_record(), **self.record}

    def open(self) -> OpenTask:
        """Start the decoder."""
        return Estimator(self)


class Estimator:
    """Decodes a batch ahead while it estimates masks and encodes them."""

    def __init__(self, task: EstimateMasks) -> None:
        from .decode import Decoder
        from .device import make_device
        from .methods import method_record, resolve_method

        self._task = task
        self._method = resolve_method(task.method, caller="make_masks")
        if method_record(task.method) != task.record:
            raise ValueError(
                f"make_masks: method {task.label!r} must be the same file and code as when the job began, got others; start anew"
            )
        self._device = make_device(task.device)
        self._decoder = Decoder(
            task.batch_size, device=self._device.name, threads=task.threads, max_pixels=task.max_pixels
        )  # fmt: skip
        self._pool = ThreadPoolExecutor(task.threads, "figureground-masks")

    def close(self) -> None:
        """Stop decoder and threads."""
        self._decoder.close()
        self._pool.shutdown(cancel_futures=True)

    def results(self, store: Store) -> Iterator[Sequence[Result]]:
        """Make the masks of a one-shard store."""
        samples, without = usable_samples(store)
        yield from self.estimates(store, samples)
        yield without

    def estimates(self, store: Store, samples: Sequence[int]) -> Iterator[list[Result]]:
        """Make the masks of some samples, in their order, a batch at a time."""
        step = self._task.batch_size
        waiting: deque[Sequence[int]] = deque()
        try:
            for first in range(0, len(samples), step):
                batch = samples[first : first + step]
                self._decoder.submit([store.image(i) for i in batch])
                waiting.append(batch)
                if len(waiting) == self._decoder.depth:
                    yield self._finish(store, waiting.popleft())
            while waiting:
                yield self._finish(store, waiting.popleft())
        finally:
            for _ in waiting:  # stopped early: the next shard must not get these
                self._decoder.collect()

    def _finish(self, store: Store, batch: Sequence[int]) -> list[Result]:
        from figureground.kernels.arrays import Ragged

        from .augment import estimate_masks

        with self._device.producing():  # what is not decoded by DALI goes to a GPU here, on the kernels' stream
            decoded = self._decoder.collect()
        images, valid = decoded.images, np.flatnonzero(decoded.valid)

        def estimate(rows: np.ndarray) -> Any:
            chosen = Ragged(images.addresses[rows], images.sizes[rows], images.channels, images.owner, images.cuda)
            return estimate_masks(chosen, method=self._method, size=self._task.size)

        parts = [valid[first : first + _CHUNK] for first in range(0, len(valid), _CHUNK)]
        if images.cuda and len(valid):
            with self._device.producing():
                masks = estimate(valid).get()
            encoded = self._pool.map(
                lambda part: list(map(_encoded, part)), np.split(masks, range(_CHUNK, len(masks), _CHUNK))
            )
        else:
            encoded = self._pool.map(lambda rows: list(map(_encoded, estimate(rows))), parts)
        made = dict(zip(valid.tolist(), chain.from_iterable(encoded), strict=True))
        results = []
        for row, sample in enumerate(batch):
            png, area = made.get(row, (None, 0.0))
            note = "no image" if store.image(sample).size == 0 else decoded.reasons[row] or ""
            results.append(Result(store.key(sample), png, area, note))
        return results


def _encoded(mask: np.ndarray) -> tuple[bytes, float]:
    return encode_mask(mask), mean_share(mask)


@functools.cache
def kernel_record() -> dict[str, Any]:
    """Return the constants of the saliency kernels and a digest of their source, for manifests."""
    digest = hashlib.sha256()
    constants: dict[str, dict[str, Any]] = {}
    folder = resources.files("figureground.kernels")
    for name in sorted(entry.name for entry in folder.iterdir() if entry.name.startswith("saliency")):
        stem, _, ext = name.partition(".")
        if ext not in ("py", "cu", "cuh"):
            continue
        digest.update(folder.joinpath(name).read_bytes())
        if ext == "py":
            module = importlib.import_module(f"figureground.kernels.{stem}")
            found = {key.strip("_"): _plain(value) for key, value in vars(module).items() if key.isupper()}
            constants[stem] = {key: value for key, value in sorted(found.items()) if value is not None}
    return {"code": digest.hexdigest()[:16], "constants": {k: v for k, v in constants.items() if v}}


def _plain(value: Any) -> Any:
    """Return a number, or a tuple of numbers, as JSON holds it; None for anything else."""
    if isinstance(value, tuple):
        plain = [_plain(item) for item in value]
        return None if not plain or None in plain else plain
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        return None
    return int(value) if isinstance(value, int | np.integer) else float(value)
