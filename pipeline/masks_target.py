"""Where a mask job reads shards and writes sidecars: folders, or stores behind URLs."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Literal

from figureground.shards import ShardError, Store
from figureground.shards.cache import ShardCache
from figureground.shards.fetched import each
from figureground.shards.index import load_index
from figureground.shards.masks import MASKS, Manifest, MaskWriter, SidecarKind, sidecar_path
from figureground.shards.remote import Remote, RemoteFile
from figureground.shards.remote_errors import GaveUp
from figureground.shards.sidecar import count_masks, manifest_in_tail, manifest_of
from figureground.shards.upload import Listed, check_writable, list_folder, upload_tar
from figureground.shards.urls import beside, is_url, shown

TEMPORARY = "figureground-masks-"
"""What the names of temporary folders begin with; the process number follows."""
_TAIL_BYTES = 1 << 16


def plain(path: str) -> str:
    """Return a path or URL as messages and reports show it."""
    return shown(path) if is_url(path) else path


@dataclass(frozen=True)
class Target:
    """Where shards come from and sidecars go to; small, travels to worker processes and other machines."""

    out: str | None = None
    """Folder or URL of the sidecars; None: beside their shards."""
    cache: ShardCache | None = None
    """Where shards given as URLs are kept."""
    remote: Remote = field(default_factory=Remote)
    """Opens the store of the sidecars."""
    kind: SidecarKind = MASKS
    """What the sidecars hold."""

    def sidecar(self, shard: str) -> str:
        """Return the path or URL of a shard's sidecar."""
        return sidecar_path(shard, self.out, self.kind)

    def open(self, shard: str, index: Literal["auto", "require"] = "auto") -> Store:
        """Open one shard."""
        if is_url(shard) and self.cache is None:
            raise ShardError(
                f"{shown(shard)}: shards behind URLs need a cache; pass cache=ShardCache(folder, max_bytes) (--cache DIR)"
            )
        return Store([shard], cache=self.cache, index=index)

    @contextmanager
    def writer(self, shard: str, **about: Any) -> Iterator[MaskWriter]:
        """Write the sidecar of a shard: as `MaskWriter`; for a store in a temporary folder, uploaded whole at the end."""
        sidecar = self.sidecar(shard)
        if not is_url(sidecar):
            with MaskWriter(shard, masks_dir=self.out, kind=self.kind, **about) as writer:
                yield writer
            return
        with tempfile.TemporaryDirectory(prefix=f"{TEMPORARY}{os.getpid()}-") as folder:
            with MaskWriter(shard, masks_dir=folder, kind=self.kind, **about) as writer:
                yield writer
            upload_tar(self.remote, writer.path, sidecar)


class Present:
    """Which sidecars are there: in stores one listing a folder, and later the last 64 KB of each.

    Parameters
    ----------
    target : Target
    shards : sequence of str

    Raises
    ------
    ShardError
        If a sidecar's place cannot be written, as far as that can be told, or a store does not answer.
    """

    def __init__(self, target: Target, shards: Sequence[str]) -> None:
        self._target = target
        sidecars = [target.sidecar(shard) for shard in shards]
        for sidecar in sidecars:
            if is_url(sidecar):
                check_writable(sidecar)
        folders = sorted({_folder(sidecar) for sidecar in sidecars if is_url(sidecar)})
        listed = each(lambda folder, stop: list_folder(target.remote, folder), folders)
        self._listed: dict[str, dict[str, Listed] | None] = dict(zip(folders, listed, strict=True))

    def has(self, shard: str) -> bool:
        """Tell whether a shard has a sidecar, finished or not; one in a store without its index is not finished."""
        sidecar = self._target.sidecar(shard)
        if not is_url(sidecar):
            return os.path.exists(sidecar)
        return self._size(sidecar) is not None and self._size(beside(sidecar, ".idx")) is not None

    def manifest(self, shard: str, source: str) -> Manifest | None:
        """Return the manifest of a shard's sidecar; None if it is missing, damaged, or of another state of the shard.

        Parameters
        ----------
        shard : str
        source : str
            The shard's fingerprint.
        """
        sidecar = self._target.sidecar(shard)
        try:
            manifest = self._in_store(sidecar) if is_url(sidecar) else _here(sidecar, self._target.kind)
        except GaveUp:
            raise
        except ShardError:
            return None
        return manifest if manifest is not None and manifest.source == source else None

    def _size(self, url: str) -> int | None:
        listed = self._listed[_folder(url)]
        if listed is None:  # may not be listed: ask for each
            file = self._target.remote.find(url)
            return None if file is None else file.size
        entry = listed.get(url.rsplit("/", 1)[1])
        return None if entry is None else entry.size

    def _in_store(self, sidecar: str) -> Manifest | None:
        size = self._size(sidecar)
        if size is None:
            return None
        file = RemoteFile(sidecar, size, "")
        for start in (max(0, size - _TAIL_BYTES) // 512 * 512, 0):
            tail = b"".join(self._target.remote.blocks(file, start))
            manifest = manifest_in_tail(shown(sidecar), tail, self._target.kind)
            if manifest is not None or start == 0:
                return manifest
        return None


def _here(sidecar: str, kind: SidecarKind) -> Manifest | None:
    index = load_index(sidecar)
    manifest = manifest_of(sidecar, index, kind)
    return manifest if manifest.count == count_masks(index, kind) else None


def _folder(url: str) -> str:
    return url.rsplit("/", 1)[0]


class Lookahead:
    """Opens shards, and fetches the one that comes next while another is worked on.

    Parameters
    ----------
    target : Target
    """

    def __init__(self, target: Target) -> None:
        self._target = target
        self._next: tuple[str, Future[Store]] | None = None

    def fetch(self, shard: str | None) -> None:
        """Begin to fetch a shard; a local one needs none. It is kept until it is opened, or another is fetched."""
        if shard is None or not is_url(shard):
            return
        if self._next is not None and self._next[0] == shard:
            return
        self.close()
        future: Future[Store] = Future()
        self._next = shard, future
        threading.Thread(target=self._open_ahead, args=(shard, future), name="open-ahead", daemon=True).start()

    def _open_ahead(self, shard: str, future: Future[Store]) -> None:
        store, failure = None, None
        try:
            store = self._target.open(shard)
            store.need([0])
        except Exception as error:  # met again when its turn comes
            failure = error
        if not future.set_running_or_notify_cancel():
            if store is not None:
                store.close()
        elif failure is not None or store is None:
            future.set_exception(failure or RuntimeError("no shard was opened"))
        else:
            future.set_result(store)

    def open(self, shard: str) -> Store:
        """Return a shard opened; the caller closes it."""
        if self._next is not None and self._next[0] == shard:
            (_, future), self._next = self._next, None
            with suppress(Exception):  # tried again: what was in its way may be gone
                return future.result()
        return self._target.open(shard)

    def close(self) -> None:
        """Let the fetched shard go."""
        if self._next is None:
            return
        (_, future), self._next = self._next, None
        if not future.cancel() and future.exception() is None:
            future.result().close()
