"""What a sidecar is: its name, its manifest, and whether it fits a shard. There are two kinds: of masks and of textures."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from .errors import ShardError
from .index import load_index
from .index_text import ShardIndex
from .patterns import SIDECAR_ENDING, SIDECAR_ENDINGS, TEXTURES_ENDING
from .reader import shard_fingerprint
from .tar import BLOCK, checksum_matches, header_name, header_size
from .urls import beside, inside, is_url, shown, url_name

MASK_EXT = "mask.png"
"""Extension of a mask: the member is `<key>.mask.png`."""
MANIFEST = "manifest.json"
"""Name of a sidecar's last member."""


@dataclass(frozen=True)
class SidecarKind:
    """What a sidecar holds."""

    name: str
    """Of its contents, and of the command that makes them."""
    ending: str
    """Of the sidecar's file name."""
    ext: str
    """Extension of its members."""
    signature: bytes
    """First bytes of a member."""

    @property
    def format(self) -> str:
        """First line of a manifest."""
        return f"figureground {self.name} 1"


MASKS = SidecarKind("masks", SIDECAR_ENDING, MASK_EXT, b"\x89PNG\r\n\x1a\n")
TEXTURES = SidecarKind("textures", TEXTURES_ENDING, "texture.jpg", b"\xff\xd8\xff")


@dataclass(frozen=True)
class Manifest:
    """What made a sidecar, and from which shard."""

    method: str
    """Name of the method, e.g. "fused"."""
    source: str
    """`shard_fingerprint` of the shard the masks belong to."""
    count: int
    """Number of masks, or textures."""
    parameters: dict[str, Any] = field(default_factory=dict)
    """What the method was called with, as JSON holds it."""
    version: str = ""
    """Version of the method."""
    result: dict[str, Any] = field(default_factory=dict)
    """What came out, as JSON holds it: counts, a histogram of shares, samples without a mask; no times, so that equal
    masks are equal bytes."""

    def to_json(self, kind: SidecarKind = MASKS) -> bytes:
        """Render as the bytes of `manifest.json`: sorted, so that equal manifests are equal bytes."""
        return (json.dumps({"format": kind.format, **asdict(self)}, sort_keys=True, indent=1) + "\n").encode()


def sidecar_path(
    shard: str | os.PathLike[str], masks_dir: str | os.PathLike[str] | None = None, kind: SidecarKind = MASKS
) -> str:
    """Return where the masks (or textures) of a shard lie: beside it, or in `masks_dir`.

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
    if name.endswith(SIDECAR_ENDINGS):
        what = "texture" if name.endswith(TEXTURES_ENDING) else "mask"
        raise ShardError(f"{shown(path)}: a shard must be a tar of images, got a {what} sidecar; name the shard itself")
    if remote and masks_dir is None:
        return beside(path, kind.ending)
    target = folder if masks_dir is None else os.fspath(masks_dir)
    name = os.path.splitext(name)[0] + kind.ending
    return inside(target, name) if is_url(target) else os.path.join(target, name)


def read_manifest(path: str | os.PathLike[str], kind: SidecarKind = MASKS) -> Manifest:
    """Read the manifest of a sidecar.

    Raises
    ------
    ShardError
        If the sidecar is missing or damaged, or has no manifest, or one of another format.
    """
    tar = os.fspath(path)
    return manifest_of(tar, load_index(tar), kind)


def manifest_of(tar: str, index: ShardIndex, kind: SidecarKind = MASKS) -> Manifest:
    """Read the manifest of a sidecar whose index is known."""
    start, stop = manifest_place(tar, index, kind)
    with open(tar, "rb") as file:
        return parse_manifest(tar, os.pread(file.fileno(), stop - start, start), kind)


def manifest_place(tar: str, index: ShardIndex, kind: SidecarKind = MASKS) -> tuple[int, int]:
    """Find where in a sidecar its manifest begins and ends [bytes]."""
    stem, ext = os.path.splitext(MANIFEST)
    row = index.find(stem.encode(), ext[1:].encode())
    if row is None:
        raise ShardError(
            f"{tar}: has no {MANIFEST}, so it is no complete sidecar; run 'figureground {kind.name}' again"
        )
    return int(index.offset[row]), int(index.offset[row] + index.size[row])


def parse_manifest(tar: str, text: bytes, kind: SidecarKind = MASKS) -> Manifest:
    """Make a manifest of its JSON; `tar` is what messages call the sidecar."""
    try:
        document = json.loads(text)
        if document.pop("format") != kind.format:
            raise ValueError
        if "result" not in document:  # older sidecars have it among the parameters
            document["result"] = document["parameters"].pop("result", {})
        return Manifest(**document)
    except (ValueError, TypeError, KeyError, AttributeError):
        raise ShardError(
            f"{tar}: {MANIFEST} must be of format '{kind.format}', got {text[:60]!r}; run 'figureground {kind.name}' again"
        ) from None


def manifest_in_tail(tar: str, tail: bytes, kind: SidecarKind = MASKS) -> Manifest | None:
    """Read the manifest, a sidecar's last member, from the sidecar's last bytes.

    Parameters
    ----------
    tar : str
        What messages call the sidecar.
    tail : bytes
        Its end, from a multiple of 512 bytes on.
    kind : SidecarKind

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
            return parse_manifest(tar, tail[at + BLOCK : at + BLOCK + size], kind)
    return None


def sidecar_is_valid(
    path: str | os.PathLike[str],
    shard: str | os.PathLike[str],
    *,
    method: str | None = None,
    parameters: Mapping[str, Any] | None = None,
    version: str | None = None,
    kind: SidecarKind = MASKS,
) -> bool:
    """Tell whether a sidecar is complete, belongs to a shard as it is now, and was made as asked.

    Parameters
    ----------
    path, shard : path
        The sidecar and its shard.
    method, parameters, version : optional
        What the manifest must hold; None accepts anything.
    kind : SidecarKind

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
        manifest = manifest_of(tar, index, kind)
    except ShardError:
        return False
    asked = None if parameters is None else json.loads(json.dumps(dict(parameters)))
    return (
        manifest.source == source
        and manifest.count == count_masks(index, kind)
        and method in (None, manifest.method)
        and version in (None, manifest.version)
        and (asked is None or asked == manifest.parameters)
    )


def count_masks(index: ShardIndex, kind: SidecarKind = MASKS) -> int:
    """Count the masks, or textures, in a sidecar."""
    name = kind.ext.encode()
    return int((index.ext == index.exts.index(name)).sum()) if name in index.exts else 0
