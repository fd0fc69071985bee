"""A small MoCo-v2 (He et al. 2020; Chen et al. 2020) in torch alone, fed by the loader as main_moco.py is.

python -m figureground.bench train --shards "demo/shards/*.tar" --device cpu --steps 40
"""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from figureground.pipeline import Loader, recipes


def block(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """Convolution, norm, ReLU."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(True))


class Residual(nn.Module):
    """Two convolutions and a shortcut (He et al. 2016)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.body = nn.Sequential(block(inputs, outputs, 2), nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False))
        self.norm, self.shortcut = nn.BatchNorm2d(outputs), nn.Conv2d(inputs, outputs, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.body(x)) + self.shortcut(x))


class Encoder(nn.Module):
    """A small ResNet with MoCo-v2's two-layer head; unit vectors out, (B, dim)."""

    def __init__(self, width: int = 16, dim: int = 64) -> None:
        super().__init__()
        widths = [width, width, 2 * width, 4 * width]
        self.stem = block(3, width, 2)
        self.layers = nn.Sequential(*[Residual(a, b) for a, b in pairwise(widths)])
        self.head = nn.Sequential(nn.Linear(widths[-1], widths[-1]), nn.ReLU(True), nn.Linear(widths[-1], dim))

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(self.head(self.layers(self.stem(x)).mean((2, 3))), dim=1)


class MoCo(nn.Module):
    """Query encoder, momentum key encoder and a queue of keys."""

    def __init__(self, queue: int, momentum: float = 0.99, temperature: float = 0.2) -> None:
        super().__init__()
        self.query, self.momentum, self.temperature = Encoder(), momentum, temperature
        self.key = copy.deepcopy(self.query).requires_grad_(False)
        self.queue, self.limit = torch.empty(0, 64), queue

    def forward(self, q: Tensor, k: Tensor) -> Tensor:
        """Return the InfoNCE loss of a batch, and put its keys into the queue."""
        with torch.no_grad():
            for mine, theirs in zip(self.key.parameters(), self.query.parameters(), strict=True):
                mine.lerp_(theirs, 1 - self.momentum)
            keys = self.key(k)
        queries = self.query(q)
        logits = (
            torch.cat([(queries * keys).sum(1, keepdim=True), queries @ self.queue.T.to(q.device)], 1)
            / self.temperature
        )
        self.queue = torch.cat([keys, self.queue.to(q.device)])[: self.limit]
        return F.cross_entropy(logits, logits.new_zeros(len(q), dtype=torch.long))


def batches(loader: Loader, steps: int) -> Iterator[list[Tensor]]:
    """Yield `steps` pairs of views, epoch after epoch, unpacked as main_moco.py does."""
    epoch = 0
    while steps > 0:
        loader.set_epoch(epoch)
        for images, _ in loader:
            yield images
            steps -= 1
            if steps == 0:
                return
        epoch += 1


def train(loader: Loader, steps: int, *, device: str = "cpu", lr: float = 0.05, log_every: int = 5) -> list[float]:
    """Train for some steps; returns the loss of each, once the queue is full."""
    torch.manual_seed(0)
    model, losses = MoCo(queue=4 * loader.batch_size).to(device), []
    optimizer = torch.optim.SGD(model.query.parameters(), lr, momentum=0.9, weight_decay=1e-4)
    for step, images in enumerate(batches(loader, steps)):
        images[0], images[1] = images[0].to(device), images[1].to(device)
        loss = model(images[0], images[1])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step * loader.batch_size >= model.limit:  # before, the queue is not full and the loss has fewer terms
            losses.append(loss.item())
        if step % log_every == 0 or step == steps - 1:
            print(f"step {step:4d}  loss {loss.item():.4f}", flush=True)
    return losses


def main(argv: Sequence[str] | None = None) -> int:
    """Train on shards and say whether the loss fell; returns 1 if it did not."""
    parser = argparse.ArgumentParser("python -m figureground.bench train")
    parser.add_argument("--shards", required=True, nargs="+")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--size", type=int, default=96, help="side of the views [px] (default: 96)")
    args = parser.parse_args(argv)
    try:
        recipe = recipes.moco_v2(args.size).with_background("swap", p=0.2)
        with Loader(args.shards, recipe, batch_size=args.batch_size, device=args.device, format="moco") as loader:
            losses = train(loader, args.steps, device=args.device)
    except (ValueError, RuntimeError) as error:  # ShardError too
        print(f"train: {error}", file=sys.stderr)
        return 2
    if not losses:
        print(f"train: --steps must be more than the 4 that fill the queue, got {args.steps}", file=sys.stderr)
        return 2
    part = max(1, len(losses) // 5)
    first, last = sum(losses[:part]) / part, sum(losses[-part:]) / part
    print(f"mean loss of the first {part} steps {first:.4f}, of the last {part} steps {last:.4f}")
    return 0 if last < first else 1


if __name__ == "__main__":
    sys.exit(main())
