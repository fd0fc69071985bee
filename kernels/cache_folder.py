"""Where Numba keeps what it compiled, on machines where neither of its own places can be written.

Numba's places are `__pycache__` beside the sources and, else, the user's cache folder. In a container with a read-only image and
no home there is neither, and Numba refuses to import a cached function at all.
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from pathlib import Path

log = logging.getLogger(__name__)


def is_writable(folder: Path) -> bool:
    """Tell whether files can be made in a folder, which is made if there is none.

    Parameters
    ----------
    folder : Path

    Returns
    -------
    bool

    Examples
    --------
    >>> is_writable(Path(tempfile.gettempdir())), is_writable(Path("/dev/null/none"))
    (True, False)
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError:
        return False
    return True


def private_folder(name: str) -> Path:
    """Return a folder for temporary files that nobody else can write: Numba loads what it finds in its cache as code.

    Parameters
    ----------
    name : str
        How its name begins.

    Returns
    -------
    Path
        The same for each process of a user, unless somebody else has made one of that name.
    """
    folder = Path(tempfile.gettempdir(), f"{name}-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if folder.is_symlink() or status.st_uid != os.getuid() or status.st_mode & 0o077:
        return Path(tempfile.mkdtemp(prefix=f"{name}-"))
    return folder


def choose_cache_folder(sources: Path) -> None:
    """Set `NUMBA_CACHE_DIR` to a private temporary folder if the cache could be written nowhere else.

    Parameters
    ----------
    sources : Path
        Folder of the sources that have compiled functions.

    Returns
    -------
    None
        A warning names the folder.
    """
    if os.environ.get("NUMBA_CACHE_DIR") or is_writable(sources / "__pycache__"):
        return
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if is_writable(Path(home, "numba")):
        return
    folder = str(private_folder("figureground-numba"))
    log.warning("compiled kernels are kept in %s; set NUMBA_CACHE_DIR to a folder that lasts", folder)
    os.environ["NUMBA_CACHE_DIR"] = folder  # processes that this one starts find it too
    if "numba" in sys.modules:
        sys.modules["numba"].config.CACHE_DIR = folder
