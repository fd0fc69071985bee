"""The loader on a GPU; without one on stand-ins, as far as these can tell. Not yet run on a GPU."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import numpy as np
import pytest
import torch

from figureground.kernels.arrays import Ragged
from figureground.pipeline import Loader, recipes
from figureground.pipeline.augment import Augmenter
from figureground.pipeline.decode import Decoder
from figureground.pipeline.device import CudaDevice
from figureground.pipeline.plan import draw_plan
from figureground.pipeline.tables import Slots
from figureground.shards import MaskStore, Store

pytestmark = pytest.mark.gpu

RECIPE = recipes.moco_v2(64).with_background("swap", p=0.5)


def make(shards, recipe=RECIPE, **options):
    return Loader(shards, recipe, **{"batch_size": 8, "device": "cuda", "masks": "sidecar", **options})


def test_batches_are_on_the_gpu(shards):
    with make(shards) as loader:
        batch = next(iter(loader))
    assert all(view.is_cuda for view in batch["views"])
    assert batch["masks"][0].is_cuda
    assert batch["negatives"].is_cuda
    assert batch["index"].is_cuda


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("channels_last", [False, True])
def test_gpu_views_equal_cpu_views_of_the_same_pixels(shards, dtype, channels_last):
    """Decoded once, on the host; then the recipe on both devices."""
    import cupy

    with Store(shards) as store, make(shards, device="cpu", dtype=dtype, channels_last=channels_last) as loader:
        ids = np.arange(8)
        masks = MaskStore(store)
        decoder = Decoder(8, device="cpu", masks=True)
        decoded = decoder.decode([store.image(i) for i in ids], [masks.mask(i) for i in ids])
        plans = loader.replay(ids, epoch=0)["params"]
        names = {torch.float32: np.float32, torch.float16: np.float16, torch.bfloat16: "bfloat16"}
        plain = recipes.moco_v2(64).with_background("remove", p=0.5, fill="noise")
        results = []
        for xp in (np, cupy):
            images, gray = (_moved(batch, xp) for batch in (decoded.images, decoded.masks))
            results.append(_views(plain, plans, images, gray, decoded, names[dtype], channels_last, xp))
        for host, device in zip(*results, strict=True):
            np.testing.assert_array_equal(host, cupy.asnumpy(device))
        decoder.close()


def _moved(batch, xp):
    arrays = []
    for address, (height, width) in zip(batch.addresses, batch.sizes, strict=True):
        size = int(height) * int(width) * batch.channels
        flat = np.frombuffer((ctypes.c_uint8 * size).from_address(int(address)), np.uint8)
        shape = (height, width, 3) if batch.channels == 3 else (height, width)
        arrays.append(xp.asarray(flat.reshape(shape).copy()))
    return Ragged.from_arrays(arrays)


def _views(recipe, plans, images, masks, decoded, dtype, channels_last, xp):
    count = len(plans[0])
    drawn = [
        draw_plan(recipe, v, seed=0, epoch=0, samples=plans[0]["sample"], sizes=decoded.images.sizes) for v in range(2)
    ]
    donor = np.full((3, count), -1, np.int32)
    slots = Slots(np.arange(count, dtype=np.int32), donor, decoded.mask_valid, decoded.mask_area)
    augmenter = Augmenter(recipe, dtype=dtype, channels_last=channels_last, masks=True)
    kind = np.uint16 if dtype == "bfloat16" else dtype
    views, view_masks, _ = augmenter.augment(
        images, masks, drawn, slots, lambda shape, what: xp.empty(shape, kind if what == "view" else np.uint8)
    )
    augmenter.close()
    return [*views, *view_masks]


def test_nvjpeg_differs_little_from_libjpeg(shards, capsys):
    """The devices' views differ only by their JPEG decoders; the difference is reported."""
    with make(shards, device="cpu") as host, make(shards) as device:
        differences = []
        for a, b in zip(host, device, strict=True):
            assert a["index"].tolist() == b["index"].tolist()
            scale = 255 * torch.tensor(RECIPE.std).view(3, 1, 1)
            differences.append((a["views"][0] * scale - b["views"][0].cpu() * scale).abs())
    levels = torch.cat(differences)
    with capsys.disabled():
        print(
            f"\nnvJPEG against libjpeg-turbo, grey levels of a view: mean {levels.mean():.3f}, max {levels.max():.1f}"
        )
    assert levels.mean() < 2.0


@pytest.mark.hardware
def test_batches_held_by_the_trainer_stay_as_they_are(shards):
    held, sums = [], []
    with make(shards, batch_size=4) as loader:
        for epoch in range(3):
            loader.set_epoch(epoch)
            for batch in loader:
                if len(held) < 20:
                    held.append(batch["views"][0])
                    sums.append(batch["views"][0].double().sum().item())
    assert [view.double().sum().item() for view in held] == sums


@pytest.mark.hardware
def test_batches_dropped_while_the_trainer_still_reads_them(shards):
    """The trainer's stream is far behind the host, which has dropped the batches; their memory must not be used again yet."""
    wanted, late, trainer = [], [], torch.cuda.Stream()
    with make(shards, batch_size=4) as loader:
        for batch in loader:
            wanted.append(batch["views"][0].double().sum().item())
        loader.set_epoch(0)
        with torch.cuda.stream(trainer):
            for batch in loader:
                torch.cuda._sleep(40_000_000)  # clock cycles: some 20 ms
                late.append(batch["views"][0].double().sum())
                del batch
        trainer.synchronize()
    assert [total.item() for total in late] == wanted


@pytest.mark.hardware
def test_arrays_of_the_device_are_tensors_of_the_allocator():
    """Nothing is copied between kernels and trainer, and `record_stream` finds the memory."""
    device = CudaDevice(0)
    with device.producing():
        for dtype in (torch.float32, torch.bfloat16, torch.uint8):
            array = device.empty((4, 3, 8), dtype)
            tensor = device.tensor(array[1:], dtype)
            assert tensor.data_ptr() == array[1:].data.ptr
            before = torch.cuda.memory_stats()["allocation.all.current"]
            del array, tensor
            assert torch.cuda.memory_stats()["allocation.all.current"] == before - 1


@pytest.mark.hardware
def test_memory_is_flat_over_200_batches(shards):
    with make(shards, batch_size=8) as loader:
        used = []
        while len(used) < 200:
            for _ in loader:
                free, total = torch.cuda.mem_get_info()
                used.append(total - free)
    assert max(used[100:]) - max(used[20:100]) < 64 << 20


@pytest.mark.hardware
@pytest.mark.parametrize("format", ["moco", "dict"])
def test_no_device_to_host_copies_in_steady_state(shards, format):
    from torch.profiler import ProfilerActivity, profile

    with make(shards, batch_size=8, format=format) as loader:
        iterator = iter(loader)
        for _ in range(4):
            next(iterator)
        with profile(activities=[ProfilerActivity.CUDA]) as trace:
            for _ in range(6):
                next(iterator)
            torch.cuda.synchronize()
    names = [event.name for event in trace.events()]
    assert any("resample_views" in name for name in names), "the profiler saw no kernel of ours"
    assert [name for name in names if "DtoH" in name] == []


@pytest.mark.hardware
def test_bad_bytes_do_not_kill_the_process():
    code = (
        "import numpy as np, cv2\n"
        "from figureground.pipeline.decode import Decoder\n"
        "good = cv2.imencode('.jpg', np.full((64, 80, 3), 90, np.uint8))[1].ravel()\n"
        "rng = np.random.default_rng(0)\n"
        "decoder = Decoder(16, device='cuda')\n"
        "for _ in range(200):\n"
        "    batch = []\n"
        "    for i in range(16):\n"
        "        data = good.copy()\n"
        "        kind = rng.integers(0, 4)\n"
        "        if kind == 0: data = data[: rng.integers(0, len(data))]\n"
        "        if kind == 1: data[rng.integers(0, len(data), 8)] = rng.integers(0, 256, 8)\n"
        "        if kind == 2: data = rng.integers(0, 256, 500).astype(np.uint8)\n"
        "        batch.append(data)\n"
        "    decoder.submit(batch)\n"
        "    assert len(decoder.collect().valid) == 16\n"
        "print('survived')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.stdout.strip() == "survived", (done.returncode, done.stderr[-2000:])


@pytest.mark.hardware
def test_a_numba_cuda_kernel_fits_as_a_stage(shards):
    cuda = pytest.importorskip("numba.cuda")

    @cuda.jit
    def invert(views):
        i = cuda.grid(1)
        if i < views.size:
            views[i] = 255 - views[i]

    def stage(views, rows):
        flat = views.reshape(-1)
        invert[(flat.size + 255) // 256, 256](flat)
        cuda.synchronize()
        return views

    with make(shards) as plain, make(shards, RECIPE.with_stage(stage, after="color")) as inverted:
        a, b = next(iter(plain))["views"][0], next(iter(inverted))["views"][0]
    mean, std = (torch.tensor(x, device="cuda").view(3, 1, 1) for x in (RECIPE.mean, RECIPE.std))
    torch.testing.assert_close(b * std + mean, 1 - (a * std + mean), rtol=0, atol=1e-5)


@pytest.mark.hardware
def test_a_cupy_kernel_fits_as_a_stage(shards):
    import cupy

    kernel = cupy.ElementwiseKernel("uint8 x", "uint8 y", "y = 255 - x", "figureground_test_invert")
    with make(shards) as plain, make(shards, RECIPE.with_stage(lambda v, rows: kernel(v), after="color")) as inverted:
        a, b = next(iter(plain))["views"][0], next(iter(inverted))["views"][0]
    mean, std = (torch.tensor(x, device="cuda").view(3, 1, 1) for x in (RECIPE.mean, RECIPE.std))
    torch.testing.assert_close(b * std + mean, 1 - (a * std + mean), rtol=0, atol=1e-5)
