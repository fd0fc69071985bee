"""Saliency from a self-supervised vision transformer's patches: `method="vit:CHECKPOINT"` and `"vit-ncut:CHECKPOINT"`.

    image -> ViT up to its last attention -> keys of the patches -> background seed (FOUND) or normalised cut (TokenCut)
          -> map of the grid of patches -> guided filter and logistic on the image

Nothing is downloaded: `vit_features` says which files fit. Sources: Siméoni
et al. 2023, "Unsupervised object localization: observing the background to discover objects" (FOUND), section 3.1; Wang
et al. 2022, "Self-supervised transformers for unsupervised object discovery using normalized cut" (TokenCut), section 3.2.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .array_model import ArrayModel, resized
from .vit_features import load_features

GRID = 28
"""Patches along each side of the image: the input is as large as that asks."""
SEED_LIKE = 0.3
"""FOUND: cosine to the seed from which a patch is background."""
SHARPNESS = 10.0
"""FOUND: slope of the logistic around `SEED_LIKE`, so that the guided filter gets a soft map."""
CUT_LIKE = 0.2
"""TokenCut: cosine from which two patches are linked."""
UNLINKED = 1e-5
"""TokenCut: weight between patches that are not."""


def seed_maps(keys: Tensor, attention: Tensor) -> Tensor:
    """Tell figure from ground by likeness to the least attended patch (FOUND).

    Parameters
    ----------
    keys : (N, heads, T, d) float
    attention : (N, heads, T) float

    Returns
    -------
    (N, T) float in 0..1; above one half is figure: the cosine to the seed is below 0.3.

    Notes
    -----
    Heads that attend to much count for less: with q the share of patches whose attention is above the image's mean,
    weight = log(sum q / q), for keys and attention alike. A head that attends to nothing gets the largest finite weight.

    Examples
    --------
    >>> keys = torch.tensor([[[[1.0, 0.0]], [[0.0, 1.0]]]]).expand(1, 2, 1, 2).repeat(1, 1, 4, 1)
    >>> keys[:, :, 2:] *= -1
    >>> attention = torch.tensor([0.1, 0.1, 0.4, 0.4]).expand(1, 2, 4)
    >>> (seed_maps(keys, attention) > 0.5).tolist()
    [[False, False, True, True]]
    """
    share = (attention > attention.mean((1, 2), keepdim=True)).float().mean(2) + 1e-10
    weights = torch.log(share.sum(1, keepdim=True) / share)
    weights = torch.where(weights.sum(1, keepdim=True) > 0, weights, torch.ones_like(weights))  # one head, or all alike
    features = F.normalize((keys * weights[:, :, None, None]).transpose(1, 2).flatten(2), dim=2)
    seeds = (attention * weights[:, :, None]).sum(1).argmin(1)
    cosines = (features @ features[torch.arange(len(features)), seeds, :, None])[:, :, 0]
    return torch.sigmoid(SHARPNESS * (SEED_LIKE - cosines))


def cut_maps(keys: Tensor, height: int, width: int) -> Tensor:
    """Tell figure from ground by the second eigenvector of the graph of patches (TokenCut).

    Parameters
    ----------
    keys : (N, heads, T, d) float
    height, width : int
        Of the grid; T = height * width.

    Returns
    -------
    (N, T) float, 0 or 1.

    Notes
    -----
    (D - A) v = lambda D v with A = 1 where the cosine is above 0.2, else 1e-5. The patches above the mean of v, on the
    side of the largest |v|, and there the connected part (4 neighbours) around it.
    """
    features = F.normalize(keys.transpose(1, 2).flatten(2), dim=2).double()
    links = torch.where(features @ features.transpose(1, 2) > CUT_LIKE, 1.0, UNLINKED).double()
    roots = links.sum(2).rsqrt()
    vectors = torch.linalg.eigh(
        torch.eye(height * width, device=keys.device) - roots[:, :, None] * links * roots[:, None]
    )[1]
    found = [_part_around_peak(v.cpu().numpy(), height, width) for v in vectors[:, :, 1] * roots]
    return torch.from_numpy(np.stack(found)).to(keys.device)


def _part_around_peak(vector: np.ndarray, height: int, width: int) -> np.ndarray:
    peak = int(np.abs(vector).argmax())
    if vector[peak] < vector.mean():
        vector = -vector
    above = (vector > vector.mean()).reshape(height, width)
    _, parts = cv2.connectedComponents(above.astype(np.uint8), connectivity=4)
    return (above & (parts == parts.ravel()[peak])).astype(np.float32).ravel()


class VitSaliency(ArrayModel):
    """Saliency by a ViT: arrays in, arrays out.

    Parameters
    ----------
    path : str or Path
        See `load_features`.
    cut : bool
        TokenCut's normalised cut instead of FOUND's background seed; about a second an image.
    """

    def __init__(self, path: str | Path, *, cut: bool = False) -> None:
        super().__init__(load_features(path))
        self._cut = cut
        self.side: int | None = GRID * self.model.patch

    def maps(self, model: Any, images: Tensor) -> Tensor:
        """Return maps (n, GRID, GRID) in 0..1 of images (n, 3, H, W) uint8."""
        keys, attention = model(resized(images, GRID * model.patch))
        figure = cut_maps(keys, GRID, GRID) if self._cut else seed_maps(keys, attention)
        return figure.reshape(-1, GRID, GRID).float()
