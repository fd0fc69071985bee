"""The loader on a GPU, rehearsed without one (tests/host_cuda/rehearsal.py): every preset and technique gives the CPU's batches.

The same pixels are decoded on both sides, and FFTs are NumPy's on both, so batches are equal bit for bit. What stays for a real
GPU: nvJPEG's pixels, cuFFT's rounding, the order of streams, and time.
"""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from host_cuda.ptx.nvrtc import available
from host_cuda.rehearsal import gpu_machine
from PIL import Image
from pipeline_shards import disc_image, write_shards, write_tar

from figureground.bench.techniques import techniques
from figureground.pipeline import Loader, augment, recipes
from figureground.pipeline.bgsets import make_bgsets
from figureground.pipeline.masks_estimate import EstimateMasks
from figureground.pipeline.squares import SquareReader
from figureground.pipeline.textures_job import make_textures
from figureground.shards import MaskStore, Store
from figureground.shards.index import write_index

SIZE = 32
BASE = recipes.moco_v2(SIZE)
SWAP = BASE.with_background("swap", p=0.5)
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
MULTICROP = {"local_size": 16, "local_views": 2}


def doubled(views: Any, rows: np.ndarray) -> Any:
    """A stage of array expressions: NumPy's and CuPy's are the same."""
    return views + views


def presets() -> dict[str, recipes.Recipe]:
    """All presets with backgrounds, as small as they go."""
    found = {}
    for name, preset in recipes.PRESETS.items():
        small = MULTICROP if name in ("swav", "dino", "dinov2") else {}
        recipe = preset(SIZE, **small)
        found[name] = recipe if name == "eval" else recipe.with_background("swap", p=0.6)
    return found


def more_recipes() -> dict[str, recipes.Recipe]:
    """What the table of techniques leaves out."""
    return {
        "donors past": BASE.with_background("random", p=1.0, donors="past", past=8),
        "donors store, other class": BASE.with_background("random", p=1.0, donors="store", other_class=True),
        "constant colour": BASE.with_background("remove", p=1.0, fill="constant"),
        "swap, strip": BASE.with_background("swap", p=1.0, source="strip"),
        "swap, inpainted": BASE.with_background("swap", p=1.0, source="inpainted"),
        "pairs": SWAP.with_pairs("class"),
        "figure crops": SWAP.with_figure_crops(min_share=0.5),
        "object crops": SWAP.with_object_crops(),
        "label augmentation of swaps": SWAP.with_label_augmentation(),
        "patch shuffle of figures": SWAP.with_patch_shuffle(4, p=0.7, region="figure", fraction=0.5),
        "patch negatives, three": SWAP.with_negatives("patch", count=3, side=(4, 12)),
        "texture negatives, two": SWAP.with_negatives("texture", count=2),
        **{f"token masks, {by}": SWAP.with_token_masks(patch=8, by=by) for by in ("block", "figure", "ground", "proportional")},
        "corruption by zeros, no partner": BASE.with_block_corruption(fill="zero", partner_p=0.0),
        "corruption by partners": BASE.with_block_corruption(partner_p=1.0),
        "styles and shuffled grounds": SWAP.with_style_transfer(block=4).with_patch_shuffle(4, p=1.0, region="ground"),
        "styles and negatives": SWAP.with_style_transfer(block=4, p=0.5).with_negatives("texture"),
        "all copies": SWAP.with_group_mixing(group=4, patch=8).with_block_corruption().with_token_masks(patch=8),
        **{f"stage after {point}": SWAP.with_stage(doubled, after=point) for point in ("composite", "color", "normalize")},
    }  # fmt: skip


CASES = presets() | techniques(SIZE) | more_recipes()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    """16 samples with masks in two shards; those of one have textures, too."""
    folder = tmp_path_factory.mktemp("tiny")
    shards = write_shards(folder, 16, per_shard=8)
    make_textures(str(min(folder.glob("*[0-9].tar"))), size=SIZE, block=16, overlap=4, progress=False)
    return shards


def batches(shards: str, recipe: recipes.Recipe, device: str, **options: Any) -> list[dict[str, Any]]:
    """One epoch."""
    with Loader(shards, recipe, **{"batch_size": 8, "threads": 2, "device": device, **options}) as loader:
        return list(loader)


def tensors(batch: dict[str, Any]) -> list[torch.Tensor]:
    """All tensors of a batch."""
    values = (each for value in batch.values() for each in (value if isinstance(value, list) else [value]))
    return [value for value in values if isinstance(value, torch.Tensor)]


def assert_same(host: list[dict[str, Any]], device: list[dict[str, Any]]) -> None:
    """Batches of the CPU and of the GPU are equal in everything."""
    assert len(host) == len(device)
    for one, other in zip(host, device, strict=True):
        assert one.keys() == other.keys()
        assert one["key"] == other["key"]
        for a, b in zip(one["params"], other["params"], strict=True):
            np.testing.assert_array_equal(a, b)
        ours, theirs = tensors(one), tensors(other)
        assert len(ours) == len(theirs)
        for a, b in zip(ours, theirs, strict=True):
            assert b.is_cuda
            assert a.dtype == b.dtype
            assert a.stride() == b.stride()
            assert torch.equal(a, b.cpu())


def rehearse(shards: str, recipe: recipes.Recipe, **options: Any) -> Any:
    """Compare an epoch on both devices; returns what the GPU saw, before anything was read back."""
    ptx = options.pop("ptx", False)
    host = batches(shards, recipe, "cpu", **options)
    with gpu_machine(ptx=ptx) as gpu:
        device = batches(shards, recipe, options.pop("device", "cuda"), **options)
    waits = list(gpu.log.waits)
    for batch in device:
        for tensor in tensors(batch):
            assert gpu.torch.allocator.protects(tensor), (
                "the trainer's stream is not recorded for a tensor of the batch"
            )
    assert_same(host, device)
    gpu.log.waits[:] = waits
    assert not gpu.log.faults
    assert len(gpu.log.places) == 1, "all work belongs on one stream"
    assert next(iter(gpu.log.places))[1], "the null stream waits for others"
    return gpu


@pytest.mark.parametrize("name", CASES)
def test_every_recipe_gives_the_cpus_batches(tiny, name):
    number = list(CASES).index(name)
    gpu = rehearse(tiny, CASES[name], dtype=DTYPES[number % 3], channels_last=number % 2 == 1, masks="sidecar")
    assert gpu.log.launches
    waits = [wait for wait in gpu.log.waits if "float32" not in wait] if name.startswith("figure crops") else gpu.log.waits
    assert waits == [], "nothing may be copied to the host in steady state"


PTX_CASES = ["moco_v2", "dinov2", "swap, inpainted", "patch shuffle of figures", "patch negatives, three", "token masks, figure"]


@pytest.mark.skipif(not available(), reason="needs cuda-bindings and NVRTC to run the PTX")
@pytest.mark.parametrize("name", [*PTX_CASES, "all copies", "background swap, with its negative"])
def test_the_ptx_of_the_kernels_gives_the_cpus_batches(tiny, name):
    """Bounds, alignment, races and first reads are looked at in every launch of the loader."""
    rehearse(tiny, CASES[name], dtype=DTYPES[1], masks="sidecar", ptx=True)


@pytest.mark.skipif(not available(), reason="needs cuda-bindings and NVRTC to run the PTX")
def test_masks_by_the_ptx_of_the_kernel(tiny, monkeypatch):
    monkeypatch.setattr(augment.estimate_masks, "__kwdefaults__", {"method": "fused", "size": SIZE})
    rehearse(tiny, SWAP, masks="kernel", method="fused", ptx=True)


@pytest.mark.parametrize("method", ["fused", "rbd", "mb+"])
def test_masks_by_the_kernel(tiny, method, monkeypatch):
    """Only the masks' areas come to the host: plans depend on them."""
    monkeypatch.setattr(augment.estimate_masks, "__kwdefaults__", {"method": "fused", "size": SIZE})
    gpu = rehearse(tiny, SWAP, masks="kernel", method=method)
    assert gpu.log.waits == ["get of (8,) uint64"] * 2


@pytest.mark.parametrize(
    "recipe", [SWAP.with_figure_crops(min_share=0.5), SWAP.with_object_crops()], ids=["figure", "object"]
)
def test_masks_by_the_kernel_for_crops_that_look_at_them(tiny, monkeypatch, recipe):
    monkeypatch.setattr(augment.estimate_masks, "__kwdefaults__", {"method": "fused", "size": SIZE})
    rehearse(tiny, recipe, masks="kernel")


def test_methods_without_a_kernel_are_refused_at_once(tiny):
    with gpu_machine():
        for masks in ("kernel", "auto"):
            with pytest.raises(ValueError, match=r"Loader: method 'spectral' runs on the CPU alone; choose another"):
                batches(tiny, SWAP, "cuda", masks=masks, method="spectral")
        assert batches(tiny, SWAP, "cuda", masks="sidecar", method="spectral")
        with pytest.raises(ValueError, match=r"make_masks: method 'ft' runs on the CPU alone"):
            EstimateMasks(method="ft", device="cuda:1")


def test_no_masks_at_all(tiny):
    rehearse(tiny, BASE, masks=None)


def test_the_second_gpu_and_odd_batches(tiny):
    host = batches(tiny, SWAP, "cpu", batch_size=5, drop_last=False)
    with gpu_machine() as gpu:
        device = batches(tiny, SWAP, "cuda:1", batch_size=5, drop_last=False)
    assert_same(host, device)
    assert {place[0] for place in gpu.log.places} == {1}


def test_backgrounds_of_your_own(tiny, tmp_path):
    rng = np.random.default_rng(3)
    for i in range(5):
        cv2.imwrite(str(tmp_path / f"{i}.png"), disc_image(rng, 40 + i, 50)[0])
    rehearse(tiny, BASE.with_background("random", p=1.0), backgrounds=str(tmp_path))


@pytest.fixture
def odd(tmp_path: Path) -> str:
    """A shard of which DALI does not read every third image (GIF), and nobody number 7."""
    rng, path = np.random.default_rng(5), tmp_path / "odd-000000.tar"
    members = []
    for i in range(16):
        data = io.BytesIO()
        Image.fromarray(disc_image(rng, 40, 50)[0]).save(data, "GIF" if i % 3 == 0 else "JPEG")
        members.append((f"{i:04d}.{'gif' if i % 3 == 0 else 'jpg'}", data.getvalue()[: 60 if i == 7 else None]))
    write_tar(path, members)
    write_index(path)
    return str(path)


def test_what_dali_does_not_read_and_bad_images(odd):
    """The host decodes the one, other samples replace the others; both on the kernels' stream."""
    rehearse(odd, BASE, masks=None, error_budget=0.5)


def test_replay(tiny):
    with Loader(tiny, SWAP, batch_size=8, device="cpu", threads=2) as loader:
        host = loader.replay([1, 5, 11], epoch=2)
    with gpu_machine() as gpu, Loader(tiny, SWAP, batch_size=8, device="cuda", threads=2) as loader:
        device = loader.replay([1, 5, 11], epoch=2)
    assert_same([host], [device])
    assert len(gpu.log.places) == 1
    assert not gpu.log.faults


def test_the_mask_job(odd):
    with Store(odd) as store:
        samples = list(range(8))
        host = EstimateMasks(size=SIZE, batch_size=5).open()
        wanted = [result for part in host.estimates(store, samples) for result in part]
        host.close()
        with gpu_machine() as gpu:
            device = EstimateMasks(size=SIZE, batch_size=5, device="cuda:1").open()
            found = [result for part in device.estimates(store, samples) for result in part]
            device.close()
    assert found == wanted
    assert [place[0] for place in gpu.log.places] == [1]
    assert not gpu.log.faults


def test_centre_squares(tiny):
    with Store(tiny) as store, MaskStore(store) as masks:
        with SquareReader(store, masks, size=SIZE) as reader:
            host = reader.read(range(6))
        with gpu_machine(), SquareReader(store, masks, size=SIZE, device="cuda") as reader:
            with reader.device.producing():
                device = reader.read(range(6))
            np.testing.assert_array_equal(host.views, device.views.get())
            np.testing.assert_array_equal(host.masks, device.masks.get())


@pytest.mark.parametrize("ground", ["tile", "inpaint"])
def test_the_sets_of_the_backgrounds_challenge(tiny, tmp_path, ground):
    made = []
    for device in ("cpu", "cuda"):
        with gpu_machine():
            make_bgsets(tiny, tmp_path / device, size=SIZE, device=device, donor_ground=ground)
        files = sorted(path for path in (tmp_path / device).rglob("*.tar") if path.is_file())
        made.append({str(path.relative_to(tmp_path / device)): path.read_bytes() for path in files})
    assert made[0]
    assert made[0] == made[1]


def test_resize_by_the_planned_filter(tiny):
    """Crops of both filters in one recipe."""
    sharp = replace(BASE.views[1], crop=replace(BASE.views[1].crop, interpolation="bicubic"))
    rehearse(tiny, replace(BASE, views=(BASE.views[0], sharp)).with_background("swap", p=1.0))
