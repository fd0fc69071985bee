"""Names of saliency methods: kernels, files, errors."""

from __future__ import annotations

import argparse
import os

import numpy as np
import pytest
import torch
from loader_tools import make
from pipeline_shards import disc_image, write_shards

from figureground.kernels.arrays import Ragged
from figureground.kernels.saliency import METHODS, estimate_saliency
from figureground.pipeline import recipes
from figureground.pipeline.array_model import read_state, read_weights
from figureground.pipeline.augment import estimate_masks
from figureground.pipeline.masks_estimate import EstimateMasks
from figureground.pipeline.methods import check_method, method_record, resolve_method
from figureground.pipeline.saliency_net import SaliencyNet, save_net
from figureground.pipeline.saliency_refiner import Refiner


@pytest.fixture(params=["alone", "refine"])
def net_file(tmp_path, request):
    torch.manual_seed(0)
    net = SaliencyNet(4) if request.param == "alone" else Refiner(("fused", "rbd"), 4)
    save_net(tmp_path / "net.pt", net, side=48, card={})
    return tmp_path / "net.pt"


@pytest.mark.parametrize("name", METHODS)
def test_kernels_are_what_they_were(name):
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 32, 32)).astype(np.uint8)
    method = resolve_method(name)
    assert method.side is None
    np.testing.assert_array_equal(method(images, 32), estimate_saliency(images, method=name))
    assert method_record(name) == {}


def test_a_file_is_read_once_and_again_when_it_changes(net_file):
    name = f"net:{net_file}"
    first = resolve_method(name)
    assert resolve_method(name) is first
    record = method_record(name)
    save_net(net_file, SaliencyNet(4), side=48, card={"another": 1})
    os.utime(net_file, ns=(1, 1))
    assert resolve_method(name) is not first
    assert method_record(name)["model"]["weights"] != record["model"]["weights"]


def test_masks_of_images_of_any_size(net_file):
    rng = np.random.default_rng(0)
    images = Ragged.from_arrays([disc_image(rng, 50, 70)[0], disc_image(rng, 90, 61)[0]])
    assert estimate_masks(images, method=f"net:{net_file}", size=40).shape == (2, 40, 40)


@pytest.mark.parametrize("name", ["u2net", "net", "net:", "resnet:x.pt", ""])
def test_unknown_names(name):
    with pytest.raises(
        ValueError, match=r"Loader: method must be one of fused, .*, net:FILE, vit:FILE, vit-ncut:FILE, got"
    ):
        check_method(name, caller="Loader")


def test_files_that_do_not_fit(tmp_path, net_file):
    with pytest.raises(ValueError, match="must name a file that can be read, got No such file or directory"):
        check_method(f"net:{tmp_path / 'missing.pt'}")
    (tmp_path / "junk.pt").write_bytes(b"no weights")
    for kind in ("net", "vit", "vit-ncut"):
        with pytest.raises(ValueError, match=r"junk.pt must be a torch file of tensors alone"):
            check_method(f"{kind}:{tmp_path / 'junk.pt'}")
    (tmp_path / "cut.pt").write_bytes(net_file.read_bytes()[:-200])
    with pytest.raises(ValueError, match=r"cut.pt must be a torch file of tensors alone"):
        check_method(f"net:{tmp_path / 'cut.pt'}")
    torch.save({"code": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(ValueError, match=r"evil.pt must be a torch file of tensors alone"):
        check_method(f"net:{tmp_path / 'evil.pt'}")
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match="must be made by 'figureground train-saliency', got another file"):
        check_method(f"net:{tmp_path / 'other.pt'}")
    with pytest.raises(ValueError, match="must be the state dict of a DINO or DINOv2 ViT, got none of its cls_token"):
        check_method(f"vit:{tmp_path / 'other.pt'}")
    with pytest.raises(ValueError, match="path must be a file, got"):
        check_method(f"net:{tmp_path}")


class Evil:
    """What unpickling must not run."""

    def __reduce__(self):
        return os.system, ("true",)


def test_what_torch_will_not_read_is_named(tmp_path):
    """torch's own words advise to load without weights_only, which would run what is in the file."""
    path = tmp_path / "x.pt"
    torch.save(torch.nn.Linear(2, 2), path)
    with pytest.raises(
        ValueError, match=r"holds Python objects \(torch.nn.modules.linear.Linear\); save its state dict"
    ):
        read_weights(path)
    for content, says in ((b"", "an empty file"), (b"<html>no", "another file, which starts with b'<html>no'")):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=says) as caught:
            read_weights(path)
        assert "weights_only" not in str(caught.value)


def test_options_beside_the_weights_are_no_obstacle(tmp_path):
    """As DINO's own training saves them."""
    state = {"teacher": {"a": torch.ones(2)}, "args": argparse.Namespace(arch="vit_small", patch_size=16), "epoch": 3}
    torch.save(state, tmp_path / "checkpoint.pth")
    assert read_state(tmp_path / "checkpoint.pth")["a"].tolist() == [1, 1]


def test_a_long_run_keeps_the_network_that_it_began_with(tmp_path, net_file):
    """The file is replaced, then removed, while a loader and a mask job run."""
    shards = write_shards(tmp_path / "shards", 24, per_shard=8, masks=False)
    name = f"net:{net_file}"
    recipe = recipes.moco_v2().with_size(32).with_background("remove", p=1.0)
    with make(shards, recipe, method=name, masks="kernel") as loader:
        wanted = [batch["masks"][0].numpy() for batch in loader]
    task = EstimateMasks(name, size=32)
    with make(shards, recipe, method=name, masks="kernel") as loader:
        found = []
        for batch in loader:
            found.append(batch["masks"][0].numpy())
            torch.manual_seed(len(found))
            save_net(net_file, SaliencyNet(8), side=64, card={"other": len(found)})
        net_file.unlink()
        loader.set_epoch(0)
        found += [batch["masks"][0].numpy() for batch in loader]
    for seen, want in zip(found, wanted * 2, strict=True):
        np.testing.assert_array_equal(seen, want)
    save_net(net_file, SaliencyNet(8), side=64, card={})
    with pytest.raises(
        ValueError, match=r"'net:net.pt' must be the same file and code as when the job began, got others"
    ):
        task.open()
