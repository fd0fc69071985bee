"""Bad samples, leaving early, exceptions, the end of the process."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import threading

import cv2
import numpy as np
import pytest
from loader_tools import make
from pipeline_shards import disc_image, write_tar

from figureground.pipeline.assemble import ErrorBudgetExceeded
from figureground.shards.index import write_index


@pytest.fixture
def spoiled(tmp_path):
    """40 samples, of which 3, 17 and 30 are no images."""
    rng = np.random.default_rng(1)
    members = []
    for i in range(40):
        jpeg = cv2.imencode(".jpg", disc_image(rng, 64, 80)[0])[1].tobytes()
        data = {3: b"", 17: b"<html>not found</html>", 30: jpeg[: len(jpeg) // 2]}.get(i, jpeg)
        members.append((f"{i:03d}.jpg", data))
    write_tar(tmp_path / "bad.tar", members)
    write_index(tmp_path / "bad.tar")
    return str(tmp_path / "bad.tar")


def test_bad_samples_are_replaced_alike_on_any_layout(spoiled, tmp_path):
    seen = []
    for world_size, batch_size in ((1, 8), (2, 4), (1, 20)):
        ids = []
        for rank in range(world_size):
            quarantine = tmp_path / f"{world_size}-{batch_size}-{rank}.jsonl"
            with make(
                spoiled,
                batch_size=batch_size,
                rank=rank,
                world_size=world_size,
                error_budget=0.2,
                quarantine=quarantine,
                masks=None,
            ) as loader:
                batches = [batch["index"].tolist() for batch in loader]
                assert all(len(b) == batch_size for b in batches)
                assert len(batches) == len(loader)
                ids += [i for b in batches for i in b]
                rows = [json.loads(line) for line in quarantine.read_text().splitlines()]
                assert {row["index"] for row in rows} <= {3, 17, 30}
                assert all(row["reason"] and row["key"] == f"{row['index']:03d}" for row in rows)
        assert not {3, 17, 30} & set(ids)
        assert len(ids) == 40
        seen.append(sorted(ids))
    assert seen[0] == seen[1] == seen[2]


def test_past_the_error_budget_it_stops(spoiled):
    with (
        make(spoiled, error_budget=0.0, masks=None) as loader,
        pytest.raises(ErrorBudgetExceeded, match=r"error_budget = 0\.0 of 40"),
    ):
        list(loader)
    with (
        make(spoiled, error_budget=0.05, masks=None) as loader,
        pytest.raises(ErrorBudgetExceeded, match="3 samples could not"),
    ):
        list(loader)


def _threads():
    return [t for t in threading.enumerate() if t.name.startswith("figureground")]


def test_leaving_early_stops_the_thread(shards):
    loader = make(shards)
    for _ in loader:
        break
    gc.collect()
    assert not [t for t in _threads() if t.name == "figureground-loader"]
    assert len(list(loader)) == len(loader)
    loader.close()
    with pytest.raises(RuntimeError, match="was closed"):
        iter(loader)
    assert not _threads()


def test_a_dropped_loader_leaves_nothing(shards):
    for _ in make(shards):
        break
    gc.collect()
    assert not _threads()


def test_an_exception_of_the_trainer_ends_cleanly(shards):
    def trainer():
        for _ in make(shards):
            raise KeyError("trainer")

    with pytest.raises(KeyError, match="trainer"):
        trainer()
    gc.collect()
    assert not _threads()


@pytest.mark.parametrize("ending", ["pass", "sys.exit(0)", "raise SystemExit", "os.kill(os.getpid(), signal.SIGINT)"])
def test_the_process_ends_without_noise(shards, ending):
    code = (
        "import os, signal, sys\n"
        "from figureground.pipeline import Loader, recipes\n"
        "loader = Loader(sys.argv[1], recipes.moco_v2(32), batch_size=8, device='cpu')\n"
        "iterator = iter(loader)\n"
        "next(iterator)\n" + ending
    )
    done = subprocess.run([sys.executable, "-c", code, shards], capture_output=True, text=True, timeout=120)
    if "SIGINT" in ending:
        assert "KeyboardInterrupt" in done.stderr
    else:
        assert (done.returncode, done.stderr) == (0, "")
    assert "figureground-loader" not in done.stderr
