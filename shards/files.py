"""Write a file so that others see all of it or nothing."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO


@contextmanager
def publish(path: str, *, replaces: tuple[str, ...] = ()) -> Iterator[BinaryIO]:
    """Open a hidden temporary file beside `path`; on success make it durable and rename it, on failure leave nothing.

    Parameters
    ----------
    path : str
        Where the file appears at the end of the block.
    replaces : tuple of str
        Files that are out of date as soon as `path` is new; removed just before the rename, if they exist.

    Yields
    ------
    Binary file, open for writing.

    Raises
    ------
    OSError
        If the folder cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with publish(os.path.join(folder, "note.txt")) as file:
    ...         _ = file.write(b"all of it")
    ...     os.listdir(folder)
    ['note.txt']
    """
    folder, name = os.path.split(os.path.abspath(path))
    temporary = os.path.join(folder, f".{name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        for old in replaces:
            with suppress(FileNotFoundError):
                os.unlink(old)
        os.replace(temporary, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    _sync_folder(folder)


def _sync_folder(folder: str) -> None:
    """Make a rename durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
