"""The training example learns something in a few steps."""

from __future__ import annotations

from pipeline_shards import write_shards

from figureground.bench import train


def test_the_loss_falls(tmp_path, capsys):
    shards = write_shards(tmp_path, 64)
    assert train.main(["--shards", shards, "--steps", "40", "--batch-size", "16", "--size", "32"]) == 0
    assert "mean loss of the first" in capsys.readouterr().out
