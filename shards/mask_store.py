"""Masks (or textures) by sample id, from the sidecars of a store's shards."""

from __future__ import annotations

import bisect
import hashlib
import json
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Self

import numpy as np

from .errors import ShardError
from .fetched import FetchedMaps
from .fetched_masks import cache_for, find_sidecars, load_sidecars
from .index import load_index
from .index_text import ShardIndex
from .maps import Maps
from .pieces import Pieces, cut_pieces
from .reader import Store
from .sidecar import MASKS, Manifest, SidecarKind, manifest_of, sidecar_path
from .urls import is_url, shown

if TYPE_CHECKING:
    from .cache import ShardCache


class MaskStore:
    """The masks that belong to a store's samples; a shard without sidecar and a sample without mask are legal.

    Parameters
    ----------
    store : Store
        The images.
    masks_dir : path, optional
        Where the sidecars lie, a folder or a URL (`s3://bucket/masks`); by default beside their shards.
    max_open : int, optional
        Sidecars kept mapped at a time, as for `Store`.
    kind : SidecarKind
        `sidecar.TEXTURES`: textures in place of masks.
    cache : ShardCache, optional
        Where sidecars behind URLs are kept; by default that of the store. Those of local shards, which are read in any
        order, must fit into it all together: they are fetched now, in the background, and stay.

    Raises
    ------
    ShardError
        If a sidecar is damaged, has no manifest, or was made from another state of its shard, or `masks_dir` is a folder that
        does not exist, or a URL and there is no cache, or too small a one.

    Notes
    -----
    Masks are matched by key, within a shard. A key that two samples of a shard share names neither: they get no mask.
    12 bytes a sample. Threads and pickling: as `Store`.
    """

    def __init__(
        self,
        store: Store,
        masks_dir: str | os.PathLike[str] | None = None,
        *,
        max_open: int | None = None,
        kind: SidecarKind = MASKS,
        cache: ShardCache | None = None,
    ) -> None:
        if masks_dir is not None and not is_url(os.fspath(masks_dir)):
            masks_dir = os.path.expanduser(masks_dir)
            if not os.path.isdir(masks_dir):
                raise ShardError(f"{masks_dir}: the folder of {kind.name} does not exist; check the path")
        self._kind = kind
        self._starts_at = store.starts
        self._starts = self._starts_at.tolist()
        self._offset = np.full(len(store), -1, np.int64)
        self._size = np.zeros(len(store), np.uint32)
        cache = cache_for(store, masks_dir, cache)
        files = find_sidecars(store, masks_dir, cache, kind)
        self.sidecars = [
            _place(shard, masks_dir, kind) if file is None else shown(file.url)
            for shard, file in zip(store.shards, files, strict=True)
        ]
        """Absolute path (or URL) of each shard's sidecar, there or not."""
        self.manifests: list[Manifest | None] = [None] * len(files)
        """What each shard's sidecar says of itself; None where there is no sidecar."""
        self._digests = [b""] * len(files)
        status = np.zeros((len(self.sidecars), 2), np.int64)
        for number, sidecar in enumerate(self.sidecars):
            if files[number] is None and os.path.exists(sidecar):
                seen = os.stat(sidecar)
                status[number] = seen.st_size, seen.st_mtime_ns
                masks = load_index(sidecar)
                self._take_in(store, number, masks, manifest_of(sidecar, masks, kind))
        self._maps = Maps(self.sidecars, status, max_open)
        if cache is not None and any(files):
            for number, masks, manifest in load_sidecars(files, cache, kind):
                self._take_in(store, number, masks, manifest)
            self._maps = FetchedMaps(self.sidecars, status, max_open, files, cache)
            if not store.is_remote:
                self._maps.keep_all("the sidecars of all local shards")

    def need(self, shards: Sequence[int]) -> None:
        """Fetch the sidecars of these shards ahead: as `Store.need`."""
        if isinstance(self._maps, FetchedMaps):
            self._maps.need(shards)

    def _take_in(self, store: Store, number: int, masks: ShardIndex, manifest: Manifest) -> None:
        if manifest.source != store.shard_fingerprint(number):
            raise ShardError(
                f"{self.sidecars[number]}: made from another state of {store.shards[number]}; "
                f"run 'figureground {self._kind.name} {store.shards[number]}' again, or remove the sidecar"
            )
        self.manifests[number], self._digests[number] = manifest, masks.digest
        samples, rows = match(store.shard_keys(number), masks, self._kind.ext)
        at = samples + self._starts[number]
        self._offset[at] = masks.offset[rows]
        self._size[at] = masks.size[rows]

    def __len__(self) -> int:
        return len(self._offset)

    @property
    def present(self) -> np.ndarray:
        """(N,) bool: which samples have a mask."""
        return self._offset >= 0

    @property
    def fingerprint(self) -> str:
        """SHA-256 over what made each shard's sidecar, and over names and sizes of its masks: the same wherever they lie.

        Other masks of equal sizes, made by what calls itself the same, go unnoticed.
        """
        digest = hashlib.sha256()
        for manifest, index in zip(self.manifests, self._digests, strict=True):
            made = None if manifest is None else [manifest.method, manifest.version, manifest.parameters, index.hex()]
            digest.update(json.dumps(made, sort_keys=True).encode() + b"\n")
        return digest.hexdigest()

    def mask(self, sample: int) -> np.ndarray | None:
        """Return a sample's mask.

        Returns
        -------
        (bytes,) uint8 or None
            The PNG, as a read-only view that stays valid as long as it is referenced; None if there is none.

        Raises
        ------
        IndexError
            If there is no such sample.
        ShardError
            If the sidecar was changed since it was opened.
        """
        if not 0 <= sample < len(self):
            raise IndexError(f"MaskStore: a sample must be in 0..{len(self) - 1}, got {sample}")
        start = self._offset.item(sample)
        if start < 0:
            return None
        sidecar = self._maps[bisect.bisect_right(self._starts, sample) - 1]
        return sidecar[start : start + self._size.item(sample)]

    def masks(self, samples: np.ndarray, wanted: np.ndarray | None = None) -> Pieces:
        """Return the masks of many samples, as `mask` does.

        Parameters
        ----------
        samples : (N,) int64
        wanted : (N,) bool, optional
            Which of them to look up; the others come as None.
        """
        if len(samples) and not (samples.min() >= 0 and samples.max() < len(self)):
            raise IndexError(f"MaskStore: samples must be in 0..{len(self) - 1}, got {samples.min()}..{samples.max()}")
        offsets = self._offset[samples]
        if wanted is not None:
            offsets = np.where(wanted, offsets, -1)
        files = np.searchsorted(self._starts_at, samples, side="right") - 1
        return cut_pieces(self._maps, files, offsets, self._size[samples].astype(np.int64))

    def close(self) -> None:
        """Let the sidecars go; arrays handed out stay valid."""
        self._maps.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _place(shard: str, masks_dir: str | os.PathLike[str] | None, kind: SidecarKind) -> str:
    path = sidecar_path(shard, masks_dir, kind)
    return shown(path) if is_url(path) else os.path.abspath(path)


def match(keys: list[bytes], masks: ShardIndex, mask_ext: str = MASKS.ext) -> tuple[np.ndarray, np.ndarray]:
    """Pair samples with masks of the same key.

    Parameters
    ----------
    keys : list of bytes
        Keys of the shard's samples, escaped.
    masks : ShardIndex
        The sidecar's index.
    mask_ext : str
        Extension of a mask.

    Returns
    -------
    (m,) int64
        Samples that have a mask, by place in the shard.
    (m,) int64
        Rows of their masks in the sidecar's index.
    """
    ext = mask_ext.encode()
    number = masks.exts.index(ext) if ext in masks.exts else -1
    rows = np.flatnonzero(masks.ext == number)
    owners = np.searchsorted(masks.first, rows, side="right") - 1
    if _same_keys(keys, masks, owners):
        return owners, rows
    row_of: dict[bytes, int] = {}
    cuts = masks.key_at.tolist()
    for owner, row in zip(owners.tolist(), rows.tolist(), strict=True):
        row_of[masks.keys[cuts[owner] : cuts[owner + 1]]] = row
    sample_of: dict[bytes, int] = {}
    for sample, key in enumerate(keys):
        if key in row_of:
            sample_of[key] = -1 if key in sample_of else sample
    pairs = [(sample, row_of[key]) for key, sample in sample_of.items() if sample >= 0]
    found = np.array(pairs, np.int64).reshape(-1, 2)
    return found[:, 0], found[:, 1]


def _same_keys(keys: list[bytes], masks: ShardIndex, owners: np.ndarray) -> bool:
    """Tell whether the sidecar has a mask for each sample, in the shard's order, as the mask job writes them."""
    count = len(keys)
    if not np.array_equal(owners, np.arange(count)) or len(set(keys)) < count:
        return False
    joined = b"".join(keys)
    lengths = np.fromiter(map(len, keys), np.int64, count)
    return masks.keys.startswith(joined) and np.array_equal(np.diff(masks.key_at[: count + 1]), lengths)
