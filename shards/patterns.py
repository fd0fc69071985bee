"""Turn what a user types (paths, folders, globs, brace patterns, URLs) into a sorted list of shards."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import ShardError
from .urls import is_url, shown

if TYPE_CHECKING:
    from .remote import Remote

_RANGE = re.compile(r"(\d+)\.\.(\d+)(?:\.\.(\d+))?")
_LISTED, _LISTED_WEB = re.compile(r"[*?\[]"), re.compile(r"\*")
SIDECAR_ENDING, TEXTURES_ENDING = ".masks.tar", ".textures.tar"
"""Tars with these endings hold the masks and the textures of another shard; folders and globs pass them over."""
SIDECAR_ENDINGS = (SIDECAR_ENDING, TEXTURES_ENDING)


def expand(
    patterns: str | os.PathLike[str] | Sequence[str | os.PathLike[str]], remote: Remote | None = None
) -> list[str]:
    """List the shards that patterns name.

    Parameters
    ----------
    patterns : str, path or sequence of these
        Each one is an existing file, a folder (all its `*.tar`), a glob (`*`, `?`, `[...]`, `**`), or a brace pattern
        (`{000..099}`, `{0..9..2}`, `{train,val}`, nested too) of any of these. With `remote`, URLs too: brace patterns,
        globs and folders (ending in `/`) of stores that can be listed; whether a URL without a glob exists is not asked.
    remote : Remote, optional
        Opens URLs; without it a URL is an error.

    Returns
    -------
    list of str
        Sorted by absolute path or URL, each once. Sidecars (`*.masks.tar`, `*.textures.tar`) are left out unless they are
        named, and even then beside their shards: that is what `glob.glob` or a shell makes of `*.tar`.

    Raises
    ------
    ShardError
        If a pattern matches nothing, or a file it names does not exist, or it is a URL that is not opened here. Commands
        (`pipe:`) and chained URLs (`simplecache::s3://`) never are.
    TypeError
        If `patterns` is neither a path nor a sequence.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("b-00.tar", "b-01.tar", "b-00.masks.tar"):
    ...         Path(folder, name).touch()
    ...     [os.path.basename(shard) for shard in expand(folder + "/b-{00..01}.tar")]
    ...     [os.path.basename(shard) for shard in expand(folder)]
    ['b-00.tar', 'b-01.tar']
    ['b-00.tar', 'b-01.tar']
    """
    if isinstance(patterns, bytes) or not isinstance(patterns, (str, os.PathLike, Iterable)):
        raise TypeError(f"expand: patterns must be a path or a sequence of paths, got {type(patterns).__name__}")
    listed = [patterns] if isinstance(patterns, (str, os.PathLike)) else patterns
    found: dict[str, str] = {}
    for pattern in listed:
        if remote is not None and isinstance(pattern, str) and is_url(pattern):
            found.update((url, url) for url in _expand_url(pattern, remote))
            continue
        for shard in _expand_one(os.path.expanduser(os.fspath(pattern))):
            found.setdefault(os.path.abspath(shard), os.path.normpath(shard))
    if not found:
        raise ShardError("expand: patterns must name at least one shard, got an empty list")
    return [found[path] for path in sorted(found) if not _is_beside_its_shard(path, found)]


def _is_beside_its_shard(path: str, found: dict[str, str]) -> bool:
    ending = next((ending for ending in SIDECAR_ENDINGS if path.endswith(ending)), None)
    return ending is not None and path.removesuffix(ending) + ".tar" in found


def expand_braces(pattern: str) -> list[str]:
    """Expand `{a,b}` and `{00..11..step}` in a text, as a shell does; digits keep their width.

    Examples
    --------
    >>> expand_braces("{train,val}-{08..10}.tar")[:4]
    ['train-08.tar', 'train-09.tar', 'train-10.tar', 'val-08.tar']
    >>> expand_braces("x{y}z{}")
    ['x{y}z{}']
    """
    start = pattern.find("{")
    while start >= 0:
        stop = _closing(pattern, start)
        options = _options(pattern[start + 1 : stop]) if stop > 0 else []
        if options:
            heads = [pattern[:start] + inner for option in options for inner in expand_braces(option)]
            tails = expand_braces(pattern[stop + 1 :])
            return [head + tail for head in heads for tail in tails]
        start = pattern.find("{", start + 1)
    return [pattern]


def _closing(pattern: str, start: int) -> int:
    depth = 0
    for at in range(start, len(pattern)):
        depth += {"{": 1, "}": -1}.get(pattern[at], 0)
        if depth == 0:
            return at
    return -1


def _options(inside: str) -> list[str]:
    """List what stands between two braces; empty if it is no pattern."""
    match = _RANGE.fullmatch(inside)
    if match:
        low, high, step = int(match[1]), int(match[2]), int(match[3] or 1) or 1
        padded = any(len(text) > 1 and text[0] == "0" for text in (match[1], match[2]))
        width = max(len(match[1]), len(match[2])) if padded else 1
        numbers = range(low, high + 1, step) if low <= high else range(low, high - 1, -step)
        return [f"{number:0{width}d}" for number in numbers]
    options, depth, start = [], 0, 0
    for at, letter in enumerate(inside):
        depth += {"{": 1, "}": -1}.get(letter, 0)
        if letter == "," and depth == 0:
            options.append(inside[start:at])
            start = at + 1
    return [*options, inside[start:]] if options else []


def _expand_one(pattern: str) -> list[str]:
    if os.path.isfile(pattern):
        return [pattern]
    if pattern.startswith("pipe:"):
        raise ShardError(
            f"{pattern[:60]}: a shard must be a file or URL, got a command, which is never run; name the file"
        )
    if pattern.startswith("file://"):
        raise ShardError(f"{pattern}: a local shard must be given by its path, without 'file://'")
    if is_url(pattern):
        raise ShardError(
            f"{shown(pattern)}: a shard must be a local file, got a URL; fetch it into a local folder first, or open it "
            f"with Store(..., cache=ShardCache(folder, max_bytes))"
        )
    if "://" in pattern:
        raise ShardError(f"{pattern}: a shard must be a file or a URL protocol://..., got a chained URL; name the file")
    found, missing = [], []
    for path in expand_braces(pattern):
        matches = _matches(path)
        found += matches
        if not matches:
            missing.append(path)
    if missing and not found:
        raise ShardError(f"{pattern}: no shard matches; check the path")
    if missing:
        raise ShardError(f"{pattern}: {len(missing)} of its shards do not exist, the first is {missing[0]}")
    return found


def _expand_url(pattern: str, remote: Remote) -> list[str]:
    """List the shards that a URL with braces, globs or a folder at the end names."""
    found: list[str] = []
    for url in expand_braces(pattern):
        listing = url + "*.tar" if url.endswith("/") else url
        if not (_LISTED if not url.startswith(("http://", "https://")) else _LISTED_WEB).search(listing):
            found.append(url)
            continue
        hide = not url.endswith(SIDECAR_ENDINGS)
        matches = [name for name in remote.list(listing) if not (hide and name.endswith(SIDECAR_ENDINGS))]
        if not matches:
            raise ShardError(f"{shown(url)}: no shard matches; check the URL")
        found += matches
    return found


def _matches(path: str) -> list[str]:
    """List the files that one pattern without braces names."""
    if os.path.isfile(path):
        return [path]
    if os.path.isdir(path):
        candidates = [str(entry) for entry in Path(path).glob("*.tar")]
    else:
        candidates = glob.glob(path, recursive=True)
    hide = not path.endswith(SIDECAR_ENDINGS)
    return [name for name in candidates if os.path.isfile(name) and not (hide and name.endswith(SIDECAR_ENDINGS))]
