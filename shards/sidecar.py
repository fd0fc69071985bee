"""What a mask sidecar is: its name, its manifest, and whether it fits a shard."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from .errors import ShardError
from .index import load_index
from .index_text import ShardIndex
from .patterns import SIDECAR_ENDING
from .reader import shard_fingerprint
from .tar import BLOCK, checksum_matches, header_name, header_size
from .urls import beside, inside, is_url, shown, url_name

MASK_EXT = "mask.png"
"""Extension of a mask: the member is `<key>.mask.png`."""
MANIFEST = "manifest.json"
"""Name of a sidecar's last member."""
FORMAT = "figureground masks 1"


@dataclass(frozen=True)
class Manifest:
    """What made a sidecar, and from which shard."""

    method: str
    """Name of the method, e.g. "fused"."""
    source: str
    """`shard_fingerprint` of the shard the masks belong to."""
    count: int
    """Number of masks."""
    parameters: dict[str, Any] = field(default_factory=dict)
    """What the method was called with, as JSON holds it."""
    version: str = ""
    """Version of the method."""
    result: dict[str, Any] = field(default_factory=dict)
    """What came out, as JSON holds it: counts, a histogram of shares, samples without a mask; no times, so that equal
    masks are equal bytes."""

    def to_json(self) -> bytes:
        """Render as the bytes of `manifest.json`: sorted, so that equal manifests are equal bytes."""
        return (json.dumps({"format": FORMAT, **asdict(self)}, sort_keys=True, indent=1) + "\n").encode()


def sidecar_path(shard: str | os.PathLike[str], masks_dir: str | os.PathLike[str] | None = None) -> str:
    """Return where the masks of a shard lie: beside it, or in `masks_dir`.

    Examples
    --------
    >>> sidecar_path("shards/train-000.tar"), sidecar_path("shards/train-000.tar", "masks")
    ('shards/train-000.masks.tar', 'masks/train-000.masks.tar')
    >>> sidecar_path("https://host/a.tar?token=1"), sidecar_path("shards/a.tar", "s3://bucket/masks")
    ('https://host/a.masks.tar?token=1', 's3://bucket/masks/a.masks.tar')
    """
    path = os.fspath(shard)
    remote = is_url(path)
    folder, name = os.path.split(path) if not remote else ("", url_name(path))
    if name.endswith(SIDECAR_ENDING):
        raise ShardError(f"{shown(path)}: a shard must be a tar of images, got a mask sidecar; name the shard itself")
    if remote and masks_dir is None:
        return beside(path, SIDECAR_ENDING)
    target = folder if masks_dir is None else os.fspath(masks_dir)
    name = os.path.splitext(name)[0] + SIDECAR_ENDING
    return inside(target, name) if is_url(target) else os.path.join(target, name)


def read_manifest(path: str | os.PathLike[str]) -> Manifest:
    """Read the manifest of a sidecar.

    Raises
    ------
    ShardError
        If the sidecar is missing or damaged, or has no manifest, or one of another format.
    """
    tar = os.fspath(path)
    return manifest_of(tar, load_index(tar))


def manifest_of(tar: str, index: ShardIndex) -> Manifest:
    """Read the manifest of a sidecar whose index is known."""
    start, stop = manifest_place(tar, index)
    with open(tar, "rb") as file:
        return parse_manifest(tar, os.pread(file.fileno(), stop - start, start))


def manifest_place(tar: str, index: ShardIndex) -> tuple[int, int]:
    """Find where in a sidecar its manifest begins and ends [bytes]."""
    stem, ext = os.path.splitext(MANIFEST)
    row = index.find(stem.encode(), ext[1:].encode())
    if row is None:
        raise ShardError(f"{tar}: has no {MANIFEST}, so it is no complete sidecar; run 'figureground masks' again")
    return int(index.offset[row]), int(index.offset[row] + index.size[row])


def parse_manifest(tar: str, text: bytes) -> Manifest:
    """Make a manifest of its JSON; `tar` is what messages call the sidecar."""
    try:
        document = json.loads(text)
        if document.pop("format") != FORMAT:
            raise ValueError
        if "result" not in document:  # older sidecars have it among the parameters
            document["result"] = document["parameters"].pop("result", {})
        return Manifest(**document)
    except (ValueError, TypeError, KeyError, AttributeError):
        raise ShardError(
            f"{tar}: {MANIFEST} must be of format '{FORMAT}', got {text[:60]!r}; run 'figureground masks' again"
        ) from None


def manifest_in_tail(tar: str, tail: bytes) -> Manifest | None:
    """Read the manifest, a sidecar's last member, from the sidecar's last bytes.

    Parameters
    ----------
    tar : str
        What messages call the sidecar.
    tail : bytes
        Its end, from a multiple of 512 bytes on.

    Returns
    -------
    Manifest or None
        None if it does not begin in this tail.

    Raises
    ------
    ShardError
        If it is of another format.
    """
    for at in range(len(tail) // BLOCK * BLOCK - BLOCK, -1, -BLOCK):
        block = tail[at : at + BLOCK]
        if header_name(block) == MANIFEST.encode() and checksum_matches(block):
            size = header_size(block) or 0
            return parse_manifest(tar, tail[at + BLOCK : at + BLOCK + size])
    return None


def sidecar_is_valid(
    path: str | os.PathLike[str],
    shard: str | os.PathLike[str],
    *,
    method: str | None = None,
    parameters: Mapping[str, Any] | None = None,
    version: str | None = None,
) -> bool:
    """Tell whether a sidecar is complete, belongs to a shard as it is now, and was made as asked.

    Parameters
    ----------
    path, shard : path
        The sidecar and its shard.
    method, parameters, version : optional
        What the manifest must hold; None accepts anything.

    Returns
    -------
    bool
        False also for a sidecar that is missing, damaged or stale: make it again.

    Raises
    ------
    ShardError
        If the shard itself is missing or damaged.
    """
    source = shard_fingerprint(shard)
    tar = os.fspath(path)
    try:
        index = load_index(tar)
        manifest = manifest_of(tar, index)
    except ShardError:
        return False
    asked = None if parameters is None else json.loads(json.dumps(dict(parameters)))
    return (
        manifest.source == source
        and manifest.count == count_masks(index)
        and method in (None, manifest.method)
        and version in (None, manifest.version)
        and (asked is None or asked == manifest.parameters)
    )


def count_masks(index: ShardIndex) -> int:
    """Count the masks in a sidecar."""
    name = MASK_EXT.encode()
    return int((index.ext == index.exts.index(name)).sum()) if name in index.exts else 0
