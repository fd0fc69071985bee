"""Look a set of shards over and report all that is wrong, one line a finding, without stopping at the first."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from .errors import ShardError
from .index import index_is_fresh, index_path, index_text, load_index
from .index_text import ShardIndex, parse_index
from .patterns import expand
from .reader import IMAGE_EXTS, shard_fingerprint
from .sidecar import MASKS, TEXTURES, SidecarKind, count_masks, manifest_of, sidecar_path
from .tar import open_tar, read_members
from .urls import is_url, shown

Inspect = Callable[[np.ndarray], str | None]
"""Takes the bytes of an image, (bytes,) uint8; returns what is wrong with them, None if nothing is."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong."""

    shard: str
    """The file."""
    kind: str
    """"tar", "index", "duplicate", "image", "mask" or "texture"."""
    key: str | None
    """The sample, None if it is the file as a whole."""
    message: str

    def __str__(self) -> str:
        return ": ".join(part for part in (self.shard, self.key, self.message) if part)


def check(
    shards: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    inspect: Inspect | None = None,
    masks_dir: str | os.PathLike[str] | None = None,
    image_exts: Sequence[str] = IMAGE_EXTS,
) -> list[Finding]:
    """Check shards, their indexes and their sidecars of masks and textures.

    Parameters
    ----------
    shards : str, path or sequence of these
        As for `expand`.
    inspect : callable, optional
        Looks into each image, mask and texture, given as (bytes,) uint8; returns what is wrong or None.
    masks_dir : path, optional
        Where the sidecars lie; by default beside their shards. A shard without sidecar is fine.
    image_exts : sequence of str
        As for `Store`.

    Returns
    -------
    list of Finding
        In the order of shards and samples; empty if all is well. Nothing is written or mended.

    Raises
    ------
    ShardError
        If the patterns name no shard, or a sidecar in place of its shard, or `masks_dir` is a URL.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     shard = os.path.join(folder, "cut.tar")
    ...     _ = open(shard, "wb").write(b"no tar")
    ...     [finding.kind for finding in check(shard)]
    ['tar']
    """
    if masks_dir is not None and is_url(os.fspath(masks_dir)):
        raise ShardError(
            f"{shown(os.fspath(masks_dir))}: check: masks_dir must be a local folder, got a URL; copy it first"
        )
    seen: dict[bytes, str] = {}
    findings: list[Finding] = []
    exts = tuple(ext.lower().lstrip(".") for ext in image_exts)
    for shard in expand(shards):
        sidecars = [(kind, sidecar_path(shard, masks_dir, kind)) for kind in (MASKS, TEXTURES)]
        try:
            with open_tar(shard) as data:
                members, end = read_members(data, shard)
                index = parse_index(index_text(members), shard)
                findings += _check_tar(shard, data, end, len(index))
                findings += _check_index(shard, index)
                findings += _check_keys(shard, index, seen)
                findings += _check_images(shard, data, index, exts, inspect)
        except ShardError as error:
            findings.append(_finding(shard, "tar", error))
            continue
        for kind, sidecar in sidecars:
            findings += _check_sidecar(shard, sidecar, index, kind, inspect)
    return findings


def _finding(path: str, kind: str, error: ShardError) -> Finding:
    return Finding(path, kind, None, str(error).removeprefix(f"{path}: "))


def _text(key: bytes) -> str:
    return key.decode("utf-8", "replace")


def _check_tar(shard: str, data: mmap.mmap, end: int, samples: int) -> Iterator[Finding]:
    extra = len(data[end:].strip(b"\0"))
    if extra:
        yield Finding(shard, "tar", None, f"{extra} bytes after the end-of-archive marker at byte {end} are not read")
    if samples == 0:
        yield Finding(shard, "tar", None, "holds no sample")


def _check_index(shard: str, index: ShardIndex) -> Iterator[Finding]:
    path = index_path(shard)
    if not os.path.exists(path):
        yield Finding(shard, "index", None, f"has no index; run 'figureground index {shard}'")
        return
    with open(path, "rb") as file:
        text = file.read()
    try:
        written = parse_index(text, shard)
    except ShardError as error:
        yield _finding(path, "index", error)
        return
    for sample in range(max(len(index), len(written))):
        if _line(index, sample) != _line(written, sample):
            key = _text((index if sample < len(index) else written).key(sample))
            message = f"stale: sample {sample} is not what the tar has; run 'figureground index --force {shard}'"
            yield Finding(path, "index", key, message)
            return


def _line(index: ShardIndex, sample: int) -> tuple[bytes, list[tuple[bytes, int, int]]] | None:
    if sample >= len(index):
        return None
    rows = range(int(index.first[sample]), int(index.first[sample + 1]))
    parts = [(index.exts[index.ext[row]], int(index.offset[row]), int(index.size[row])) for row in rows]
    return index.key(sample), parts


def _check_keys(shard: str, index: ShardIndex, seen: dict[bytes, str]) -> Iterator[Finding]:
    for sample in range(len(index)):
        key = index.key(sample)
        if key in seen:
            where = "twice in this shard" if seen[key] == shard else f"also in {seen[key]}"
            yield Finding(shard, "duplicate", _text(key), f"this key is {where}; masks are matched by key")
        seen[key] = shard


def _check_images(
    shard: str, data: mmap.mmap, index: ShardIndex, exts: Sequence[str], inspect: Inspect | None
) -> Iterator[Finding]:
    names = [name.decode("utf-8", "replace").lower() for name in index.exts]
    for sample in range(len(index)):
        key = _text(index.key(sample))
        rows = {names[index.ext[row]]: row for row in range(int(index.first[sample]), int(index.first[sample + 1]))}
        row = next((rows[ext] for ext in exts if ext in rows), None)
        if row is None:
            yield Finding(shard, "image", key, f"has no image, only {', '.join(sorted(rows))}")
        elif index.size[row] == 0:
            yield Finding(shard, "image", key, "its image is empty (0 bytes)")
        elif inspect is not None:
            start = int(index.offset[row])
            wrong = inspect(np.frombuffer(data[start : start + int(index.size[row])], np.uint8))
            if wrong:
                yield Finding(shard, "image", key, wrong)


def _check_sidecar(
    shard: str, sidecar: str, index: ShardIndex, kind: SidecarKind, inspect: Inspect | None
) -> Iterator[Finding]:
    if not os.path.exists(sidecar):
        return
    again, what = f"run 'figureground {kind.name} {shard}' again", kind.name[:-1]
    try:
        with open_tar(sidecar) as data:
            members, _ = read_members(data, sidecar)
            masks = parse_index(index_text(members), sidecar)
            keys = {index.key(sample) for sample in range(len(index))}
            yield from _check_each(sidecar, data, masks, keys, kind, inspect)
        if not os.path.exists(index_path(sidecar)):
            yield Finding(sidecar, "index", None, f"has no index; run 'figureground index {sidecar}'")
        else:
            load_index(sidecar)
        manifest = manifest_of(sidecar, masks, kind)
        if os.path.exists(index_path(shard)) and index_is_fresh(shard) and manifest.source != shard_fingerprint(shard):
            yield Finding(sidecar, what, None, f"made from another state of {shard}; {again}")
        if manifest.count != count_masks(masks, kind):
            yield Finding(
                sidecar, what, None, f"promises {manifest.count} {kind.name}, has {count_masks(masks, kind)}; {again}"
            )
    except ShardError as error:
        yield _finding(sidecar, what, error)


def _check_each(
    sidecar: str, data: mmap.mmap, masks: ShardIndex, keys: set[bytes], kind: SidecarKind, inspect: Inspect | None
) -> Iterator[Finding]:
    what, start_of = kind.name[:-1], kind.signature
    for sample in range(len(masks)):
        for row in range(int(masks.first[sample]), int(masks.first[sample + 1])):
            if masks.exts[masks.ext[row]] != kind.ext.encode():
                continue
            start, key = int(masks.offset[row]), masks.key(sample)
            if key not in keys:
                yield Finding(sidecar, what, _text(key), "no sample of the shard has this key")
            if data[start : start + len(start_of)] != start_of or masks.size[row] < 8:
                yield Finding(sidecar, what, _text(key), f"its {what} is no {'PNG' if kind == MASKS else 'JPEG'}")
            elif inspect is not None:
                wrong = inspect(np.frombuffer(data[start : start + int(masks.size[row])], np.uint8))
                if wrong:
                    yield Finding(sidecar, what, _text(key), f"its {what}: {wrong}")
