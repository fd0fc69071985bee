"""Crops that follow the object's box."""

from __future__ import annotations

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from loader_tools import assert_same, collect, make
from pipeline_shards import write_tar

from figureground.kernels.arrays import Ragged
from figureground.pipeline import recipes
from figureground.pipeline.anchors import anchor_crops, boxes_of, clip_boxes, find_boxes, object_box
from figureground.pipeline.plan import PLAN_DTYPE, draw_plan
from figureground.pipeline.tables import Slots
from figureground.shards.index import write_index
from figureground.shards.masks import MaskWriter

VIEW = recipes.View(recipes.Crop(32, (0.05, 0.4)), flip_p=0.0)
RECIPE = recipes.Recipe("boxes", (VIEW, VIEW), mean=(0, 0, 0), std=(1, 1, 1)).with_object_crops()


def encoded(document):
    return np.frombuffer(document.encode(), np.uint8)


@pytest.mark.parametrize(
    ("document", "box"),
    [
        ('{"box": [1, 2.5, 3, 4]}', (1, 2.5, 3, 4)),
        ('{"box": [1, 2, 3]}', None),
        ('{"box": [1, 2, 3, "4"]}', None),
        ('{"box": [1, 2, 3, true]}', None),
        ('{"box": [1, 2, 3, NaN]}', None),
        ('{"label": 3}', None),
        ("[1, 2, 3, 4]", None),
        ("{", None),
    ],
)
def test_boxes_of_documents(document, box):
    assert object_box(encoded(document)) == box


def test_boxes_are_cut_to_their_images():
    sizes = np.array([[50, 100]] * 5)
    boxes = np.array(
        [[10, 20, 30, 10], [-5, -5, 10, 10], [90, 40, 50, 50], [100, 0, 5, 5], [10, 10, -3, 5]], np.float64
    )
    want = [[10, 20, 30, 10], [0, 0, 5, 5], [90, 40, 10, 10], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert clip_boxes(boxes, sizes).tolist() == want


@given(st.integers(0, 2**32), st.floats(0, 0.2))
@settings(max_examples=60, deadline=None)
def test_boxes_of_masks_equal_numpy(seed, share):
    rng = np.random.default_rng(seed)
    masks = [
        (rng.random(rng.integers(1, 30, 2)) < share).astype(np.uint8) * np.uint8(rng.integers(100, 256))
        for _ in range(5)
    ]
    ragged, got = Ragged.from_arrays(masks), np.full((5, 4), 9.0)
    valid = rng.random(5) < 0.8
    find_boxes(ragged.addresses, ragged.sizes, valid, got)
    for mask, there, box in zip(masks, valid, got, strict=True):
        y, x = np.nonzero(mask >= 128)
        want = [0.0] * 4
        if there and len(y):
            height, width = mask.shape
            want = [
                x.min() / width, y.min() / height, (x.max() + 1 - x.min()) / width, (y.max() + 1 - y.min()) / height
            ]  # fmt: skip
        np.testing.assert_allclose(box, want, atol=1e-12)
    square = np.stack([cv2.resize(mask, (9, 9), interpolation=cv2.INTER_NEAREST) for mask in masks])
    ragged, want = Ragged.from_arrays(list(square)), np.empty((5, 4))
    find_boxes(ragged.addresses, ragged.sizes, np.ones(5, bool), want)
    np.testing.assert_array_equal(boxes_of(square), want)


def planned(sizes, boxes, recipe=RECIPE, seed=3):
    count = len(sizes)
    plans = [
        draw_plan(recipe, v, seed=seed, epoch=2, samples=np.arange(count), sizes=sizes)
        for v in range(len(recipe.views))
    ]
    before = [rows.copy() for rows in plans]
    rows = np.arange(count, dtype=np.int32)
    slots = Slots(rows, np.full((3, count), -1, np.int32), np.zeros(count, bool), np.zeros(count), None, boxes)
    anchor_crops(recipe, plans, slots, seed)
    return before, plans


@given(st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_crops_keep_their_size_stay_inside_and_show_the_object(seed):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(20, 300, (40, 2)).astype(np.int32)
    low = rng.random((40, 2)) * 0.9 * sizes[:, ::-1]
    boxes = np.concatenate([low, rng.random((40, 2)) * (sizes[:, ::-1] - low)], axis=1)
    boxes[::7] = 0
    for before, after in zip(*planned(sizes, boxes), strict=True):
        known = boxes[:, 2] > 0
        for name in PLAN_DTYPE.names:
            if name not in ("crop", "box"):
                np.testing.assert_array_equal(before[name], after[name])
        np.testing.assert_array_equal(after["crop"][:, 2:], before["crop"][:, 2:])
        np.testing.assert_array_equal(after["crop"][~known], before["crop"][~known])
        np.testing.assert_array_equal(after["box"], boxes.astype(np.float32))
        low, high = after["crop"][:, :2], after["crop"][:, :2] + after["crop"][:, 2:]
        assert (low >= 0).all()
        assert (high <= sizes[:, ::-1]).all()
        assert (low == np.floor(low)).all()
        # Crop and box meet, give or take the pixel of rounding.
        assert (low < boxes[:, :2] + boxes[:, 2:] + 1)[known].all()
        assert (high > boxes[:, :2] - 1)[known].all()
        # Where the image's sides are far, the centre lies in the box.
        center = (low + high) / 2
        free = known & ((low > 0) & (high < sizes[:, ::-1])).all(axis=1)
        inside = (center >= boxes[:, :2] - 0.51) & (center <= boxes[:, :2] + boxes[:, 2:] + 0.51)
        assert inside[free].all()


def test_centres_are_uniform_in_the_box():
    count = 20_000
    sizes = np.full((count, 2), 4000, np.int32)
    boxes = np.tile([1800.0, 1900.0, 400.0, 200.0], (count, 1))
    recipe = recipes.Recipe("one", (recipes.View(recipes.Crop(32, (0.001, 0.01))),)).with_object_crops()
    _, (rows,) = planned(sizes, boxes, recipe)
    center = rows["crop"][:, :2] + rows["crop"][:, 2:] / 2
    share = (center - [1800, 1900]) / [400, 200]
    assert abs(np.corrcoef(share.T)[0, 1]) < 0.03
    for axis in range(2):
        counts, _ = np.histogram(share[:, axis], 10, (0, 1))
        assert ((counts - count / 10) ** 2 / (count / 10)).sum() < 40


def test_the_whole_image_leaves_no_room():
    sizes = np.array([[60, 80]], np.int32)
    view = recipes.View(recipes.Crop(32, (1.0, 1.0), (4 / 3, 4 / 3)))
    _, (rows,) = planned(sizes, np.array([[70.0, 50.0, 5.0, 5.0]]), recipes.Recipe("x", (view,)).with_object_crops())
    assert rows["crop"].tolist() == [[0, 0, 80, 60]]


# ---- the loader -------------------------------------------------------------------------------------------------------

SMALL = (12, 9)
"""Width and height of the objects [px]."""


def write_objects(folder, *, masks=True, boxes=True, count=48):
    """Frames `clip/frame` of 120 x 160 px: a white box on black at a place of its own; returns a glob and the places."""
    rng = np.random.default_rng(5)
    folder.mkdir(parents=True, exist_ok=True)
    members, sidecar, places = [], [], []
    for i in range(count):
        x, y = int(rng.integers(0, 160 - SMALL[0])), int(rng.integers(0, 120 - SMALL[1]))
        image = np.zeros((120, 160, 3), np.uint8)
        image[y : y + SMALL[1], x : x + SMALL[0]] = 255
        key = f"{i // 8}/{i % 8:03d}"
        members.append((f"{key}.png", cv2.imencode(".png", image)[1].tobytes()))
        if boxes:
            members.append((f"{key}.json", json.dumps({"box": [x, y, *SMALL], "label": i // 8}).encode()))
        sidecar.append((key, image[:, :, 0]))
        places.append((x, y))
    write_tar(folder / "a.tar", members)
    write_index(folder / "a.tar")
    if masks:
        with MaskWriter(folder / "a.tar", method="truth") as writer:
            for key, mask in sidecar:
                writer.add(key, mask)
    return str(folder / "a.tar"), np.array(places)


@pytest.mark.parametrize("source", ["json", "sidecar", "kernel", "both", "json and kernel"])
def test_loader_takes_boxes_from_documents_and_masks(tmp_path, source):
    shards, places = write_objects(
        tmp_path, masks=source in ("sidecar", "both"), boxes=source.startswith(("json", "both"))
    )
    mode = {"json": None, "sidecar": "sidecar", "both": "auto"}.get(source, "kernel")
    with make(shards, RECIPE.with_pairs("clip"), masks=mode, format="moco" if source == "kernel" else "dict") as loader:
        batches = list(loader)
        again = None if source == "kernel" else loader.replay(batches[0]["index"].tolist(), epoch=0)
    if source == "kernel":  # the estimate's own box, which need not be exact: most views show the object
        views = np.concatenate([view.numpy() for (views, _) in batches for view in views])
        assert (views.max(axis=(1, 2, 3)) > 0.9).mean() > 0.8
        return
    for batch in batches:
        for view, rows in zip(batch["views"], batch["params"], strict=True):
            box = rows["box"]
            want = places[rows["source"]]
            np.testing.assert_allclose(box[:, :2], want, atol=2 if source == "sidecar" else 0)
            np.testing.assert_allclose(box[:, 2:], np.tile(SMALL, (len(box), 1)), atol=3 if source == "sidecar" else 0)
            assert (view.numpy().max(axis=(1, 2, 3)) > 0.4).all()  # the object is in sight
    for name in ("box", "crop"):
        np.testing.assert_array_equal(again["params"][1][name], batches[0]["params"][1][name])


def test_plain_crops_often_miss_it(tmp_path):
    shards, _ = write_objects(tmp_path)
    plain = replace(RECIPE, views=(VIEW, VIEW))
    with make(shards, plain, masks="sidecar") as loader:
        views = np.concatenate([view.numpy() for batch in loader for view in batch["views"]])
    assert (views.max(axis=(1, 2, 3)) < 0.4).mean() > 0.3


def test_layout_changes_nothing(tmp_path):
    shards, _ = write_objects(tmp_path)
    recipe = RECIPE.with_background("swap", p=0.5).with_pairs("clip")
    with make(shards, recipe) as one, make(shards, recipe, batch_size=16, threads=1) as two:
        assert_same(collect(one), collect(two))


def test_one_view_alone(tmp_path):
    shards, _ = write_objects(tmp_path)
    recipe = replace(RECIPE, views=(VIEW, VIEW)).with_object_crops(views=(1,))
    plain = replace(RECIPE, views=(VIEW, VIEW))
    with make(shards, recipe) as one, make(shards, plain) as two:
        left, right = next(iter(one)), next(iter(two))
    np.testing.assert_array_equal(left["params"][0], right["params"][0])
    assert not left["params"][0]["box"].any()
    assert (left["params"][1]["box"][:, 2] > 0).all()
    assert (left["params"][1]["crop"] != right["params"][1]["crop"]).any()


def test_messages(tmp_path, shards):
    with pytest.raises(
        ValueError, match=r"crops that follow objects need masks, or \.json components with a box, got masks"
    ):
        make(shards, RECIPE, masks=None)
    with pytest.raises(ValueError, match="anchor must be 'image', or 'object' with resize 0, got 'box'"):
        recipes.Crop(anchor="box")
    with pytest.raises(ValueError, match="anchor must be 'image', or 'object' with resize 0"):
        recipes.Crop(224, resize=256, anchor="object")
