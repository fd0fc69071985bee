"""Temporary files that killed jobs left behind."""

from __future__ import annotations

import os
import re
import time
from contextlib import suppress

from figureground.shards.index import index_path

_OLD_S = 3600.0


def remove_leftovers(sidecar: str) -> list[str]:
    """Remove the temporary files of a sidecar whose writer is gone.

    Parameters
    ----------
    sidecar : str
        Path of the sidecar, there or not.

    Returns
    -------
    list of str
        What was removed.

    Notes
    -----
    Only files named as `figureground.shards` names those of this sidecar and its index. A writer counts as gone if its
    process number is this one's or no process's on this machine, or the file is an hour old; it is open for a moment
    only.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     left = os.path.join(folder, ".a.masks.tar.999999999-0123abcd.tmp")
    ...     open(left, "w").close()
    ...     [os.path.basename(name) for name in remove_leftovers(os.path.join(folder, "a.masks.tar"))]
    ['.a.masks.tar.999999999-0123abcd.tmp']
    """
    folder = os.path.dirname(os.path.abspath(sidecar))
    names = "|".join(re.escape(os.path.basename(path)) for path in (sidecar, index_path(sidecar)))
    ours = re.compile(rf"\.(?:{names})\.(\d+)-[0-9a-f]{{8}}\.tmp")
    removed: list[str] = []
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            match = ours.fullmatch(entry.name)
            with suppress(FileNotFoundError):  # its writer may finish right now
                if match and (_is_gone(int(match[1])) or entry.stat().st_mtime < time.time() - _OLD_S):
                    os.unlink(entry.path)
                    removed.append(entry.path)
    return removed


def _is_gone(pid: int) -> bool:
    if pid == os.getpid():
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:
        return False
    return False
