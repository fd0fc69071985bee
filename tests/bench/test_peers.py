"""Peers on tiny shards: those that are installed run, the others are skipped and named, other work is marked."""

from __future__ import annotations

import importlib.util
import json
import sys

import numpy as np
import pytest
from pipeline_shards import write_shards

from figureground.bench import peers, peers_hand, peers_libraries
from figureground.bench.harness import Timing


@pytest.fixture
def shards(tmp_path):
    return write_shards(tmp_path / "s", 16, per_shard=8)


def test_small_run(shards, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(peers.PEERS, "nobody's", (peers.Ours, "a_module_that_is_not_there"))
    chosen = ("figureground", "OpenCV", "DALI", "nobody")
    monkeypatch.setattr(peers, "PEERS", {n: v for n, v in peers.PEERS.items() if n.startswith(chosen)})
    path = tmp_path / "r.json"
    arguments = ["--shards", shards, "--batch-size", "8", "--threads", "1", "--rounds", "1", "--json", str(path)]
    assert peers.main(arguments) == 0
    document = json.loads(path.read_text())
    assert document["skipped"] == {"nobody's": "a_module_that_is_not_there is not installed"}
    assert list(document["peers"])[:2] == [peers.OURS, peers.OURS_PLAIN]
    assert "nobody's" not in document["peers"]
    assert document["peers"][peers.OURS]["cpu_ratio"] == 1.0
    assert document["equal_work"]["checks"].keys() == document["peers"].keys()
    assert document["equal_work"]["bounds"]["mean"] > 0
    assert all("equal_work" in row for row in document["peers"].values())
    assert document["decoders"]["OpenCV"]["max_difference"] == 0
    out = capsys.readouterr().out
    assert "skipped: nobody's" in out
    assert "equal work" in out


@pytest.mark.parametrize("make", [peers.Ours, peers_hand.OpenCV, peers_hand.WebDatasetPIL, peers.DaliOperators])
def test_views_of_each_peer(shards, make):
    batches = list(make(shards, 1, 4)(0))
    assert len(batches) == 4
    for views in batches:
        assert [view.shape for view in views] == [(4, 3, 224, 224)] * 2
        assert all(view.dtype == np.float32 for view in views)
        assert not np.array_equal(views[0], views[1])


def test_torchvision(shards):
    if importlib.util.find_spec("torchvision") is None:  # an import may fail where `import_transforms` does not
        pytest.skip("torchvision is not installed")
    for views in peers_libraries.TorchvisionTensors(shards, 1, 8)(0):
        assert [(view.shape, view.dtype) for view in views] == [((8, 3, 224, 224), np.float32)] * 2


def test_kornia(shards):
    pytest.importorskip("kornia")
    for views in peers_libraries.Kornia(shards, 1, 8)(0):
        assert [(view.shape, view.dtype) for view in views] == [((8, 3, 224, 224), np.float32)] * 2


def test_a_missing_torchvision_is_an_import_error(monkeypatch):
    for name in ("torchvision", "torchvision.transforms.v2"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError):
        peers_libraries.import_transforms()


def test_other_work_is_marked_and_kept(capsys):
    rng = np.random.default_rng(0)
    views = rng.normal(size=(8, 3, 224, 224)).astype(np.float32)
    found = peers.check_peers(
        {"ours": lambda seed: iter([[views, views]]), "half as dark": lambda seed: iter([[views * 0.5, views]])}
    )
    assert found["ours"]["equal"]
    assert not found["half as dark"]["equal"]
    assert "other work: half as dark: std differs by" in capsys.readouterr().out
    rows = peers.peer_rows({"ours": Timing([1.0], [1.0]), "half as dark": Timing([0.5], [0.5])}, found)
    assert rows["half as dark"] == {
        "wall_ms": 0.5, "cpu_ms": 0.5, "cpu_ms_iqr": 0.0, "images_per_s": 2000.0, "cpu_ratio": 0.5, "wall_ratio": 0.5,
        "equal_work": False,
    }  # fmt: skip


def test_ratios_are_medians_of_rounds():
    rows = peers.peer_rows(
        {"a": Timing([1.0, 2.0, 4.0], [1.0, 2.0, 4.0]), "b": Timing([3.0, 4.0, 20.0], [2.0] * 3)}, {}
    )
    assert rows["b"]["wall_ratio"] == 3.0  # 3, 2, 5
    assert rows["b"]["cpu_ratio"] == 1.0  # 2, 1, 0.5


def test_decoders_agree(shards):
    cases, notes = peers.decoder_cases(shards, 1, 8)
    assert all(case() == 8 for case in cases.values())
    assert notes["Pillow"]["max_difference"] <= 2  # the same libjpeg-turbo


def test_wrong_options(capsys):
    assert peers.main(["--rounds", "0"]) == 2
    assert "--rounds must be at least 1, got 0" in capsys.readouterr().err
