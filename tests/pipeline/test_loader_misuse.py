"""Arguments of the wrong kind, states of other runs, passes closed too early, forked processes, copies, places on disk."""

from __future__ import annotations

import copy
import io
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from loader_tools import make
from pipeline_shards import disc_image, write_tar

from figureground.pipeline import Loader, recipes
from figureground.pipeline.quarantine import ErrorBudgetExceeded
from figureground.shards import ShardError

PLAIN = recipes.moco_v2(32)


def _jpegs(count: int) -> list[bytes]:
    rng = np.random.default_rng(3)
    return [cv2.imencode(".jpg", disc_image(rng, 40, 48)[0])[1].tobytes() for _ in range(count)]


def test_numbers_of_other_kinds_end_in_json(shards):
    with make(shards, PLAIN, seed=np.int64(3), batch_size=torch.tensor(8), threads=np.int32(1)) as loader:
        loader.set_epoch(np.int64(2))
        state = json.loads(json.dumps(loader.state_dict()))
    assert (state["seed"], state["epoch"]) == (3, 2)
    with make(shards, PLAIN, seed=3) as other:
        other.load_state_dict(state)


@pytest.mark.parametrize("name", ["batch_size", "seed", "prefetch", "threads", "window", "max_pixels"])
@pytest.mark.parametrize("value", [1.5, "8", True])
def test_what_is_no_whole_number_is_refused(shards, name, value):
    with pytest.raises(TypeError, match=f"Loader: {name} must be a whole number, got "):
        make(shards, PLAIN, **{name: value})


def test_kinds_of_other_arguments(shards):
    with make(shards, PLAIN, device=torch.device("cpu")) as loader:
        assert len(next(iter(loader))["key"]) == 8
        with pytest.raises(TypeError, match=r"epoch must be a whole number, got 1\.5"):
            loader.set_epoch(1.5)
        with pytest.raises(ValueError, match=r"Loader\.replay: epoch must be at least 0, got -1"):
            loader.replay([0], epoch=-1)
    with pytest.raises(TypeError, match=r"cache must be a ShardCache\(folder, max_bytes\), got '/tmp'"):
        make(shards, PLAIN, cache="/tmp")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"position": -1}, "position of a state must be at least 0, got -1"),
        ({"position": 10**9}, "position of a state must be at most 120, the samples of an epoch, got 1000000000"),
        ({"position": 1.5}, "position of a state must be a whole number, got 1.5"),
        ({"epoch": "x"}, "epoch of a state must be a whole number, got 'x'"),
        ({"version": 99}, r"these differ: version \(saved 99, here 2\)"),
    ],
)
def test_states_that_are_none(shards, change, message):
    with make(shards, PLAIN) as loader:
        with pytest.raises((TypeError, ValueError), match=message):
            loader.load_state_dict({**loader.state_dict(), **change})
        with pytest.raises(TypeError, match=r"must be a dict from Loader\.state_dict, got NoneType"):
            loader.load_state_dict(None)
        assert len(list(loader)) == len(loader)


def test_a_pass_that_something_else_closed_says_so(shards):
    """It does not look like the end of the epoch: a trainer would take fewer steps and never know."""
    with make(shards, PLAIN) as loader:
        first = iter(loader)
        second = iter(loader)
        with pytest.raises(RuntimeError, match="closed by another one before its end"):
            next(first)
        next(second)
        loader.replay([0], epoch=0)
        with pytest.raises(RuntimeError, match="closed by a replay before its end"):
            next(second)
        third = iter(loader)
        loader.load_state_dict(loader.state_dict())
        with pytest.raises(RuntimeError, match="closed by load_state_dict before its end"):
            next(third)
        ended = iter(loader)
        assert len(list(ended)) == len(loader)
        loader.replay([0], epoch=0)
        assert list(ended) == []
        last = iter(loader)
    with pytest.raises(RuntimeError, match="closed by close before its end"):
        next(last)
    with pytest.raises(RuntimeError, match="this loader was closed"):
        loader.replay([0], epoch=0)


def test_copies_are_refused(shards):
    with make(shards, PLAIN) as loader:
        for copied in (copy.deepcopy, copy.copy, pickle.dumps):
            with pytest.raises(TypeError, match="Loader: cannot be pickled or copied"):
                copied(loader)


FORKS = """
import os, sys, time, warnings
from figureground.pipeline import Loader, recipes

warnings.simplefilter("ignore", DeprecationWarning)
loader = Loader(sys.argv[1], recipes.moco_v2(32), batch_size=8, device="cpu", threads=2)

def in_a_child(what):
    child = os.fork()
    if child == 0:
        what()
        sys.exit(0)  # handlers run, DALI's too
    for _ in range(600):
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return print("ended", os.waitstatus_to_exitcode(status), flush=True)
        time.sleep(0.1)
    os.kill(child, 9)
    print("hangs", flush=True)

def say(act):
    try:
        act()
    except RuntimeError as error:
        print(error, flush=True)

iterator = iter(loader)
next(iterator)
in_a_child(lambda: say(lambda: next(iterator)))
in_a_child(lambda: say(lambda: iter(loader)))
in_a_child(loader.close)
del iterator
list(loader)
in_a_child(lambda: None)
print(len(list(loader)))
"""


def test_a_forked_child_gets_a_sentence_and_ends(shards):
    done = subprocess.run(
        [sys.executable, "-c", FORKS, shards], capture_output=True, text=True, timeout=400, check=False
    )
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr[-2000:]
    assert sum("which was forked from it and has none of its threads" in line for line in lines) == 2
    assert lines.count("ended 0") == 4
    assert "hangs" not in lines
    assert lines[-1] == "15"


def test_the_quarantine_is_looked_at_first_and_ends_no_run(tmp_path, caplog):
    jpegs = _jpegs(7)
    write_tar(tmp_path / "a.tar", [(f"\udcff{i}.jpg", b"no image" if i == 7 else jpegs[i]) for i in range(8)])
    shard = str(tmp_path / "a.tar")
    for place, message in (
        (tmp_path, "must be a file, got the folder"),
        (tmp_path / "none" / "q.jsonl", "must lie in a folder that exists"),
    ):
        with pytest.raises(ValueError, match=f"quarantine {message}"):
            make(shard, PLAIN, quarantine=place)
    file = tmp_path / "q.jsonl"
    with make(shard, PLAIN, quarantine=file) as loader:
        list(loader)
    assert json.loads(file.read_text())["key"] == "\udcff7"  # a key that is no UTF-8
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full")
    with make(shard, PLAIN, quarantine="/dev/full") as loader:
        assert len(list(loader)) == 1
    assert "the quarantine cannot be written: No space left on device" in caplog.text


def test_places_below_home(tmp_path, monkeypatch, shards):
    monkeypatch.setenv("HOME", str(tmp_path))
    jpegs = _jpegs(7)
    write_tar(tmp_path / "a.tar", [(f"{i}.jpg", b"no image" if i == 7 else jpegs[i]) for i in range(8)])
    with make("~/a.tar", PLAIN, quarantine="~/q.jsonl") as loader:
        list(loader)
    assert (tmp_path / "q.jsonl").exists()
    os.symlink(Path(shards).parent, tmp_path / "masks")
    with make(shards, masks="sidecar", masks_dir="~/masks") as loader:
        assert next(iter(loader))["mask_valid"].all()


def test_masks_that_are_not_there(shards, tmp_path, caplog):
    with pytest.raises(ShardError, match="none: the folder of masks does not exist; check the path"):
        make(shards, masks_dir=tmp_path / "none")
    make(shards, PLAIN, masks=None).close()
    make(shards, masks="sidecar").close()
    make(shards).close()
    assert not caplog.text
    make(shards, masks=None).close()
    assert "masks=None: no image has a mask, so what the recipe does with figure and ground is left out" in caplog.text


def test_nothing_to_train_on(tmp_path):
    write_tar(tmp_path / "a.tar", [])
    with pytest.raises(ShardError, match=r"a\.tar: the shards hold no sample"):
        make(tmp_path / "a.tar", PLAIN)
    write_tar(tmp_path / "b.tar", [("a.input.jpg", b"x"), ("a.cls", b"1")])
    with pytest.raises(ShardError, match=r"b\.tar: no sample has an image; .* there are only cls, input\.jpg"):
        make(tmp_path / "b.tar", PLAIN)
    write_tar(tmp_path / "c.tar", [(f"{i}.jpg", b"no image") for i in range(8)])
    with (
        make(tmp_path / "c.tar", PLAIN, error_budget=1.0) as loader,
        pytest.raises(ErrorBudgetExceeded, match=r"8 of 8 are known to be bad \(8 x not an image"),
    ):
        list(loader)


def test_formats_that_only_the_host_decodes(tmp_path):
    """By their extension too, in shards that others made."""
    from PIL import Image

    picture = Image.fromarray(disc_image(np.random.default_rng(5), 40, 48)[0])
    members = []
    for format, ext in (
        ("AVIF", "avif"),
        ("GIF", "gif"),
        ("JPEG2000", "j2k"),
        ("JPEG", "JFIF"),
        ("JPEG", "jpe"),
        ("TIFF", "tif"),
    ):
        stream = io.BytesIO()
        picture.save(stream, format)
        members.append((f"{len(members)}.{ext}", stream.getvalue()))
    write_tar(tmp_path / "a.tar", members)
    with make(tmp_path / "a.tar", PLAIN, batch_size=6, error_budget=0.0) as loader:
        assert sorted(next(iter(loader))["index"].tolist()) == list(range(6))


def test_documents_nested_too_deep_have_no_label(tmp_path):
    write_tar(
        tmp_path / "a.tar", [(f"{i}.jpg", jpeg) for i, jpeg in enumerate(_jpegs(8))] + [("7.json", b"[" * 200_000)]
    )
    with make(tmp_path / "a.tar", PLAIN.with_object_crops()) as loader:
        assert next(iter(loader))["target"].tolist() == [-1] * 8


def test_stats_count_what_waits(shards):
    with make(shards, PLAIN, prefetch=1) as loader:
        assert loader.stats()["queue_depth"] == 0
        iterator = iter(loader)
        assert {loader.stats()["queue_depth"] for _ in iterator} <= {0, 1}
        assert loader.stats()["samples_per_s"] > 0


GROUPS = """
import os, sys
import torch
import torch.multiprocessing as mp
from figureground.pipeline import Loader, recipes

def work(rank, shards, file):
    make = lambda **more: Loader(shards, recipes.moco_v2(16), batch_size=8, device="cpu", threads=1, **more)
    early, told = make(), make(rank=rank, world_size=2)
    torch.distributed.init_process_group("gloo", init_method="file://" + file, rank=rank, world_size=2)
    try:
        iter(early)
    except RuntimeError as error:
        print(error, flush=True)
    late = make()
    same = [batch["index"].tolist() for batch in told] == [batch["index"].tolist() for batch in late]
    print("same", same, len(late), flush=True)
    torch.distributed.destroy_process_group()

if __name__ == "__main__":
    mp.spawn(work, (sys.argv[1], sys.argv[2]), nprocs=2)
"""


def test_spawned_ranks_and_a_loader_made_too_early(shards, tmp_path):
    (tmp_path / "groups.py").write_text(GROUPS)
    environment = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE")}
    done = subprocess.run(
        [sys.executable, tmp_path / "groups.py", shards, tmp_path / "store"],
        capture_output=True, text=True, timeout=300, check=False, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    for rank in range(2):
        assert f"was made as rank 0 of 1, but torch.distributed says rank {rank} of 2" in done.stdout
    assert done.stdout.count("same True 7") == 2


def test_public_signature():
    """The names that training scripts may write, and their defaults."""
    import inspect

    parameters = inspect.signature(Loader).parameters
    defaults = {
        "masks": "auto", "seed": 0, "format": "dict", "dtype": torch.float32, "channels_last": False, "shuffle": True,
        "drop_last": True, "rank": None, "world_size": None, "prefetch": 2, "threads": None, "error_budget": 0.01,
        "quarantine": None,
    }  # fmt: skip
    assert {name: parameters[name].default for name in defaults} == defaults
    assert parameters["batch_size"].kind is inspect.Parameter.KEYWORD_ONLY
