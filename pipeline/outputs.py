"""Places where something is to be written: looked at before the work, not after it."""

from __future__ import annotations

import os
from pathlib import Path


def new_file(path: str | os.PathLike[str]) -> Path:
    """Return the path of a file that can be written, its folder too if that has to be made.

    Parameters
    ----------
    path : path
        `~` is expanded. Nothing is made.

    Raises
    ------
    ValueError
        If it is a folder, or it or its folder cannot be written.

    Examples
    --------
    >>> new_file("results/today.json").as_posix()
    'results/today.json'
    """
    place = Path(path).expanduser()
    if place.is_dir():
        raise ValueError(f"{place} is a folder; name a file in it")
    if place.exists():
        if not os.access(place, os.W_OK):
            raise ValueError(f"{place} cannot be written; choose another place")
    else:
        new_folder(place.parent)
    return place


def new_folder(path: str | os.PathLike[str]) -> Path:
    """Return the path of a folder that can be written, or made.

    Raises
    ------
    ValueError
        If it, or what it would lie in, is no folder or cannot be written.
    """
    place = Path(path).expanduser()
    there = place
    while not there.exists() and there != there.parent:
        there = there.parent
    if not there.is_dir():
        what = "is no folder" if there == place else f"cannot be made, {there} is no folder"
        raise ValueError(f"{place} {what}; choose another place")
    if not os.access(there, os.W_OK):
        raise ValueError(f"{place} cannot be written: {there} takes no files; choose another place")
    return place
