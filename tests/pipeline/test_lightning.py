"""Lightning's Trainer over the loader: epochs, checkpoints in the middle of them, resume through its own hooks."""

from __future__ import annotations

import logging
import warnings

import pytest
import torch
from loader_tools import make
from torchvision_ops import declare_operators

from figureground.pipeline import recipes

declare_operators()  # torchmetrics imports torchvision where there is one
lightning = pytest.importorskip("lightning")
from lightning.pytorch.callbacks import ModelCheckpoint  # noqa: E402

RECIPE = recipes.mae(16)
EPOCHS = 3


class _Stop(Exception):
    pass


class _Net(lightning.LightningModule):
    """Trains one number, and remembers which samples came; may stop like a job that is killed."""

    def __init__(self, stop_after=None):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen, self.validated, self.stop_after = [], [], stop_after

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)

    def training_step(self, batch, batch_idx):
        if len(self.seen) == self.stop_after:
            raise _Stop
        index, (view,), _ = batch
        self.seen.append((self.current_epoch, batch_idx, index.tolist(), float(view.sum())))
        return (self.weight - view.mean()).square().sum()

    def validation_step(self, batch, batch_idx):
        self.validated.append(batch[0].tolist())


def _fit(shards, folder, *, stop_after=None, resume=None, every=4, validate=False, batch_size=8, **options):
    """Fit a new module with a new loader; return what it saw."""
    net = _Net(stop_after)
    when = {"every_n_epochs": 1} if every == "epoch" else {"every_n_train_steps": every}
    save = ModelCheckpoint(folder, "{step}", save_top_k=-1, save_on_train_epoch_end=every == "epoch", **when)
    trainer = lightning.Trainer(
        accelerator="cpu", devices=1, max_epochs=EPOCHS, logger=False, callbacks=[save], default_root_dir=folder,
        enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False, num_sanity_val_steps=0,
        **options,
    )  # fmt: skip
    with warnings.catch_warnings(), make(shards, RECIPE, format="solo", seed=1, batch_size=batch_size) as train:
        warnings.filterwarnings(
            "ignore", ".*(isinstance.treespec|no `val_dataloader`|dirpath has changed|Checkpoint directory).*"
        )
        warnings.filterwarnings("error", ".*not resumable.*")
        val = make(shards, recipes.eval(16), format="solo", shuffle=False, batch_size=40) if validate else None
        try:
            trainer.fit(net, train, val, ckpt_path=resume, weights_only=False)
        except _Stop:
            assert stop_after is not None
        finally:
            if val is not None:
                val.close()
    return net


@pytest.fixture(autouse=True)
def _quiet(caplog):
    caplog.set_level(logging.ERROR, "lightning.pytorch")


def test_each_epoch_is_the_loaders_own(shards, tmp_path):
    seen = _fit(shards, tmp_path).seen
    assert len(seen) == EPOCHS * 15
    with make(shards, RECIPE, format="solo", seed=1) as loader:
        for epoch in range(EPOCHS):
            ids = [index.tolist() for index, _, _ in loader]
            assert [s[2] for s in seen[15 * epoch : 15 * epoch + 15]] == ids
            assert {s[0] for s in seen[15 * epoch : 15 * epoch + 15]} == {epoch}
            assert sorted(i for batch in ids for i in batch) == list(range(120))


CASES = {
    "middle of the first epoch": ({"every": 4}, 10, 8),
    "middle of the second epoch": ({"every": 4}, 22, 20),
    "last batch of an epoch": ({"every": 15}, 17, 15),
    "end of an epoch": ({"every": "epoch"}, 17, 15),
    "part of each epoch": ({"every": 4, "limit_train_batches": 6}, 11, 8),
    "end of a part": ({"every": "epoch", "limit_train_batches": 6}, 7, 6),
    "half of each epoch": ({"every": 5, "limit_train_batches": 0.5}, 13, 10),
    "validation in between": ({"every": 4, "validate": True, "val_check_interval": 5}, 22, 20),
    "validation and checkpoint at once": ({"every": 5, "validate": True, "val_check_interval": 5}, 23, 20),
}


@pytest.mark.parametrize("case", CASES)
def test_resume_gives_exactly_the_rest(shards, tmp_path, case):
    options, stop_after, saved = CASES[case]
    whole = _fit(shards, tmp_path / "whole", **options)
    killed = _fit(shards, tmp_path / "killed", stop_after=stop_after, **options)
    assert killed.seen == whole.seen[:stop_after]
    resumed = _fit(shards, tmp_path / "resumed", resume=tmp_path / "killed" / f"step={saved}.ckpt", **options)
    assert resumed.seen == whole.seen[saved:]
    if options.get("validate"):
        assert len(whole.validated) == 9 * 3
        assert whole.validated[:3] == resumed.validated[:3]


def test_resume_of_a_resume_and_with_another_batch_size(shards, tmp_path):
    whole = _fit(shards, tmp_path / "whole")
    _fit(shards, tmp_path / "a", stop_after=6)
    second = _fit(shards, tmp_path / "b", stop_after=7, resume=tmp_path / "a" / "step=4.ckpt")
    assert second.seen == whole.seen[4:11]
    third = _fit(shards, tmp_path / "c", resume=tmp_path / "b" / "step=8.ckpt")
    assert third.seen == whole.seen[8:]


def test_fitting_twice_starts_at_epoch_zero(shards, tmp_path):
    """Lightning makes the iterator first and sets the epoch then."""
    with make(shards, RECIPE, format="solo", seed=1) as loader:
        first = iter(loader)
        next(first)
        for _ in first:
            pass
        again = iter(loader)  # epoch 1 ...
        loader.sampler.set_epoch(0)  # ... no: 0
        ids = [index.tolist() for index, _, _ in again]
        loader.sampler.set_epoch(0)
        assert [index.tolist() for index, _, _ in loader] == ids


def test_state_after_a_late_set_epoch(shards):
    with make(shards, RECIPE, format="solo", seed=1) as loader:
        running = iter(loader)
        loader.set_epoch(0)
        for _ in range(5):
            next(running)
        state = loader.state_dict()
        assert (state["epoch"], state["position"]) == (0, 40)
        loader.set_epoch(2)
        assert (loader.state_dict()["epoch"], loader.state_dict()["position"]) == (2, 0)
        next(running)  # a running iteration goes on
        assert len([*iter(loader)]) == 15
