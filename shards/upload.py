"""Put files into stores so that others see all of a file or nothing, and list what is there.

In object stores a put appears when it is complete. Other file systems (`memory://`, `file://`, `sftp://` ...) show a file
while it grows: there it is written under a hidden name and moved. Failures are tried again as `Remote` does.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from .errors import ShardError
from .index import index_path
from .remote import Remote
from .remote_errors import GaveUp, RemoteError
from .urls import beside, is_web, protocol_of, shown

__all__ = ["Listed", "UploadRefused", "check_writable", "list_folder", "remove", "shows_halves", "upload", "upload_tar"]

_WHOLE = frozenset(("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "oci", "oss"))
"""Protocols of stores in which a put appears when it is complete."""
T = TypeVar("T")


class UploadRefused(RemoteError):
    """A store that will not take files, now or later; `status` is the HTTP status, or None."""


@dataclass(frozen=True)
class Listed:
    """A file in a listing."""

    size: int
    """Length [bytes]; -1 where the store does not say."""
    changed_s: float | None
    """Time of change [s since 1970], where the store says."""


def check_writable(url: str) -> None:
    """Raise if nothing can be written behind a URL, as far as its protocol tells.

    Raises
    ------
    UploadRefused
        For a web server.
    """
    if is_web(url):
        raise UploadRefused(
            f"{shown(url)}: a web server is read-only; name a folder, or a store that can be written (s3://, gs://, ...)"
        )


def shows_halves(url: str) -> bool:
    """Tell whether a file behind a URL can be seen while it is written; then it is written under another name and moved.

    Examples
    --------
    >>> shows_halves("file:///data/a.tar"), shows_halves("s3://bucket/a.tar")
    (True, False)
    """
    return protocol_of(url) not in _WHOLE


def upload(remote: Remote, data: bytes, url: str) -> None:
    """Put bytes behind a URL: all of them or nothing.

    Parameters
    ----------
    remote : Remote
        Opens the store, and says how long to try.
    data : bytes
    url : str
        What is there already is replaced.

    Raises
    ------
    UploadRefused
        If trying again is of no use: no permission, no such bucket, no store.
    RemoteError
        If it still fails at the deadline.

    Examples
    --------
    >>> remote = Remote()
    >>> upload(remote, b"all of it", "memory://upload/note.txt")
    >>> remote.read("memory://upload/note.txt"), sorted(list_folder(remote, "memory://upload"))
    (b'all of it', ['note.txt'])
    """
    check_writable(url)
    blocks = 1 + len(data) // remote.block_bytes
    if not shows_halves(url):
        _write(url, lambda: remote.ask(url, "pipe_file", data, blocks=blocks))
        return
    folder, name = url.rsplit("/", 1)
    temporary = f"{folder}/.{name}.{os.getpid()}-{secrets.token_hex(4)}.tmp"
    try:
        _write(url, lambda: remote.ask(folder, "makedirs", exist_ok=True))
        _write(url, lambda: remote.ask(temporary, "pipe_file", data, blocks=blocks))
        _move(remote, temporary, url, len(data))
    except BaseException:
        with suppress(ShardError):
            remove(remote, temporary)
        raise


def upload_tar(remote: Remote, path: str, url: str) -> None:
    """Put a tar and its index behind a URL; in between the new tar is there without an index, never with a foreign one.

    Parameters
    ----------
    remote : Remote
    path : str
        The tar on this machine, its index beside it.
    url : str

    Raises
    ------
    UploadRefused, RemoteError
        As `upload`.
    """
    check_writable(url)
    index = beside(url, ".idx")
    remove(remote, index)
    for source, target in ((path, url), (index_path(path), index)):
        with open(source, "rb") as file:
            upload(remote, file.read(), target)


def _move(remote: Remote, temporary: str, url: str, size: int) -> None:
    try:
        _write(url, lambda: remote.ask(temporary, "mv", remote.path(url)))
    except UploadRefused as error:
        there = remote.find(url) if error.status == 404 else None
        if there is None or there.size != size:  # else it was moved, but the answer was lost
            raise


def remove(remote: Remote, url: str) -> None:
    """Remove a file if it is there."""
    if remote.find(url) is not None:
        _write(url, lambda: remote.ask(url, "rm_file"))


def list_folder(remote: Remote, url: str) -> dict[str, Listed] | None:
    """List the files of a folder: one request for about a thousand of them.

    Parameters
    ----------
    remote : Remote
    url : str
        With or without a slash at its end.

    Returns
    -------
    dict of str to Listed, or None
        By name; empty if there is no such folder, None if it may not be listed.

    Raises
    ------
    UploadRefused
        If the store says that there is no such bucket.
    RemoteError
        If it does not answer by the deadline.
    """
    try:
        entries: list[dict[str, Any]] = remote.ask(url.rstrip("/") + "/", "ls", detail=True)
    except RemoteError as error:
        if _error_code(error) == "NoSuchBucket":
            raise UploadRefused(f"{shown(url)}: the bucket does not exist; make it, or check the URL", 404) from error
        if error.status == 404:
            return {}
        if error.status == 403:
            return None
        raise
    return {
        entry["name"].rstrip("/").rsplit("/", 1)[-1]: Listed(int(entry.get("size") or 0), _changed_s(entry))
        for entry in entries
        if entry.get("type") != "directory"
    }


def _write(url: str, attempt: Callable[[], T]) -> T:
    try:
        return attempt()
    except GaveUp:
        raise
    except RemoteError as error:
        name, code = shown(url), _error_code(error)
        if code == "NoSuchBucket":
            raise UploadRefused(f"{name}: the bucket does not exist; make it, or check the URL", 404) from error
        if error.status == 404:
            raise UploadRefused(
                f"{name}: cannot be written: not found (404); check the bucket and the URL", 404
            ) from error
        if error.status == 403:
            raise UploadRefused(
                f"{name}: cannot be written: access denied (403); check the credentials and their rights on the bucket",
                403,
            ) from error
        reason = str(error).removeprefix(f"{name}: cannot be read: ")
        raise UploadRefused(f"{name}: cannot be written: {reason}", error.status) from error


def _error_code(error: BaseException) -> str:
    """Return Amazon's code of what is behind an exception, e.g. "NoSuchBucket"."""
    cause: BaseException | None = error
    while cause is not None:
        response = getattr(cause, "response", None)
        if isinstance(response, dict):
            return str(response.get("Error", {}).get("Code", ""))
        cause = cause.__cause__
    return ""


def _changed_s(entry: dict[str, Any]) -> float | None:
    for name in ("LastModified", "mtime", "updated", "created"):
        value = entry.get(name)
        if isinstance(value, datetime):
            return value.timestamp()
        if isinstance(value, int | float):
            return float(value)
    return None
