"""lightly's own losses, fed from `format="lightly"`."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from loader_tools import make
from torchvision_ops import declare_operators

from figureground.pipeline import recipes

if importlib.util.find_spec("lightly") is None:
    pytest.skip("needs lightly, which needs torchvision", allow_module_level=True)
declare_operators()
loss = pytest.importorskip("lightly.loss")

STEPS = 2
LOSSES = {
    "NTXentLoss": lambda: loss.NTXentLoss(temperature=0.1),
    "NTXentLoss with a memory bank": lambda: loss.NTXentLoss(memory_bank_size=(64, 8)),
    "NegativeCosineSimilarity": loss.NegativeCosineSimilarity,
    "BarlowTwinsLoss": loss.BarlowTwinsLoss,
    "VICRegLoss": loss.VICRegLoss,
}


def _net():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.LazyLinear(16), torch.nn.ReLU(), torch.nn.Linear(16, 8))


@pytest.mark.parametrize("name", LOSSES)
def test_two_steps_with_a_loss_of_two_views(shards, name):
    net, criterion = _net(), LOSSES[name]()
    losses = []
    with make(shards, recipes.moco_v2(16).with_background("swap"), format="lightly", batch_size=24) as loader:
        net(next(iter(loader))[0][0])  # makes the lazy layer
        optimizer = torch.optim.SGD(net.parameters(), 0.01)
        before = [p.detach().clone() for p in net.parameters()]
        for views, targets, names in loader:
            assert (targets.dtype, len(targets), len(names)) == (torch.int64, 24, 24)
            first, second = (net(view) for view in views)
            value = criterion(first, second)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            losses.append(value.item())
            if len(losses) == STEPS:
                break
    assert torch.isfinite(torch.tensor(losses)).all()
    assert all(not torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))


def test_a_step_with_a_loss_of_many_crops(shards):
    net, criterion = _net(), loss.DINOLoss(output_dim=8)
    with make(shards, recipes.dino(16, 16, 2), format="lightly", batch_size=24) as loader:
        views, _, _ = next(iter(loader))
    with torch.no_grad():
        teacher = [net(view) for view in views[:2]]
    value = criterion(teacher, [net(view) for view in views], epoch=0)
    value.backward()
    assert torch.isfinite(value)
