"""Scaling on tiny shards."""

from __future__ import annotations

import json

import pytest
from pipeline_shards import write_shards

from figureground.bench import scaling
from figureground.bench.harness import Timing


def test_small_run(tmp_path, capsys):
    path = tmp_path / "r.json"
    arguments = ["--shards", write_shards(tmp_path / "s", 32), "--batch-size", "16", "--threads", "1", "--rounds", "1"]
    assert scaling.main([*arguments, "--json", str(path)]) == 0
    document = json.loads(path.read_text())
    found = document["scaling"]
    assert list(found) == ["threads", "batch_size", "p"]  # no other sizes where the shards are given
    assert list(found["batch_size"]) == ["16", "32"]
    assert list(found["p"]) == ["0", "0.1", "0.2", "0.5", "1"]
    assert found["p"]["0"]["cpu_ratio"] == found["threads"]["1"]["speedup"] == 1.0
    assert document["images"] == 32
    assert "batch_size" in capsys.readouterr().out


def test_image_sizes(tmp_path, monkeypatch):
    monkeypatch.setattr(scaling, "PIXELS", (48, 96))
    monkeypatch.setattr(scaling, "USUAL_PX", 48)
    path = tmp_path / "r.json"
    arguments = ["--axes", "image_px", "--images", "10", "--repeat", "2", "--batch-size", "8", "--rounds", "1"]
    assert scaling.main([*arguments, "--json", str(path)]) == 0
    assert list(json.loads(path.read_text())["scaling"]["image_px"]) == ["48", "96"]


def test_ratios_are_medians_over_rounds():
    timings = {"1": Timing([4.0, 8.0, 4.0], [4.0, 8.0, 4.0]), "2": Timing([2.0, 2.0, 1.0], [5.0, 8.0, 6.0])}
    assert scaling.axis_rows(timings, "speedup")["2"]["speedup"] == 4.0  # 2, 4, 4
    assert scaling.axis_rows(timings, "cpu_ratio")["2"]["cpu_ratio"] == 1.25  # 1.25, 1, 1.5


def test_points():
    assert scaling.axis_points("threads", 16, 0) == [1, 2, 4, 8, 16]
    assert scaling.axis_points("batch_size", 1, 200) == [16, 32, 64, 128]


def test_wrong_options(capsys):
    assert scaling.main(["--rounds", "0"]) == 2
    assert "--rounds must be at least 1, got 0" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        scaling.main(["--axes", "nonsense"])
