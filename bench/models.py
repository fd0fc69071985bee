"""Models that the evaluation commands are given: a function of a Python file, with weights or without, or a TorchScript file.

A model takes (B, 3, S, S) float32, RGB normalised with ImageNet's mean and standard deviation, and returns (B, K): the
logits of K classes, or K features. Python files and TorchScript files run code: give only those you trust. Weights do not.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from figureground.pipeline.array_model import read_state
from figureground.pipeline.config import IMAGENET_MEAN, IMAGENET_STD

Model = Callable[[torch.Tensor], Any]

_UNLEARNT = ".num_batches_tracked"
"""Buffers that old checkpoints lack, and that evaluation does not use."""


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Give a parser the arguments that choose a model; `chosen_model` reads them."""
    parser.add_argument(
        "--model", required=True, metavar="MODEL",
        help="FILE.py:FUNCTION (called without arguments, returns the model) or a TorchScript file",
    )  # fmt: skip
    parser.add_argument(
        "--weights", metavar="FILE", help="state dict or training checkpoint for FILE.py:FUNCTION's module"
    )
    parser.add_argument(
        "--weights-prefix", metavar="P", help="of the names to take, if several fit, such as module.encoder_q."
    )
    parser.add_argument("--device", default="cpu", help="of torch (default: cpu)")


def chosen_model(args: argparse.Namespace) -> Model:
    """Load the model that a command was given."""
    return load_model(args.model, device=args.device, weights=args.weights, prefix=args.weights_prefix)


def load_model(
    spec: str, *, device: str = "cpu", weights: str | Path | None = None, prefix: str | None = None
) -> Model:  # fmt: skip
    """Load a model and put it in evaluation mode.

    Parameters
    ----------
    spec : str
        `FILE.py:FUNCTION`: the function is called without arguments and returns a `torch.nn.Module` or any callable; or
        the path of a TorchScript file.
    device : str
        Where a module goes.
    weights : path, optional
        File for a module that `FILE.py:FUNCTION` returns; see `load_weights`.
    prefix : str, optional

    Returns
    -------
    callable

    Raises
    ------
    ValueError
        If there is no such file or function, what it returns cannot be called, or the weights do not fit.

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
        model = _from_torchscript(spec, device)
    else:
        raise ValueError(f"load_model: model must be FILE.py:FUNCTION or a TorchScript file, got {spec!r}")
    if weights is not None:
        if not isinstance(model, torch.nn.Module):
            raise ValueError(f"load_model: weights are for a torch.nn.Module, got {type(model).__name__} from {spec}")
        load_weights(model, weights, prefix=prefix)
    if isinstance(model, torch.nn.Module):
        model = model.to(device).eval()
    if not callable(model):
        raise ValueError(f"load_model: {spec} must return something to call, got {type(model).__name__}")
    return model


def _from_python(path: str, function: str) -> Any:
    if not Path(path).is_file():
        raise ValueError(f"load_model: {path} must be a Python file, got none; check the path")
    found = importlib.util.spec_from_file_location(f"figureground_model_{Path(path).stem}", path)
    if found is None or found.loader is None:
        raise ValueError(f"load_model: {path} must be a Python file that can be imported")
    module = importlib.util.module_from_spec(found)
    sys.modules[found.name] = module  # dataclasses and pickle look for it there
    folder = str(Path(path).resolve().parent)
    sys.path.insert(0, folder)  # as for a script: it may import its neighbours
    try:
        found.loader.exec_module(module)
        make = getattr(module, function, None)
        if make is None:
            names = [name for name in vars(module) if name[0] != "_"]
            raise ValueError(f"load_model: {path} must define {function}, got {names}")
        return make()
    finally:
        sys.path.remove(folder)


def _from_torchscript(path: str, device: str) -> Any:
    try:
        return torch.jit.load(path, map_location=device)
    except RuntimeError as error:
        words = str(error).strip().splitlines() or [""]
        raise ValueError(
            f"load_model: {path} must be a TorchScript file, got another ({words[0][:120]}); a file of weights goes to "
            f"--weights, and --model FILE.py:FUNCTION makes the module that they belong to"
        ) from error


def load_weights(model: torch.nn.Module, path: str | Path, *, prefix: str | None = None) -> None:
    """Load a state dict, or the part of a training checkpoint that fits, into a module.

    Parameters
    ----------
    model : torch.nn.Module
    path : path
        Read with `torch.load(weights_only=True)`, or `.safetensors`; checkpoints may hold the state dict as "teacher",
        "state_dict" or "model".
    prefix : str, optional
        Of the names in the file, such as "module.encoder_q."; by default the one under which all of the module's names are
        found. Other names in the file, of heads or of a second network, are left alone.

    Raises
    ------
    ValueError
        If there is no such file, no prefix or several of them fit, or a shape differs.

    Examples
    --------
    >>> model = torch.nn.Linear(2, 1)
    >>> torch.save({"state_dict": {"module.fc." + k: v + 1 for k, v in model.state_dict().items()}}, "c.pth")
    >>> before = model.bias.item()
    >>> load_weights(model, "c.pth")
    >>> round(model.bias.item() - before, 3)
    1.0
    """
    torch.serialization.add_safe_globals([argparse.Namespace])  # options of the run, in DINO's checkpoints
    found, mine = read_state(path), model.state_dict()
    needed = [name for name in mine if not name.endswith(_UNLEARNT)]
    if not needed:
        raise ValueError(f"load_weights: the model must have parameters for {path}, got none")
    if prefix is None:
        ends = [name.removesuffix(needed[0]) for name in found if name.endswith(needed[0])]
        fit = [start for start in ends if all(start + name in found for name in needed)]
        if len(fit) > 1:
            raise ValueError(
                f"load_weights: {path} must hold one network that fits, got {fit}; choose by --weights-prefix"
            )
        prefix = fit[0] if fit else ""
    missing = [prefix + name for name in needed if prefix + name not in found]
    if missing:
        raise ValueError(
            f"load_weights: {path} must hold all {len(needed)} tensors of the model, got none of {missing[0]!r} and "
            f"{len(missing) - 1} more; it holds {sorted(found)[:3]} and others"
        )
    try:
        model.load_state_dict({name: found.get(prefix + name, mine[name]) for name in mine})
    except RuntimeError as error:
        raise ValueError(f"load_weights: {path} must fit the model, got {' '.join(str(error).split())}") from error


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
        If the model returns anything else than a tensor with a row per image, or NaN.
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
    values = np.concatenate(outputs)
    if np.isnan(values).any():  # argmax would take it for the largest
        row = int(np.isnan(values).any(1).argmax())
        raise ValueError(f"run_model: the model must return numbers, got NaN for image {row}; check its weights")
    return values


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
