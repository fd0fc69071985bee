"""The user's own backgrounds: images that become the grounds of views in place of other samples.

    Loader(..., backgrounds="textures/")                 # a folder of image files at any depth, read as they are
    Loader(..., backgrounds="grounds-{00..07}.tar")      # or local shards

Donors are drawn from the set uniformly, by the same hash as all else (see `donors`), each with a crop and flip of its own.
They go through the same guard and decoder as samples and join the batch's images: one more image is decoded for each view
drawn. Numbering: background i of the set, in the order of paths (then of the shard), has the sample id `samples` + i in
`params["donor"]`, in the quarantine file and in its budget's message. One that cannot be decoded is replaced by another of
the set, the same on every layout, and counts in a budget of its own: the loader's `error_budget` as a share of the set.

Each one is decoded anew, at its full size, whenever it is drawn: shrink large photographs to a few hundred px first.

With source="inpainted" or "strip" a background needs a mask: shards may have sidecars beside them; a folder's images get
theirs from the saliency kernel (masks="auto" or "kernel"), else they are taken whole.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from figureground.shards import MaskStore, ShardError, Store
from figureground.shards.folder import list_images
from figureground.shards.pieces import Pieces
from figureground.shards.urls import is_url, shown

log = logging.getLogger(__name__)

_NOTHING = np.zeros(0, np.uint8)


class _Images(Protocol):
    """A store of samples."""

    def images(self, samples: np.ndarray, /) -> Pieces: ...
    def key(self, i: int, /) -> str: ...
    def shard_of(self, i: int, /) -> int: ...
    def targets_of(self, samples: np.ndarray, /) -> np.ndarray: ...
    def has(self, ext: str, /) -> bool: ...
    def component(self, i: int, ext: str, /) -> np.ndarray | None: ...


class Backgrounds:
    """A set of background images.

    Parameters
    ----------
    backgrounds : str, path or sequence of them
        A folder without tars is searched for image files; all else names shards, as for `Store`, which must be local.
    samples : int
        Number of the loader's samples: the sample id of background 0.

    Raises
    ------
    ShardError
        If the folder is missing or holds no image, or a shard is missing or damaged.
    ValueError
        If a folder holds tars and images, or is one of several paths, or a shard is a URL.

    Examples
    --------
    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> _ = Path(folder.name, "brick.png").write_bytes(b"any bytes")
    >>> ours = Backgrounds(folder.name, samples=1000)
    >>> len(ours), ours.first, ours.key(0), bytes(ours.image(0))
    (1, 1000, 'brick.png', b'any bytes')
    >>> folder.cleanup()
    """

    def __init__(self, backgrounds: str | Path | Sequence[str | Path], samples: int) -> None:
        self.first = samples
        """Sample id of background 0."""
        self._folder, self._names = "", [""]
        self._store: Store | None = None
        self._masks: MaskStore | None = None
        listed = [backgrounds] if isinstance(backgrounds, (str, os.PathLike)) else list(backgrounds)
        folders = [path for path in map(os.path.expanduser, listed) if _is_image_folder(path)]
        if folders and len(listed) > 1:
            raise ValueError(
                f"Loader: backgrounds must be one folder of images, or shards, got {len(listed)} paths, of which {folders[0]} is a "
                f"folder of images; put (or link) the images into one folder"
            )
        try:
            if folders:
                self._open_folder(os.path.abspath(folders[0]))
            else:
                self._open_shards(listed)
        except ShardError as error:
            raise ShardError(f"Loader: backgrounds must be a folder of images or local shards; {error}") from error

    def _open_folder(self, folder: str) -> None:
        self._folder = folder
        self._names = [source.relative for source in list_images(folder).sources]
        digest = hashlib.sha256(b"folder")
        for name in self._names:
            digest.update(os.fsencode(name) + b"\0%d\0" % os.stat(os.path.join(folder, name)).st_size)
        self.fingerprint = digest.hexdigest()
        """SHA-256 over names and sizes of the images, or of the shards': the same wherever the folder lies."""

    def _open_shards(self, listed: list[str | Path]) -> None:
        for shard in listed:
            if is_url(os.fspath(shard)):
                raise ValueError(
                    f"Loader: backgrounds must be local, since they are read in any order, got {shown(os.fspath(shard))}; "
                    f"fetch them into a folder first"
                )
        self._store = Store(listed)
        if not len(self._store):
            raise ShardError(f"{self._store.shards[0]}: the shards hold no sample")
        self._masks = MaskStore(self._store)
        self.fingerprint = self._store.fingerprint

    def __len__(self) -> int:
        return len(self._names) if self._store is None else len(self._store)

    def image(self, number: int) -> np.ndarray:
        """Return the encoded image (bytes,) uint8; empty, so that the guard refuses it, if the file cannot be read."""
        if self._store is not None:
            return self._store.image(number)
        try:
            return np.fromfile(os.path.join(self._folder, self._names[number]), np.uint8)
        except OSError as error:
            log.warning("a background cannot be read: %s", error)
            return _NOTHING

    def mask(self, number: int) -> np.ndarray | None:
        """Return the encoded mask of the sidecar; None if there is none."""
        return None if self._masks is None else self._masks.mask(number)

    @property
    def sidecars(self) -> list[MaskStore]:
        """Their sidecar masks: of one store, or of none if they are a folder of images."""
        return [] if self._masks is None else [self._masks]

    def key(self, number: int) -> str:
        """Return the path from the folder on, or the key in its shard."""
        return self._names[number] if self._store is None else self._store.key(number)

    def shard(self, number: int) -> str:
        """Return the folder, or the shard that holds it."""
        return self._folder if self._store is None else self._store.shards[self._store.shard_of(number)]

    def close(self) -> None:
        """Let shards go."""
        if self._store is not None:
            self._store.close()


class JoinedImages:
    """A store of samples, and the backgrounds behind them."""

    def __init__(self, source: _Images, backgrounds: Backgrounds | None) -> None:
        self._source, self._backgrounds = source, backgrounds
        self.key, self.shard_of, self.targets_of, self.has = source.key, source.shard_of, source.targets_of, source.has

    def images(self, samples: np.ndarray) -> Pieces:
        """Return the encoded images of sample ids."""
        ours = self._backgrounds
        return self._source.images(samples) if ours is None else _joined(samples, ours, self._source.images, ours.image)

    def component(self, i: int, ext: str) -> np.ndarray | None:
        """Return a component of a sample; backgrounds have none."""
        ours = self._backgrounds
        return self._source.component(i, ext) if ours is None or i < ours.first else None


class JoinedMasks:
    """The sidecar masks of samples, and those of the backgrounds behind them."""

    def __init__(self, masks: MaskStore, backgrounds: Backgrounds | None) -> None:
        self._masks, self._backgrounds = masks, backgrounds

    def masks(self, samples: np.ndarray, wanted: np.ndarray) -> Pieces:
        """Return the encoded masks of sample ids; None where there is none, or where it is not wanted."""
        ours = self._backgrounds
        if ours is None:
            return self._masks.masks(samples, wanted)
        asked = dict(zip(samples.tolist(), wanted.tolist(), strict=True))
        return _joined(
            samples,
            ours,
            lambda ids: self._masks.masks(ids, np.array([asked[i] for i in ids.tolist()], bool)),
            lambda number: ours.mask(number) if asked[number + ours.first] else None,
        )


def _joined(
    samples: np.ndarray,
    ours: Backgrounds,
    read: Callable[[np.ndarray], Pieces],
    read_ours: Callable[[int], np.ndarray | None],
) -> Pieces:
    """Read samples with `read`, backgrounds with `read_ours`, in the order asked for."""
    behind = samples >= ours.first
    if not behind.any():
        return read(samples)
    added = Pieces.of([read_ours(i) for i in (samples[behind] - ours.first).tolist()])
    place = np.argsort(np.concatenate([np.flatnonzero(~behind), np.flatnonzero(behind)]))
    return read(samples[~behind]).joined(added).pick(place.tolist())


def _is_image_folder(path: str) -> bool:
    """Tell whether a path is a folder without tars (of images, then), and refuse one with both."""
    if not os.path.isdir(path):
        return False
    with os.scandir(path) as entries:
        tars = any(entry.name.endswith(".tar") for entry in entries)
    if tars:
        try:
            listing = list_images(path)
        except ShardError:
            return False
        raise ValueError(
            f"Loader: backgrounds must be a folder of images or of shards, got {path} with tars and "
            f"{len(listing.sources)} images; give the images a folder of their own, or name the tars ('{path}/*.tar')"
        )
    return not tars
