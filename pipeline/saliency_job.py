"""The training of the saliency network as a job: images in, a file out, a checkpoint after each epoch, curves."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import io
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from figureground.kernels.saliency import METHODS
from figureground.shards.files import publish

from .array_model import read_weights
from .masks_bar import Lines
from .masks_estimate import kernel_record
from .masks_work import code_version
from .saliency_net import load_encoder, save_net
from .saliency_refine_steps import RefineTrainer
from .saliency_steps import Trainer
from .saliency_targets import KINDS, TrainPlan, read_images

_MOST_EPOCHS, _SPARE_EPOCHS = 1000, 2
"""Most that `--minutes` plans, and what the refinements cost in epochs."""
_MODULES = (
    "saliency_compose", "saliency_net", "saliency_refine_steps", "saliency_refiner", "saliency_steps", "saliency_targets",
)  # fmt: skip
"""What a training's numbers depend on: a checkpoint is not continued with others."""


@dataclass(frozen=True)
class TrainReport:
    """What a training did."""

    out: str
    images: int
    unreadable: int
    """Samples passed over."""
    plan: TrainPlan
    losses: tuple[float, ...]
    """Mean of each epoch."""
    resumed_at: int
    """Epochs found in a checkpoint."""
    encoder: str
    """What was loaded into the encoder; empty: it began at random."""

    def __str__(self) -> str:
        lines = [
            f"{self.out}: {self.images} images, {self.plan.epochs} epochs, loss {self.losses[0]:.3f} to {self.losses[-1]:.3f}; "
            f"use it as method 'net:{self.out}'"
        ]
        if self.encoder:
            lines.append(f"began with {self.encoder}")
        if self.resumed_at:
            lines.append(f"went on after epoch {self.resumed_at}")
        if self.unreadable:
            lines.append(f"{self.unreadable} samples without a readable image were passed over")
        return "\n".join(lines)


def train_saliency(
    shards: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    plan: TrainPlan,
    *,
    minutes: float | None = None,
    init: str | None = None,
    limit: int = 2000,
    device: str = "cpu",
    threads: int = 1,
    progress: bool = False,
) -> TrainReport:
    """Train a network on the images of shards; `net:OUT` is then a method.

    Parameters
    ----------
    shards : str, path or sequence of these
        As for `figureground.shards.Store`; labels and masks in them are not read.
    out : str or path
        The network; its checkpoint and curves lie beside it.
    plan : TrainPlan
    minutes : float, optional
        Instead of `plan.epochs`: as many epochs as about fit, which depends on the machine.
    init : str, optional
        A checkpoint for the encoder of the kind "alone": see `load_encoder`.
    limit : int
        At most as many images, spread evenly over all.
    device : str
        "cpu", "cuda" or "cuda:N".
    threads : int
        CPU threads.
    progress : bool
        Show a bar on stderr.

    Raises
    ------
    ValueError
        If an argument is not legal, or `out` is there already, or a checkpoint belongs to another training.
    RuntimeError
        If there is no such GPU, or matplotlib is not installed.
    ShardError
        If shards cannot be read.
    """
    _check(plan, minutes=minutes, limit=limit, threads=threads)
    if os.path.exists(out):
        raise ValueError(
            f"train_saliency: out must be a new file, got {os.fspath(out)!r}; remove it or choose another name"
        )
    if not os.path.isdir(folder := os.path.dirname(os.path.abspath(out))):
        raise ValueError(f"train_saliency: out must be in a folder that exists, got {folder!r}; make it first")
    if importlib.util.find_spec("matplotlib") is None:
        raise RuntimeError("train_saliency: the curves need matplotlib; run 'pip install matplotlib'")
    if device != "cpu" and not torch.cuda.is_available():
        raise RuntimeError(
            f"train_saliency: device={device!r} needs a CUDA GPU and a CUDA build of torch; pass device='cpu'"
        )
    if init is not None and plan.kind != "alone":
        raise ValueError(f"train_saliency: init must go with kind 'alone', got kind {plan.kind!r}")
    images = read_images(shards, plan.side, limit=limit, threads=threads)
    loaded: list[str] = []
    with _threads(threads):
        trainer = _trainer(plan, images.pixels, device, init, loaded)
        record = {"pixels": images.digest(), "init": _digest(init), "minutes": minutes, "code": _code_digest()}
        resumed = _resume(trainer, f"{os.fspath(out)}.checkpoint", record, minutes)
        _run(trainer, f"{os.fspath(out)}.checkpoint", record, progress)
    report = TrainReport(
        os.fspath(out),
        len(images.pixels),
        images.unreadable,
        trainer.plan,
        tuple(trainer.losses),
        resumed,
        "".join(loaded),
    )
    _publish(report, trainer, plan.seen, {**record, "threads": threads, "device": device})
    return report


def _trainer(
    plan: TrainPlan, pixels: np.ndarray, device: str, init: str | None, loaded: list[str]
) -> Trainer | RefineTrainer:
    """Return the trainer of the plan's kind; a line on `init` goes to `loaded`."""
    if plan.kind == "refine":
        return RefineTrainer(plan, pixels, device=device)
    prepare = None if init is None else lambda net: loaded.append(load_encoder(net, init))
    return Trainer(plan, pixels, device=device, prepare=prepare)


def _check(plan: TrainPlan, *, minutes: float | None, limit: int, threads: int) -> None:
    unknown = [name for name in plan.teachers if name not in METHODS]
    if unknown or not plan.teachers:
        got = repr(unknown[0]) if unknown else "none"
        raise ValueError(f"train_saliency: teachers must be of {', '.join(METHODS)}, got {got}")
    if plan.kind not in KINDS:
        raise ValueError(f"train_saliency: kind must be one of {', '.join(KINDS)}, got {plan.kind!r}")
    most = 192 if plan.kind == "alone" else 128
    if not 32 <= plan.size <= most:
        raise ValueError(f"train_saliency: size must be 32 to {most} px, got {plan.size}")
    if plan.epochs < 2:
        raise ValueError(f"train_saliency: epochs must be at least 2, got {plan.epochs}")
    if minutes is not None and not minutes > 0:
        raise ValueError(f"train_saliency: minutes must be positive, got {minutes}")
    if plan.width < 2 or plan.width % 2:
        raise ValueError(f"train_saliency: width must be even and at least 2, got {plan.width}")
    if not 0 <= plan.seed < 2**63:
        raise ValueError(f"train_saliency: seed must be 0 to 2**63 - 1, got {plan.seed}")
    for name, value in (("batch_size", plan.batch_size), ("limit", limit), ("threads", threads)):
        if value < 1:
            raise ValueError(f"train_saliency: {name} must be at least 1, got {value}")


def _resume(trainer: Trainer | RefineTrainer, checkpoint: str, record: dict[str, Any], minutes: float | None) -> int:
    """Load the checkpoint, if there is one, else plan the epochs; returns how many are done."""
    if os.path.exists(checkpoint):
        found = read_weights(checkpoint)
        if not isinstance(found, dict) or not {"settings", "epochs", "state"} <= set(found):
            raise ValueError(
                f"train_saliency: {checkpoint} must be a checkpoint of 'figureground train-saliency', got another file; "
                f"remove it or choose another out"
            )
        epochs = found["epochs"] if minutes is not None else trainer.plan.epochs
        trainer.plan = dataclasses.replace(trainer.plan, epochs=epochs)
        wanted = _settings(trainer.plan, record)
        differ = [name for name in wanted if found["settings"].get(name) != wanted[name]]
        if differ:
            raise ValueError(
                f"train_saliency: {checkpoint} must be of the same training, got another {', '.join(differ)}; remove it to "
                f"begin anew"
            )
        trainer.load_state(found["state"])
    elif minutes is not None:
        fit = int(60 * minutes / trainer.seconds_per_epoch()) - _SPARE_EPOCHS
        trainer.plan = dataclasses.replace(trainer.plan, epochs=min(max(fit, 2), _MOST_EPOCHS))
    return trainer.epoch


def _settings(plan: TrainPlan, record: dict[str, Any]) -> dict[str, Any]:
    return {**dataclasses.asdict(plan), "teachers": list(plan.teachers), **record}


def _digest(path: str | None) -> str:
    """Return the start of a file's SHA-256; empty for None."""
    if path is None:
        return ""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def _code_digest() -> str:
    """Return a digest of what a training computes with: the teachers' kernels and the modules of the training."""
    digest = hashlib.sha256(kernel_record()["code"].encode())
    folder = resources.files("figureground.pipeline")
    for name in _MODULES:
        digest.update(folder.joinpath(f"{name}.py").read_bytes())
    return digest.hexdigest()[:16]


def _run(trainer: Trainer | RefineTrainer, checkpoint: str, record: dict[str, Any], progress: bool) -> None:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not progress) as bar:
        task = bar.add_task("", total=trainer.plan.epochs * trainer.steps, completed=trainer.epoch * trainer.steps)
        lines = Lines(progress)

        def show(loss: float) -> None:
            text = f"phase {trainer.phase}, epoch {trainer.epoch + 1}/{trainer.plan.epochs}, loss {loss:.3f}"
            bar.update(task, advance=1, description=text)
            if lines.due():
                lines.write(text)

        while trainer.epoch < trainer.plan.epochs:
            trainer.run_epoch(show)
            settings = _settings(trainer.plan, record)
            _save(checkpoint, {"settings": settings, "epochs": trainer.plan.epochs, "state": trainer.state()})


def _save(path: str, document: dict[str, Any]) -> None:
    buffer = io.BytesIO()
    torch.save(document, buffer)
    with publish(path) as file:
        file.write(buffer.getbuffer())


def _publish(report: TrainReport, trainer: Trainer | RefineTrainer, side: int, record: dict[str, Any]) -> None:
    """Write curves and network, and remove the checkpoint."""
    plan = trainer.plan
    _draw_curves(f"{report.out}.png", report.losses, plan)
    card = {**_settings(plan, record), "images": report.images, "losses": list(report.losses)}
    card["encoder"] = report.encoder
    card["made_by"] = f"figureground {code_version()}, torch {torch.__version__}"
    save_net(report.out, trainer.net, side=side, card=json.loads(json.dumps(card)))
    with suppress(FileNotFoundError):  # the same training, run twice at once, was first
        os.unlink(f"{report.out}.checkpoint")


def _draw_curves(path: str, losses: Sequence[float], plan: TrainPlan) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(7, 4), dpi=110, layout="constrained")
    axes = FigureCanvasAgg(figure).figure.subplots()
    epochs, first = range(1, len(losses) + 1), plan.first
    if plan.kind == "refine":
        axes.plot(epochs, losses, "o-", markersize=3, label="compositions and photographs")
        axes.set(xlabel="epoch", ylabel="cross-entropy and soft F", ylim=(0, 1.05 * max(losses)))
    else:
        axes.plot(epochs[:first], losses[:first], "o-", markersize=3, label="phase 1: each teacher")
        axes.plot(epochs[first:], losses[first:], "o-", markersize=3, label="phase 2: their consensus")
        axes.set(xlabel="epoch", ylabel="1 - soft F", ylim=(0, 1.05 * max(losses)))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.legend()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    with publish(path) as file:
        file.write(buffer.getbuffer())


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
