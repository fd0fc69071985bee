"""A pytest plugin: `pytest -p host_cuda.cuda_mode --device cuda ...` goes the way of `make test-gpu`, on the stand-ins."""

from __future__ import annotations

import contextlib

import pytest

_undo = contextlib.ExitStack()


def pytest_sessionstart(session: pytest.Session) -> None:
    """Put the stand-ins in their places before tests are collected."""
    import figureground.pipeline.loader  # noqa: F401 (what is loaded now is patched)

    from .rehearsal import gpu_machine

    _undo.enter_context(gpu_machine())


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Put things back."""
    _undo.close()
