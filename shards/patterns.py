"""Turn what a user types (paths, folders, globs, brace patterns) into a sorted list of shards."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Sequence
from pathlib import Path

from .errors import ShardError

_RANGE = re.compile(r"(\d+)\.\.(\d+)(?:\.\.(\d+))?")
SIDECAR_ENDING = ".masks.tar"
"""Tars with this ending hold the masks of another shard; folders and globs pass them over."""


def expand(patterns: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> list[str]:
    """List the shards that patterns name.

    Parameters
    ----------
    patterns : str, path or sequence of these
        Each one is an existing file, a folder (all its `*.tar`), a glob (`*`, `?`, `[...]`, `**`), or a brace pattern
        (`{000..099}`, `{0..9..2}`, `{train,val}`, nested too) of any of these.

    Returns
    -------
    list of str
        Sorted by absolute path, each once. Mask sidecars (`*.masks.tar`) are left out unless named.

    Raises
    ------
    ShardError
        If a pattern matches nothing, or a file it names does not exist, or it is a URL.

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
    listed = [patterns] if isinstance(patterns, (str, os.PathLike)) else patterns
    found: dict[str, str] = {}
    for pattern in listed:
        for shard in _expand_one(os.path.expanduser(os.fspath(pattern))):
            found.setdefault(os.path.abspath(shard), os.path.normpath(shard))
    if not found:
        raise ShardError("expand: patterns must name at least one shard, got an empty list")
    return [found[path] for path in sorted(found)]


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
    if "://" in pattern:
        raise ShardError(f"{pattern}: a shard must be a local file, got a URL; fetch it into a local folder first")
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


def _matches(path: str) -> list[str]:
    """List the files that one pattern without braces names."""
    if os.path.isfile(path):
        return [path]
    if os.path.isdir(path):
        candidates = [str(entry) for entry in Path(path).glob("*.tar")]
    else:
        candidates = glob.glob(path, recursive=True)
    hide = not path.endswith(SIDECAR_ENDING)
    return [name for name in candidates if os.path.isfile(name) and not (hide and name.endswith(SIDECAR_ENDING))]
