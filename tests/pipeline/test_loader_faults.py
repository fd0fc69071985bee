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

from figureground.pipeline.masks_job import make_masks
from figureground.pipeline.quarantine import ErrorBudgetExceeded
from figureground.shards.index import write_index
from figureground.shards.writer import pack


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


def test_the_budget_grows_with_what_a_rank_meets(spoiled):
    """Rank by rank each epoch shows other samples: in the end every bad one of the store, which is no more of a share."""
    with make(spoiled, batch_size=4, rank=0, world_size=5, error_budget=0.1, masks=None) as loader:
        for epoch in range(30):
            loader.set_epoch(epoch)
            assert len(list(loader)) == 2
        assert loader.stats()["replaced"] > 1  # one is what the 8 samples of a single epoch allow


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
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background jobs ignore it
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


def test_a_rank_whose_samples_are_all_bad_keeps_up(tmp_path):
    rng = np.random.default_rng(2)
    good = [cv2.imencode(".jpg", disc_image(rng, 40, 40)[0])[1].tobytes() for _ in range(16)]
    members = [(f"{i:03d}.jpg", b"spoiled" if i >= 16 else good[i]) for i in range(32)]
    write_tar(tmp_path / "half.tar", members)
    write_index(tmp_path / "half.tar")
    counts = []
    for rank in range(2):  # without shuffling, rank 1 of 2 has the bad half of the only global batch
        options = {"rank": rank, "world_size": 2, "batch_size": 16, "shuffle": False, "masks": None}
        with make(str(tmp_path / "half.tar"), error_budget=1.0, **options) as loader:
            batches = [batch["index"].tolist() for batch in loader]
        counts.append([len(batch) for batch in batches])
        assert max(max(batch) for batch in batches) < 16
    assert counts == [[16], [16]]


def test_odd_files_go_through_all_of_it(shared_data, tmp_path):
    """Every odd file there is, as it is, in a shard: masks and loader lose nothing and are not ended by any."""
    files = sorted(path for path in (shared_data / "odd").iterdir() if path.is_file())
    write_tar(tmp_path / "odd.tar", [(f"{i:03d}{f.suffix.lower()}", f.read_bytes()) for i, f in enumerate(files)])
    write_index(tmp_path / "odd.tar")
    shards = str(tmp_path / "odd.tar")
    made = make_masks(shards, progress=False)
    assert made.count("failed") == 0
    assert made.total("masks") + made.total("undecodable") == made.total("samples")
    with make(shards, error_budget=1.0, batch_size=16, drop_last=False) as loader:
        samples = len(loader.dataset)
        delivered = [key for batch in loader for key in batch["key"]]
        assert samples == len(delivered) >= 90
        assert loader.stats()["replaced"] == made.total("undecodable") > 10
    packed = pack(shared_data / "odd", tmp_path / "packed", progress=False)
    assert packed.samples + len(packed.skipped) >= 90
