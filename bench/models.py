"""Models that the evaluation commands are given: a function of a Python file, or a TorchScript file.

A model takes (B, 3, S, S) float32, RGB normalised with ImageNet's mean and standard deviation, and returns (B, K): the
logits of K classes, or K features. Python files and TorchScript files run code: give only those you trust.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from figureground.pipeline.config import IMAGENET_MEAN, IMAGENET_STD

Model = Callable[[torch.Tensor], Any]

MODEL_HELP = "FILE.py:FUNCTION (called without arguments, returns the model) or a TorchScript file"


def load_model(spec: str, *, device: str = "cpu") -> Model:
    """Load a model and put it in evaluation mode.

    Parameters
    ----------
    spec : str
        `FILE.py:FUNCTION`: the function is called without arguments and returns a `torch.nn.Module` or any callable; or
        the path of a TorchScript file.
    device : str
        Where a module goes.

    Returns
    -------
    callable

    Raises
    ------
    ValueError
        If there is no such file or function, or what it returns cannot be called.

    Examples
    --------
    >>> _ = Path("mean.py").write_text("def make(): return lambda x: x.mean((2, 3))")
    >>> load_model("mean.py:make")(torch.ones(1, 3, 2, 2)).tolist()
    [[1.0, 1.0, 1.0]]
    """
    path, colon, function = spec.rpartition(":")
    if colon and path.endswith(".py"):
        model = _from_python(path, function)
    elif Path(spec).is_file() and not spec.endswith(".py"):
        model = torch.jit.load(spec, map_location=device)
    else:
        raise ValueError(f"load_model: model must be FILE.py:FUNCTION or a TorchScript file, got {spec!r}")
    if isinstance(model, torch.nn.Module):
        model = model.to(device).eval()
    if not callable(model):
        raise ValueError(f"load_model: {spec} must return something to call, got {type(model).__name__}")
    return model


def _from_python(path: str, function: str) -> Any:
    if not Path(path).is_file():
        raise ValueError(f"load_model: {path} must be a Python file, got none; check the path")
    found = importlib.util.spec_from_file_location(Path(path).stem, path)
    if found is None or found.loader is None:
        raise ValueError(f"load_model: {path} must be a Python file that can be imported")
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    make = getattr(module, function, None)
    if make is None:
        raise ValueError(f"load_model: {path} must define {function}, got {[n for n in vars(module) if n[0] != '_']}")
    return make()


def run_model(model: Model, images: np.ndarray, *, device: str = "cpu", batch_size: int = 64) -> np.ndarray:
    """Run a model over uint8 images.

    Parameters
    ----------
    model : callable
    images : (N, 3, H, W) uint8
        N at least 1.
    device : str
    batch_size : int

    Returns
    -------
    (N, K) float32
        Outputs of more axes are averaged over the axes behind the second (a feature map: global average pooling).

    Raises
    ------
    ValueError
        If the model returns anything else than a tensor with a row per image.
    """
    mean, std = (torch.tensor(v, device=device).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    outputs = []
    with torch.inference_mode():
        for first in range(0, len(images), batch_size):
            batch = torch.from_numpy(images[first : first + batch_size]).to(device)
            output = model((batch.float() / 255 - mean) / std)
            if not isinstance(output, torch.Tensor) or output.ndim < 2 or len(output) != len(batch):
                got = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
                raise ValueError(f"run_model: the model must return a tensor ({len(batch)}, K), got {got}")
            output = output.float()
            outputs.append((output.flatten(2).mean(2) if output.ndim > 2 else output).cpu().numpy())
    return np.concatenate(outputs)


def classes_of(values: np.ndarray, most: int, table: np.ndarray | None = None) -> np.ndarray:
    """Return the class that each row of logits says.

    Parameters
    ----------
    values : (N, K) float32
    most : int
        The largest class that there is.
    table : (K,) int64, optional
        Class of each output; without it, output number c is class c.

    Returns
    -------
    (N,) int64

    Raises
    ------
    ValueError
        If the outputs do not fit the classes.

    Examples
    --------
    >>> classes_of(np.array([[0.1, 0.9, 0.3]]), 2)
    array([1])
    """
    outputs, best = values.shape[1], values.argmax(1)
    if table is None:
        if most >= outputs:
            raise ValueError(
                f"classes_of: the model must have an output for each class of the sets, up to {most}, got {outputs} outputs; "
                f"give classes, or a probe for an encoder"
            )
        return best
    if len(table) != outputs:
        raise ValueError(
            f"classes_of: classes must name the class of each of the model's {outputs} outputs, got {len(table)}"
        )
    return table[best]
