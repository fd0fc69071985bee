"""The training: loss by hand, draws, falling loss, equal bytes, resume, command line."""

from __future__ import annotations

import argparse
import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from pipeline_shards import disc_image, write_shards, write_tar

from figureground.pipeline import saliency_job
from figureground.pipeline.methods import resolve_method
from figureground.pipeline.saliency_job import train_saliency
from figureground.pipeline.saliency_net import SaliencyNet, load_net
from figureground.pipeline.saliency_refiner import Refiner
from figureground.pipeline.saliency_steps import Trainer, soft_f_loss
from figureground.pipeline.saliency_targets import KINDS, TrainPlan, draw_crops, draw_order, read_images
from figureground.pipeline.saliency_train import add_train_saliency, run_train_saliency

TREE = str(Path(__file__).resolve().parents[2] / "build" / "typing")
PLAN = TrainPlan(teachers=("fused", "rbd"), epochs=4, size=32, batch_size=8, width=4, kind="alone")


@pytest.fixture(scope="module")
def discs(tmp_path_factory):
    return write_shards(tmp_path_factory.mktemp("discs"), 16, per_shard=8, masks=False)


@pytest.fixture(scope="module")
def trained(discs, tmp_path_factory):
    """A network, and its file."""
    out = tmp_path_factory.mktemp("net") / "model.pt"
    train_saliency(discs, out, PLAN)
    return out


def test_loss_by_hand():
    target = torch.zeros(1, 2, 10, 10)
    target[0, 0, :5] = 1  # 50 pixels; the second map is empty and does not count
    found = torch.zeros(1, 2, 10, 10)
    found[0, 0, 4:8] = 1  # 40 pixels, 10 of them right: P = 1/4, R = 1/5
    assert float(soft_f_loss(found, target, 1.0)) == pytest.approx(1 - 2 * 0.25 * 0.2 / 0.45, abs=1e-4)
    assert float(soft_f_loss(found, target, 0.3)) == pytest.approx(1 - 1.3 * 0.05 / (0.075 + 0.2), abs=1e-4)
    assert float(soft_f_loss(found, torch.zeros_like(target))) == 0


def test_draws_are_a_function_of_their_arguments():
    first, again = draw_crops(5, 2, 3, 64, least=0.4), draw_crops(5, 2, 3, 64, least=0.4)
    for name in ("boxes", "gain", "offset", "colors"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
    assert not np.array_equal(first.boxes, draw_crops(5, 2, 4, 64, least=0.4).boxes)
    scale, shift = np.abs(first.boxes[:, [0, 1], [0, 1]]), np.abs(first.boxes[:, :, 2])
    assert (scale + shift <= 1 + 1e-6).all()
    assert (scale >= np.sqrt(0.4) - 1e-6).all()
    assert 16 < (first.boxes[:, 0, 0] < 0).sum() < 48
    assert sorted(draw_order(5, 0, 9)) == list(range(9))
    assert not np.array_equal(draw_order(5, 0, 9), draw_order(5, 1, 9))


def test_crops_take_image_and_target_alike():
    images = np.random.default_rng(0).integers(0, 2, (4, 1, 37, 37)).repeat(3, 1).astype(np.uint8) * 200
    trainer = Trainer(dataclasses.replace(PLAN, teachers=("mbd",)), images)
    trainer._targets = torch.from_numpy(images[:, :1] // 200 * 255)
    views, targets = trainer._batch(0, np.arange(4))
    middle = (views.amin((1, 2, 3)) + views.amax((1, 2, 3))) / 2
    bright = views.mean(1) > middle[:, None, None]
    assert (bright == (targets[:, 0] > 0.5)).float().mean() > 0.95


def test_refinement_moves_targets_and_keeps_half_of_the_teacher():
    images = np.stack([disc_image(np.random.default_rng(i), 37, 37)[0] for i in range(8)]).transpose(0, 3, 1, 2).copy()
    trainer = Trainer(PLAN, images)
    before = trainer._targets.int()
    trainer._refine()
    after, average = trainer._targets.int(), trainer._average.int()
    assert (after != before).any()
    assert ((after - (before + average) / 2).abs() <= 0.5).all()
    assert trainer._targets.dtype == torch.uint8


def test_the_loss_falls_and_the_disc_is_found(discs, tmp_path):
    plan = dataclasses.replace(PLAN, epochs=40, batch_size=4, width=8)
    report = train_saliency(discs, tmp_path / "model.pt", plan)
    assert report.losses[-1] < 0.8 * report.losses[0]
    image, truth = disc_image(np.random.default_rng(77), 48, 48)
    mask = resolve_method(f"net:{tmp_path / 'model.pt'}")(image.transpose(2, 0, 1)[None].copy(), 48)[0]
    found, true = mask > 127, truth > 127
    assert (found & true).sum() > 0.9 * (found | true).sum()


def test_equal_seeds_give_equal_bytes(discs, trained, tmp_path):
    train_saliency(discs, tmp_path / "again.pt", PLAN)
    assert (tmp_path / "again.pt").read_bytes() == trained.read_bytes()
    train_saliency(discs, tmp_path / "other.pt", dataclasses.replace(PLAN, seed=1))
    ours, theirs = (load_net(path)[0].head.weight for path in (trained, tmp_path / "other.pt"))
    assert not torch.equal(ours, theirs)


@pytest.mark.parametrize("stop", [1, 3])  # in phase 1, and at the first epoch of phase 2
def test_a_stopped_run_goes_on_to_the_same_bytes(discs, trained, tmp_path, monkeypatch, stop):
    out, run_epoch = tmp_path / "model.pt", Trainer.run_epoch

    def interrupted(self, on_step):
        if self.epoch == stop:
            raise KeyboardInterrupt
        return run_epoch(self, on_step)

    monkeypatch.setattr(Trainer, "run_epoch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train_saliency(discs, out, PLAN)
    monkeypatch.undo()
    assert not out.exists()
    with pytest.raises(ValueError, match=r"must be of the same training, got another seed; remove it"):
        train_saliency(discs, out, dataclasses.replace(PLAN, seed=5))
    report = train_saliency(discs, out, PLAN)
    assert report.resumed_at == stop
    assert out.read_bytes() == trained.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.pt", "model.pt.png"]


def test_planning_by_time_leaves_no_trace(discs):
    images = read_images(discs, 37, limit=16).pixels
    trainer, fresh = Trainer(PLAN, images), Trainer(PLAN, images)
    assert trainer.seconds_per_epoch() > 0
    assert trainer.run_epoch() == fresh.run_epoch()


def test_images_are_few_and_bad_ones_are_passed_over(tmp_path, discs):
    assert read_images(discs, 40, limit=5).pixels.shape == (5, 3, 40, 40)
    write_tar(tmp_path / "bad.tar", [("a.jpg", b"no image"), ("b.txt", b"none")])
    with pytest.raises(ValueError, match="must hold images that can be decoded, got 2 that cannot"):
        read_images(tmp_path / "bad.tar", 40, limit=9)
    assert read_images([discs, tmp_path / "bad.tar"], 40, limit=99).unreadable == 2


def test_init(discs, tmp_path):
    torch.manual_seed(1)
    torch.save(SaliencyNet(4).encoder.state_dict(), tmp_path / "ssl.pt")
    report = train_saliency(
        discs, tmp_path / "m.pt", dataclasses.replace(PLAN, epochs=2), init=str(tmp_path / "ssl.pt")
    )
    assert "tensors of the encoder from ssl.pt" in str(report)


def command(*arguments):
    parser = argparse.ArgumentParser()
    add_train_saliency(parser)
    small = ["--kind", "alone", "--width", 4, "--size", 32, "--batch-size", 8, "--device", "cpu", "--threads", 1]
    return run_train_saliency(parser.parse_args([str(a) for a in (*arguments, *small)]))


def test_command(discs, tmp_path, capsys):
    arguments = (discs, "--out", tmp_path / "m.pt", "--method-teachers", "rbd", "--epochs", 2, "--limit", 9)
    assert command(*arguments) == 0
    out, err = capsys.readouterr()
    assert "m.pt: 9 images, 2 epochs, loss " in out
    assert "phase 2, epoch 2/2" in err
    card = load_net(tmp_path / "m.pt")[2]
    assert card["teachers"] == ["rbd"]
    assert card["images"] == 9
    assert (tmp_path / "m.pt.png").read_bytes().startswith(b"\x89PNG")
    assert command(*arguments) == 2
    assert "out must be a new file" in capsys.readouterr().err
    assert command(discs, "--out", tmp_path / "t.pt", "--minutes", 0.02, "--quiet") == 0
    assert command(tmp_path / "none.tar", "--out", tmp_path / "n.pt") == 2


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--method-teachers", "fused,magic"], "teachers must be of fused, .*, got 'magic'"),
        (["--epochs", 1], "epochs must be at least 2, got 1"),
        (["--minutes", 0], "minutes must be positive, got 0"),
        (["--limit", 0], "limit must be at least 1, got 0"),
        (["--seed", -1], "seed must be 0 to"),
        (["--init", "nowhere.pt"], "path must be a file, got 'nowhere.pt'"),
    ],
)
def test_wrong_usage(discs, tmp_path, capsys, arguments, says):
    assert command(discs, "--out", tmp_path / "m.pt", "--quiet", *arguments) == 2
    assert not (tmp_path / "m.pt").exists()
    assert re.search(says, capsys.readouterr().err)


def test_the_parser_does_not_import_torch():
    code = "import sys, figureground.pipeline.saliency_train; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": TREE}
    )
    assert done.stdout.strip() == "False", done.stderr


def test_no_gpu(discs, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(RuntimeError, match="needs a CUDA GPU and a CUDA build of torch; pass device='cpu'"):
        train_saliency(discs, tmp_path / "m.pt", PLAN, device="cuda")


def test_out_needs_a_folder(discs, tmp_path, capsys):
    """Said at once, not after the first epoch."""
    assert command(discs, "--out", tmp_path / "none" / "m.pt", "--quiet") == 2
    assert "out must be in a folder that exists, got" in capsys.readouterr().err


def stopped(discs, out, plan, monkeypatch, **options):
    """Leave the checkpoint of a training that was stopped after an epoch."""
    run_epoch = Trainer.run_epoch

    def interrupted(self, on_step):
        if self.epoch == 1:
            raise KeyboardInterrupt
        return run_epoch(self, on_step)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "run_epoch", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train_saliency(discs, out, plan, **options)


def test_a_foreign_checkpoint_is_refused(discs, tmp_path):
    torch.save({"epochs": 3}, tmp_path / "m.pt.checkpoint")
    with pytest.raises(
        ValueError, match="must be a checkpoint of 'figureground train-saliency', got another file; remove"
    ):
        train_saliency(discs, tmp_path / "m.pt", PLAN)


def test_another_encoder_or_code_is_another_training(discs, tmp_path, monkeypatch):
    ssl, out = tmp_path / "ssl.pt", tmp_path / "m.pt"
    torch.save(SaliencyNet(4).encoder.state_dict(), ssl)
    stopped(discs, out, PLAN, monkeypatch, init=str(ssl))
    torch.save(SaliencyNet(4).encoder.state_dict(), ssl)  # other weights of the same name
    with pytest.raises(ValueError, match="got another init; remove it"):
        train_saliency(discs, out, PLAN, init=str(ssl))
    (tmp_path / "m.pt.checkpoint").unlink()
    stopped(discs, out, PLAN, monkeypatch)
    monkeypatch.setattr(saliency_job, "_code_digest", lambda: "newer")
    with pytest.raises(ValueError, match="got another code; remove it"):
        train_saliency(discs, out, PLAN)


def test_lines_in_a_log(discs, tmp_path, capsys, monkeypatch):
    """Without a terminal a bar says nothing before its end."""
    monkeypatch.setattr("figureground.pipeline.masks_bar.LINES_S", 0.0)
    train_saliency(discs, tmp_path / "m.pt", dataclasses.replace(PLAN, epochs=2), progress=True)
    assert re.search(r"^phase 1, epoch 1/2, loss [\d.]+$", capsys.readouterr().err, re.M)
    train_saliency(discs, tmp_path / "q.pt", dataclasses.replace(PLAN, epochs=2))
    assert capsys.readouterr().err == ""


def test_networks_are_small():
    """At most two million parameters, of both kinds as they are trained by default."""
    for net in (SaliencyNet(KINDS["alone"][1]), Refiner(TrainPlan().teachers, KINDS["refine"][1])):
        assert sum(p.numel() for p in net.parameters()) <= 2_000_000
