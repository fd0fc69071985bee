"""List the images of a folder and give each a key that tar, webdataset and DALI read the same way."""

from __future__ import annotations

import os
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass

from .errors import ShardError
from .pictures import is_image_file

_UNSAFE = re.compile(r"[\x00-\x20\x7f\\\ud800-\udfff]")
_META = re.compile(r"^__[^/]*__(?=/|$)")


@dataclass(frozen=True)
class Source:
    """One image file to pack."""

    path: str
    relative: str
    """Path from the source folder on, with `/`."""
    key: str
    """Unique, without blanks and without a dot in the base name."""
    number: int | None
    """Place of its class in the sorted list; None for a file outside any class folder."""


@dataclass(frozen=True)
class Listing:
    """The images of a folder."""

    sources: list[Source]
    classes: list[str]
    skipped: list[tuple[str, str]]
    """Other files: relative path and why they are left out."""


def list_images(folder: str, *, leave_out: str = "", shuffle_seed: int | None = None) -> Listing:
    """List the images of a folder in the order of their paths.

    Parameters
    ----------
    folder : str
        Searched to any depth; links are followed, each folder is entered once, hidden folders never.
    leave_out : str
        Absolute path of a folder inside it that is passed over.
    shuffle_seed : int, optional
        Shuffle the list by this number.

    Returns
    -------
    Listing
        A class is a folder that holds at least one image file, by its path from `folder` on.

    Raises
    ------
    ShardError
        If there is no such folder or no image file in it.
    """
    if not os.path.isdir(folder):
        raise ShardError(f"{folder}: the source must be a folder of images, got no folder; check the path")
    skipped: list[tuple[str, str]] = []
    images: list[tuple[str, str]] = []
    for relative, path in sorted(_walk(folder, leave_out)):
        if os.path.basename(relative).startswith("."):
            skipped.append((relative, "hidden file"))
        elif is_image_file(path):
            images.append((relative, path))
        else:
            skipped.append((relative, "no image, by its extension and first bytes"))
    if not images:
        raise ShardError(f"{folder}: the source holds no image file; check the path")
    classes = sorted({os.path.dirname(relative) for relative, _ in images} - {""})
    number = {name: place for place, name in enumerate(classes)}
    keys = unique_keys([relative for relative, _ in images])
    sources = [
        Source(path, relative, key, number.get(os.path.dirname(relative)))
        for (relative, path), key in zip(images, keys, strict=True)
    ]
    if shuffle_seed is not None:
        random.Random(shuffle_seed).shuffle(sources)
    return Listing(sources, classes, skipped)


def _walk(folder: str, leave_out: str) -> Iterator[tuple[str, str]]:
    """Yield all files as (path from `folder` on, path)."""
    entered = set()
    for top, folders, files in os.walk(folder, followlinks=True):
        status = os.stat(top)
        if (status.st_dev, status.st_ino) in entered or os.path.abspath(top) == leave_out != os.path.abspath(folder):
            folders.clear()
            continue
        entered.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in files:
            path = os.path.join(top, name)
            yield os.path.relpath(path, folder).replace(os.sep, "/"), path


def unique_keys(names: list[str]) -> list[str]:
    """Make a key of each file name: safe, and different from all others.

    Parameters
    ----------
    names : list of str
        Relative paths with `/`, each once.

    Returns
    -------
    list of str
        The path without extension, with `_` for dots of the base name, blanks, control characters, backslashes and
        bytes that are no UTF-8. Names that become equal get `_2`, `_3`, ... in their order.

    Examples
    --------
    >>> unique_keys(["v1.0/a dog.jpg", "v1.0/a.dog.jpg", "b.png"])
    ['v1.0/a_dog', 'v1.0/a_dog_2', 'b']
    """
    taken: set[str] = set()
    keys = []
    for name in names:
        plain = _plain_key(name)
        key, copy = plain, 1
        while key in taken:
            copy += 1
            key = f"{plain}_{copy}"
        taken.add(key)
        keys.append(key)
    return keys


def _plain_key(name: str) -> str:
    folder, base = os.path.split(name)
    stem = os.path.splitext(base)[0].replace(".", "_")
    key = _UNSAFE.sub("_", f"{folder}/{stem}" if folder else stem)
    return _META.sub(lambda match: match[0].strip("_") or "x", key)
