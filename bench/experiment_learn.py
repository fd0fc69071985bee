"""The learners of the experiment: a four-layer encoder under a MoCo-v2-like and a BYOL-like loss, fed by `Loader`.

"-like": both follow their papers (He et al. 2020 and Chen et al. 2020; Grill et al. 2020) in views, heads and losses, not in size,
optimiser or schedule. The queue is short and the keys of the batch are negatives too: with one batch norm for all, keys would
else be told from the queue by their statistics.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from figureground.bench.experiment_data import place_of
from figureground.bench.train import block
from figureground.pipeline import Loader, recipes
from figureground.pipeline.config import NegativeKind
from figureground.pipeline.masking import MaskMode
from figureground.pipeline.recipe import Recipe

PLAIN = "plain"
"""Name of an arm for timing: two centre views, no augmentation."""
WIDTHS = (24, 48, 96, 128)
_DIM, _HIDDEN = 64, 128
_QUEUE, _MOMENTUM, _TEMPERATURE = 1024, 0.99, 0.2
_ALPHA = {"swap": 1.0, "patch": 2.0}
"""Weight of the similarity of an extra negative; 2 for patches as in Ge et al. 2021."""
_LEAST_FIGURE = 0.02
"""A swap negative counts where this share of the query is figure: without a figure it would show the query itself."""
_CHUNK = 128
_LR, _WEIGHT_DECAY, _WARM_UP = 2e-3, 1e-4, 0.05


@dataclass(frozen=True)
class Arm:
    """One setting that is trained, once for each seed."""

    method: str
    """"moco" or "byol"."""
    name: str
    background: recipes.BackgroundMode | None = None
    p: float = 0.0
    masks: str | None = None
    """"true", "unsupervised" or "wrong"; None: no masks."""
    negatives: NegativeKind | None = None

    @property
    def key(self) -> str:
        """Name it among all arms, fit for a file."""
        parts = [self.method, self.name, self.masks or "", f"p{self.p:g}" if self.background else ""]
        return "-".join(part for part in parts if part)

    def recipe(self, size: int) -> Recipe:
        """Return its views: MoCo-v2's and BYOL's, crops of at least 0.3 of the area and blur in proportion to `size`."""
        if self.name == PLAIN:
            return replace(recipes.eval(size), views=recipes.eval(size).views * 2)
        recipe = recipes.moco_v2(size) if self.method == "moco" else recipes.byol(size)
        views = tuple(_small(view, size / 224) for view in recipe.views)
        recipe = replace(recipe, views=views)
        if self.background is not None:
            recipe = recipe.with_background(self.background, p=self.p, source="inpainted")
        if self.negatives is not None:
            side = max(2, round(16 * size / 224)), max(4, round(72 * size / 224))
            recipe = recipe.with_negatives(self.negatives, side=side)
        return recipe


def _small(view: recipes.View, scale: float) -> recipes.View:
    blur = view.blur
    if blur is not None:
        blur = replace(blur, sigma=(min(0.1, blur.sigma[1] * scale), blur.sigma[1] * scale))
    return replace(view, crop=replace(view.crop, scale=(0.3, 1.0)), blur=blur)


class Encoder(nn.Module):
    """Four convolutions of stride 2 and the mean over places: (B, 3, S, S) to (B, 128)."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(*[block(a, b, 2) for a, b in pairwise((3, *WIDTHS))])

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.layers(x).mean((2, 3))
        return found


def _head(inputs: int, norm: bool) -> nn.Sequential:
    middle = [nn.BatchNorm1d(_HIDDEN)] if norm else []
    return nn.Sequential(nn.Linear(inputs, _HIDDEN), *middle, nn.ReLU(True), nn.Linear(_HIDDEN, _DIM))


class Learner(nn.Module):
    """Encoder and head, and their moving average."""

    def __init__(self, norm: bool) -> None:
        super().__init__()
        self.encoder = Encoder()
        self.online = nn.Sequential(self.encoder, _head(WIDTHS[-1], norm))
        self.online.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.target = copy.deepcopy(self.online).requires_grad_(False)

    def follow(self) -> None:
        """Move the target towards the online network."""
        with torch.no_grad():
            for mine, theirs in zip(self.target.parameters(), self.online.parameters(), strict=True):
                mine.lerp_(theirs, 1 - _MOMENTUM)


class MoCoLike(Learner):
    """InfoNCE against the batch's other keys, a queue, and the extra negatives."""

    def __init__(self, extra: str | None) -> None:
        super().__init__(norm=False)
        self.alpha, self.swaps = _ALPHA.get(extra or "", 1.0), extra == "swap"
        self.queue = torch.empty(0, _DIM)

    def loss(self, batch: dict[str, Any]) -> Tensor:
        """Return the loss of a batch of `format="dict"`, and put its keys into the queue."""
        self.follow()
        first, second = batch["views"]
        queries = F.normalize(self.online(first), dim=1)
        with torch.no_grad():
            keys = F.normalize(self.target(second), dim=1)
        among, queued = queries @ keys.T, queries @ self.queue.to(keys.device).T
        logits = torch.cat([among, queued, self._extra(queries, batch)], 1) / _TEMPERATURE
        self.queue = torch.cat([keys, self.queue.to(keys.device)])[:_QUEUE]
        return F.cross_entropy(logits, torch.arange(len(queries), device=logits.device))

    def _extra(self, queries: Tensor, batch: dict[str, Any]) -> Tensor:
        extra = batch["negatives"]
        if extra is None:
            return queries.new_empty(len(queries), 0)
        with torch.no_grad():
            others = F.normalize(self.target(extra.flatten(0, 1)), dim=1).unflatten(0, extra.shape[:2])
        near = self.alpha * torch.einsum("bd,bnd->bn", queries, others)
        if not self.swaps:
            return near
        figure = batch["masks"][0].mean((1, 2)) >= _LEAST_FIGURE
        return near.masked_fill(~figure[:, None], -torch.inf)


class BYOLLike(Learner):
    """Each view predicts the target's projection of the other one."""

    def __init__(self) -> None:
        super().__init__(norm=True)
        self.predictor = _head(_DIM, norm=True)

    def loss(self, batch: dict[str, Any]) -> Tensor:
        """Return the symmetric loss of a batch, 0..8: the sum of two squared distances of unit vectors."""
        self.follow()
        said = [F.normalize(self.predictor(self.online(view)), dim=1) for view in batch["views"]]
        with torch.no_grad():
            asked = [F.normalize(self.target(view), dim=1) for view in batch["views"]]
        return 4 - 2 * ((said[0] * asked[1]).sum(1) + (said[1] * asked[0]).sum(1)).mean()


class Lossy(Protocol):
    """What `train_arm` trains."""

    encoder: Encoder

    def loss(self, batch: dict[str, Any]) -> Tensor:
        """Return the loss of a batch."""


def make_learner(arm: Arm) -> MoCoLike | BYOLLike:
    """Make the learner of an arm."""
    if arm.method not in ("moco", "byol"):
        raise ValueError(f"make_learner: method must be 'moco' or 'byol', got {arm.method!r}")
    return MoCoLike("swap" if arm.background == "swap" else arm.negatives) if arm.method == "moco" else BYOLLike()


@dataclass
class Trained:
    """What training an arm gives."""

    encoder: Encoder
    losses: list[float] = field(default_factory=list)
    """Of every step."""
    step_ms: list[float] = field(default_factory=list)
    """Wall time of every step, waiting for the batch included."""
    cpu_ms: float = 0.0
    """CPU time a step of the whole process, all threads, the loader's included."""
    waited_ms: list[float] = field(default_factory=list)
    """Of each step, the time that it waited for its batch."""


def train_arm(
    arm: Arm,
    shards: str,
    masks_dir: Path | None,
    *,
    steps: int,
    size: int,
    batch_size: int,
    seed: int,
    device: str = "cpu",
    schedule: int | None = None,
) -> Trained:
    """Train one arm.

    Parameters
    ----------
    arm : Arm
    shards : str
    masks_dir : Path or None
        Sidecars; not looked at if the arm takes no masks.
    steps : int
        0 gives the encoder as it starts.
    size : int
        Side of the views [px].
    batch_size : int
    seed : int
        Of weights, order and augmentation.
    device : str
    schedule : int, optional
        Steps that the schedule of the learning rate is made for (default: `steps`).

    Returns
    -------
    Trained
    """
    torch.manual_seed(seed)
    learner = make_learner(arm).to(device).train()
    trained = Trained(learner.encoder)
    if steps == 0:
        return trained
    optimizer = torch.optim.AdamW(
        [p for p in learner.parameters() if p.requires_grad], lr=_LR, weight_decay=_WEIGHT_DECAY
    )
    total = schedule or steps
    rates = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, total))
    masks: MaskMode = None if arm.masks is None else "sidecar"
    with Loader(
        shards, arm.recipe(size), batch_size=batch_size, device=device, masks=masks, masks_dir=masks_dir, seed=seed,
        format="dict", channels_last=True,
    ) as loader:  # fmt: skip
        began, cpu = time.perf_counter(), time.process_time()
        for batch in _batches(loader, steps):
            got = time.perf_counter()
            loss = learner.loss(batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            rates.step()
            trained.losses.append(loss.item())  # waits for the device
            now = time.perf_counter()
            trained.waited_ms.append(1e3 * (got - began))
            trained.step_ms.append(1e3 * (now - began))
            began = now
        trained.cpu_ms = 1e3 * (time.process_time() - cpu) / steps
    return trained


def _rate(step: int, steps: int) -> float:
    """Warm up linearly, then follow half a cosine to zero."""
    warm = max(1, round(_WARM_UP * steps))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + float(np.cos(np.pi * min(1.0, (step - warm) / max(1, steps - warm)))))


def _batches(loader: Loader, steps: int) -> Iterator[dict[str, Any]]:
    epoch = 0
    while steps > 0:
        loader.set_epoch(epoch)
        for batch in loader:
            yield batch
            steps -= 1
            if steps == 0:
                return
        epoch += 1


@dataclass(frozen=True)
class Features:
    """What an encoder says about a set."""

    values: np.ndarray
    """(N, D) float32."""
    labels: np.ndarray
    """(N,) int64."""


@dataclass(frozen=True)
class CentreViews:
    """The centre views of a set, by the number of the image in it."""

    views: Tensor
    """(N, 3, S, S) float16, normalised, on the host."""
    labels: np.ndarray
    """(N,) int64."""


def read_views(shards: str, *, size: int, device: str = "cpu") -> CentreViews:
    """Read the centre views of shards of `write_set`: the shorter side is resized to 8/7 of `size` [px]."""
    views, labels, places = [], [], []
    with Loader(
        shards, recipes.eval(size), batch_size=_CHUNK, device=device, masks=None, shuffle=False, drop_last=False,
        dtype=torch.float16,
    ) as loader:  # fmt: skip
        for batch in loader:
            views.append(batch["views"][0].cpu())
            labels.append(batch["target"].cpu().numpy())
            places += [place_of(key) for key in batch["key"]]
    order = np.argsort(places)
    return CentreViews(torch.cat(views)[torch.from_numpy(order)], np.concatenate(labels)[order])


def find_features(encoder: Encoder, centre: CentreViews, *, device: str = "cpu") -> Features:
    """Run an encoder, which is put in evaluation mode, over views."""
    encoder.eval()
    values = []
    with torch.inference_mode():
        for part in centre.views.split(_CHUNK):
            images = part.to(device).float().contiguous(memory_format=torch.channels_last)
            values.append(encoder(images).cpu().numpy())
    return Features(np.concatenate(values), centre.labels)
