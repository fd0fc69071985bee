"""Texts of the CUDA sources as they reach the compiler."""

from __future__ import annotations

from pathlib import Path

import pytest

from figureground.kernels import launch

STEMS = sorted(path.stem for path in Path(launch.__file__).parent.glob("*.cu"))


@pytest.mark.parametrize("stem", STEMS)
def test_headers_are_put_in_their_places(stem):
    text = launch.source_text(stem)
    assert "#include" not in text
    if '#include "draws.cuh"' in launch.source_path(stem).read_text():
        assert (launch.source_path("draws").with_suffix(".cuh")).read_text() in text


def test_there_are_sources():
    assert len(STEMS) > 10
