"""Real processes under torchrun: equal counts, disjoint samples, a DDP training step."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from figureground.pipeline.ranks import find_rank, ranks_of_node

SCRIPT = """
import json, sys
import torch
from torch import nn
from figureground.pipeline import Loader, recipes

torch.distributed.init_process_group("gloo")
rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
recipe = recipes.moco_v2(16).with_background("swap")
model = nn.parallel.DistributedDataParallel(nn.Linear(3 * 16 * 16, 4))
optimizer = torch.optim.SGD(model.parameters(), 0.1)
report = []
with Loader(sys.argv[1], recipe, batch_size=8, device="cpu", threads=1, lanes=int(sys.argv[2])) as loader:
    for epoch in range(2):
        loader.set_epoch(epoch)
        ids = []
        for batch in loader:
            loss = model(batch["views"][0].flatten(1)).pow(2).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            ids += batch["index"].tolist()
        report.append({"len": len(loader), "ids": ids})
weight = float(model.module.weight.double().sum())
gathered = [None] * world
torch.distributed.all_gather_object(gathered, {"epochs": report, "weight": weight})
if rank == 0:
    print("REPORT " + json.dumps(gathered))
torch.distributed.destroy_process_group()
"""


@pytest.mark.parametrize("lanes", [1, 4])
def test_torchrun_with_two_ranks(shards, tmp_path, lanes):
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        "2",
        str(script),
        shards,
        str(lanes),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("REPORT "))[7:])
    assert report[0]["weight"] == report[1]["weight"]  # the ranks made the same steps
    for epoch in range(2):
        a, b = (r["epochs"][epoch] for r in report)
        assert a["len"] == b["len"] == 7
        assert len(a["ids"]) == len(b["ids"]) == 56
        assert not set(a["ids"]) & set(b["ids"])
        assert len(set(a["ids"] + b["ids"])) == 112
    assert report[0]["epochs"][0]["ids"] != report[0]["epochs"][1]["ids"]


def test_the_environment_is_asked_last(monkeypatch):
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "5")
    assert find_rank(None, None) == (2, 5)
    assert find_rank(0, 1) == (0, 1)
    monkeypatch.setenv("RANK", "two")
    with pytest.raises(ValueError, match="RANK and WORLD_SIZE must be integers, got 'two' and '5'"):
        find_rank(None, None)
    monkeypatch.delenv("RANK")
    with pytest.raises(ValueError, match="RANK must be set beside WORLD_SIZE=5, got none; pass rank= and world_size="):
        find_rank(None, None)
    assert find_rank(0, 1) == (0, 1)
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert find_rank(None, None) == (0, 1)
    monkeypatch.delenv("WORLD_SIZE")
    assert find_rank(None, None) == (0, 1)
    with pytest.raises(ValueError, match="must be given together"):
        find_rank(1, None)
    monkeypatch.setenv("RANK", "0")
    assert find_rank(None, None) == (0, 1)
    monkeypatch.setenv("RANK", "3")
    with pytest.raises(ValueError, match="WORLD_SIZE must be set beside RANK=3, got none"):
        find_rank(None, None)
    with pytest.raises(TypeError, match="rank must be a whole number, got '0'"):
        find_rank("0", 1)


def test_ranks_of_a_node(monkeypatch):
    for said, ranks in (("8", 8), (" 4 ", 4), ("0", 1), ("some", 1)):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", said)
        assert ranks_of_node() == ranks
    monkeypatch.delenv("LOCAL_WORLD_SIZE")
    assert ranks_of_node() == 1
