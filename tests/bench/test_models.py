"""Models from files."""

from __future__ import annotations

from argparse import Namespace

import numpy as np
import pytest
import torch

from figureground.bench.models import load_model, load_weights, run_model

SOURCE = """
import torch
def make():
    return torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.Flatten())
def pair():
    return lambda x: (x, x)
def number():
    return 3
def linear():
    return torch.nn.Sequential(torch.nn.BatchNorm2d(3), torch.nn.Flatten(), torch.nn.Linear(12, 2))
"""


@pytest.fixture
def source(tmp_path):
    (tmp_path / "m.py").write_text(SOURCE)
    return str(tmp_path / "m.py")


def test_python_and_torchscript(source, tmp_path):
    images = np.full((3, 3, 2, 2), 255, np.uint8)
    model = load_model(f"{source}:make")
    values = run_model(model, images, batch_size=2)
    want = (1 - np.array([0.485, 0.456, 0.406])) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(values, np.tile(want.repeat(4), (3, 1)), rtol=1e-5)  # dropout is off
    torch.jit.script(model).save(str(tmp_path / "m.pt"))
    np.testing.assert_array_equal(run_model(load_model(str(tmp_path / "m.pt")), images), values)


def test_feature_maps_are_averaged():
    images = np.zeros((2, 3, 4, 4), np.uint8)
    images[1, 0] = 229
    assert np.diff(run_model(lambda x: x, images)[:, 0]) == pytest.approx(229 / 255 / 0.229, rel=1e-5)


def test_messages(source):
    for spec, says in (
        ("nowhere.pt", "FILE.py:FUNCTION or a TorchScript file, got 'nowhere.pt'"),
        ("nowhere.py:make", "nowhere.py must be a Python file, got none"),
        (source + ":absent", "must define absent, got .*'make'"),
        (source + ":number", "must return something to call, got int"),
    ):
        with pytest.raises(ValueError, match=f"load_model: .*{says}"):
            load_model(spec)
    with pytest.raises(ValueError, match=r"run_model: the model must return a tensor \(1, K\), got tuple"):
        run_model(load_model(source + ":pair"), np.zeros((1, 3, 2, 2), np.uint8))


def test_a_file_may_import_its_neighbours_and_define_dataclasses(tmp_path):
    (tmp_path / "neighbour_of_model.py").write_text("SCALE = 3.0\n")
    (tmp_path / "m.py").write_text(
        "from __future__ import annotations\n"
        "from dataclasses import dataclass\n"
        "@dataclass\nclass Options:\n    scale: float\n"
        "def make():\n"
        "    from neighbour_of_model import SCALE\n"
        "    options = Options(SCALE)\n"
        "    return lambda x: x.mean((2, 3)) * 0 + options.scale\n"
    )
    assert (run_model(load_model(f"{tmp_path / 'm.py'}:make"), np.zeros((1, 3, 2, 2), np.uint8)) == 3).all()


def test_nan_is_no_answer():
    images = np.zeros((3, 3, 2, 2), np.uint8)
    images[1] = 255
    with pytest.raises(ValueError, match="run_model: the model must return numbers, got NaN for image 1"):
        run_model(lambda x: torch.where(x > 0, torch.nan, x).flatten(1), images, batch_size=2)


@pytest.mark.parametrize(
    ("prefix", "wrapper"), [("", None), ("module.encoder_q.", "state_dict"), ("backbone.", "teacher"), ("", "model")]
)
def test_weights_of_checkpoints(source, tmp_path, prefix, wrapper):
    torch.manual_seed(0)
    model = load_model(f"{source}:linear")
    state = {prefix + k: v for k, v in model.state_dict().items()} | {"module.queue": torch.zeros(2)}
    torch.save(
        state if wrapper is None else {wrapper: state, "epoch": 7, "args": Namespace(lr=0.1)}, tmp_path / "c.pth"
    )
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 2, 2), np.uint8)
    want = run_model(model, images)
    other = load_model(f"{source}:linear")
    assert (run_model(other, images) != want).any()
    got = load_model(f"{source}:linear", weights=tmp_path / "c.pth")
    np.testing.assert_array_equal(run_model(got, images), want)


def test_weights_of_two_networks(source, tmp_path):
    """A MoCo checkpoint holds the query encoder and the key encoder."""
    models = {name: load_model(f"{source}:linear") for name in ("encoder_q", "encoder_k")}
    state = {f"module.{name}.{k}": v for name, model in models.items() for k, v in model.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "c.pth")
    with pytest.raises(
        ValueError, match=r"one network that fits, got .*encoder_q.*encoder_k.*choose by --weights-prefix"
    ):
        load_model(f"{source}:linear", weights=tmp_path / "c.pth")
    for name, model in models.items():
        got = load_model(f"{source}:linear", weights=tmp_path / "c.pth", prefix=f"module.{name}.")
        assert torch.equal(got[2].weight, model[2].weight)


def test_messages_of_weights(source, tmp_path):
    model = torch.nn.Linear(2, 1)
    torch.save({"fc.weight": torch.zeros(1, 2)}, tmp_path / "part.pth")
    torch.save({"weight": torch.zeros(1, 3), "bias": torch.zeros(1)}, tmp_path / "shape.pth")
    (tmp_path / "words.pth").write_text("no weights")
    for name, says in (
        ("part", "must hold all 2 tensors of the model, got none of 'weight' and 1 more; it holds .'fc.weight'"),
        ("shape", "must fit the model, got .*size mismatch for weight"),
        ("words", "must be a torch file of tensors alone"),
        ("absent", "path must be a file"),
    ):
        with pytest.raises(ValueError, match=says):
            load_weights(model, tmp_path / f"{name}.pth")
    with pytest.raises(ValueError, match=r"the model must have parameters for .*, got none"):
        load_weights(torch.nn.Flatten(), tmp_path / "part.pth")
    with pytest.raises(ValueError, match=r"weights are for a torch.nn.Module, got function from"):
        load_model(f"{source}:pair", weights=tmp_path / "part.pth")
    with pytest.raises(ValueError, match=r"part.pth must be a TorchScript file, got another .* goes to --weights"):
        load_model(str(tmp_path / "part.pth"))
