"""What went wrong with a URL, in one sentence, and whether it is of use to try again."""

from __future__ import annotations

from typing import Any

from .errors import ShardError

_MAY_PASS = frozenset((408, 425, 429))
_WILL_NOT_PASS = (NotImplementedError, TypeError, ValueError, AttributeError, ImportError, IsADirectoryError)


class RemoteError(ShardError):
    """A file behind a URL that cannot be read; `status` is the HTTP status, or None."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.status)


class GaveUp(RemoteError):
    """A request that still failed at its deadline: later it may pass."""


def explain(error: Exception, url: str, name: str) -> tuple[str, RemoteError | None]:
    """Say what an exception of fsspec means.

    Parameters
    ----------
    error : Exception
    url : str
        The URL that was asked; it is taken out of the text.
    name : str
        What messages call it.

    Returns
    -------
    str
        The reason in a few words.
    RemoteError or None
        What to raise if it is of no use to try again.

    Examples
    --------
    >>> explain(FileNotFoundError("x"), "s3://b/x", "s3://b/x")[1]
    RemoteError('s3://b/x: not found (404); check the URL')
    >>> explain(ConnectionResetError("reset by peer"), "s3://b/x", "s3://b/x")
    ('ConnectionResetError: reset by peer', None)
    """
    status, root = http_status(error)
    reason = f"HTTP {status}" if status is not None else _text(root, url, name)
    if status == 404:
        return reason, RemoteError(f"{name}: not found (404); check the URL", 404)
    if status in (401, 403):
        return reason, RemoteError(
            f"{name}: access denied ({status}); check the credentials, or for a public store pass storage_options, "
            f"e.g. {{'s3': {{'anon': True}}}}",
            403,
        )
    if status is not None and 400 <= status < 500 and status not in _MAY_PASS:
        return reason, RemoteError(f"{name}: the server refuses the request (HTTP {status}); check the URL", status)
    if status is None and (isinstance(root, _WILL_NOT_PASS) or "Certificate" in type(root).__name__):
        return reason, RemoteError(f"{name}: cannot be read: {reason}; check the URL and storage_options")
    return reason, None


def http_status(error: BaseException) -> tuple[int | None, BaseException]:
    """Find the HTTP status behind an exception, and the exception it began with.

    Notes
    -----
    fsspec's web file system calls every failure of a look-up "not found": the cause tells a 404 from a broken network.
    """
    root = error
    while True:
        status = _own_status(root)
        if status is not None:
            return status, root
        if root.__cause__ is None:
            break
        root = root.__cause__
    if isinstance(root, FileNotFoundError):
        return 404, root
    if isinstance(root, PermissionError) or "Credentials" in type(root).__name__:
        return 403, root
    if isinstance(root, OSError) and str(root).startswith("Forbidden"):  # Google's
        return 403, root
    return None, root


def _own_status(error: BaseException) -> int | None:
    response: Any = getattr(error, "response", None)  # Amazon's
    if isinstance(response, dict):
        found = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    elif type(error).__module__.startswith(("gcsfs.", "google.")):
        found = getattr(error, "code", None)
    else:
        found = getattr(error, "status", None)  # aiohttp's; its `code` is that of a broken message, not of the server
    try:
        status = int(found) if found is not None else None
    except (TypeError, ValueError):
        return None
    return status if status is not None and 400 <= status < 600 else None


def _text(error: BaseException, url: str, name: str) -> str:
    first = str(error).strip().split("\n", 1)[0].replace(url, name)
    query = url.partition("?")[2]
    if query:
        first = first.replace(query, "...")
    return f"{type(error).__name__}: {first[:200]}" if first else type(error).__name__
