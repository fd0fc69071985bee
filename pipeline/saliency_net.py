"""A small saliency network and its use: `method="net:model.pt"`.

    image -> ResNet-18's first two stages and a narrow third -> top-down path to half the image's side -> one map a head

Keys and shapes of `conv1`, `bn1`, `layer1` and `layer2` are those of the common ResNet-18 at the default width, so that a
self-supervised checkpoint can lend its weights (`load_encoder`). The network is trained by `saliency_train`.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from figureground.kernels.arrays import on_gpu
from figureground.kernels.saliency_refine import refine_maps

WIDTH = 64
"""Channels of the first stage; the width of ResNet-18."""
LEAST_SIDE = 32
"""Smallest height and width [px] that the network takes."""
_FORMAT = "figureground saliency net 1"
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
        Channels of the first stage; the default has 1.6 million parameters.
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
