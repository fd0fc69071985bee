"""What class a sample's `.cls` or `.json` says it has."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable
from typing import Any

_INTEGER = re.compile(rb"\s*[+-]?[0-9]{1,18}\s*")


@functools.lru_cache(1 << 16)
def read_integer(text: bytes) -> int | None:
    """Read a `.cls` member: an integer of at most 18 digits, else None.

    Examples
    --------
    >>> read_integer(b" 7\\n"), read_integer(b"seven")
    (7, None)
    """
    return int(text) if _INTEGER.fullmatch(text) else None


def read_label(text: bytes) -> int | None:
    """Read the integer `"label"` of a `.json` member, else None.

    Examples
    --------
    >>> read_label(b'{"label": 3}'), read_label(b'{"label": "cat"}')
    (3, None)
    """
    try:
        document: Any = json.loads(text)
    except (ValueError, RecursionError):
        return None
    label = document.get("label") if isinstance(document, dict) else None
    return label if isinstance(label, int) and not isinstance(label, bool) and abs(label) < 1 << 63 else None


READERS: tuple[tuple[str, Callable[[bytes], int | None]], ...] = (("cls", read_integer), ("json", read_label))
"""Extensions that may tell a class, the first one that does wins, and how each is read."""
