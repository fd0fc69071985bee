"""`other_class=True`: no label at all is an error, grounds that are not known to be of another class are counted and said so."""

from __future__ import annotations

import os

import cv2
import numpy as np
import pytest
from loader_tools import make
from pipeline_shards import disc_image, write_tar

from figureground.pipeline import recipes
from figureground.pipeline.other_class import OtherClass, check_labels
from figureground.pipeline.plan import PLAN_DTYPE
from figureground.shards import Store
from figureground.shards.index import index_path

OTHER = recipes.moco_v2(32).with_background("swap", p=1.0, other_class=True)


def shard(tmp_path, label, samples=72):
    """Discs with what `label` says of sample i: (extension, bytes), or None."""
    rng = np.random.default_rng(0)
    members = []
    for i in range(samples):
        members.append((f"{i:03d}.jpg", cv2.imencode(".jpg", disc_image(rng, 40, 48)[0])[1].tobytes()))
        if label(i) is not None:
            members.append((f"{i:03d}.{label(i)[0]}", label(i)[1]))
    write_tar(tmp_path / "a.tar", members)
    return tmp_path / "a.tar"


@pytest.mark.parametrize(
    "label",
    [None, ("cls", b"cat"), ("cls", b"-1"), ("json", b'{"caption": "a cat"}'), ("txt", b"3")],
    ids=["nothing", "text", "negative", "json without one", "txt"],
)
def test_no_label_at_all_is_an_error(tmp_path, label):
    path = shard(tmp_path, lambda i: label)
    with pytest.raises(ValueError, match=r"other_class=True needs labels .*, got none in .*a\.tar \.\.\.; pack the images with"):
        make(path, OTHER)
    for recipe in (recipes.moco_v2(32).with_background("swap"), OTHER.with_background("remove", other_class=True)):
        make(path, recipe).close()


@pytest.mark.parametrize("ext", ["cls", "json"])
@pytest.mark.parametrize("labelled", [0, 63, 64, 71])
def test_one_label_is_enough_wherever_it_is(tmp_path, ext, labelled):
    text = b"0" if ext == "cls" else b'{"label": 0}'
    with Store(shard(tmp_path, lambda i: (ext, text if i == labelled else b"none"))) as store:
        check_labels(OTHER, store)


def test_only_the_indexes_of_fetched_shards_are_looked_at(tmp_path, monkeypatch):
    monkeypatch.setattr(Store, "is_remote", True)
    monkeypatch.setattr(Store, "targets_of", lambda *_: pytest.fail("would fetch shards"))
    with Store(shard(tmp_path, lambda i: ("cls", b"1"), samples=2)) as store:
        check_labels(OTHER, store)
    os.remove(index_path(str(tmp_path / "a.tar")))
    with Store(shard(tmp_path, lambda i: None, samples=2)) as store, pytest.raises(ValueError, match="needs labels"):
        check_labels(OTHER, store)


@pytest.mark.parametrize("classes", [1, 4])
def test_samples_without_a_label_take_any_donor_and_are_counted(tmp_path, caplog, classes):
    """A third has no label."""
    path = shard(tmp_path, lambda i: ("cls", b"%d" % (i % classes)) if i % 3 else None)
    with Store(path) as store:
        targets = store.targets
    total = 0
    with make(path, OTHER) as loader:
        for _ in range(3):
            rows = np.concatenate([rows for batch in loader for rows in batch["params"]])
            used = rows[rows["background"] > 0]
            assert (used["donor"] != used["sample"]).all()
            own, lent = targets[used["sample"]], targets[used["donor"]]
            unmet = (own < 0) | (lent < 0) | (own == lent)
            total += unmet.sum()
            if classes == 4:  # nearly every labelled sample finds another class in its block
                assert unmet[own >= 0].mean() < 0.15
            else:
                assert unmet.all()
        assert loader.stats()["other_class_unmet"] == total > 100
    said = caplog.text.count("grounds are not known to be of another class than their figure; labels are missing, or")
    assert said == (classes == 1)


def test_counts_by_hand():
    views = OTHER.with_background("remove", views=(1,))
    grounds = OtherClass(views, lambda ids: ids // 10 - 1)
    rows = np.zeros(5, PLAN_DTYPE)
    rows["background"] = 6, 6, 6, 6, 0
    rows["sample"] = 10, 10, 0, 30, 10
    rows["donor"] = 20, 11, 20, 2, 11
    grounds.count([rows, rows])  # the second view takes no donors
    assert (grounds.drawn, grounds.unmet) == (4, 3)
    without = OtherClass(recipes.moco_v2(32).with_background("swap"), lambda ids: pytest.fail("nobody asks for labels"))
    without.count([rows, rows])
    assert without.unmet == 0
