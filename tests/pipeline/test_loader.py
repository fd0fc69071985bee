"""The loader: determinism, epochs, resume, statistics, stages, messages."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from loader_tools import RECIPE, assert_same, collect, make
from pipeline_shards import write_shards

from figureground.pipeline import recipes
from figureground.pipeline.plan import PLAN_DTYPE
from figureground.shards.errors import ShardError


@pytest.fixture(scope="module")
def whole(shards):
    with make(shards) as loader:
        return collect(loader)


@pytest.mark.parametrize(
    "options",
    [{"batch_size": 32, "drop_last": False}, {"threads": 1}, {"batch_size": 7, "drop_last": False}, {"prefetch": 5}],
)
def test_content_depends_on_no_setting_of_the_machine(shards, whole, options):
    with make(shards, **options) as loader:
        assert_same(collect(loader), whole)


@pytest.mark.parametrize("world_size", [2, 3])
def test_content_does_not_depend_on_ranks(shards, whole, world_size):
    got = {}
    for rank in range(world_size):
        with make(shards, rank=rank, world_size=world_size, batch_size=4) as loader:
            mine = collect(loader)
        assert not got.keys() & mine.keys()
        got.update(mine)
    assert_same(got, whole)


def test_content_is_the_same_in_another_process(shards, whole):
    code = (
        "import sys, hashlib, numpy as np\n"
        "from figureground.pipeline import Loader, recipes\n"
        "recipe = recipes.moco_v2(32).with_background('swap', p=0.5)\n"
        "with Loader(sys.argv[1], recipe, batch_size=8, device='cpu') as loader:\n"
        "    batch = next(iter(loader))\n"
        "print(int(batch['index'][0]), hashlib.sha256(batch['views'][1][0].numpy().tobytes()).hexdigest())\n"
    )
    out = subprocess.run(
        [sys.executable, "-c", code, shards], capture_output=True, text=True, check=True, timeout=120
    ).stdout
    index, digest = out.split()
    assert hashlib.sha256(whole[int(index)][1].tobytes()).hexdigest() == digest


def test_seed_epoch_and_view_change_the_content(shards, whole):
    with make(shards, seed=1) as loader:
        other_seed = collect(loader)
    with make(shards) as loader:
        loader.set_epoch(1)
        other_epoch = collect(loader)
    for index, parts in whole.items():
        assert not np.array_equal(parts[0], parts[1])
        assert not np.array_equal(parts[0], other_seed[index][0])
        assert not np.array_equal(parts[0], other_epoch[index][0])


def test_len_epochs_and_attributes(shards):
    with make(shards, batch_size=16) as loader:
        assert len(loader) == 7
        assert len(loader.dataset) == 120
        assert loader.batch_size == 16
        first = [batch["index"].tolist() for batch in loader]
        assert len(first) == len(loader) == 7
        second = [batch["index"].tolist() for batch in loader]
        assert first != second
        loader.sampler.set_epoch(0)
        assert [batch["index"].tolist() for batch in loader] == first
    with make(shards, batch_size=16, drop_last=False) as loader:
        sizes = [len(batch["key"]) for batch in loader]
        assert sizes == [16] * 7 + [8]
        assert len(loader) == 8


def test_resume_in_the_middle_elastic(shards, whole):
    with make(shards, batch_size=8) as loader:
        done = {}
        for number, batch in enumerate(loader):
            done |= dict.fromkeys(batch["index"].tolist())
            if number == 4:
                state = json.loads(json.dumps(loader.state_dict()))
                break
    rest = {}
    for rank in range(2):
        with make(shards, batch_size=4, rank=rank, world_size=2) as loader:
            loader.load_state_dict(state)
            loader.set_epoch(state["epoch"])
            rest |= collect(loader)
            assert loader.state_dict()["epoch"] == 1
    assert not rest.keys() & done.keys()
    assert_same(rest, {i: parts for i, parts in whole.items() if i not in done})


def test_resume_of_a_resume(shards):
    with make(shards, batch_size=8) as loader:
        want = [batch["index"].tolist() for batch in loader]
    got, state = [], None
    for _ in range(3):
        with make(shards, batch_size=8) as loader:
            if state:
                loader.load_state_dict(state)
            for taken, batch in enumerate(loader, 1):
                got.append(batch["index"].tolist())
                if taken == 5:
                    break
            state = loader.state_dict()
    assert got == want


def test_state_after_the_last_batch_has_nothing_left(shards):
    with make(shards) as loader:
        iterator = iter(loader)
        for _ in range(len(loader)):
            next(iterator)
        state = loader.state_dict()
        assert state["epoch"] == 0
    with make(shards) as loader:
        loader.load_state_dict(state)
        assert list(loader) == []
        assert len(list(loader)) == len(loader)


def test_a_foreign_state_is_refused(shards, tmp_path):
    with make(shards) as loader:
        state = loader.state_dict()
    with make(shards, recipes.moco_v2(32)) as loader, pytest.raises(ValueError, match=r"these differ: recipe \(saved"):
        loader.load_state_dict(state)
    with (
        make(write_shards(tmp_path, 24)) as loader,
        pytest.raises(ValueError, match=r"samples \(saved 120, here 24\); shards"),
    ):
        loader.load_state_dict(state)
    with make(shards, seed=3) as loader, pytest.raises(ValueError, match=r"seed \(saved 0, here 3\)"):
        loader.load_state_dict(state)
    with make(shards) as loader, pytest.raises(ValueError, match="got one without epoch"):
        loader.load_state_dict({k: v for k, v in state.items() if k != "epoch"})


def test_replay_makes_the_same_views(shards, whole):
    with make(shards) as loader:
        batch = loader.replay([5, 99, 40], epoch=0)
    for i, index in enumerate([5, 99, 40]):
        np.testing.assert_array_equal(batch["views"][0][i].numpy(), whole[index][0])
        np.testing.assert_array_equal(batch["negatives"][i].numpy(), whole[index][4])


def test_two_loaders_at_once(shards, whole):
    with make(shards) as a, make(shards, seed=1) as b:
        for left, _ in zip(a, b, strict=True):
            np.testing.assert_array_equal(left["views"][0][0].numpy(), whole[int(left["index"][0])][0])


def test_stats_count_and_explain(shards):
    with make(shards) as loader:
        list(loader)
        stats = loader.stats()
    assert stats["batches"] == 15
    assert stats["samples"] == 120
    assert stats["replaced"] == 0
    assert {"read", "plan", "augment"} <= set(stats["seconds"])
    assert stats["bottleneck"].startswith("the ")


def test_stages_run_at_their_points(shards):
    seen = []

    def note(point):
        def stage(views, rows):
            seen.append((point, views.dtype, views.shape[1:], rows.dtype == PLAN_DTYPE))
            return views

        return stage

    recipe = RECIPE
    for point in ("composite", "color", "normalize"):
        recipe = recipe.with_stage(note(point), after=point)
    with make(shards, recipe, threads=1) as loader, make(shards) as plain:
        got, want = next(iter(loader)), next(iter(plain))
    torch.testing.assert_close(got["views"][0], want["views"][0], rtol=0, atol=0)
    assert {point for point, *_ in seen} == {"composite", "color", "normalize"}
    assert all(shape == (3, 32, 32) and is_plan for _, _, shape, is_plan in seen)
    inverted = RECIPE.with_stage(lambda views, rows: 255 - views, after="color")
    with make(shards, inverted) as loader:
        got = next(iter(loader))["views"][0]
    mean = torch.tensor(RECIPE.mean).view(3, 1, 1)
    std = torch.tensor(RECIPE.std).view(3, 1, 1)
    torch.testing.assert_close(got * std + mean, 1 - (want["views"][0] * std + mean), rtol=0, atol=1e-5)
    with (
        make(shards, RECIPE.with_stage(lambda v, r: v[:, :1])) as loader,
        pytest.raises(ValueError, match="the function must return"),
    ):
        next(iter(loader))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"format": "tuple"}, ValueError, "format must be one of dict, moco"),
        ({"dtype": torch.float64}, ValueError, "dtype must be torch.float32"),
        ({"prefetch": 0}, ValueError, "prefetch must be at least 1"),
        ({"threads": 0}, ValueError, "threads must be at least 1"),
        ({"device": "tpu"}, ValueError, "device must be 'cpu', 'cuda' or 'cuda:N'"),
        ({"masks": "best"}, ValueError, "masks must be 'auto', 'sidecar', 'kernel' or None"),
        ({"method": "magic"}, ValueError, "method must be one of"),
        ({"batch_size": 121}, ValueError, "drop_last=True needs at least"),
        ({"rank": 1}, ValueError, "must be given together"),
        ({"error_budget": 2}, ValueError, r"error_budget must be in \[0, 1\]"),
    ],
)
def test_messages(shards, options, error, message):
    with pytest.raises(error, match=message):
        make(shards, **options)


def test_no_silent_fallback_to_the_cpu(shards):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(RuntimeError, match="needs a CUDA GPU"):
        make(shards, device="cuda")


def test_missing_shards_are_named(tmp_path):
    with pytest.raises(ShardError, match="none"):
        make(str(tmp_path / "none-*.tar"))
