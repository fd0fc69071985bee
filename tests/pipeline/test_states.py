"""What a state notes of the masks that views are made with: other ones are refused, the same ones elsewhere are not."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from loader_tools import make
from pipeline_shards import write_shards

from figureground.pipeline import recipes
from figureground.pipeline.saliency_net import SaliencyNet, save_net
from figureground.pipeline.states import NOTED
from figureground.shards.masks import TEXTURES, MaskWriter

PLAIN = recipes.moco_v2(32)
SWAP = PLAIN.with_background("swap", p=0.5)
WITHOUT = {"masks": None, "method": None, "sidecars": None, "textures": None}


def saved(shards, recipe=SWAP, **options):
    with make(shards, recipe, **options) as loader:
        return json.loads(json.dumps(loader.state_dict()))


def load(state, shards, recipe=SWAP, **options):
    with make(shards, recipe, **options) as loader:
        loader.load_state_dict(state)


def write_masks(folder, level, *, size=16, method="truth", parameters=None):
    """Sidecars of noise for each sample of the shards in a folder; more rows of it take more bytes."""
    rng = np.random.default_rng(0)
    for tar in sorted(Path(folder).glob("part-??????.tar")):
        with MaskWriter(tar, method=method, parameters=parameters) as writer:
            for key in range(16):
                mask = np.zeros((size, size), np.uint8)
                mask[:level] = rng.integers(0, 255, (level, size))
                writer.add(f"{key:05d}", mask)


@pytest.fixture
def folder(tmp_path) -> Path:
    """Sixteen samples in a shard without a sidecar."""
    write_shards(tmp_path / "set", 16, masks=False)
    return tmp_path / "set"


@pytest.mark.parametrize(
    ("there", "here", "difference"),
    [
        ({"masks": "kernel"}, {"masks": "sidecar"}, r"masks \(saved kernel, here sidecar\); method \(saved fused, 112 px, here N"),
        ({"masks": "auto"}, {"masks": "kernel"}, r"masks \(saved auto, here kernel\); sidecars \(saved truth for 3 of 3 shards"),
        ({"masks": "kernel"}, {"masks": None}, r"masks \(saved kernel, here None\)"),
        ({"masks": "kernel"}, {"masks": "kernel", "method": "rbd"}, r"differ: method \(saved fused, 112 px, here rbd, 112 px\);"),
    ],
)  # fmt: skip
def test_other_masks_are_refused_by_name(shards, there, here, difference):
    state = saved(shards, **there)
    load(state, shards, **there)
    with pytest.raises(ValueError, match=f"another run, .*{difference}.* same shards, recipe, seed and masks, or start anew"):
        load(state, shards, **here)


def test_the_method_plays_no_part_where_sidecars_alone_do(shards):
    load(saved(shards, masks="sidecar"), shards, masks="sidecar", method="rbd")


@pytest.mark.parametrize("other", [{"masks": None}, {"masks": "kernel"}, {"masks": "auto", "method": "rbd"}])
def test_recipes_without_masks_go_on_with_any(shards, other):
    state = saved(shards, PLAIN)
    assert {name: state[name] for name in NOTED} == WITHOUT
    load(state, shards, PLAIN, **other)


def test_the_format_plays_no_part(shards):
    assert saved(shards, format="moco") == saved(shards, format="dict")


def test_sidecars_elsewhere_are_the_same(folder, tmp_path):
    write_masks(folder, 8)
    state = saved(folder, masks="sidecar")
    (tmp_path / "moved").mkdir()
    shutil.move(folder / "part-000000.masks.tar", tmp_path / "moved")  # and the index is made anew
    load(state, folder, masks="sidecar", masks_dir=tmp_path / "moved")


@pytest.mark.parametrize(
    "other", [{"level": 3}, {"size": 32}, {"method": "drawn"}, {"parameters": {"threshold": 2}}], ids=str
)
def test_sidecars_that_hold_something_else_are_refused(folder, other):
    write_masks(folder, 8, parameters={"threshold": 1})
    state = saved(folder, masks="sidecar")
    write_masks(folder, **{"level": 8, "parameters": {"threshold": 1}, **other})
    with pytest.raises(ValueError, match=r"differ: sidecars \(saved truth for 1 of 1 shards, \w+, here \w+ for 1 of 1"):
        load(state, folder, masks="sidecar")


def test_sidecars_made_under_way_are_refused_unless_they_are_left_aside(folder):
    state = saved(folder, masks="auto")
    load(state, folder, masks="kernel")  # what it was
    write_masks(folder, 8)
    with pytest.raises(ValueError, match=r"masks \(saved kernel, here auto\); sidecars \(saved None, here truth for 1 of 1"):
        load(state, folder, masks="auto")
    load(state, folder, masks="kernel")


def test_a_model_is_known_by_its_weights(shards, tmp_path):
    torch.manual_seed(0)
    save_net(tmp_path / "a.pt", SaliencyNet(4), side=48, card={})
    save_net(tmp_path / "b.pt", SaliencyNet(4), side=48, card={})
    state = saved(shards, masks="kernel", method=f"net:{tmp_path / 'a.pt'}")
    shutil.copy(tmp_path / "a.pt", tmp_path / "renamed.pt")
    load(state, shards, masks="kernel", method=f"net:{tmp_path / 'renamed.pt'}")
    with pytest.raises(ValueError, match=r"method \(saved net \w{16}, 112 px, here net \w{16}, 112 px\)"):
        load(state, shards, masks="kernel", method=f"net:{tmp_path / 'b.pt'}")


def test_masks_of_inpainted_backgrounds_count(shards, folder):
    recipe = PLAIN.with_background("random", source="inpainted")
    write_masks(folder, 8)
    state = saved(shards, recipe, backgrounds=folder)
    load(state, shards, recipe, backgrounds=folder)
    write_masks(folder, 3)
    with pytest.raises(ValueError, match=r"these differ: sidecars \(saved"):
        load(state, shards, recipe, backgrounds=folder)
    whole = PLAIN.with_background("random")
    state = saved(shards, whole, backgrounds=folder)
    write_masks(folder, 8)
    load(state, shards, whole, backgrounds=folder)


def test_other_textures_are_refused(folder):
    recipe = PLAIN.with_negatives("texture-file")

    def write(content: bytes) -> None:
        with MaskWriter(folder / "part-000000.tar", method="quilt", kind=TEXTURES) as writer:
            writer.add("00000", b"\xff\xd8\xff" + content)

    write(b"one")
    state = saved(folder, recipe)
    load(state, folder, recipe)
    write(b"another")
    with pytest.raises(ValueError, match=r"these differ: textures \(saved quilt for 1 of 1 shards"):
        load(state, folder, recipe)


@pytest.mark.parametrize(("recipe", "warned"), [(SWAP, True), (PLAIN, False)], ids=["masks", "none"])
def test_states_of_version_1_are_taken_with_a_warning(shards, caplog, recipe, warned):
    old = {name: value for name, value in saved(shards, recipe).items() if name not in NOTED}
    with make(shards, recipe) as loader, caplog.at_level(logging.WARNING):
        loader.load_state_dict({**old, "version": 1, "epoch": 4})
        assert loader.state_dict()["epoch"] == 4
    said = "cannot be compared with those here (masks auto; method fused, 112 px; sidecars truth for 3 of 3 shards"
    assert (said in caplog.text) == warned
    with make(shards, recipe, seed=1) as loader, pytest.raises(ValueError, match=r"these differ: seed \(saved 0, here 1\);"):
        loader.load_state_dict({**old, "version": 1})


def test_a_present_state_must_have_noted_its_masks(shards):
    state = saved(shards)
    del state["sidecars"]
    with pytest.raises(ValueError, match="got one without sidecars"):
        load(state, shards)
