"""A small network that corrects the hand-crafted maps: the other kind of `method="net:model.pt"`.

    image, its teachers' maps, place -> encoder to 1/16 of the side -> top-down path -> added to the first map's logits

Its last layer begins at zero, so that an untrained one gives the first teacher's map. `saliency_refine_steps` trains it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from figureground.kernels.saliency import estimate_saliency
from figureground.kernels.torch_bridge import on_tensors

WIDTH = 24
"""Channels of the first stage: 0.3 million parameters."""
LOWEST, TRUST = 0.05, 0.5
"""The first map is held LOWEST from 0 and 1, and its logits are multiplied by TRUST, so that the network can overrule it."""
SHARPEN = 1 / TRUST
"""What all logits are multiplied by at last, so that masks come near 0 and 1 again."""
_MEAN, _STD = 0.449 * 255, 0.226 * 255
_MAP_MEAN, _MAP_STD = 0.4, 0.4


def _conv(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())


class Refiner(nn.Module):
    """Corrects the map of its first teacher.

    Parameters
    ----------
    teachers : sequence of str
        Methods of `figureground.kernels.saliency`, whose maps it reads.
    width : int
        Channels of the first stage; 2, 3 and 4 times as many in the next.
    """

    def __init__(self, teachers: tuple[str, ...], width: int = WIDTH) -> None:
        super().__init__()
        self.teachers, self.width = tuple(teachers), width
        w = width
        self.stem = _conv(3 + len(teachers) + 2, w, 2)
        self.down = nn.ModuleList(
            [nn.Sequential(_conv(k * w, (k + 1) * w, 2), _conv((k + 1) * w, (k + 1) * w)) for k in (1, 2, 3)]
        )
        self.lateral = nn.ModuleList([nn.Conv2d(k * w, k * w, 1) for k in (1, 2, 3)])
        self.top, self.context = nn.Conv2d(4 * w, 3 * w, 1), nn.Linear(4 * w, 3 * w)
        self.join = nn.ModuleList([_conv(w, w), _conv(2 * w, w), _conv(3 * w, 2 * w)])
        self.head = nn.Conv2d(w, 1, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]

    def forward(self, images: Tensor, maps: Tensor) -> Tensor:
        """Return what to add to the first teacher's logits: (N, 1, H, W).

        Parameters
        ----------
        images : (N, 3, H, W) in 0..255
        maps : (N, K, H, W) in 0..1, one a teacher
        """
        x = torch.cat([(images - _MEAN) / _STD, (maps - _MAP_MEAN) / _MAP_STD, _places(images)], 1)
        features = [self.stem(x)]
        for stage in self.down:
            features.append(stage(features[-1]))
        x = self.top(features[-1]) + self.context(features[-1].mean((2, 3)))[:, :, None, None]
        for level in (2, 1, 0):
            x = F.interpolate(x, features[level].shape[2:], mode="bilinear", align_corners=False)
            x = self.join[level](F.relu(x + self.lateral[level](features[level])))
        return F.interpolate(self.head(x), images.shape[2:], mode="bilinear", align_corners=False)


def teach(images: Tensor, teachers: tuple[str, ...]) -> Tensor:
    """Return the teachers' maps (N, K, H, W) in 0..1 of images (N, 3, H, W) uint8."""
    estimate = on_tensors(estimate_saliency)
    images = images.contiguous()
    return torch.stack([estimate(images, method=name) for name in teachers], 1).float() / 255


def first_logits(maps: Tensor) -> Tensor:
    """Return the logits of the first teacher's maps: (N, 1, H, W).

    Examples
    --------
    >>> [round(float(x), 2) for x in first_logits(torch.tensor([0.0, 0.5, 1.0]).reshape(1, 1, 1, 3)).flatten()]
    [-1.47, 0.0, 1.47]
    """
    return TRUST * torch.logit(maps[:, :1].clamp(LOWEST, 1 - LOWEST))


def predict_refined(net: Refiner, images: Tensor) -> Tensor:
    """Return maps (N, H, W) in 0..1 of images (N, 3, H, W) uint8; both the image and its mirror image are asked."""
    maps, pixels = teach(images, net.teachers), images.float()
    here, there = net(*(torch.cat([x, x.flip(3)]) for x in (pixels, maps))).chunk(2)
    added = (here + there.flip(3)) / 2
    return torch.sigmoid(SHARPEN * (first_logits(maps) + added))[:, 0]


def _places(like: Tensor) -> Tensor:
    """Squared distances from the middle, along y and x, each 0..1: (n, 2, h, w)."""
    y, x = (((torch.arange(n, device=like.device, dtype=like.dtype) * 2 + 1) / n - 1) ** 2 for n in like.shape[2:])
    return torch.stack(torch.broadcast_tensors(y[:, None], x[None]))[None].expand(len(like), -1, -1, -1)
