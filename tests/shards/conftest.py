"""Tars made by Python's tarfile, in each of its formats."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

Files = Sequence[tuple[str | bytes, bytes]]


@pytest.fixture
def make_tar(tmp_path: Path) -> Callable[..., str]:
    """Write a tar of (name, data) pairs in the test's folder and return its path."""

    def make(name: str, files: Files, format: int = tarfile.GNU_FORMAT) -> str:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(path, "w", format=format) as tar:
            for member, data in files:
                text = member if isinstance(member, str) else member.decode("utf-8", "surrogateescape")
                info = tarfile.TarInfo(text)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
        return str(path)

    return make


@pytest.fixture(scope="session")
def jpeg() -> bytes:
    """A small JPEG."""
    rng = np.random.default_rng(0)
    _, data = cv2.imencode(".jpg", rng.integers(0, 256, (24, 32, 3), np.uint8))
    return data.tobytes()
