"""The network and its use: shapes, files, encoder weights, one image at a time."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

from figureground.kernels.saliency_refine import refine_maps
from figureground.pipeline.array_model import ArrayModel, read_state, read_weights, resized
from figureground.pipeline.saliency_net import NetSaliency, SaliencyNet, load_encoder, load_net, predict, save_net


@pytest.fixture
def net():
    torch.manual_seed(3)
    return SaliencyNet(8).eval()


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (5, 3, 48, 48)).astype(np.uint8)


def test_size_of_the_network():
    assert sum(p.numel() for p in SaliencyNet().parameters()) < 2_000_000


@pytest.mark.parametrize(("height", "width"), [(32, 32), (33, 47), (96, 64)])
def test_shapes(height, width):
    logits = SaliencyNet(4, 3)(torch.zeros(2, 3, height, width, dtype=torch.uint8))
    assert logits.shape == (2, 3, (height + 1) // 2, (width + 1) // 2)


def test_prediction_mirrors_with_the_image(net, images):
    tensor = torch.from_numpy(images)
    with torch.no_grad():
        torch.testing.assert_close(predict(net, tensor.flip(3)), predict(net, tensor).flip(3))


@pytest.mark.gpu
@pytest.mark.hardware
@pytest.mark.parametrize("size", [48, 64])
def test_a_network_on_a_gpu(net, images, tmp_path, size):
    import cupy

    save_net(tmp_path / "net.pt", net, side=48, card={})
    estimate = NetSaliency(tmp_path / "net.pt")
    got = estimate(cupy.asarray(images), size)
    assert not isinstance(got, np.ndarray)
    difference = np.abs(cupy.asnumpy(got).astype(int) - estimate(images, size))
    assert difference.max() <= 16  # batches are convolved in another order than images
    assert difference.mean() < 0.1


def test_a_model_behind_arrays(images):
    class Red(ArrayModel):
        def maps(self, model, chunk):
            return chunk[:, 0].float() / 255

    masks = Red(torch.nn.Identity())(images)
    np.testing.assert_array_equal(masks, refine_maps(images, np.ascontiguousarray(images[:, 0])))


def test_masks_do_not_depend_on_batch_or_threads(net, images, tmp_path):
    save_net(tmp_path / "net.pt", net, side=48, card={})
    estimate = NetSaliency(tmp_path / "net.pt")
    want = estimate(images)
    np.testing.assert_array_equal(np.concatenate([estimate(images[i : i + 1]) for i in range(5)]), want)
    outside, results = torch.get_num_threads(), {}
    try:
        torch.set_num_threads(2)
        workers = [threading.Thread(target=lambda i=i: results.update({i: estimate(images)})) for i in range(3)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(outside)
    for got in results.values():
        np.testing.assert_array_equal(got, want)
    assert len(results) == 3


def test_sizes_of_masks(net, images, tmp_path):
    save_net(tmp_path / "net.pt", net, side=64, card={})
    estimate = NetSaliency(tmp_path / "net.pt")
    assert estimate(images, 96).shape == (5, 96, 96)
    assert estimate(images[:0], 40).shape == (0, 40, 40)
    assert estimate(images).dtype == np.uint8


def test_a_file_gives_the_network_back(net, tmp_path):
    save_net(tmp_path / "a.pt", net, side=112, card={"seed": 3})
    save_net(tmp_path / "b.pt", net, side=112, card={"seed": 3})
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "b.pt").read_bytes()
    loaded, side, card = load_net(tmp_path / "a.pt")
    assert (side, card) == (112, {"seed": 3})
    for name, value in loaded.state_dict().items():
        torch.testing.assert_close(value, net.state_dict()[name], rtol=2**-11, atol=1e-6)
    save_net(tmp_path / "full.pt", SaliencyNet(), side=112, card={})
    assert (tmp_path / "full.pt").stat().st_size < 5_000_000


@pytest.mark.parametrize("prefix", ["", "module.encoder_q.", "backbone."])
def test_encoder_from_a_resnet(prefix, tmp_path, net):
    torch.manual_seed(9)
    other = SaliencyNet(8).encoder.state_dict()
    weights = {prefix + k: v for k, v in other.items() if not k.startswith("layer3")}
    weights |= {f"{prefix}layer3.0.conv1.weight": torch.zeros(99, 16, 3, 3), f"{prefix}fc.weight": torch.zeros(2, 2)}
    torch.save({"state_dict": weights, "epoch": 7}, tmp_path / "ssl.pt")
    before = net.encoder.state_dict()["layer3.0.conv1.weight"].clone()
    words = load_encoder(net, tmp_path / "ssl.pt")
    assert words == f"{len(weights) - 2} of {len(other)} tensors of the encoder from ssl.pt ({prefix or 'no prefix'})"
    after = net.encoder.state_dict()
    torch.testing.assert_close(after["layer1.0.conv1.weight"], other["layer1.0.conv1.weight"], rtol=0, atol=0)
    torch.testing.assert_close(after["layer3.0.conv1.weight"], before, rtol=0, atol=0)


def test_safetensors(tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"junk")
    try:
        from safetensors.torch import save_file
    except ImportError:
        with pytest.raises(RuntimeError, match="needs safetensors; run 'pip install safetensors'"):
            read_weights(tmp_path / "x.safetensors")
        return
    with pytest.raises(ValueError, match="must be a safetensors file"):
        read_weights(tmp_path / "x.safetensors")
    save_file({"a": torch.ones(2)}, tmp_path / "x.safetensors")
    assert read_state(tmp_path / "x.safetensors")["a"].tolist() == [1, 1]


def test_resized():
    ramp = torch.arange(8.0).expand(1, 1, 8, 8)
    assert resized(ramp, 8) is ramp
    assert resized(ramp, 4)[0, 0, 0].tolist() == pytest.approx([0.7, 2.5, 4.5, 6.3], abs=0.15)


def test_messages(net, images, tmp_path):
    torch.save({"fc.weight": torch.zeros(2, 2), "conv1.weight": torch.zeros(5, 3, 7, 7)}, tmp_path / "odd.pt")
    with pytest.raises(
        ValueError, match=r"must have ResNet-18's conv1, layer1 or layer2 with 8 channels, got none that fits"
    ):
        load_encoder(net, tmp_path / "odd.pt")
    with pytest.raises(ValueError, match="read_weights: path must be a file, got"):
        read_weights(tmp_path / "none.pt")
    save_net(tmp_path / "net.pt", net, side=48, card={})
    estimate = NetSaliency(tmp_path / "net.pt")
    with pytest.raises(
        ValueError, match=r"NetSaliency: images must be \(N, 3, H, W\) uint8 with H, W >= 32, got \(1, 3, 8, 8\)"
    ):
        estimate(np.zeros((1, 3, 8, 8), np.uint8))
    with pytest.raises(ValueError, match="NetSaliency: size must be 32 to 256 px, got 300"):
        estimate(images, 300)
    with pytest.raises(TypeError, match="NetSaliency: images must be a NumPy or CUDA array, got list"):
        estimate([images])
