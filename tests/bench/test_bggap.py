"""Accuracy and BG-gap of models whose answers are known."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
import torch
from pipeline_shards import write_tar

from figureground.bench import bggap
from figureground.bench.models import load_model
from figureground.pipeline.bgsets import VARIANTS, make_bgsets
from figureground.pipeline.bgsets_write import SetWriter
from figureground.shards import ShardError
from figureground.shards.index import write_index
from figureground.shards.masks import MaskWriter

COLORS = np.array([(250, 20, 20), (20, 250, 20), (20, 20, 250)], np.uint8)
MODELS = """
import torch
MEAN, STD = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
def figure():
    return lambda x: x[:, :, 16, 16]              # the colour of the figure
def ground():
    return lambda x: (x * STD + MEAN)[:, :, 1, 1]  # the colour of the ground
def four():
    return lambda x: torch.cat([x[:, :, 16, 16] * 0 - 9, x[:, :1, 16, 16] * 0], 1)
"""


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Thirty photos of three classes: figure and ground have the colour of the class."""
    folder = tmp_path_factory.mktemp("bggap")
    (folder / "models.py").write_text(MODELS)
    members, mask = [], np.zeros((40, 40), np.uint8)
    mask[12:28, 12:28] = 255
    for n in range(30):
        image = np.tile(COLORS[n % 3] // 2 + n, (40, 40, 1))
        image[mask > 0] = COLORS[n % 3] - n % 7
        members += [
            (f"{n:03d}.png", cv2.imencode(".png", image[..., ::-1])[1].tobytes()),
            (f"{n:03d}.cls", b"%d" % (n % 3)),
        ]
    write_tar(folder / "a.tar", members)
    write_index(folder / "a.tar")
    with MaskWriter(folder / "a.tar", method="truth") as writer:
        for n in range(30):
            writer.add(f"{n:03d}", mask)
    make_bgsets(str(folder / "a.tar"), folder / "sets", size=32)
    return folder


def _measure(sets, name, **options):
    return bggap.measure_bggap(sets / "sets", load_model(f"{sets / 'models.py'}:{name}"), **options)


def test_a_model_that_sees_the_figure(sets):
    result = _measure(sets, "figure")
    for name in ("Original", "Only-FG", "Mixed-Same", "Mixed-Rand", "Mixed-Next", "Only-BG-T"):
        assert result["accuracy"][name] == 100, name  # the tiles of the ground have the colour of the class, too
    assert result["accuracy"]["No-FG"] == pytest.approx(100 / 3)  # black: the first class, always
    assert (result["bg_gap"], result["bg_gap_se"], result["samples"]) == (0, 0, 30)


def test_a_model_that_sees_the_ground(sets):
    result = _measure(sets, "ground")
    accuracy = result["accuracy"]
    assert accuracy["Original"] == accuracy["Only-BG-B"] == accuracy["No-FG"] == accuracy["Mixed-Same"] == 100
    assert accuracy["Mixed-Next"] == 0
    assert accuracy["Only-FG"] == pytest.approx(100 / 3)
    assert 0 < accuracy["Mixed-Rand"] < 70
    assert result["bg_gap"] == pytest.approx(100 - accuracy["Mixed-Rand"])
    share = accuracy["Mixed-Rand"] / 100
    assert result["bg_gap_se"] == pytest.approx(100 * np.sqrt(share * (1 - share) / 29))
    assert result["standard_error"]["Original"] == 0


def test_neighbours(sets):
    result = _measure(sets, "ground", probe="knn", k=5)
    assert result["probe"] == "5-NN"
    assert result["accuracy"]["Original"] == result["accuracy"]["Mixed-Same"] == 100
    assert result["accuracy"]["Mixed-Next"] == 0


def test_linear_probe(sets):
    result = _measure(sets, "ground", probe="linear")
    assert result["probe"] == "linear"
    assert result["accuracy"]["Original"] == result["accuracy"]["Mixed-Same"] == 100
    assert result["accuracy"]["Mixed-Next"] == 0


def test_votes_by_hand():
    bank = np.array([[1, 0], [0.8, 0.6], [0.6, 0.8], [0, 1]], np.float32)
    labels = np.array([7, 3, 3, 7])
    query = np.array([[2, 0]], np.float32)
    vote = bggap.vote_classes
    assert vote(query, bank, labels, k=1) == [7]
    # exp((0.8 - 1) / 0.07) + exp((0.6 - 1) / 0.07) = 0.06 < 1
    assert vote(query, bank, labels, k=3) == [7]
    assert vote(query, bank, labels, k=9, forbidden=np.array([[0, -1]])) == [3]
    assert vote(query, bank, labels, k=9, forbidden=np.array([[1, 2]])) == [7]
    with pytest.raises(ValueError, match="vote_classes: k must be at least 1, got 0"):
        vote(query, bank, labels, k=0)


def test_table_of_outputs(sets):
    """The model always answers 3; the table says what that means."""
    for means, want in ((-1, 0), (1, 100 / 3)):
        result = _measure(sets, "four", classes=[0, 1, 2, means])
        assert result["accuracy"]["Original"] == pytest.approx(want)


def test_command(sets, tmp_path, capsys):
    arguments = ["--sets", str(sets / "sets"), "--model", f"{sets / 'models.py'}:ground"]
    (tmp_path / "classes.json").write_text("[0, 1, 2]")
    files = ["--json", str(tmp_path / "r.json"), "--plot", str(tmp_path / "p.png")]
    assert bggap.main([*arguments, *files, "--classes", str(tmp_path / "classes.json")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["30", *VARIANTS, "BG-gap", "largest"]
    assert lines[-1].split()[-1] == "33.3"
    assert json.loads((tmp_path / "r.json").read_text())["bggap"]["accuracy"]["Mixed-Next"] == 0
    assert cv2.imread(str(tmp_path / "p.png")) is not None
    assert bggap.main(["--sets", str(tmp_path), *arguments[2:]]) == 2
    assert "bggap: " in capsys.readouterr().err


def test_command_with_weights(sets, tmp_path, capsys):
    """A linear layer on the mean colour, whose weights say: the ground's class."""
    (tmp_path / "m.py").write_text(
        "import torch\ndef make():\n    pool = torch.nn.AdaptiveAvgPool2d(1)\n"
        "    return torch.nn.Sequential(pool, torch.nn.Flatten(), torch.nn.Linear(3, 3, bias=False))\n"
    )
    torch.save({"state_dict": {"module.2.weight": torch.eye(3)}}, tmp_path / "c.pth")
    arguments = [
        "--sets",
        str(sets / "sets"),
        "--model",
        f"{tmp_path / 'm.py'}:make",
        "--json",
        str(tmp_path / "r.json"),
    ]
    assert bggap.main([*arguments, "--weights", str(tmp_path / "c.pth")]) == 0
    assert json.loads((tmp_path / "r.json").read_text())["bggap"]["accuracy"]["Original"] == 100
    assert bggap.main([*arguments, "--weights", str(tmp_path / "absent.pth")]) == 2
    assert "path must be a file" in capsys.readouterr().err


def test_messages(sets, tmp_path):
    with pytest.raises(ValueError, match="probe must be None, 'knn' or 'linear', got 'svm'"):
        _measure(sets, "figure", probe="svm")
    with pytest.raises(ValueError, match="fit_probe: probe must be None, 'knn' or 'linear', got 'svm'"):
        bggap.fit_probe("svm", np.zeros((2, 2)), np.arange(2))
    with pytest.raises(ValueError, match="must name the class of each of the model's 3 outputs, got 2"):
        _measure(sets, "figure", classes=[0, 1])
    with pytest.raises(ValueError, match="an output for each class of the sets, up to 2, got 1 outputs"):
        bggap.measure_bggap(sets / "sets", lambda x: x[:, :1, 0, 0])
    with pytest.raises(ShardError):
        bggap.measure_bggap(tmp_path, lambda x: x[:, :, 0, 0])


def test_sets_that_do_not_belong_together(tmp_path):
    image = cv2.imencode(".png", np.zeros((2, 2, 3), np.uint8))[1].tobytes()
    for name in VARIANTS:
        with SetWriter(tmp_path, [name], "png", "none") as writer:
            writer.add("b" if name == "No-FG" else "a", [image], 0, [{}])
    with pytest.raises(ValueError, match="No-FG must hold the samples of Original, got others"):
        bggap.measure_bggap(tmp_path, lambda x: x[:, :, 0, 0])
