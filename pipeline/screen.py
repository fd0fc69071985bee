"""Encoded files on their way to a decoder: judged by the guard, bad ones replaced, odd ones decoded on the host.

What DALI gets is always a batch it can read. What it does not get is put back in its place by `Files.gather`.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from figureground.kernels.arrays import Ragged
from figureground.kernels.guard import FALLBACK, MAX_PIXELS, OK, REASONS, inspect_images
from figureground.shards.pieces import Pieces

from .fallback import decode_on_host

PLACEHOLDER = np.frombuffer(
    bytes.fromhex(
        "89504e470d0a1a0a0000000d49484452000000010000000108000000003a7e9b55"  # PNG, 1 x 1, grey, black
        "0000000a4944415478da6360000000020001e527defc0000000049454e44ae426082"
    ),
    np.uint8,
)
"""What DALI decodes in place of a bad, missing or host-decoded file: one black pixel."""


@dataclass
class Files:
    """The images of one batch."""

    given: list[np.ndarray]
    for_dali: list[np.ndarray]
    """As given, or the placeholder."""
    reasons: list[str | None]
    """Why a file has no pixels; None where it has."""
    workers: Executor
    max_pixels: int
    on_host: dict[int, Future[np.ndarray | str]] = field(default_factory=dict)
    """Pixels, or the reason why there are none, from Pillow and OpenCV, by index."""

    def valid(self) -> np.ndarray:
        """Return (N,) bool: has the file pixels? Final after `gather`."""
        return np.array([reason is None for reason in self.reasons], bool)

    def start(self, i: int, pixels: int = -1) -> Future[np.ndarray | str]:
        """Start to decode one file on the host; `pixels` is its height x width if known."""
        return self.workers.submit(decode_on_host, self.given[i], max_pixels=self.max_pixels, pixels=pixels)

    def try_on_host(self) -> dict[int, Future[np.ndarray | str]]:
        """Start to decode on the host what DALI was given."""
        return {i: self.start(i) for i, file in enumerate(self.for_dali) if file is not PLACEHOLDER}

    def drop_bad(self, trial: dict[int, Future[np.ndarray | str]]) -> None:
        """Take away from DALI what the host could not decode either."""
        for i, future in trial.items():
            if isinstance(future.result(), str):
                self.on_host[i], self.for_dali[i] = future, PLACEHOLDER

    def gather(self, tensors: Any, cuda: bool) -> Ragged:
        """Join DALI's pixels (a TensorList; None: there are none) and the host's; settles the reasons."""
        count = len(self.given)
        addresses, sizes = np.zeros(count, np.int64), np.ones((count, 2), np.int32)
        owner: list[Any] = [tensors]
        if tensors is not None:
            addresses[:] = [tensors[i].data_ptr() for i in range(count)]
            sizes[:] = np.array(tensors.shape(), np.int32)[:, :2]
        for i in range(count) if tensors is None else self.on_host:
            result = self.on_host[i].result() if i in self.on_host else None
            if isinstance(result, str):
                self.reasons[i], result = result, None
            pixels: Any = np.zeros((1, 1, 3), np.uint8) if result is None else result
            if cuda:
                import cupy

                pixels = cupy.asarray(pixels)
            owner.append(pixels)
            addresses[i] = pixels.data.ptr if cuda else pixels.ctypes.data
            sizes[i] = pixels.shape[:2]
        return Ragged(addresses, sizes, 3, owner, cuda)


def screen_files(
    what: str,
    files: Sequence[np.ndarray | None],
    workers: Executor,
    *,
    max_pixels: int = MAX_PIXELS,
) -> Files:
    """Let the guard judge encoded files, and start on the host those that DALI does not read.

    Parameters
    ----------
    what : str
        "function: argument", for messages.
    files : Pieces, or sequence of (size,) uint8 arrays
        None where there is no file: its reason is "missing". Of `Pieces` the addresses are taken as they are.
    workers : Executor
        Threads that decode on the host.
    max_pixels : int
        Larger images are refused.

    Returns
    -------
    Files

    Raises
    ------
    TypeError, ValueError
        If a file is not a contiguous one-dimensional uint8 array.
    """
    pieces = as_pieces(what, files)
    given: list[np.ndarray] = [PLACEHOLDER if file is None else file for file in pieces]
    missing = np.fromiter((file is None for file in pieces), bool, len(given))
    addresses = np.where(missing, PLACEHOLDER.ctypes.data, pieces.addresses)
    codes, dims = inspect_images(addresses, np.where(missing, PLACEHOLDER.size, pieces.sizes), max_pixels=max_pixels)
    reasons: list[str | None] = [None] * len(given)
    screened = Files(given, list(given), reasons, workers, max_pixels)
    for i in np.flatnonzero(missing).tolist():
        reasons[i] = "missing"
    for i in np.flatnonzero(codes != OK).tolist():
        screened.for_dali[i], reasons[i] = PLACEHOLDER, REASONS.get(int(codes[i]))
        if codes[i] == FALLBACK:
            screened.on_host[i] = screened.start(i, int(dims[i, 0]) * int(dims[i, 1]) if dims[i, 0] > 0 else -1)
    return screened


def as_pieces(what: str, files: Sequence[np.ndarray | None]) -> Pieces:
    """Return encoded files with their addresses; the errors are those of `screen_files`."""
    return files if isinstance(files, Pieces) else Pieces.of([_checked(what, i, file) for i, file in enumerate(files)])


def _checked(what: str, i: int, file: np.ndarray | None) -> np.ndarray | None:
    if file is None:
        return None
    if not isinstance(file, np.ndarray):
        raise TypeError(f"{what}[{i}] must be a NumPy array of encoded bytes, got {type(file).__name__}")
    if file.dtype != np.uint8 or file.ndim != 1 or not file.flags.c_contiguous:
        raise ValueError(f"{what}[{i}] must be a contiguous (size,) uint8 array, got {file.shape} {file.dtype}")
    return file
