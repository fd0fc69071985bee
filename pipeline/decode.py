"""Decode batches with DALI, in the background, so that no bytes of any kind end the run: the only file that imports DALI.

    submit -> guard -> ok:        external_source -> decoders.image (cpu or mixed) ---------> collect
                    -> fallback:  Pillow and OpenCV on a few threads (fallback.py) -----------^
                    -> bad:       a placeholder in DALI's batch, valid = False and a reason --^
    masks  -> guard -> inflated on the same threads, in one buffer (mask_files.py) -----------^

Why so careful (measured, DALI 2.4 on the CPU): bytes that DALI's parsers refuse raise for the whole batch and, if anything
else is in flight, often crash the process; `kernels/guard.py` keeps them out. Bytes that fail later, in the decoder (a
broken PNG checksum), raise too but do no harm (thousands of them, no crash): then the batch is decoded image by image on
the host to find the bad ones, DALI decodes the rest again, and the pipeline, which DALI declares invalid, is built anew
(1.5 ms). Damage that decoders paint over (flipped bits in JPEG or WebP pixels) stays unnoticed, here as in Pillow.

The default executor only: `exec_dynamic=False` overwrites batches that are still held. `prefetch_queue_depth=1`: DALI then
runs exactly what was submitted, in the background and any number of batches ahead (a larger depth makes the first
`schedule_run` ask for that many batches at once).
"""

from __future__ import annotations

import ctypes
import logging
import os
import weakref
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from nvidia.dali import fn, types
from nvidia.dali.pipeline import pipeline_def
from nvidia.dali.tensors import TensorCPU

from figureground.kernels.guard import MAX_PIXELS
from figureground.shards.pieces import Pieces

from .anchors import find_boxes
from .decoded import Decoded, join_decoded, mean_bytes
from .mask_files import MaskFiles
from .screen import PLACEHOLDER, Files, as_pieces, screen_files

log = logging.getLogger(__name__)

_BYTE, _RGB = types.DALIDataType.UINT8, types.DALIImageType.RGB
_DALI_ERRORS = (RuntimeError, ValueError, IndexError)


class Decoder:
    """Decode batches of encoded images in order, some batches ahead. Not to be used by two threads at once.

    Parameters
    ----------
    max_batch : int
        Most images in one `submit`.
    device : str
        "cpu", "cuda" (the first GPU) or "cuda:1": where images and masks come out. On a GPU JPEG is decoded by nvJPEG, all else on
        the CPU; `collect` and `decode` are then to be called on the stream of the kernels (`CudaDevice.producing`).
    threads : int
        DALI's threads; masks, and images that the host decodes, add at most as many more, while that lasts.
    masks : bool
        Whether `submit` and `decode` take masks.
    depth : int
        Batches that may be submitted and not yet collected.
    max_pixels : int
        Larger images are refused: see `figureground.kernels.guard`.
    boxes : bool
        Find the boxes of the masks' figures.

    Raises
    ------
    ValueError
        If an argument is out of range.

    Examples
    --------
    >>> import cv2
    >>> decoder = Decoder(4)
    >>> png = cv2.imencode(".png", np.full((2, 3, 3), 7, np.uint8))[1].ravel()
    >>> batch = decoder.decode([png, png[:-20]])
    >>> batch.valid.tolist(), batch.images.sizes.tolist(), batch.reasons[1]
    ([True, False], [[2, 3], [1, 1]], 'truncated: the end of the file is missing')
    >>> decoder.close()
    """

    def __init__(
        self,
        max_batch: int,
        *,
        device: str = "cpu",
        threads: int = 2,
        masks: bool = False,
        depth: int = 2,
        max_pixels: int = MAX_PIXELS,
        boxes: bool = False,
    ) -> None:
        for name, value in (
            ("max_batch", max_batch),
            ("threads", threads),
            ("depth", depth),
            ("max_pixels", max_pixels),
        ):
            if value < 1:
                raise ValueError(f"Decoder: {name} must be at least 1, got {value}")
        self.max_batch, self.depth = max_batch, depth
        self._device_id = _device_id(device)
        self._threads, self._masks, self._max_pixels, self._boxes = threads, masks, max_pixels, boxes
        self._main: _Graph | None = self._graph()
        self._side: _Graph | None = None
        self._flight: deque[_Batch] = deque()
        self._workers = ThreadPoolExecutor(threads, "figureground-decode")

    def submit(
        self, images: Pieces | Sequence[np.ndarray], masks: Pieces | Sequence[np.ndarray | None] | None = None
    ) -> None:
        """Start to decode a batch; returns at once.

        Parameters
        ----------
        images : sequence of 1..max_batch arrays (size,) uint8
            Encoded files; must not be changed until the batch is collected.
        masks : sequence of as many arrays or None
            Encoded masks; None where a sample has no mask. Must not be changed either.

        Raises
        ------
        RuntimeError
            If `depth` batches are in flight, or the decoder is closed.
        ValueError, TypeError
            If the arrays are not as above.
        """
        main = self._open("submit")
        if len(self._flight) >= self.depth:
            raise RuntimeError(f"Decoder.submit: {self.depth} batches are in flight (depth); collect one first")
        if not 1 <= len(images) <= self.max_batch:
            raise ValueError(f"Decoder.submit: images must number 1..{self.max_batch} (max_batch), got {len(images)}")
        batch = self._prepare("submit", images, masks)
        main.feed(batch)
        self._flight.append(batch)

    def collect(self) -> Decoded:
        """Wait for the oldest batch in flight.

        Returns
        -------
        Decoded
            Valid until the next `collect` or `close`: kernels that read it on a GPU must have finished by then.

        Raises
        ------
        RuntimeError
            If nothing is in flight, or the decoder is closed.
        """
        main = self._open("collect")
        if not self._flight:
            raise RuntimeError("Decoder.collect: no batch is in flight; submit one first")
        batch = self._flight.popleft()
        outputs = main.take()
        if not isinstance(outputs, str):
            return self._assemble(batch, outputs)
        main.close()
        salvaged = self._salvage(batch, outputs)
        self._main = self._graph()
        for later in self._flight:
            self._main.feed(later)
        return self._assemble(batch, salvaged)

    def decode(
        self, images: Pieces | Sequence[np.ndarray], masks: Pieces | Sequence[np.ndarray | None] | None = None
    ) -> Decoded:
        """Decode any number of images at once, beside the batches in flight.

        Parameters
        ----------
        images, masks
            As for `submit`.

        Returns
        -------
        Decoded
            Owns its memory: valid as long as it is held.
        """
        self._open("decode")
        parts = []
        for first in range(0, len(images), self.max_batch):
            chosen = slice(first, first + self.max_batch)
            batch = self._prepare("decode", images[chosen], None if masks is None else masks[chosen])
            parts.append(self._assemble(batch, self._run_aside(batch)))
        return join_decoded(parts, self._masks, self._device_id is not None)

    def close(self) -> None:
        """Stop all threads and free the memory; batches in flight are lost. Closing twice is fine."""
        self._workers.shutdown(cancel_futures=True)
        for graph in (self._main, self._side):
            if graph is not None:
                graph.close()
        self._main = self._side = None
        self._flight.clear()

    def _open(self, verb: str) -> _Graph:
        if self._main is None:
            raise RuntimeError(f"Decoder.{verb}: the decoder is closed; make a new one")
        return self._main

    def _graph(self) -> _Graph:
        return _Graph(self.max_batch, self._device_id, self._threads)

    def _prepare(
        self, verb: str, images: Pieces | Sequence[np.ndarray], masks: Pieces | Sequence[np.ndarray | None] | None
    ) -> _Batch:
        if masks is not None and not self._masks:
            raise ValueError(f"Decoder.{verb}: masks must be None, since the decoder was made with masks=False")
        if masks is not None and len(masks) != len(images):
            raise ValueError(f"Decoder.{verb}: masks must number {len(images)}, as the images, got {len(masks)}")
        limit, workers = self._max_pixels, self._workers
        batch = _Batch(screen_files(f"Decoder.{verb}: images", images, workers, max_pixels=limit))
        if self._masks:
            files = as_pieces(f"Decoder.{verb}: masks", [None] * len(images) if masks is None else masks)
            batch.masks = MaskFiles(files, workers, max_pixels=limit)
        return batch

    def _run_aside(self, batch: _Batch) -> Any:
        """Decode a batch in the second pipeline."""
        self._side = self._side or self._graph()
        self._side.feed(batch)
        outputs = self._side.take()
        if not isinstance(outputs, str):
            return outputs
        self._side.close()
        self._side = None
        return self._salvage(batch, outputs)

    def _salvage(self, batch: _Batch, words: str) -> Any:
        """Decode a batch that DALI refused without its bad files; None: all pixels are the host's."""
        log.info("a batch of %d is decoded again: %s", len(batch.images.given), words)
        trial = batch.images.try_on_host()
        batch.images.drop_bad(trial)
        graph = self._graph()
        graph.feed(batch)
        outputs = graph.take()
        graph.close()
        if not isinstance(outputs, str):
            return outputs
        log.warning("DALI refuses images that Pillow decodes; Pillow's pixels are used: %s", outputs)
        batch.images.on_host.update(trial)
        return None

    def _assemble(self, batch: _Batch, pixels: Any) -> Decoded:
        """Join what came out; `pixels` are DALI's, None if there are none."""
        cuda, files = self._device_id is not None, batch.images
        rows = len(files.given)
        ragged = files.gather(pixels, cuda)
        decoded = Decoded(ragged, None, files.valid(), np.zeros(rows, bool), np.zeros(rows), files.reasons)
        if batch.masks is not None:
            on_host, decoded.masks, decoded.mask_valid = batch.masks.gather(cuda)
            mean_bytes(on_host.addresses, on_host.sizes, decoded.mask_valid, decoded.mask_area)
            if self._boxes:
                decoded.mask_box = np.zeros((rows, 4))
                find_boxes(on_host.addresses, on_host.sizes, decoded.mask_valid, decoded.mask_box)
        return decoded


@dataclass
class _Batch:
    """A batch in flight; keeps the encoded bytes alive, which DALI reads where they are."""

    images: Files
    masks: MaskFiles | None = None


class _Graph:
    """One DALI pipeline: encoded files in, a TensorList out, in order."""

    def __init__(self, max_batch: int, device_id: int | None, threads: int) -> None:
        self._pipe = _decode_graph(
            device_id is not None,
            batch_size=max_batch,
            num_threads=threads,
            device_id=device_id,
            prefetch_queue_depth=1,
        )
        self._pipe.build()
        _GRAPHS.add(self)

    def feed(self, batch: _Batch) -> None:
        """Start a batch; DALI's threads take over."""
        self._pipe.feed_input("images", _tensors(batch.images))
        self._pipe.schedule_run()

    def take(self) -> Any:
        """Wait for the oldest batch: its pixels, a TensorList, or DALI's words (str) if it refuses it.

        On a GPU: without a stream DALI waits on the host until the pixels are there, so any stream may read them; they
        are freed with the TensorList, whoever still reads (not yet run on a GPU).
        """
        try:
            return self._pipe.outputs()[0]
        except _DALI_ERRORS as error:  # only words leave: the traceback would keep the pipeline alive
            return " ".join(str(error).partition("encountered:")[2].split())

    def close(self) -> None:
        """Stop DALI's threads; what was taken stays valid."""
        del self._pipe

    def abandon(self) -> None:
        """Make sure that the pipeline is never shut down in this process."""
        if hasattr(self, "_pipe") and self._pipe._pipe is not None:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._pipe._pipe))
            self._pipe._pipe = None


_GRAPHS: weakref.WeakSet[_Graph] = weakref.WeakSet()


def _abandon_all() -> None:
    for graph in list(_GRAPHS):
        graph.abandon()


# In a forked child (the workers of a torch DataLoader, say) DALI would wait for threads that only the parent has.
os.register_at_fork(after_in_child=_abandon_all)


_NO_PIXELS = TensorCPU(PLACEHOLDER)


def _tensors(files: Files) -> list[TensorCPU]:
    """Wrap files for DALI; nothing is copied, and it takes 0.7 of the time that DALI needs for arrays."""
    return [_NO_PIXELS if file is PLACEHOLDER else TensorCPU(file) for file in files.for_dali]


@pipeline_def
def _decode_graph(gpu: bool) -> Any:
    encoded = fn.external_source(name="images", batch=True, dtype=_BYTE, ndim=1, no_copy=True)
    # Fancy upsampling is what the CPU does; by default nvJPEG's chroma differs.
    return fn.decoders.image(encoded, device="mixed" if gpu else "cpu", output_type=_RGB, jpeg_fancy_upsampling=True)


def _device_id(device: str) -> int | None:
    kind, _, number = device.partition(":")
    if device == "cpu":
        return None
    if kind != "cuda" or not (number.isdecimal() or device == "cuda"):
        raise ValueError(f"Decoder: device must be 'cpu', 'cuda' or 'cuda:<n>', got {device!r}")
    return int(number or 0)
