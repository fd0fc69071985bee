"""Python's cost of a batch, with small numbers."""

from __future__ import annotations

import json

import pytest
from pipeline_shards import write_shards

from figureground.bench import python_cost
from figureground.kernels.resample import render_views
from figureground.pipeline import augment


def test_small_run(tmp_path, capsys):
    shards = write_shards(tmp_path, 16)
    assert (
        python_cost.main(
            ["--shards", shards, "--batch-size", "16", "--batches", "3", "--json", str(tmp_path / "r.json")]
        )
        == 0
    )
    document = json.loads((tmp_path / "r.json").read_text())["python_cost"]
    assert document["batch"] == 16
    assert 0 < max(document["parts"].values()) < document["python_ms"]
    assert document["dali_ms"] > 0
    assert "Python takes" in capsys.readouterr().out


def test_kernels_come_back():
    with python_cost.stubbed_kernels():
        assert augment.render_views is not render_views
    assert augment.render_views is render_views


def test_verdict_by_hand():
    document = {"parts": {"read": 1.0, "plan": 0.5}, "python_ms": 2.0, "batch": 128}
    assert python_cost.verdict(document) == (
        "Python takes 2.00 ms of one core a batch of 128 (64,000 images/s), above the goal of 1.00 ms; the largest part is "
        "'read' with 50 %."
    )
    assert "within the goal" in python_cost.verdict({**document, "python_ms": 1.0})
    both = python_cost.verdict({**document, "dali_ms": 1.2})
    assert both.endswith("With DALI's calls the thread takes 3.20 ms (40,000 images/s).")


def test_own_seconds_count():
    assert python_cost.thread_ms(lambda: 0.25, 3) == pytest.approx(250)
