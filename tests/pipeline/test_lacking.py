"""What a recipe asks for and the data or the arguments lack is said before training, or once as it shows: no run without its
augmentation looks like any other."""

from __future__ import annotations

import json
import re

import cv2
import numpy as np
import pytest
from loader_tools import make
from pipeline_shards import disc_image, write_shards, write_tar

from figureground.pipeline import cli, recipes
from figureground.shards.masks import TEXTURES, MaskWriter

PLAIN = recipes.moco_v2(32)
SWAP = PLAIN.with_background("swap", p=1.0)


def discs(count, seed=0):
    rng = np.random.default_rng(seed)
    return [cv2.imencode(".jpg", disc_image(rng, 40, 48)[0])[1].tobytes() for _ in range(count)]


def write(tmp_path, extra, samples=24):
    """Discs, each with what `extra` of its number gives: (extension, bytes), or None."""
    members = []
    for i, image in enumerate(discs(samples)):
        members.append((f"{i:03d}.jpg", image))
        if extra(i) is not None:
            members.append((f"{i:03d}.{extra(i)[0]}", extra(i)[1]))
    write_tar(tmp_path / "a.tar", members)
    return tmp_path / "a.tar"


@pytest.mark.parametrize(
    ("level", "share", "words"),
    [(1, 1.0, "figures below min_area, 0 above"), (255, 1.0, "0 figures below min_area, "), (255, 0.3, "")],
)
def test_masks_that_are_of_no_use_are_said_so_once(tmp_path, caplog, level, share, words):
    """Masks of 0 and 1 in place of 0 and 255; masks that are all figure; and good ones."""
    write_shards(tmp_path, 40, masks=False)
    with MaskWriter(tmp_path / "part-000000.tar", method="drawn") as writer:
        for i in range(40):
            mask = np.zeros((20, 20), np.uint8)
            mask[: int(20 * share)] = level
            writer.add(f"{i:05d}", mask)
    with make(tmp_path, SWAP, masks="sidecar") as loader:
        for _ in range(4):
            rows = [rows for batch in loader for rows in batch["params"]]
        stats = loader.stats()
    drawn, kept = 4 * 80, 4 * sum(int((r["background"] > 0).sum()) for r in rows)
    assert (stats["backgrounds_drawn"], stats["backgrounds_left_alone"]) == (drawn, drawn - kept)
    assert caplog.text.count("backgrounds were left alone by their masks") == bool(words)
    assert words in caplog.text
    assert (kept == 0) == bool(words)


def test_backgrounds_without_a_mask_count_as_left_alone(tmp_path):
    with make(write_shards(tmp_path, 16, masks=False), SWAP, masks=None) as loader:
        list(loader)
        assert loader.stats()["backgrounds_left_alone"] == loader.stats()["backgrounds_drawn"] == 32


def test_a_place_that_nothing_is_read_from_is_named(shards, tmp_path, caplog):
    for masks in ("kernel", None):
        make(shards, SWAP, masks=masks, masks_dir=tmp_path).close()
        assert f"masks_dir={tmp_path} is of no use with masks={masks!r}; pass masks='auto'" in caplog.text
    make(shards, PLAIN.with_negatives("texture"), textures_dir=tmp_path).close()
    assert f"textures_dir={tmp_path} is of no use to this recipe" in caplog.text


@pytest.mark.parametrize(("label", "said"), [(b"cat", True), (b"3", False)])
def test_labels_that_are_no_numbers(tmp_path, caplog, label, said):
    make(write(tmp_path, lambda i: ("cls", label)), PLAIN).close()
    assert ("a.tar: .cls must hold whole numbers, those of the first samples do not ('cat')" in caplog.text) == said


@pytest.mark.parametrize("document", [{}, {"bbox": [1, 2, 3, 4]}, {"box": [1, 2, 3]}, {"box": "1 2 3 4"}])
def test_crops_that_follow_boxes_that_are_nowhere(tmp_path, document):
    recipe = PLAIN.with_object_crops()
    path = write(tmp_path, lambda i: ("json", json.dumps(document).encode()))
    with pytest.raises(ValueError, match=r'with a "box" of four numbers \[px\], got masks=None and no such box'):
        make(path, recipe, masks=None)
    make(path, recipe, masks="kernel").close()


def test_one_box_is_enough(tmp_path):
    box = b'{"box": [1, 2, 30, 20]}'
    make(write(tmp_path, lambda i: ("json", box if i == 23 else b"{}")), PLAIN.with_object_crops(), masks=None).close()


@pytest.mark.parametrize(("classes", "said"), [(1, False), (2, False), (20, True)])
def test_few_partners_are_said_so(tmp_path, caplog, classes, said):
    path = write(tmp_path, lambda i: ("cls", b"%d" % min(i, classes - 1)))
    make(path, PLAIN.with_pairs("class")).close()
    assert ("with_pairs('class'): only 5 of 24 samples have a partner" in caplog.text) == said


@pytest.mark.parametrize(("named", "said"), [(120, False), (60, False), (59, True)])
def test_groups_that_name_few_samples(shards, caplog, named, said):
    make(shards, PLAIN.with_pairs("group", p=1.0), groups={f"{i:05d}": i % 3 for i in range(named)}).close()
    words = "groups: only 59 of 120 samples are named, the others are in none; a key of the shards is '00059'"
    assert (words in caplog.text) == said


@pytest.mark.parametrize(("there", "said"), [(16, False), (8, False), (7, True)])
def test_few_textures_are_said_so(tmp_path, caplog, there, said):
    path, texture = write_shards(tmp_path, 16, masks=False), discs(1)[0]
    with MaskWriter(tmp_path / "part-000000.tar", method="quilt", kind=TEXTURES) as writer:
        for i in range(there):
            writer.add(f"{i:05d}", texture)
    make(path, PLAIN.with_negatives("texture-file")).close()
    assert ("only 7 of 16 images have a texture, the negatives of the others are random phase" in caplog.text) == said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--p", "0.5"], "--p is of no use without --background, got 0.5"),
        (["--fill", "noise"], "--fill is of no use without --background remove, got 'noise'"),
        (["--background", "swap", "--fill", "noise"], "--fill is of no use without --background remove"),
        (["--size", "0"], "size must be at least 1"),
        (["--background", "swap", "--p", "2"], r"p must be in \[0, 1\], got 2"),
    ],
)
def test_arguments_of_a_recipe_that_would_do_nothing(shards, tmp_path, capsys, words, message):
    out = ["--device", "cpu", "--out", str(tmp_path / "a.png")]
    assert cli.main(["show", "views", shards, *out, *words]) == 2
    err = capsys.readouterr().err
    assert re.search(message, err), err
