"""Throughput on tiny shards: complete, and its arithmetic."""

from __future__ import annotations

import json
import re

import pytest
from pipeline_shards import write_shards

from figureground.bench import throughput
from figureground.bench.harness import Timing
from figureground.bench.stages import add_floor, mask_decoding
from figureground.pipeline import recipes


@pytest.fixture(autouse=True)
def copy_speed(monkeypatch):
    """A copy of 10 GB/s, for seconds less."""
    monkeypatch.setattr(throughput, "copy_bandwidth", lambda *_: 10.0)


def test_small_run(tmp_path, capsys):
    shards = write_shards(tmp_path / "s", 16)
    path = tmp_path / "r.json"
    arguments = ["--shards", shards, "--batch-size", "8", "--rounds", "1", "--steps", "1", "--seconds", "0.01"]
    assert throughput.main([*arguments, "--json", str(path)]) == 0
    document = json.loads(path.read_text())
    assert {"stages", "epochs", "presets", "stalls", "copy_gb_per_s"} <= document.keys()
    assert document["images"] == 16
    assert {"read", "guard", "decode", "hand-over to torch", "mask decode (difference)"} <= document["stages"].keys()
    # Every preset is in exactly one row.
    named = [name for row in list(document["presets"])[1:] for name in row.split(", ")]
    assert sorted(named) == sorted(recipes.PRESETS)
    ideal = document["epochs"][throughput.IDEAL]
    assert ideal["of_ideal"] == 1.0
    assert "of_floor" not in ideal
    row = document["epochs"]["moco_v2"]
    assert row["of_ideal"] == pytest.approx(ideal["wall_ms"] / row["wall_ms"], rel=0.02)
    decode = document["stages"]["decode"]
    assert decode["of_floor"] == pytest.approx(decode["gb_per_s"] / document["copy_gb_per_s"], abs=0.002)
    assert document["stalls"]["1 ms, sleep"]["batches"] == 10
    assert "share" not in document["stages"]["read"]
    assert "presets, per source image" in capsys.readouterr().out


def test_presets_and_stalls_can_be_left_out(tmp_path):
    path = tmp_path / "r.json"
    arguments = ["--shards", write_shards(tmp_path / "s", 8), "--batch-size", "8", "--rounds", "1", "--json", str(path)]
    assert throughput.main([*arguments, "--no-presets", "--steps"]) == 0
    assert not {"presets", "stalls"} & json.loads(path.read_text()).keys()


def test_floor_by_hand():
    # 2 MB in 0.5 ms are 4 GB/s, two fifths of a copy at 10 GB/s.
    assert add_floor({"cpu_ms": 0.5}, 2e6, 10.0) == {"cpu_ms": 0.5, "gb_per_s": 4.0, "of_floor": 0.4}
    assert add_floor({"cpu_ms": 0.5}, None, 10.0) == {"cpu_ms": 0.5}
    assert add_floor({"cpu_ms": 0.0}, 1.0, 10.0) == {"cpu_ms": 0.0}


def test_mask_decoding_is_a_difference_in_each_round():
    timings = {"decode": Timing([1.0, 2.0], [3.0, 4.0]), "decode with masks": Timing([1.5, 3.0], [3.25, 4.5])}
    assert mask_decoding(timings) == Timing([0.5, 1.0], [0.25, 0.5])


@pytest.mark.parametrize("wrong", [["--rounds", "0"], ["--seconds", "0"], ["--steps", "-1"], ["--threads", "0"]])
def test_wrong_options(wrong, capsys):
    assert throughput.main(wrong) == 2
    assert re.search(r"throughput: --[a-z-]+ must be (at least 1|more than 0), got -?\d", capsys.readouterr().err)
