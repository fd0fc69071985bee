"""Models from files."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from figureground.bench.models import load_model, run_model

SOURCE = """
import torch
def make():
    return torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.Flatten())
def pair():
    return lambda x: (x, x)
def number():
    return 3
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
