"""The README's lines for public training scripts, run in loops that use the loader as those scripts do.

The loops are ours; what they take from the scripts is which names they use, how batches are unpacked, and in which order the
loader's methods are called.
"""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pipeline_shards import write_shards

import figureground.pipeline
from figureground.pipeline import Loader, recipes

README = Path(__file__).resolve().parents[1] / "README.md"
SECTION = README.read_text().partition("## Into your trainer\n")[2].partition("\n## ")[0]
BLOCKS = [block.splitlines() for block in re.findall(r"```diff\n(.*?)```", SECTION, re.DOTALL)]
SAMPLES, BATCH, EPOCHS = 32, 8, 2


def _lines(script: str) -> str:
    """The added lines of the block whose first line names a script."""
    (block,) = [block for block in BLOCKS if script in block[0]]
    return "\n".join(line[1:] for line in block if line.startswith("+"))


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> str:
    return write_shards(tmp_path_factory.mktemp("glue") / "shards", SAMPLES)


@pytest.fixture
def cpu(monkeypatch):
    """A machine without a GPU that plays one: `.cuda()` does nothing, and the loader that asks for CUDA gets the CPU."""

    def make(*arguments, **options):
        asked.append(options.get("device", "cuda"))
        return Loader(*arguments, **{**options, "device": "cpu", "batch_size": min(options["batch_size"], BATCH)})

    asked: list[str] = []
    monkeypatch.setattr(figureground.pipeline, "Loader", make, raising=False)
    monkeypatch.setattr(torch.Tensor, "cuda", lambda self, *_, **__: self)
    return asked


def _run(script: str, **names):
    exec(compile(_lines(script), script, "exec"), names)
    return SimpleNamespace(**{name: value for name, value in names.items() if name != "__builtins__"})


def _expected(shards, recipe, epoch, **options):
    """The views that a loader of our own makes, batch by batch."""
    with Loader(shards, recipe, batch_size=BATCH, device="cpu", **options) as loader:
        loader.set_epoch(epoch)
        return [[view.clone() for view in batch["views"]] for batch in loader]


def _assert_batches(seen, want):
    assert len(seen) == len(want) > 0
    for got, views in zip(seen, want, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(got, views, strict=True))


def _crop_groups(crops):
    """How multi-crop models read their input: runs of equal width are concatenated and go through the network together."""
    widths = torch.tensor([crop.shape[-1] for crop in crops])
    ends = torch.cumsum(torch.unique_consecutive(widths, return_counts=True)[1], 0).tolist()
    return [torch.cat(crops[a:b]) for a, b in zip([0, *ends], ends, strict=False)]


def test_every_script_has_a_block_of_at_most_five_changed_lines():
    assert len(BLOCKS) == 5
    for block in BLOCKS:
        assert block[0].startswith(" # ")
        for sign in "+-":
            assert sum(line.startswith(sign) for line in block) <= 5
        assert all(line[0] in "+- " for line in block)
        assert all(len(line) <= 140 for line in block)


@pytest.mark.parametrize("rank", [0, 1])
def test_main_moco(shards, cpu, monkeypatch, rank):
    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setenv("WORLD_SIZE", "2")
    args = SimpleNamespace(data=shards, batch_size=BATCH, gpu=rank, distributed=True, start_epoch=1, epochs=1 + EPOCHS)
    made = _run("main_moco.py", args=args)
    assert cpu == ["cuda"]  # the current device, which the script sets
    for epoch in range(args.start_epoch, args.epochs):
        if args.distributed:
            made.train_sampler.set_epoch(epoch)
        meter, seen = [None] * len(made.train_loader), []
        for i, (images, _) in enumerate(made.train_loader):
            if args.gpu is not None:
                images[0] = images[0].cuda(args.gpu, non_blocking=True)
                images[1] = images[1].cuda(args.gpu, non_blocking=True)
            meter[i] = images[0].size(0)
            assert images[0].shape == images[1].shape == (BATCH, 3, 224, 224)
            assert images[0].dtype == torch.float32
            seen.append([images[0].clone(), images[1].clone()])
        assert meter == [BATCH] * (SAMPLES // BATCH // 2)
        _assert_batches(seen, _expected(shards, made.recipe, epoch))
    made.train_loader.close()


def test_main_swav(shards, cpu):
    args = SimpleNamespace(
        data_path=shards, batch_size=BATCH, seed=31, nmb_crops=[2, 3], epochs=EPOCHS, warmup_epochs=1
    )
    made = _run("main_swav.py", args=args)
    assert len(made.train_dataset) == SAMPLES
    steps = len(made.train_loader)
    warm_up = np.linspace(0, 1, steps * args.warmup_epochs)
    schedule = np.concatenate([warm_up, np.ones(steps * (args.epochs - args.warmup_epochs))])
    used, start_epoch = np.zeros(len(schedule)), 0
    for epoch in range(start_epoch, args.epochs):
        made.train_loader.sampler.set_epoch(epoch)
        seen = []
        for it, inputs in enumerate(made.train_loader):
            used[epoch * steps + it] += 1
            size = inputs[0].size(0)
            groups = _crop_groups(inputs)
            assert [tuple(group.shape[1:]) for group in groups] == [(3, 224, 224), (3, 96, 96)]
            output = torch.cat([group.mean((1, 2, 3)) for group in groups])
            for v in range(np.sum(args.nmb_crops)):
                assert torch.equal(output[size * v : size * (v + 1)], inputs[v].mean((1, 2, 3)))
            seen.append([crop.clone() for crop in inputs])
        _assert_batches(seen, _expected(shards, made.recipe, epoch, seed=31))
    assert (used == 1).all()
    assert cpu == ["cuda"]
    made.train_loader.close()


def test_main_dino(shards, cpu):
    args = SimpleNamespace(data_path=shards, batch_size_per_gpu=BATCH, seed=5, local_crops_number=2, epochs=EPOCHS)
    made = _run("main_dino.py", args=args)
    assert f"there are {len(made.dataset)} images" == f"there are {SAMPLES} images"
    schedule, start_epoch = np.zeros(args.epochs * len(made.data_loader)), 0

    def log_every(iterable):  # its logger wraps the loader in a generator
        total = len(iterable)
        for number, item in enumerate(iterable):
            assert number < total
            yield item

    for epoch in range(start_epoch, args.epochs):
        made.data_loader.sampler.set_epoch(epoch)
        seen = []
        for it, (images, _) in enumerate(log_every(made.data_loader)):
            schedule[len(made.data_loader) * epoch + it] += 1
            images = [image.cuda(non_blocking=True) for image in images]
            assert len(images) == args.local_crops_number + 2
            assert len(_crop_groups(images[:2])) == 1
            assert [len(group) for group in _crop_groups(images)] == [2 * BATCH, args.local_crops_number * BATCH]
            seen.append(images)
        _assert_batches(seen, _expected(shards, made.recipe, epoch, seed=5))
    assert (schedule == 1).all()
    assert cpu == ["cuda"]
    made.data_loader.close()


class _Lightning:
    """The order in which Lightning 2 uses a loader that is not torch's: it tries `iter`, makes the first epoch's iterator before
    the epoch is set, and after a restart keeps that iterator also for a later epoch."""

    def __init__(self, rank: int, world_size: int) -> None:
        self.global_rank, self.world_size = rank, world_size
        self.strategy = SimpleNamespace(root_device=torch.device("cpu"))

    def fit(self, step, loader, *, first_epoch: int, epochs: int) -> None:
        iter(loader)
        limit = len(loader)
        iterator = iter(loader)
        for epoch in range(first_epoch, epochs):
            sampler = getattr(loader, "sampler", None)
            if callable(getattr(sampler, "set_epoch", None)):
                sampler.set_epoch(epoch)
            if epoch > first_epoch:
                iterator = iter(loader)
            for number, batch in enumerate(iterator):
                assert number < limit
                step(epoch, [part.to("cpu") if isinstance(part, torch.Tensor) else part for part in batch])


@pytest.mark.parametrize(("first_epoch", "rank"), [(0, 0), (0, 1), (3, 0)])
def test_solo_learn(shards, monkeypatch, first_epoch, rank):
    monkeypatch.chdir(Path(shards).parents[1])
    cfg = SimpleNamespace(
        data=SimpleNamespace(num_large_crops=2, num_small_crops=0),
        optimizer=SimpleNamespace(batch_size=BATCH),
    )
    trainer = _Lightning(rank, 2)
    made = _run("main_pretrain.py", cfg=cfg, trainer=trainer)
    seen: dict[int, list] = {}

    def training_step(epoch, batch):
        index, views, targets = batch
        views = [views] if isinstance(views, torch.Tensor) else views
        assert len(views) == cfg.data.num_large_crops + cfg.data.num_small_crops
        assert targets.tolist() == [i % 5 for i in index.tolist()]
        seen.setdefault(epoch, []).append([view.clone() for view in views])

    trainer.fit(training_step, made.train_loader, first_epoch=first_epoch, epochs=first_epoch + EPOCHS)
    made.train_loader.close()
    assert list(seen) == [first_epoch, first_epoch + 1]
    for epoch, batches in seen.items():
        _assert_batches(batches, _expected(shards, made.recipe, epoch, rank=rank, world_size=2))


def test_lightly(shards, cpu, monkeypatch):
    monkeypatch.chdir(Path(shards).parents[1])
    device = "cpu"
    made = _run("examples/pytorch/moco.py", device=device)
    for epoch in range(EPOCHS):  # no sampler, no set_epoch: each pass takes the next epoch
        total, seen = 0.0, []
        for batch in made.dataloader:
            x_query, x_key = batch[0]
            x_query, x_key = x_query.to(device), x_key.to(device)
            total += (x_query - x_key).abs().mean().item()
            seen.append([x_query.clone(), x_key.clone()])
            assert len(batch[2]) == len(x_query)
        assert total / len(made.dataloader) > 0
        _assert_batches(seen, _expected(shards, made.recipe, epoch))
    assert cpu == ["cpu"]
    made.dataloader.close()


def test_an_iteration_without_a_batch_does_not_count(shards):
    """What the loop of Lightning asks for, by itself: epochs neither skipped nor twice, also after a resume."""
    recipe = recipes.moco_v2(16)
    with Loader(shards, recipe, batch_size=BATCH, device="cpu") as loader:
        order = {}
        for epoch in range(6):
            loader.set_epoch(epoch)
            order[epoch] = [batch["index"].tolist() for batch in loader]
        assert len({str(indices) for indices in order.values()}) == 6
    with Loader(shards, recipe, batch_size=BATCH, device="cpu") as loader:
        iter(loader)
        iter(loader)
        assert [batch["index"].tolist() for batch in loader] == order[0]
        iterator = iter(loader)
        loader.set_epoch(4)
        state = loader.state_dict()
        assert (state["epoch"], state["position"]) == (4, 0)
        assert next(iterator)["index"].tolist() == order[4][0]
        state = loader.state_dict()
        loader.set_epoch(2)  # a batch was handed out: this is for the next iteration
        assert next(iterator)["index"].tolist() == order[4][1]
        assert [batch["index"].tolist() for batch in loader] == order[2]
        loader.load_state_dict(state)
        iterator = iter(loader)
        loader.set_epoch(4)  # the restored one: the position stays
        assert [batch["index"].tolist() for batch in iterator] == order[4][1:]
        assert [batch["index"].tolist() for batch in loader] == order[5]
