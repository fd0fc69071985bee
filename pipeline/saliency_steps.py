"""The training of the saliency network, epoch by epoch: no files, no screen.

    phase 1   one head a teacher learns its maps; three times its targets are drawn towards a moving average of its own maps,
              bent to the images' edges and sharpened
    phase 2   one head, from the mean of the others, learns all refined sets at once: their consensus

Source: Nguyen et al. 2019, "DeepUSPS: deep robust unsupervised saliency prediction with self-supervision". What differs: the
heads of phase 1 share their trunk, and phase 2 goes on from it (one training instead of five); the color guided filter stands
for the dense CRF; refined targets keep half of their teacher, because a network from random weights is no better than it at first.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from figureground.kernels.saliency import estimate_saliency
from figureground.kernels.saliency_refine import refine_maps
from figureground.kernels.torch_bridge import on_tensors

from .saliency_net import SaliencyNet, predict
from .saliency_targets import TrainPlan, draw_crops, draw_order

BETA2 = 0.3
"""Weight of recall in the soft F-measure: the measure's own. With 1 the maps grow too large."""
RATE, DECAY, WARM_UP = 2e-3, 1e-4, 0.02
"""AdamW: learning rate, weight decay, share of a phase in which the rate rises; then it falls as (1 - t)^0.9 in each phase."""
ROUNDS = (0.5, 0.75, 1.0)
"""When targets are refined, in shares of phase 1."""
KEEP = 70
"""Per cent of the old moving average that a refinement keeps."""
ANCHOR = 50
"""Per cent of the teacher in refined targets."""
LEAST_CROP = 0.4
"""Smallest share of an image's area in a crop."""
_LEAST_PIXELS = 20.0  # a target with fewer has nothing to say
_CHUNK, _PROBES = 32, 12


def soft_f_loss(maps: Tensor, targets: Tensor, beta2: float = BETA2) -> Tensor:
    """Return 1 - soft F-measure, averaged over the maps whose target is not empty.

    Parameters
    ----------
    maps, targets : (N, K, H, W) float in 0..1
    beta2 : float
        Weight of recall.

    Notes
    -----
    P = sum(m t) / sum m, R = sum(m t) / sum t, F = (1 + beta2) P R / (beta2 P + R).

    Examples
    --------
    >>> target = torch.zeros(1, 1, 8, 8)
    >>> target[..., :4] = 1
    >>> round(float(soft_f_loss(target, target)), 3), round(float(soft_f_loss(1 - target, target)), 3)
    (0.0, 1.0)
    """
    both, found, true = ((a).sum((2, 3)) for a in (maps * targets, maps, targets))
    precision, recall = both / (found + 1e-3), both / (true + 1e-3)
    score = (1 + beta2) * precision * recall / (beta2 * precision + recall + 1e-6)
    says = (true > _LEAST_PIXELS).float()
    return ((1 - score) * says).sum() / says.sum().clamp(min=1)


class Trainer:
    """A training that can be written down after each epoch and taken up again.

    Parameters
    ----------
    plan : TrainPlan
    images : (N, 3, S, S) uint8
    device : str
        "cpu" or "cuda": equal runs give equal bits on a CPU with equal threads.
    prepare : callable, optional
        Gets the fresh network: to load an encoder.
    """

    def __init__(
        self,
        plan: TrainPlan,
        images: np.ndarray,
        *,
        device: str = "cpu",
        prepare: Callable[[SaliencyNet], Any] | None = None,
    ) -> None:
        self.plan, self.epoch, self.losses = plan, 0, list[float]()
        self._images = torch.from_numpy(images).to(device)
        teach = on_tensors(estimate_saliency)
        self._teachers = torch.stack([teach(self._images, method=name) for name in plan.teachers], 1)
        self._average = self._targets = self._teachers
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(plan.seed)
            self.net = SaliencyNet(plan.width, len(plan.teachers))
        if prepare is not None:
            prepare(self.net)
        self._consensus = False
        self._set_up(self.net)

    @property
    def steps(self) -> int:
        """Batches in an epoch: a last one that is not full is left out."""
        return max(1, len(self._images) // self.plan.batch_size)

    @property
    def phase(self) -> int:
        """1 or 2: that of the next epoch."""
        return 1 if self.epoch < self.plan.first else 2

    def run_epoch(self, on_step: Callable[[float], None] = lambda loss: None) -> float:
        """Train for an epoch; returns its mean loss."""
        if self.phase == 2 and not self._consensus:
            self._begin_consensus()
        order, total = draw_order(self.plan.seed, self.epoch, len(self._images)), 0.0
        self.net.train()
        for step in range(self.steps):
            rows = order[step * self.plan.batch_size : (step + 1) * self.plan.batch_size]
            loss = self._step(step, rows)
            on_step(loss)
            total += loss
        self.epoch += 1
        if self.epoch in {max(1, round(share * self.plan.first)) for share in ROUNDS}:
            self._refine()
        self.losses.append(total / self.steps)
        return self.losses[-1]

    def _step(self, step: int, rows: np.ndarray) -> float:
        first = 0 if self.phase == 1 else self.plan.first
        last = self.plan.first if self.phase == 1 else self.plan.epochs
        done, total = (self.epoch - first) * self.steps + step, (last - first) * self.steps
        for group in self._optimizer.param_groups:
            group["lr"] = RATE * min(1.0, (done + 1) / (WARM_UP * total)) * (1 - done / total) ** 0.9
        images, targets = self._batch(step, rows)
        logits = F.interpolate(self.net(images), images.shape[2:], mode="bilinear", align_corners=False)
        loss = soft_f_loss(torch.sigmoid(logits).expand_as(targets), targets)
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        return float(loss.detach())

    def _batch(self, step: int, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """Crop, flip and color images, and their targets alike: (n, 3, size, size) and (n, K, size, size)."""
        draws = draw_crops(self.plan.seed, self.epoch, step, len(rows), least=LEAST_CROP)
        chosen, device = torch.from_numpy(rows).to(self._images.device), self._images.device
        boxes, gain, offset, colors = (
            torch.from_numpy(a).to(device) for a in (draws.boxes, draws.gain, draws.offset, draws.colors)
        )
        grid = F.affine_grid(boxes, [len(rows), 3, self.plan.size, self.plan.size], align_corners=False)
        both = torch.cat([self._images[chosen], self._targets[chosen]], 1).float()
        both = F.grid_sample(both, grid, padding_mode="border", align_corners=False)
        images, targets = both[:, :3], both[:, 3:]
        images = images.gather(1, colors[:, :, None, None].expand_as(images))
        middle = images.mean((1, 2, 3), keepdim=True)
        return ((images - middle) * gain + middle + offset).clamp(0, 255), (targets >= 127.5).float()

    @torch.no_grad()
    def _refine(self) -> None:
        """Draw the targets towards the network's own maps, filtered and sharpened on the images."""
        self.net.eval()
        refine, side = on_tensors(refine_maps), self._images.shape[2:]
        parts = []
        for images in self._images.split(_CHUNK):
            maps = F.interpolate(predict(self.net, images), side, mode="bilinear", align_corners=False)
            grey = (maps * 255).round().to(torch.uint8)
            parts.append(torch.stack([refine(images, grey[:, k].contiguous()) for k in range(grey.shape[1])], 1))
        self._average = _mixed(self._average, torch.cat(parts), KEEP)
        self._targets = _mixed(self._teachers, self._average, ANCHOR)

    def _begin_consensus(self) -> None:
        old, self.net = self.net, SaliencyNet(self.plan.width, 1)
        state = old.state_dict()
        for name in ("head.weight", "head.bias"):
            state[name] = state[name].mean(0, keepdim=True)
        self.net.load_state_dict(state)
        self._consensus = True
        self._set_up(self.net)

    def _set_up(self, net: nn.Module) -> None:
        net.to(self._images.device)
        self._optimizer = torch.optim.AdamW(net.parameters(), RATE, weight_decay=DECAY)

    def seconds_per_epoch(self) -> float:
        """Time some steps before the first epoch; the training is afterwards as before."""
        fresh = copy.deepcopy(self.net.state_dict())
        rows = np.arange(min(self.plan.batch_size, len(self._images)))
        self.net.train()
        times = []
        for step in range(_PROBES):
            began = time.perf_counter()
            self._step(step % self.steps, rows)
            times.append(time.perf_counter() - began)
        self.net.load_state_dict(fresh)
        self._set_up(self.net)
        return float(np.median(times)) * self.steps

    def state(self) -> dict[str, Any]:
        """Return all that changes, as tensors and plain values."""
        return {
            "epoch": self.epoch, "losses": list(self.losses), "consensus": self._consensus, "average": self._average,
            "net": self.net.state_dict(), "optimizer": self._optimizer.state_dict(),
        }  # fmt: skip

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned for the same plan and images."""
        if state["consensus"] and not self._consensus:
            self._begin_consensus()
        self.net.load_state_dict(state["net"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.epoch, self.losses = state["epoch"], list(state["losses"])
        self._average = state["average"].to(self._images.device)
        self._targets = _mixed(self._teachers, self._average, ANCHOR)  # before any refinement these are the teachers


def _mixed(old: Tensor, new: Tensor, keep: int) -> Tensor:
    """Return keep per cent of `old` and the rest of `new`, rounded: uint8."""
    return ((old.int() * keep + new.int() * (100 - keep) + 50) // 100).to(torch.uint8)
