"""Saliency from ViTs: the forward pass against plain formulas, the algorithms on constructed features."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import scipy.linalg
import torch
from torch.nn import functional as F
from torchvision_ops import declare_operators

from figureground.pipeline.methods import resolve_method
from figureground.pipeline.saliency_vit import (
    CUT_LIKE,
    GRID,
    UNLINKED,
    VitSaliency,
    _part_around_peak,
    cut_maps,
    seed_maps,
)
from figureground.pipeline.vit_features import load_features

DIM = 128


def state_dict(patch=8, side=4, depth=2, registers=0, scaled=False, seed=0):
    """A random ViT with DINO's names; with registers and layer scale DINOv2's."""
    rng = torch.Generator().manual_seed(seed)
    shapes = {
        "cls_token": (1, 1, DIM), "pos_embed": (1, 1 + side**2, DIM), "patch_embed.proj.weight": (DIM, 3, patch, patch),
        "patch_embed.proj.bias": (DIM,), "norm.weight": (DIM,), "norm.bias": (DIM,), "mask_token": (1, DIM),
    }  # fmt: skip
    if registers:
        shapes["register_tokens"] = (1, registers, DIM)
    for i in range(depth):
        block = {
            "norm1.weight": (DIM,), "norm1.bias": (DIM,), "norm2.weight": (DIM,), "norm2.bias": (DIM,),
            "attn.qkv.weight": (3 * DIM, DIM), "attn.qkv.bias": (3 * DIM,), "attn.proj.weight": (DIM, DIM),
            "attn.proj.bias": (DIM,), "mlp.fc1.weight": (2 * DIM, DIM), "mlp.fc1.bias": (2 * DIM,),
            "mlp.fc2.weight": (DIM, 2 * DIM), "mlp.fc2.bias": (DIM,),
        }  # fmt: skip
        block |= {"ls1.gamma": (DIM,), "ls2.gamma": (DIM,)} if scaled else {}
        shapes |= {f"blocks.{i}.{name}": shape for name, shape in block.items()}
    return {name: torch.randn(shape, generator=rng) * 0.1 for name, shape in shapes.items()}


def plain_features(s, image, patch):
    """The same in loops over heads and the formulas of the paper: keys (2, T, 64) and attention (2, T)."""

    def norm(x, name):
        centred = x - x.mean(1, keepdim=True)
        return centred / torch.sqrt((centred**2).mean(1, keepdim=True) + 1e-6) * s[f"{name}.weight"] + s[f"{name}.bias"]

    def linear(x, name):
        return x @ s[f"{name}.weight"].T + s[f"{name}.bias"]

    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x = (image / 255 - mean[:, None, None]) / std[:, None, None]
    side = x.shape[1] // patch
    cells = [x[:, i * patch : (i + 1) * patch, j * patch : (j + 1) * patch] for i in range(side) for j in range(side)]
    kernel = s["patch_embed.proj.weight"].reshape(DIM, -1)
    tokens = torch.stack([kernel @ cell.reshape(-1) + s["patch_embed.proj.bias"] for cell in cells])
    registers = s.get("register_tokens", torch.zeros(1, 0, DIM))[0]
    x = torch.cat([s["cls_token"][0] + s["pos_embed"][0, :1], registers, tokens + s["pos_embed"][0, 1:]])
    depth = max(int(k.split(".")[1]) for k in s if k.startswith("blocks")) + 1
    for i in range(depth):
        b = f"blocks.{i}."
        q, k, v = linear(norm(x, b + "norm1"), b + "attn.qkv").split(DIM, 1)
        heads = [slice(64 * h, 64 * h + 64) for h in range(2)]
        weights = [torch.softmax(q[:, h] @ k[:, h].T / math.sqrt(64), 1) for h in heads]
        if i == depth - 1:
            first = 1 + len(registers)
            return torch.stack([k[first:, h] for h in heads]), torch.stack([w[0, first:] for w in weights])
        out = linear(torch.cat([w @ v[:, h] for w, h in zip(weights, heads)], 1), b + "attn.proj")
        x = x + out * s.get(b + "ls1.gamma", torch.ones(DIM))
        out = linear(F.gelu(linear(norm(x, b + "norm2"), b + "mlp.fc1")), b + "mlp.fc2")
        x = x + out * s.get(b + "ls2.gamma", torch.ones(DIM))
    raise AssertionError


@pytest.mark.parametrize("kind", [{}, {"patch": 14, "registers": 4, "scaled": True}])
def test_forward_is_the_papers(tmp_path, kind):
    state, patch = state_dict(**kind), kind.get("patch", 8)
    torch.save(state, tmp_path / "vit.pth")
    model = load_features(tmp_path / "vit.pth")
    images = torch.rand(2, 3, 4 * patch, 4 * patch, generator=torch.Generator().manual_seed(1)) * 255
    keys, attention = model(images)
    for image, got_keys, got_attention in zip(images, keys, attention):
        want_keys, want_attention = plain_features(state, image, patch)
        torch.testing.assert_close(got_keys, want_keys, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(got_attention, want_attention, rtol=1e-4, atol=1e-5)


def test_places_are_interpolated(tmp_path):
    state = state_dict()
    state["pos_embed"][:, 1:] = state["pos_embed"][:, 1:2]  # the same everywhere: so it is at any size
    torch.save(state, tmp_path / "vit.pth")
    wide, same = torch.full((1, 3, 48, 48), 99.0), torch.full((1, 3, 32, 32), 99.0)
    model = load_features(tmp_path / "vit.pth")
    keys = model(wide)[0]
    assert keys.shape == (1, 2, 36, 64)
    torch.testing.assert_close(keys, keys[:, :, :1].expand_as(keys), rtol=1e-4, atol=1e-4)
    assert model(same)[0].shape == (1, 2, 16, 64)


def test_wrapped_checkpoints(tmp_path):
    state = state_dict()
    wrapped = {
        "teacher": {f"module.backbone.{k}": v for k, v in state.items()} | {"module.head.mlp.weight": torch.ones(1)}
    }
    torch.save(wrapped, tmp_path / "full.pth")
    torch.testing.assert_close(load_features(tmp_path / "full.pth").cls_token.data, state["cls_token"], rtol=0, atol=0)
    timm = {"reg_token" if k == "register_tokens" else k: v for k, v in state_dict(registers=2).items()}
    timm["pos_embed"] = timm["pos_embed"][:, 1:]  # no place for the class token
    torch.save(timm, tmp_path / "timm.pth")
    assert load_features(tmp_path / "timm.pth")(torch.zeros(1, 3, 32, 32))[0].shape == (1, 2, 16, 64)


def test_blocks_in_groups(tmp_path):
    """As the training code of DINOv2 saves its teacher: blocks.<group>.<block>."""
    state = state_dict(depth=3)
    grouped = {re.sub(r"^blocks\.(\d+)", lambda m: f"blocks.{int(m[1]) // 2}.{m[1]}", k): v for k, v in state.items()}
    assert "blocks.1.2.norm1.weight" in grouped
    torch.save({"teacher": {f"backbone.{k}": v for k, v in grouped.items()}}, tmp_path / "teacher_checkpoint.pth")
    torch.save(state, tmp_path / "plain.pth")
    images = torch.rand(1, 3, 32, 32) * 255
    for found, wanted in zip(
        *(load_features(tmp_path / name)(images) for name in ("teacher_checkpoint.pth", "plain.pth"))
    ):
        assert torch.equal(found, wanted)


def test_other_layers_are_refused(tmp_path):
    state = state_dict()
    state["blocks.0.attn.relative_position"] = torch.zeros(3)
    torch.save(state, tmp_path / "swin.pth")
    with pytest.raises(ValueError, match=r"must have DINO's or DINOv2's layers, got others: .*relative_position"):
        load_features(tmp_path / "swin.pth")
    state = state_dict()
    state["pos_embed"] = torch.zeros(1, 19, DIM)
    torch.save(state, tmp_path / "places.pth")
    with pytest.raises(ValueError, match="pos_embed must be a square grid and at most one place more, got 19 places"):
        load_features(tmp_path / "places.pth")


def blobs(boxes, side=12, noise=0.15, seed=0):
    """Keys of a ground and of figures in boxes, each with a direction of its own; attention is high on figures."""
    rng = torch.Generator().manual_seed(seed)
    label = torch.zeros(side, side, dtype=torch.long)
    for i, (top, left, bottom, right) in enumerate(boxes):
        label[top:bottom, left:right] = i + 1
    directions = torch.linalg.qr(torch.randn(2, 64, 64, generator=rng))[0]
    keys = directions[:, label.ravel()] + noise * torch.randn(2, side**2, 64, generator=rng) / 8
    attention = torch.where(label.ravel() > 0, 2.0, 1.0) + 0.3 * torch.rand(2, side**2, generator=rng)
    return keys[None], (attention / attention.sum(1, keepdim=True))[None], (label > 0)[None]


def test_seed_finds_all_figures():
    keys, attention, truth = blobs([(1, 1, 5, 6), (7, 6, 11, 11)])
    maps = seed_maps(keys, attention)
    assert ((maps > 0.5).reshape(truth.shape) == truth).all()
    assert ((maps >= 0) & (maps <= 1)).all()
    mixed, others = torch.cat([keys, keys.flip(2)]), torch.cat([attention, attention.flip(2)])
    torch.testing.assert_close(seed_maps(mixed, others), torch.cat([maps, maps.flip(1)]))


def test_heads_that_attend_everywhere_count_less():
    keys, attention, truth = blobs([(3, 3, 9, 9)])
    spread = torch.rand(144, generator=torch.Generator().manual_seed(5)) + 9  # far above the mean of both, everywhere
    keys[0, 1], attention[0, 1] = torch.randn(144, 64, generator=torch.Generator().manual_seed(6)), spread / 10
    assert ((seed_maps(keys, attention) > 0.5).reshape(truth.shape) == truth).all()


def test_one_head():
    keys, attention, truth = blobs([(3, 3, 9, 9)])
    assert ((seed_maps(keys[:, :1], attention[:, :1]) > 0.5).reshape(truth.shape) == truth).all()


def test_cut_finds_one_figure():
    keys, _, truth = blobs([(4, 4, 9, 10)])
    assert (cut_maps(keys, 12, 12).reshape(truth.shape).bool() == truth).all()


@pytest.mark.parametrize("sign", [1, -1])
def test_cut_keeps_the_part_around_the_peak(sign):
    vector = np.full((4, 5), -0.1)
    vector[1:3, 1:3] = 0.5
    vector[2, 2] = 0.6
    vector[3, 3] = vector[0, 4] = 0.5  # a corner touches, a lone patch does not
    want = np.zeros((4, 5))
    want[1:3, 1:3] = 1
    np.testing.assert_array_equal(_part_around_peak(sign * vector.ravel(), 4, 5).reshape(4, 5), want)


def test_cut_is_the_generalised_eigenvector():
    keys, _, _ = blobs([(4, 4, 9, 10), (0, 0, 3, 3)], noise=2.0)
    features = F.normalize(keys.transpose(1, 2).flatten(2), dim=2)[0].double().numpy()
    links = np.where(features @ features.T > CUT_LIKE, 1.0, UNLINKED)
    degrees = np.diag(links.sum(1))
    vector = scipy.linalg.eigh(degrees - links, degrees, subset_by_index=[1, 1])[1][:, 0]
    side = vector > vector.mean()
    if not side[np.abs(vector).argmax()]:
        side = ~side
    found = cut_maps(keys, 12, 12)[0].bool().numpy()
    assert found.any()
    assert not (found & ~side).any()


@pytest.mark.parametrize("kind", ["vit", "vit-ncut"])
def test_method(tmp_path, kind):
    torch.save(state_dict(patch=4), tmp_path / "vit.pth")
    estimate = resolve_method(f"{kind}:{tmp_path / 'vit.pth'}")
    assert isinstance(estimate, VitSaliency)
    assert estimate.side == 4 * GRID
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 112, 112)).astype(np.uint8)
    masks = estimate(images, 64)
    assert masks.shape == (2, 64, 64)
    assert masks.dtype == np.uint8
    np.testing.assert_array_equal(estimate(images[1:], 64), masks[1:])


@pytest.mark.parametrize(
    "name", ["vit_small_patch16_224.dino", "vit_small_patch14_dinov2", "vit_small_patch14_reg4_dinov2"]
)
def test_timm_agrees(tmp_path, name):
    """Random weights: the same keys and attention, at the native size and at another, in timm's layout and in the authors'."""
    declare_operators()
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    model = timm.create_model(name, pretrained=False, dynamic_img_size=True, depth=3).eval()
    for key, parameter in model.named_parameters():
        torch.nn.init.uniform_(parameter.data, *((0.5, 1.5) if "gamma" in key or "norm" in key else (-0.1, 0.1)))
    state, native = model.state_dict(), model.patch_embed.img_size[0]
    torch.save(state, tmp_path / "timm.pth")
    authors = {"register_tokens" if key == "reg_token" else key: value for key, value in state.items()}
    if "reg_token" in state:  # DINOv2's class token has a place of its own, which timm adds to it
        place = torch.randn_like(state["cls_token"])
        authors |= {
            "cls_token": state["cls_token"] - place, "pos_embed": torch.cat([place, state["pos_embed"]], 1),
            "mask_token": torch.zeros(1, 384),
        }  # fmt: skip
    torch.save(authors, tmp_path / "authors.pth")
    seen = []
    model.blocks[-1].attn.qkv.register_forward_hook(lambda module, given, made: seen.append(made))
    mean, std = (torch.tensor(v)[:, None, None] for v in ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)))
    for side in (native, model.patch_embed.patch_size[0] * GRID):
        images = torch.randint(0, 256, (1, 3, side, side)).float()
        with torch.inference_mode():
            model.forward_features((images - mean) / std)
            queries, keys, _ = seen.pop().reshape(1, -1, 3, 6, 64).permute(2, 0, 3, 1, 4)
            attention = (queries[:, :, :1] @ keys.transpose(2, 3) / 8).softmax(-1)[:, :, 0]
            first = model.num_prefix_tokens
            for file in ("timm.pth", "authors.pth"):
                found = load_features(tmp_path / file)(images)
                torch.testing.assert_close(found[0], keys[:, :, first:], rtol=1e-4, atol=1e-5)
                torch.testing.assert_close(found[1], attention[:, :, first:], rtol=1e-4, atol=1e-8)
