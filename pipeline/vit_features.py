"""The keys of a self-supervised vision transformer's last attention, from weights as DINO and DINOv2 publish them.

Layout: images (N, 3, H, W) in, keys (N, heads, T, d) and the class token's attention (N, heads, T) out.

Nothing is downloaded. Files that fit, as their authors publish them (no labels were used to train them):

    DINO     dino_deitsmall8_pretrain.pth, dino_deitsmall16_pretrain.pth, dino_vitbase8_pretrain.pth, dino_vitbase16_pretrain.pth
             (the "backbone only" files of the facebookresearch/dino repository)
    DINOv2   dinov2_vits14_pretrain.pth, dinov2_vitb14_pretrain.pth, dinov2_vitl14_pretrain.pth, and those with
             `_reg4` (the "backbone only" files of facebookresearch/dinov2)
    timm     the same weights as model.safetensors (`pip install safetensors`), such as timm/vit_small_patch8_224.dino

The forward pass is written here: it is short, while timm would bring torchvision. Source: Dosovitskiy et al. 2021, "An image is
worth 16x16 words"; layer scale as in Touvron et al. 2021; registers as in Darcet et al. 2024.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .array_model import read_state

_NEEDED = ("cls_token", "pos_embed", "patch_embed.proj.weight", "blocks.0.mlp.fc1.weight")
_HEAD = 64
"""Channels of an attention head in all published DINO and DINOv2 models; a state dict does not say."""
_MEAN, _STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
_PREFIXES = re.compile(r"^(module\.|backbone\.|encoder\.)+")
_CHUNKS = re.compile(r"^blocks\.\d+\.(?=\d+\.)")
"""DINOv2's training names blocks by the group that they are in as well."""
_UNUSED = re.compile(r"^(head|dino_head|ibot_head|fc_norm|norm)\.|^mask_token$")


class _Attention(nn.Module):
    def __init__(self, dim: int, biased: bool) -> None:
        super().__init__()
        self.heads = max(1, dim // _HEAD)
        self.qkv, self.proj = nn.Linear(dim, 3 * dim, bias=biased), nn.Linear(dim, dim)

    def split(self, x: Tensor) -> Any:
        """Return queries, keys and values, each (N, heads, T, d)."""
        n, t, dim = x.shape
        return self.qkv(x).reshape(n, t, 3, self.heads, dim // self.heads).permute(2, 0, 3, 1, 4).unbind(0)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(F.scaled_dot_product_attention(*self.split(x)).transpose(1, 2).flatten(2))


class _Mlp(nn.Module):
    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class _Scale(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.empty(dim))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class _Block(nn.Module):
    def __init__(self, dim: int, hidden: int, biased: bool, scaled: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=1e-6), nn.LayerNorm(dim, eps=1e-6)
        self.attn, self.mlp = _Attention(dim, biased), _Mlp(dim, hidden)
        self.ls1: nn.Module = _Scale(dim) if scaled else nn.Identity()
        self.ls2: nn.Module = _Scale(dim) if scaled else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))


class _Patches(nn.Module):
    def __init__(self, dim: int, patch: int, biased: bool) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, patch, patch, bias=biased)


class PatchFeatures(nn.Module):
    """A ViT up to its last attention; shapes are those of the state dict, and so are the names of parameters.

    Parameters
    ----------
    state : dict of Tensor
        As DINO and DINOv2 name it: patch_embed, cls_token, pos_embed, register_tokens, blocks.
    """

    cls_token: Tensor
    pos_embed: Tensor
    register_tokens: Tensor

    def __init__(self, state: dict[str, Tensor]) -> None:
        super().__init__()
        dim = state["cls_token"].shape[-1]
        proj = "patch_embed.proj"
        self.patch = state[f"{proj}.weight"].shape[-1]
        self.registers = state["register_tokens"].shape[1] if "register_tokens" in state else 0
        self.patch_embed = _Patches(dim, self.patch, f"{proj}.bias" in state)
        for name in ("cls_token", "pos_embed", "register_tokens"):
            if name in state:
                setattr(self, name, nn.Parameter(torch.empty_like(state[name], dtype=torch.float32)))
        depth = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("blocks."))
        hidden = state["blocks.0.mlp.fc1.weight"].shape[0]
        biased, scaled = "blocks.0.attn.qkv.bias" in state, "blocks.0.ls1.gamma" in state
        self.blocks: Any = nn.ModuleList([_Block(dim, hidden, biased, scaled) for _ in range(depth)])
        self.load_state_dict(state)
        self.requires_grad_(False).eval()

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the last attention sees.

        Parameters
        ----------
        images : (N, 3, H, W) float in 0..255; H and W are multiples of the patch

        Returns
        -------
        keys : (N, heads, T, d)
            Of the T = H W / patch^2 patches.
        attention : (N, heads, T)
            That the class token pays to each patch.
        """
        mean, std = (images.new_tensor(v)[:, None, None] for v in (_MEAN, _STD))
        x = self.patch_embed.proj((images - mean) / std)
        x = self._with_tokens(x)
        for block in self.blocks[:-1]:
            x = block(x)
        last = self.blocks[-1]
        queries, keys, _ = last.attn.split(last.norm1(x))
        attention = (queries[:, :, :1] @ keys.transpose(2, 3) / math.sqrt(keys.shape[-1])).softmax(-1)
        first = 1 + self.registers
        return keys[:, :, first:], attention[:, :, 0, first:]

    def _with_tokens(self, x: Tensor) -> Tensor:
        """Add the places, and put class and register tokens in front."""
        places, (n, dim, h, w) = self.pos_embed, x.shape
        # 1, but in timm's models with registers the class token has no place.
        classes = places.shape[1] - math.isqrt(places.shape[1]) ** 2
        side = math.isqrt(places.shape[1] - classes)
        grid = places[:, classes:].reshape(1, side, side, dim).permute(0, 3, 1, 2)
        if (h, w) != (side, side):
            grid = F.interpolate(grid, (h, w), mode="bicubic", align_corners=False, antialias=True)
        x = (x + grid).flatten(2).transpose(1, 2)
        tokens = [(self.cls_token + places[:, :classes]) if classes else self.cls_token]
        if self.registers:
            tokens.append(self.register_tokens)
        return torch.cat([*(token.expand(n, -1, -1) for token in tokens), x], 1)


def load_features(path: str | Path) -> PatchFeatures:
    """Read a ViT.

    Parameters
    ----------
    path : str or Path
        A state dict (see the module's text), read with `torch.load(weights_only=True)`, or a `.safetensors` file.

    Raises
    ------
    ValueError
        If there is no such file, or it holds no ViT of the kind.
    RuntimeError
        If it is a `.safetensors` file and safetensors is not installed.
    """
    named = {_CHUNKS.sub("blocks.", _PREFIXES.sub("", k)): v for k, v in read_state(path).items()}
    tensors = {"register_tokens" if k == "reg_token" else k: v for k, v in named.items() if not _UNUSED.search(k)}
    missing = [k for k in _NEEDED if k not in tensors]
    if missing:
        raise ValueError(
            f"load_features: {path} must be the state dict of a DINO or DINOv2 ViT, got none of its {missing[0]}; see "
            f"'figureground.pipeline.vit_features' for files that fit"
        )
    count = tensors["pos_embed"].shape[1]
    if count - math.isqrt(count) ** 2 > 1:
        raise ValueError(
            f"load_features: {path}: pos_embed must be a square grid and at most one place more, got {count} places"
        )
    try:
        return PatchFeatures(tensors)
    except RuntimeError as error:
        words = " ".join(str(error).split())
        raise ValueError(f"load_features: {path} must have DINO's or DINOv2's layers, got others: {words}") from error
