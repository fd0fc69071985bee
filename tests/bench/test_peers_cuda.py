"""The comparison on a GPU, run on the CPU: everything but clocks and memory is the same code."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pipeline_shards import write_shards

from figureground.bench import peers, peers_cuda
from figureground.bench.dali_views import DaliOperators, views_graph
from figureground.bench.harness import Timing
from figureground.bench.peers_cuda import DALI, DECODE, KERNEL, KORNIA, OURS


@pytest.fixture
def shards(tmp_path):
    return write_shards(tmp_path / "s", 16, per_shard=8)


def test_measured_on_the_cpu(shards, capsys):
    document = peers_cuda.measure_gpu(shards, "cpu", 8, 1, True, 1)
    assert {DECODE, OURS, KERNEL, DALI} <= document["peers_cuda"].keys()
    assert (KORNIA in document["peers_cuda"]) != (KORNIA in document["skipped"])
    assert {"b/a", "c/a", "b/d"} <= document["ratios"].keys()
    assert document["peers_cuda"][OURS]["equal_work"] is True
    assert "equal_work" not in document["peers_cuda"][DECODE]
    assert document["dtype"] == "float16"
    assert document["equal_work"]["checks"][OURS]["views"] == 32
    assert "speed" in capsys.readouterr().out


@pytest.mark.parametrize(("half", "dtype"), [(False, torch.float32), (True, torch.float16)])
def test_dali_and_ours_give_the_same_kind(shards, half, dtype):
    for made in (peers_cuda.dali(shards, "cpu", 8, 1, half), peers_cuda.ours(shards, "cpu", 8, 1, half, "sidecar")):
        for views in made(0):
            assert [(tuple(view.shape), view.dtype) for view in views] == [((8, 3, 224, 224), dtype)] * 2


def test_stages_of_the_graph(shards):
    (images,) = views_graph(shards, gpu=False, batch_size=4, threads=1, stage="decode").run()
    assert len(images) == 4
    crops = views_graph(shards, gpu=False, batch_size=4, threads=1, stage="crop").run()
    assert [np.array(c.as_tensor()).shape for c in crops] == [(4, 224, 224, 3)] * 2
    assert len(list(DaliOperators(shards, 1, 5).outputs())) == 3


def test_decoding_only_counts_images(shards):
    assert peers_cuda.decode_only(shards, "cpu", 8, 1)() == 16


def test_ratios_by_hand():
    timings = {
        DECODE: Timing([1.0, 1.0, 1.0], [1.0] * 3), OURS: Timing([1.0, 1.25, 2.0], [1.0] * 3),
        DALI: Timing([2.0, 2.0, 2.0], [1.0] * 3),
    }  # fmt: skip
    assert peers_cuda.speed_ratios(timings) == {
        "b/a": {"ratio": 0.8, "goal": 0.95, "met": "no"}, "b/d": {"ratio": 1.6, "goal": 1.5, "met": "yes"},
    }  # fmt: skip


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what is missing without a GPU")
def test_without_a_gpu_it_says_so(capsys):
    assert peers.main(["--device", "cuda"]) == 2
    assert "needs a CUDA GPU" in capsys.readouterr().err


@pytest.mark.parametrize("device", ["gpu", "cuda:x"])
def test_wrong_devices(device, capsys):
    assert peers.main(["--device", device]) == 2
    assert "device must be 'cpu', 'cuda' or 'cuda:N'" in capsys.readouterr().err
