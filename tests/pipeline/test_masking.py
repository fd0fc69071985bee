"""What a loader says of the sidecars that it finds, before a run is trained without the masks it was meant to have."""

from __future__ import annotations

import logging

import pytest
from loader_tools import make
from pipeline_shards import write_shards

from figureground.pipeline.masks_job import import_masks, make_masks
from figureground.shards import ShardError


@pytest.fixture
def shards(tmp_path):
    return write_shards(tmp_path / "shards", 24, per_shard=8, masks=False)


@pytest.fixture
def said(caplog):
    """A function that returns what was logged since its last call."""
    caplog.set_level(logging.WARNING)

    def take() -> str:
        text = "\n".join(record.getMessage() for record in caplog.records)
        caplog.clear()
        return text

    return take


@pytest.mark.parametrize("masks", ["auto", "sidecar"])
def test_a_named_folder_without_any_sidecar_is_an_error(shards, tmp_path, masks):
    (tmp_path / "typo").mkdir()
    with pytest.raises(
        ShardError, match=r"part-000000\.masks\.tar: no shard has a sidecar in masks_dir; run 'figureground"
    ):
        make(shards, masks=masks, masks_dir=tmp_path / "typo")


def test_shards_without_sidecars_are_counted(shards, said):
    with make(shards, masks="sidecar"):
        text = said()
        assert "3 of 3 shards have no mask sidecar" in text
        assert "images are left alone" in text
    with make(shards, masks="auto"):
        assert said() == "", "all masks come from the kernel, as asked"
    make_masks(shards, size=32, limit=2, progress=False)
    with make(shards, masks="auto"):
        assert "1 of 3 shards have no mask sidecar, the first would be" in (text := said())
        assert "part-000002.masks.tar: their images get masks as they are loaded" in text


def test_sidecars_of_two_methods_are_noticed(shards, said):
    make_masks(shards, size=32, progress=False)
    with make(shards, masks="sidecar"):
        assert said() == ""
    make_masks(shards, size=32, method="rbd", overwrite=True, limit=1, progress=False)
    with make(shards, masks="sidecar"):
        assert "mask sidecars were not all made alike: 2 by fused" in (text := said())
        assert ", 1 by rbd" in text
    make_masks(shards, size=32, method="rbd", overwrite="changed", progress=False)
    with make(shards, masks="auto"):
        assert said() == ""


def test_sidecars_with_few_masks_are_noticed(shards, tmp_path, said):
    """An import whose names fit nothing leaves sidecars without masks."""
    (tmp_path / "pngs").mkdir()
    import_masks(shards, tmp_path / "pngs", out=tmp_path / "out", progress=False)
    with make(shards, masks="sidecar", masks_dir=tmp_path / "out"):
        assert "only 0 of 24 images have a mask in their sidecars" in said()
