"""Shards of generated images with known figures."""

from __future__ import annotations

import pytest
from pipeline_shards import write_shards


@pytest.fixture(scope="session")
def shards(tmp_path_factory) -> str:
    """120 samples in three shards, with masks."""
    return write_shards(tmp_path_factory.mktemp("shards"), 120)
