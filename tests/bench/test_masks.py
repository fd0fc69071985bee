"""The bench of the mask job on small shards."""

from __future__ import annotations

import json

import pytest
from pipeline_shards import write_shards

from figureground.bench import masks, report
from figureground.shards import Store


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_shards(tmp_path_factory.mktemp("masks"), 12, masks=False)


def test_every_image_is_counted(shards, monkeypatch):
    """More samples than images: gone through again; the last batch and chunk are short."""
    made = []
    real = masks.encode_mask
    monkeypatch.setattr(masks, "encode_mask", lambda mask: made.append(mask.shape) or real(mask))
    with Store(shards) as store:
        costs = masks.stage_costs(store, method="ft", size=32, samples=29, batch_size=10)
    assert made == [(32, 32)] * 29
    assert all(costs.cpu_s[stage] > 0 for stage in masks.STAGES)


def test_table_and_json(shards, tmp_path, capsys):
    out = tmp_path / "r.json"
    arguments = [shards, "--samples", "15", "--rounds", "1", "--size", "32", "--batch-size", "8", "--json", str(out)]
    assert masks.main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:6]] == ["decode", "resize", "saliency", "PNG", "write"]
    assert lines[-1].startswith("Decoding is ")
    result = json.loads(out.read_text())["masks"]
    assert (result["images"], result["samples"], result["method"]) == (12, 15, "fused")
    total = sum(stage["cpu_ms"] for stage in result["stages"].values())
    assert result["decode_share"] == pytest.approx(result["stages"]["decode"]["cpu_ms"] / total, abs=1e-3)
    both = result["stages"]["resize"]["cpu_ms"] + result["stages"]["saliency"]["cpu_ms"]
    assert result["estimate_ms"] == pytest.approx(both)
    assert result["within_goal"] == (both <= 1)
    assert result["job"]["images_per_s"] > 0
    page = report.make_page({"masks": json.loads(out.read_text())})
    assert masks.verdict(result) in page


def test_messages(tmp_path, capsys):
    assert masks.main(["--samples", "0"]) == 2
    assert "must be at least 1" in capsys.readouterr().err
    assert masks.main([str(tmp_path / "none.tar")]) == 2
    assert "no shard matches" in capsys.readouterr().err
    assert masks.main(["--images", str(tmp_path / "none")]) == 2
    assert "the source must be a folder of images" in capsys.readouterr().err
