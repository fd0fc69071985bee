"""Temporary files that killed jobs left behind."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable
from contextlib import suppress

from figureground.shards.index import index_path

_TEMPORARY = re.compile(r"\.(.+)\.(\d+)-[0-9a-f]{8}\.tmp")
_OLD_S = 3600.0


def remove_leftovers(sidecars: Iterable[str]) -> list[str]:
    """Remove the temporary files of sidecars whose writer is gone.

    Parameters
    ----------
    sidecars : iterable of str
        Paths, there or not.

    Returns
    -------
    list of str
        What was removed.

    Notes
    -----
    Only files named as `figureground.shards` names those of these sidecars and their indexes. A writer counts as gone
    if its process number is this one's or no process's on this machine, or the file is an hour old: it is open for a
    moment only.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     left = os.path.join(folder, ".a.masks.tar.999999999-0123abcd.tmp")
    ...     open(left, "w").close()
    ...     [os.path.basename(name) for name in remove_leftovers([os.path.join(folder, "a.masks.tar")])]
    ['.a.masks.tar.999999999-0123abcd.tmp']
    """
    ours = {os.path.abspath(path) for sidecar in sidecars for path in (sidecar, index_path(sidecar))}
    removed: list[str] = []
    for folder in sorted({os.path.dirname(path) for path in ours}):
        with suppress(FileNotFoundError), os.scandir(folder) as entries:
            removed += [entry.path for entry in entries if _remove(entry, ours)]
    return sorted(removed)


def _remove(entry: os.DirEntry[str], ours: set[str]) -> bool:
    match = _TEMPORARY.fullmatch(entry.name)
    if match is None or os.path.join(os.path.dirname(entry.path), match[1]) not in ours:
        return False
    with suppress(FileNotFoundError):  # its writer may finish right now
        if _is_gone(int(match[2])) or entry.stat().st_mtime < time.time() - _OLD_S:
            os.unlink(entry.path)
            return True
    return False


def _is_gone(pid: int) -> bool:
    if pid == os.getpid():
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:  # another user's process
        return False
    return False
