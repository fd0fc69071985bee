"""URLs of shards, as text: nothing here opens one."""

from __future__ import annotations

import re
from urllib.parse import quote, unquote, urlsplit, urlunsplit

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_WEB = ("http://", "https://")


def protocol_of(url: str) -> str | None:
    """Return what stands before `://`, in lower case; None if the text is no URL, or a chained one.

    Examples
    --------
    >>> protocol_of("S3://bucket/a.tar"), protocol_of("/data/a.tar"), protocol_of("simplecache::s3://bucket/a.tar")
    ('s3', None, None)
    """
    match = _SCHEME.match(url)
    return match[1].lower() if match else None


def is_url(text: str) -> bool:
    """Tell whether a text is `protocol://...`.

    Examples
    --------
    >>> is_url("s3://bucket/a.tar"), is_url("/data/a.tar"), is_url("simplecache::s3://bucket/a.tar")
    (True, False, False)
    """
    return protocol_of(text) is not None


def is_web(url: str) -> bool:
    """Tell whether a URL is a web server's.

    Examples
    --------
    >>> is_web("https://host/a.tar"), is_web("s3://bucket/a.tar")
    (True, False)
    """
    return url.startswith(_WEB)


def shown(url: str) -> str:
    """Return a URL as messages show it: without password, query and fragment (which may be a signature).

    Examples
    --------
    >>> shown("https://me:secret@host/a.tar?X-Amz-Signature=1"), shown("s3://bucket/a.tar")
    ('https://host/a.tar', 's3://bucket/a.tar')
    """
    parts = urlsplit(url)
    if parts.scheme in ("http", "https"):
        return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
    return re.sub(r"://[^/@]*@", "://", url)


def url_name(url: str) -> str:
    """Return the last part of a URL's path, as a file of it would be called.

    Examples
    --------
    >>> url_name("https://host/x/a%20b.tar?sig=1"), url_name("s3://bucket/x/a%20b.tar")
    ('a b.tar', 'a%20b.tar')
    """
    if url.startswith(_WEB):
        return unquote(urlsplit(url).path.rsplit("/", 1)[-1]).rpartition("/")[2]
    return url.rsplit("/", 1)[-1]


def beside(url: str, ending: str) -> str:
    """Return the URL of a tar's companion: the same place, `.tar` replaced by another ending; a query stays.

    Examples
    --------
    >>> beside("s3://bucket/a.tar", ".idx"), beside("https://host/a.tar?token=1", ".masks.tar")
    ('s3://bucket/a.idx', 'https://host/a.masks.tar?token=1')
    """
    path, mark, query = url.partition("?") if url.startswith(_WEB) else (url, "", "")
    return path.removesuffix(".tar") + ending + mark + query


def inside(folder: str, name: str) -> str:
    """Return the URL of a file in a folder of a store; in that of a web server the name is quoted and a query stays.

    Examples
    --------
    >>> inside("s3://bucket/masks/", "a b.tar"), inside("https://host/masks?token=1", "a b.tar")
    ('s3://bucket/masks/a b.tar', 'https://host/masks/a%20b.tar?token=1')
    """
    if not folder.startswith(_WEB):
        return f"{folder.rstrip('/')}/{name}"
    path, mark, query = folder.partition("?")
    return f"{path.rstrip('/')}/{quote(name)}{mark}{query}"
