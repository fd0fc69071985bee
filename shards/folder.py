"""List the images and videos of a folder and give each a key that tar, webdataset and DALI read the same way."""

from __future__ import annotations

import os
import random
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from .errors import ShardError
from .pictures import FILE_EXTS, is_image_file

_UNSAFE = re.compile(r"[\x00-\x20\x7f\\\ud800-\udfff]")
_META = re.compile(r"^__[^/]*__(?=/|$)")
_MASK = re.compile(r"(.+)\.mask\.[^./]+")

VIDEO_EXTS = frozenset(("avi", "mp4", "m4v", "mov", "mkv", "webm", "mpg", "mpeg", "wmv", "flv", "3gp", "ogv"))
"""Extensions of video files, lower case."""


@dataclass(frozen=True)
class Source:
    """One image or video file to pack."""

    path: str
    relative: str
    """Path from the source folder on, with `/`."""
    key: str
    """Unique, without blanks and without a dot in the base name."""
    number: int | None
    """Place of its class in the sorted list; None for a file outside any class folder."""
    video: bool = False
    """A video: its frames get the keys `key/000000`, ..."""


@dataclass(frozen=True)
class Listing:
    """The images and videos of a folder."""

    sources: list[Source]
    classes: list[str]
    skipped: list[tuple[str, str]]
    """Other files: relative path and why they are left out."""


def list_images(folder: str, *, leave_out: str = "", shuffle_seed: int | None = None) -> Listing:
    """List the images and videos of a folder in the order of their paths.

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
        A class is a folder that holds at least one image or video file, by its path from `folder` on. Masks, that is
        `a.mask.png` beside an image `a.jpg`, are left out.

    Raises
    ------
    ShardError
        If there is no such folder or no image or video file in it.
    """
    if not os.path.isdir(folder):
        raise ShardError(f"{folder}: the source must be a folder of images, got no folder; check the path")
    skipped: list[tuple[str, str]] = []
    files: list[tuple[str, str]] = []
    entries = sorted(_walk(folder, leave_out))
    stems = {stem for stem, ext in (os.path.splitext(name) for name, _ in entries) if ext[1:].lower() in FILE_EXTS}
    for relative, path in entries:
        mask = _MASK.fullmatch(relative)
        if os.path.basename(relative).startswith("."):
            skipped.append((relative, "hidden file"))
        elif mask and mask[1] in stems:
            skipped.append((relative, f"the mask of {mask[1]}, to be imported with 'figureground masks'"))
        elif _is_video(relative) or is_image_file(path):
            files.append((relative, path))
        else:
            skipped.append((relative, "no image, by its extension and first bytes"))
    if not files:
        raise ShardError(f"{folder}: the source holds no image file; check the path")
    classes = sorted({os.path.dirname(relative) for relative, _ in files} - {""})
    number = {name: place for place, name in enumerate(classes)}
    images = [relative for relative, _ in files if not _is_video(relative)]
    videos = [relative for relative, _ in files if _is_video(relative)]
    keys = dict(zip(images, unique_keys(images), strict=True))
    keys |= zip(videos, unique_keys(videos, taken=_with_folders(keys.values())), strict=True)
    sources = [
        Source(path, relative, keys[relative], number.get(os.path.dirname(relative)), _is_video(relative))
        for relative, path in files
    ]
    if shuffle_seed is not None:
        random.Random(shuffle_seed).shuffle(sources)
    return Listing(sources, classes, skipped)


def _is_video(name: str) -> bool:
    return os.path.splitext(name)[1][1:].lower() in VIDEO_EXTS


def _with_folders(keys: Iterable[str]) -> set[str]:
    """The keys and all folders they lie in: names that no clip may have."""
    taken = set()
    for key in keys:
        while key and key not in taken:
            taken.add(key)
            key = key.rpartition("/")[0]
    return taken


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


def unique_keys(names: list[str], taken: Iterable[str] = ()) -> list[str]:
    """Make a key of each file name: safe, and different from all others.

    Parameters
    ----------
    names : list of str
        Relative paths with `/`, each once.
    taken : iterable of str
        Keys that are in use already.

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
    taken = set(taken)
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
