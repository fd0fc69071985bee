"""Mask sidecars of remote shards: which there are, and what they hold, before any of them is fetched whole."""

from __future__ import annotations

import os
from collections.abc import Sequence

from .cache import ShardCache
from .fetched import each, load_remote_indexes
from .index_text import ShardIndex
from .reader import Store
from .remote import RemoteFile
from .sidecar import MASKS, Manifest, SidecarKind, manifest_place, parse_manifest
from .urls import beside, is_url, shown


def find_sidecars(
    store: Store, masks_dir: str | os.PathLike[str] | None, kind: SidecarKind = MASKS
) -> list[RemoteFile | None]:
    """Look for the sidecars of a store's remote shards.

    Parameters
    ----------
    store : Store
    masks_dir : path or URL, optional
        Where the sidecars lie; by default beside their shards. A local folder holds no remote ones.
    kind : SidecarKind

    Returns
    -------
    list of RemoteFile or None
        By shard number; None: there is none, or it is local.

    Raises
    ------
    ShardError
        If a store does not answer.
    """
    if store.fetched is None or (masks_dir is not None and not is_url(os.fspath(masks_dir))):
        return [None] * len(store.shards)
    remote = store.fetched.cache.remote
    urls: list[str | None] = []
    for shard, file in zip(store.shards, store.fetched.files, strict=True):
        if masks_dir is not None:
            name = os.path.splitext(os.path.basename(shard))[0]
            urls.append(f"{os.fspath(masks_dir).rstrip('/')}/{name}{kind.ending}")
        else:
            urls.append(None if file is None else beside(file.url, kind.ending))
    return each(lambda url, stop: None if url is None else remote.find(url, stop), urls)


def load_sidecars(
    files: Sequence[RemoteFile | None], cache: ShardCache, kind: SidecarKind = MASKS
) -> list[tuple[int, ShardIndex, Manifest]]:
    """Read the indexes and manifests of sidecars: two small requests each.

    Parameters
    ----------
    files : sequence of RemoteFile or None
        From `find_sidecars`.
    cache : ShardCache
    kind : SidecarKind

    Returns
    -------
    list of (int, ShardIndex, Manifest)
        Number of the shard, index and manifest of its sidecar, for those that have one.

    Raises
    ------
    ShardError
        If a sidecar is damaged or has no manifest.
    """
    there = [(number, file) for number, file in enumerate(files) if file is not None]
    indexes = load_remote_indexes([file for _, file in there], cache)
    places = [manifest_place(shown(file.url), index, kind) for (_, file), index in zip(there, indexes, strict=True)]
    texts = each(
        lambda asked, stop: b"".join(cache.remote.blocks(asked[0], *asked[1], stop=stop)),
        [(file, place) for (_, file), place in zip(there, places, strict=True)],
    )
    return [
        (number, index, parse_manifest(shown(file.url), text, kind))
        for (number, file), index, text in zip(there, indexes, texts, strict=True)
    ]
