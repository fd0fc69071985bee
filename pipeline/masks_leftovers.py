"""Temporary files that killed jobs left behind."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterable
from contextlib import suppress

from figureground.shards.errors import ShardError
from figureground.shards.index import index_path
from figureground.shards.remote import Remote
from figureground.shards.upload import list_folder, remove, shows_halves
from figureground.shards.urls import is_url

_TEMPORARY = re.compile(r"\.(.+)\.(\d+)-[0-9a-f]{8}\.tmp")
_OLD_S = 3600.0
_CLOCKS_S = 1.0
"""How far the clocks of files and processes may be apart."""


def remove_leftovers(sidecars: Iterable[str], remote: Remote | None = None) -> list[str]:
    """Remove the temporary files of sidecars whose writer is gone.

    Parameters
    ----------
    sidecars : iterable of str
        Paths or URLs, there or not.
    remote : Remote, optional
        Opens the URLs; without it they are passed over.

    Returns
    -------
    list of str
        What was removed.

    Notes
    -----
    Only files named as `figureground.shards` names those of these sidecars and their indexes. A writer counts as gone
    if its process number is this one's or no running process's on this machine, or that of a process younger than the file
    (numbers are used again), or the file is an hour old: it is open for a moment only. Behind URLs, whose writers may be on other
    machines, the age alone counts, and object stores never have any: nothing of a put is there before its end.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     left = os.path.join(folder, ".a.masks.tar.999999999-0123abcd.tmp")
    ...     open(left, "w").close()
    ...     [os.path.basename(name) for name in remove_leftovers([os.path.join(folder, "a.masks.tar")])]
    ['.a.masks.tar.999999999-0123abcd.tmp']
    """
    places = list(sidecars)
    if remote is not None:
        _remove_in_stores([place for place in places if is_url(place) and shows_halves(place)], remote)
    local = [place for place in places if not is_url(place)]
    ours = {os.path.abspath(path) for sidecar in local for path in (sidecar, index_path(sidecar))}
    removed: list[str] = []
    for folder in sorted({os.path.dirname(path) for path in ours}):
        with suppress(FileNotFoundError), os.scandir(folder) as entries:
            removed += [entry.path for entry in entries if _remove(entry, ours)]
    return sorted(removed)


def _remove_in_stores(sidecars: Iterable[str], remote: Remote) -> None:
    ours = {path for sidecar in sidecars for path in (sidecar, index_path(sidecar))}
    for folder in sorted({path.rsplit("/", 1)[0] for path in ours}):
        with suppress(ShardError):  # a store that does not answer is met again by who needs it
            for name, entry in (list_folder(remote, folder) or {}).items():
                match = _TEMPORARY.fullmatch(name)
                old = entry.changed_s is not None and entry.changed_s < time.time() - _OLD_S
                if match is not None and f"{folder}/{match[1]}" in ours and old:
                    remove(remote, f"{folder}/{name}")


def remove_old_folders(prefix: str) -> list[str]:
    """Remove temporary folders, named by a prefix and a process number, that killed jobs left on this machine.

    Parameters
    ----------
    prefix : str

    Returns
    -------
    list of str
        What was removed: folders an hour old whose process is gone.
    """
    removed: list[str] = []
    named = re.compile(re.escape(prefix) + r"(\d+)-.+")
    with os.scandir(tempfile.gettempdir()) as entries:
        for entry in entries:
            match = named.fullmatch(entry.name)
            if match is None or not entry.is_dir(follow_symlinks=False):
                continue
            with suppress(OSError):
                changed_s = entry.stat().st_mtime
                if changed_s < time.time() - _OLD_S and _is_gone(int(match[1]), changed_s):
                    shutil.rmtree(entry.path)
                    removed.append(entry.path)
    return sorted(removed)


def _remove(entry: os.DirEntry[str], ours: set[str]) -> bool:
    match = _TEMPORARY.fullmatch(entry.name)
    if match is None or os.path.join(os.path.dirname(entry.path), match[1]) not in ours:
        return False
    with suppress(FileNotFoundError):  # its writer may finish right now
        changed_s = entry.stat().st_mtime
        if _is_gone(int(match[2]), changed_s) or changed_s < time.time() - _OLD_S:
            os.unlink(entry.path)
            return True
    return False


def _is_gone(pid: int, changed_s: float) -> bool:
    """Tell whether a process is gone that wrote a file at a time [s since 1970]."""
    if pid == os.getpid():
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:  # another user's process
        return False
    state, started_s = _state_of(pid)
    return state in "ZX" or started_s > changed_s + _CLOCKS_S


def _state_of(pid: int) -> tuple[str, float]:
    """Return a process's state ("Z": it has ended, and nobody has asked how) and when it began [s since 1970]; or "?", 0."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return "?", 0.0
    boot_s = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    return fields[0], boot_s + int(fields[19]) / os.sysconf("SC_CLK_TCK")
