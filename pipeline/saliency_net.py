"""A small saliency network, and the use of both kinds of networks: `method="net:model.pt"`.

    image -> ResNet-18's first two stages and a narrow third -> top-down path to half the image's side -> one map a head

Keys and shapes of `conv1`, `bn1`, `layer1` and `layer2` are those of the common ResNet-18 at the default width, so that a
self-supervised checkpoint can lend its weights (`load_encoder`). It is the kind "alone" of `figureground train-saliency`; the kind
"refine" is that of `saliency_refiner`.
"""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from figureground.kernels.saliency import METHODS
from figureground.shards.files import publish

from .array_model import ArrayModel, read_state, read_weights, resized
from .saliency_refiner import Refiner, predict_refined

WIDTH = 64
"""Channels of the first stage; the width of ResNet-18."""
_ALONE, _REFINE = "figureground saliency net 1", "figureground saliency net 2"
_MEAN, _STD = 0.449 * 255, 0.226 * 255
"""ImageNet's, over the three colors."""


class _Block(nn.Module):
    """Two 3x3 convolutions and a shortcut, with ResNet-18's names of parameters."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)
        self.downsample = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.downsample(x))


def _stage(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(_Block(inputs, outputs, stride), _Block(outputs, outputs, 1))


class Encoder(nn.Module):
    """Features at strides 2, 4, 8 and 16, of w, w, 2w and 2w channels."""

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width)
        self.layer1, self.layer2 = _stage(width, width, 1), _stage(width, 2 * width, 2)
        self.layer3 = _stage(2 * width, 2 * width, 2)

    def forward(self, x: Tensor) -> list[Tensor]:
        stem = F.relu(self.bn1(self.conv1(x)))
        first = self.layer1(F.max_pool2d(stem, 3, 2, 1))
        second = self.layer2(first)
        return [stem, first, second, self.layer3(second)]


def _join(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())


class SaliencyNet(nn.Module):
    """Encoder, and a top-down path that adds what is finer.

    Parameters
    ----------
    width : int
        Channels of the first stage; the default has 1.4 million parameters.
    heads : int
        Maps that it makes.
    """

    def __init__(self, width: int = WIDTH, heads: int = 1) -> None:
        super().__init__()
        self.width, self.heads = width, heads
        self.encoder = Encoder(width)
        channels = (width, width, 2 * width, 2 * width)
        self.lateral = nn.ModuleList([nn.Conv2d(c, width // 2 if i == 0 else width, 1) for i, c in enumerate(channels)])
        self.context = nn.Linear(2 * width, width)
        self.place = nn.Conv2d(2, width, 1)
        self.join = nn.ModuleList([_join(width, width // 2), _join(width, width), _join(width, width)])
        self.last = _join(width // 2, width // 2)
        self.head = nn.Conv2d(width // 2, heads, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, heads, H / 2, W / 2) of images (N, 3, H, W) in 0..255 (uint8 or float)."""
        features = self.encoder((images.float() - _MEAN) / _STD)
        top = features[-1]
        x = self.lateral[3](top) + self.context(top.mean((2, 3)))[:, :, None, None] + self.place(_places(top))
        for level in (2, 1, 0):
            x = F.interpolate(self.join[level](x), features[level].shape[2:], mode="bilinear", align_corners=False)
            x = F.relu(x + self.lateral[level](features[level]))
        return self.head(self.last(x))


def _places(like: Tensor) -> Tensor:
    """Squared distances from the middle, along y and x, each 0..1: (1, 2, h, w)."""
    y, x = (((torch.arange(n, device=like.device, dtype=like.dtype) * 2 + 1) / n - 1) ** 2 for n in like.shape[2:])
    return torch.stack(torch.broadcast_tensors(y[:, None], x[None]))[None]


class NetSaliency(ArrayModel):
    """Saliency by a network that `figureground train-saliency` made.

    Parameters
    ----------
    path : str or Path
        Its output.

    Raises
    ------
    ValueError
        If there is no such file, or it is another one.
    """

    def __init__(self, path: str | Path) -> None:
        net, self._trained_at, self.card = load_net(path)
        self.filtered = not isinstance(net, Refiner)  # what it corrects has been filtered
        super().__init__(net)

    def maps(self, model: Any, images: Tensor) -> Tensor:
        """Return maps (n, h, w) in 0..1, at half the side of the training images or, corrected ones, at their side."""
        images = resized(images, self._trained_at)
        if isinstance(model, Refiner):
            return predict_refined(model, images.round().clamp(0, 255).to(torch.uint8))
        return predict(model, images)[:, 0]


def predict(net: SaliencyNet, images: Tensor) -> Tensor:
    """Return maps (n, heads, H / 2, W / 2) in 0..1, the mean of the images' and their mirror images'."""
    return (torch.sigmoid(net(images)) + torch.sigmoid(net(images.flip(3))).flip(3)) / 2


def save_net(path: str | Path, net: SaliencyNet | Refiner, *, side: int, card: dict[str, Any]) -> None:
    """Write a network (of one head): weights of convolutions in half precision, so 3 MB at the default width.

    Parameters
    ----------
    path : str or Path
        Appears at once and whole.
    net : SaliencyNet or Refiner
    side : int
        Side at which it sees images [px].
    card : dict of plain values
        What it was made from, for people.
    """
    state = {k: v.cpu() for k, v in net.state_dict().items()}
    state = {k: v.half() if v.is_floating_point() and v.ndim > 1 else v for k, v in state.items()}
    document = {"format": _ALONE, "width": net.width, "side": side, "card": card, "state": state}
    if isinstance(net, Refiner):
        document |= {"format": _REFINE, "teachers": list(net.teachers)}
    buffer = io.BytesIO()  # a path would leave its name in the bytes
    torch.save(document, buffer)
    with publish(os.fspath(path)) as file:
        file.write(buffer.getvalue())


def load_net(path: str | Path) -> tuple[SaliencyNet | Refiner, int, dict[str, Any]]:
    """Read what `save_net` wrote: network, side at which it sees images [px], card.

    Raises
    ------
    ValueError
        If there is no such file, or it is another one.
    """
    document = read_weights(path)
    kind = document.get("format") if isinstance(document, dict) else None
    if kind not in (_ALONE, _REFINE):
        raise ValueError(f"load_net: {path} must be made by 'figureground train-saliency', got another file")
    net: SaliencyNet | Refiner = SaliencyNet(document["width"]) if kind == _ALONE else _refiner(path, document)
    net.load_state_dict(document["state"])
    return net.eval(), document["side"], document["card"]


def _refiner(path: str | Path, document: dict[str, Any]) -> Refiner:
    unknown = [name for name in document["teachers"] if name not in METHODS]
    if unknown:
        raise ValueError(
            f"load_net: {path} must have teachers of {', '.join(METHODS)}, got {unknown[0]!r}; train it anew"
        )
    return Refiner(tuple(document["teachers"]), document["width"])


def load_encoder(net: SaliencyNet, path: str | Path) -> str:
    """Give the encoder the weights of a checkpoint with ResNet's names, where shapes match.

    Parameters
    ----------
    net : SaliencyNet
        Changed.
    path : str or Path
        A state dict, or a checkpoint that holds one as "state_dict", "model" or "teacher"; any prefix before `conv1`.

    Returns
    -------
    str
        What was loaded, in a line.

    Raises
    ------
    ValueError
        If it cannot be read, or nothing fits.
    """
    state = read_state(path)
    own = net.encoder.state_dict()

    def fits(prefix: str) -> dict[str, Tensor]:
        matched = {k: state.get(prefix + k) for k in own}
        return {k: v for k, v in matched.items() if v is not None and v.shape == own[k].shape}

    prefixes = sorted(k.removesuffix("conv1.weight") for k in state if k.endswith("conv1.weight"))
    best = max(prefixes, key=lambda prefix: len(fits(prefix)), default="")
    found = fits(best)
    if not any(v.ndim > 1 for v in found.values()):
        raise ValueError(
            f"load_encoder: {path} must have ResNet-18's conv1, layer1 or layer2 with {net.width} channels, got none that fits"
        )
    net.encoder.load_state_dict(found, strict=False)
    return f"{len(found)} of {len(own)} tensors of the encoder from {Path(path).name} ({best or 'no prefix'})"
