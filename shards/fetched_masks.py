"""Mask sidecars behind URLs: which there are, and what they hold, before any of them is fetched whole."""

from __future__ import annotations

import os
from collections.abc import Sequence

from .cache import ShardCache
from .errors import ShardError
from .fetched import each, load_remote_indexes
from .index_text import ShardIndex
from .reader import Store
from .remote import RemoteFile
from .sidecar import MASKS, Manifest, SidecarKind, manifest_place, parse_manifest, sidecar_path
from .urls import is_url, shown


def cache_for(store: Store, masks_dir: str | os.PathLike[str] | None, cache: ShardCache | None) -> ShardCache | None:
    """Return the cache that the sidecars of a store are fetched into; None if all of them are local.

    Raises
    ------
    ShardError
        If `masks_dir` is a URL and there is no cache.
    """
    remote = is_url(os.fspath(masks_dir)) if masks_dir is not None else store.fetched is not None
    if not remote:
        return None
    cache = cache or (None if store.fetched is None else store.fetched.cache)
    if cache is None:
        raise ShardError(
            f"{shown(os.fspath(masks_dir or ''))}: sidecars behind a URL need a cache; pass "
            f"cache=ShardCache(folder, max_bytes) (--cache DIR), or copy them into a local folder"
        )
    return cache


def find_sidecars(
    store: Store, masks_dir: str | os.PathLike[str] | None, cache: ShardCache | None, kind: SidecarKind = MASKS
) -> list[RemoteFile | None]:
    """Look for the sidecars of a store's shards that are behind URLs.

    Parameters
    ----------
    store : Store
    masks_dir : path or URL, optional
        Where the sidecars lie; by default beside their shards.
    cache : ShardCache, optional
        From `cache_for`.
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
    if cache is None:
        return [None] * len(store.shards)
    shards: list[str] = list(store.shards)
    if store.fetched is not None:  # their URLs in full
        shards = [shard if file is None else file.url for shard, file in zip(shards, store.fetched.files, strict=True)]
    paths = [sidecar_path(shard, masks_dir, kind) for shard in shards]
    remote = cache.remote
    urls = [path if is_url(path) else None for path in paths]
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
