"""One shard's sidecar: counts, reasons, what never gets a mask, errors."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
from masks_tasks import PlainTask
from pipeline_shards import write_shards, write_tar

from figureground.pipeline.masks_target import Target
from figureground.pipeline.masks_work import (
    BINS,
    Result,
    ShardReport,
    Tally,
    make_sidecar,
    mean_share,
    result_of,
    usable_samples,
)  # fmt: skip
from figureground.shards import MaskStore, Store
from figureground.shards.masks import read_manifest, sidecar_is_valid


def test_mean_share_by_hand():
    assert mean_share(np.array([[0, 255], [51, 0]], np.uint8)) == 0.3


def test_tally_by_hand():
    tally = Tally()
    tally.add([Result("a", b"", area, "") for area in (0.0, 0.019, 0.02, 0.1, 0.95, 0.951, 1.0)])
    tally.add([Result("b", None, 0.0, "broken <BytesIO object at 0x7f00dead>"), Result("c", None, 0.0, "no file")])
    report = tally.report("s.tar", "s.masks.tar")
    assert (report.samples, report.masks, report.empty, report.full) == (9, 7, 2, 2)
    assert report.histogram == (3, 1, 0, 0, 0, 0, 0, 0, 0, 3)
    assert report.without == (("b", "broken <BytesIO object>"), ("c", "no file")), "addresses differ from run to run"
    assert (report.undecodable, report.missing) == (1, 1)


def test_sidecar_holds_masks_counts_and_reasons(tmp_path):
    shard = Store(write_shards(tmp_path, 30, masks=False)).shards[0]
    seen = []
    report = make_sidecar(PlainTask(), PlainTask().open(), shard, Target(str(tmp_path / "out")), seen.append)
    assert report.status == "failed", "the folder is not there"
    (tmp_path / "out").mkdir()
    report = make_sidecar(PlainTask(), PlainTask().open(), shard, Target(str(tmp_path / "out")), seen.append)
    assert report.status == "made"
    assert report.samples == 30 == report.masks + len(report.without) == sum(report.histogram) + len(report.without)
    assert seen[-3:] == [16, 30, 30]
    assert sidecar_is_valid(report.sidecar, shard, method="plain")
    manifest = read_manifest(report.sidecar)
    assert manifest.parameters == {"setting": 1}
    assert [tuple(pair) for pair in manifest.result["without"]] == list(report.without)
    assert manifest.result == json.loads(json.dumps(result_of(report)))
    assert report.seconds > 0
    assert "seconds" not in manifest.to_json().decode(), "equal masks are equal bytes"
    with Store(shard) as store, MaskStore(store, tmp_path / "out") as masks:
        missing = [store.key(i) for i in range(30) if masks.mask(i) is None]
    assert missing == [key for key, _ in report.without]


def test_samples_of_one_key_get_no_mask(tmp_path):
    jpeg = cv2.imencode(".jpg", np.zeros((8, 8, 3), np.uint8))[1].tobytes()
    path = tmp_path / "twice.tar"
    write_tar(path, [("a.jpg", jpeg), ("b.jpg", jpeg), ("a.jpg", jpeg), ("c.jpg", jpeg)])
    with Store(path) as store:
        samples, without = usable_samples(store)
    assert samples == [1, 3]
    assert [(result.key, result.png) for result in without] == [("a", None), ("a", None)]
    report = make_sidecar(PlainTask(), PlainTask().open(), str(path), Target(), lambda done: None)
    assert report.status == "made"
    assert report.samples == 4


def test_a_damaged_shard_is_a_failed_one(tmp_path):
    path = tmp_path / "bad.tar"
    path.write_bytes(b"no tar" * 300)
    report = make_sidecar(PlainTask(), PlainTask().open(), str(path), Target(), lambda done: None)
    assert report.status == "failed"
    assert "bad.tar" in report.error
    assert report.to_dict()["histogram"] == (0,) * BINS


def test_an_unknown_error_stops_the_run(tmp_path):
    class Broken:
        def results(self, store):
            raise KeyError("a bug")

    shard = Store(write_shards(tmp_path, 5, masks=False)).shards[0]
    with pytest.raises(KeyError, match="a bug"):
        make_sidecar(PlainTask(), Broken(), shard, Target(), lambda done: None)
    assert not list(tmp_path.glob("*.masks.tar"))
    assert ShardReport(shard, "", "made").attempts == 1
