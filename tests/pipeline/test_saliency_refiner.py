"""The correcting network: compositions by hand, its start at the teacher, training, resume, files, use."""

from __future__ import annotations

import argparse
import dataclasses

import numpy as np
import pytest
import torch
from pipeline_shards import disc_image, write_shards

from figureground.kernels.saliency import estimate_saliency
from figureground.pipeline import saliency_refiner
from figureground.pipeline.methods import method_record, resolve_method
from figureground.pipeline.saliency_compose import Composer, draw_pastes, fill_holes, find_figures
from figureground.pipeline.saliency_job import train_saliency
from figureground.pipeline.saliency_net import NetSaliency, load_net, save_net
from figureground.pipeline.saliency_refine_steps import RefineTrainer, weighted_loss
from figureground.pipeline.saliency_refiner import LOWEST, Refiner, predict_refined
from figureground.pipeline.saliency_targets import TrainPlan
from figureground.pipeline.saliency_train import add_train_saliency, run_train_saliency

TEACHERS = ("fused", "rbd")
PLAN = TrainPlan(teachers=TEACHERS, epochs=3, size=32, batch_size=6, width=4)


@pytest.fixture(scope="module")
def discs(tmp_path_factory):
    return write_shards(tmp_path_factory.mktemp("discs"), 12, per_shard=6, masks=False)


@pytest.fixture(scope="module")
def trained(discs, tmp_path_factory):
    out = tmp_path_factory.mktemp("net") / "model.pt"
    train_saliency(discs, out, PLAN)
    return out


def disc_images(count, side):
    return (
        np.stack([disc_image(np.random.default_rng(i), side, side)[0] for i in range(count)])
        .transpose(0, 3, 1, 2)
        .copy()
    )


def square_maps(teachers=3, side=20):
    """Maps of one image: the teachers agree on a square of 8 px."""
    maps = np.zeros((1, teachers, side, side), np.uint8)
    maps[:, :, 6:14, 6:14] = 255
    return maps


def test_a_figure_needs_agreement_size_one_piece_and_a_free_border():
    assert find_figures(square_maps()).rows.tolist() == [0]
    doubtful = square_maps()
    doubtful[0, 2, 6:14, 6:9] = 0  # 40 of 64 pixels: 0.625
    whole, edge, pieces = (square_maps() for _ in range(3))
    whole[:, :, 1:-1, 1:-1] = 255
    edge[:, :, 6:14, :6] = 255  # 8 of 80 pixels of the border
    pieces[:, :, 16:19, 16:19] = 255  # 9 of 73 pixels apart
    for maps in (doubtful, whole, edge, pieces):
        assert find_figures(maps).rows.size == 0
    small = np.zeros_like(square_maps())
    small[:, :, 8:11, 8:11] = 255  # 9 of 400 pixels
    assert find_figures(small).rows.size == 0


def test_holes_are_filled_from_around():
    ramp = torch.linspace(0, 240, 16).expand(1, 3, 16, 16).clone()
    known = torch.ones(1, 1, 16, 16)
    known[..., 6:10, 6:10] = 0
    spoiled = ramp * known + 999 * (1 - known)
    filled = fill_holes(spoiled, known)
    torch.testing.assert_close(filled * known, ramp * known, rtol=0, atol=1e-3)
    assert float((filled - ramp).abs().max()) < 40
    nothing = fill_holes(spoiled, torch.zeros_like(known))
    assert torch.isfinite(nothing).all()


def test_draws_are_a_function_of_their_arguments():
    boxes = np.array([[0.0, 0.0, 0.4, 0.4], [0.2, 0.0, 0.3, 0.6]])
    first, again = draw_pastes(5, 2, 3, 64, boxes, 32), draw_pastes(5, 2, 3, 64, boxes, 32)
    for field in dataclasses.fields(first):
        np.testing.assert_array_equal(getattr(first, field.name), getattr(again, field.name))
    assert not np.array_equal(first.figure_boxes, draw_pastes(5, 2, 4, 64, boxes, 32).figure_boxes)
    # the middle of a figure lies inside the picture
    middle = np.stack([boxes[first.figures, 0], boxes[first.figures, 1]])
    place = (middle - first.figure_boxes[:, :, 2].T) / np.stack(
        [first.figure_boxes[:, 0, 0], first.figure_boxes[:, 1, 1]]
    )
    assert np.abs(place).max() <= 0.65 + 1e-5
    assert (np.abs(first.ground_boxes[:, 0, 0]) + np.abs(first.ground_boxes[:, 0, 2]) <= 1 + 1e-6).all()


def test_a_composition_by_hand():
    """A white square on black, moved nowhere, on a grey ground: it is where its mask says."""
    images = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    images[0, :, 8:24, 8:24], images[1] = 255, 100
    maps = torch.zeros(2, 2, 32, 32, dtype=torch.uint8)
    maps[0, :, 8:24, 8:24] = 255
    composer = Composer(images, maps)
    assert composer.figures.rows.tolist() == [0]
    draws = draw_pastes(0, 0, 0, 1, composer.figures.boxes, 32)
    still = np.array([[[1, 0, 0], [0, 1, 0]]], np.float32)
    draws = dataclasses.replace(
        draws, figure_boxes=still, ground_boxes=still, filled=np.array([False]), toward=draws.toward * 0,
        gains=np.ones_like(draws.gains), offsets=draws.offsets * 0, soften=draws.soften * 0, noise=draws.noise * 0,
    )  # fmt: skip
    picture, mask = composer.compose(draws)
    inside, outside = (slice(None), slice(None), slice(10, 22), slice(10, 22)), (slice(None), slice(None), slice(0, 6))
    assert (mask[inside] == 1).all()
    assert (picture[inside] == 255).all()
    assert (mask[outside] == 0).all()
    assert (picture[outside] == 100).all()
    filled, _ = composer.compose(dataclasses.replace(draws, filled=np.array([True])))
    assert (filled[outside] == 0).all()


def test_no_figure_is_an_error():
    with pytest.raises(ValueError, match="the teachers must agree on the figure of at least one image, got none of 2"):
        Composer(torch.zeros(2, 3, 32, 32, dtype=torch.uint8), torch.zeros(2, 2, 32, 32, dtype=torch.uint8))


def test_loss_by_hand():
    target = torch.zeros(1, 1, 2, 2)
    target[..., 0] = 1
    logits, half = torch.zeros(1, 1, 2, 2), torch.full((1, 1, 2, 2), 0.5)
    # entropy ln 2, halved; maps of one half: F = (1.3 * 1 + 1) / (2 + 0.3 * 2 + 1)
    assert float(weighted_loss(logits, target, half)) == pytest.approx(np.log(2) / 2 + 0.5 * (1 - 2.3 / 3.6), abs=1e-5)


def test_an_untrained_network_gives_its_teacher():
    images = disc_images(3, 48)
    net = Refiner(TEACHERS, 4).eval()
    assert sum(p.numel() for p in Refiner(TEACHERS).parameters()) < 2_000_000
    with torch.no_grad():
        maps = predict_refined(net, torch.from_numpy(images)).numpy()
    teacher = estimate_saliency(images, method="fused") / 255
    np.testing.assert_allclose(maps, np.clip(teacher, LOWEST, 1 - LOWEST), atol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (33, 47), (96, 64)])
def test_shapes(height, width):
    assert Refiner(TEACHERS, 4)(torch.zeros(2, 3, height, width), torch.zeros(2, 2, height, width)).shape == (
        2, 1, height, width,
    )  # fmt: skip


def test_a_batch_has_compositions_and_photographs():
    trainer = RefineTrainer(PLAN, disc_images(9, 64))
    pictures, targets, weights = trainer._batch(0, np.arange(9))
    assert pictures.shape == (6, 3, 32, 32)
    assert pictures.dtype == torch.uint8
    assert (weights[:4] == 1).all()  # compositions are sure
    torch.testing.assert_close(weights[4:], (2 * targets[4:] - 1).abs())
    assert targets.min() >= 0
    assert targets.max() <= 1


def test_photographs_and_targets_are_cropped_alike():
    trainer = RefineTrainer(PLAN, disc_images(4, 64))
    bits = np.random.default_rng(0).integers(0, 2, (4, 1, 16, 16)).repeat(4, 2).repeat(4, 3).astype(np.uint8)
    trainer._images, trainer._maps = (torch.from_numpy(bits * k).expand(-1, n, -1, -1) for k, n in ((200, 3), (255, 2)))
    views, targets = trainer._photographs(0, np.arange(4))
    middle = (views.amin((1, 2, 3)) / 2 + views.amax((1, 2, 3)) / 2)[:, None, None]
    sure = (targets[:, 0] - 0.5).abs() > 0.3
    assert sure.float().mean() > 0.4
    assert ((views.float().mean(1) > middle) == (targets[:, 0] > 0.5))[sure].float().mean() > 0.98


def test_hidden_maps():
    trainer = RefineTrainer(PLAN, disc_images(4, 64))
    maps = torch.ones(400, 2, 3, 3)
    seen = trainer._hidden(maps, 0)
    hidden = (seen != 1).all((2, 3))
    assert (hidden == (seen != 1).any(3).any(2)).all()  # whole maps
    assert 0.15 < hidden.float().mean() < 0.25
    torch.testing.assert_close(seen, trainer._hidden(maps, 0), rtol=0, atol=0)


def test_the_loss_falls(discs, tmp_path):
    report = train_saliency(discs, tmp_path / "m.pt", dataclasses.replace(PLAN, epochs=60, width=8))
    assert np.mean(report.losses[-5:]) < 0.8 * np.mean(report.losses[:5])
    image, truth = disc_image(np.random.default_rng(77), 48, 48)
    mask = resolve_method(f"net:{tmp_path / 'm.pt'}")(image.transpose(2, 0, 1)[None].copy(), 48)[0]
    found, true = mask > 127, truth > 127
    assert (found & true).sum() > 0.9 * (found | true).sum()


def test_equal_seeds_give_equal_bytes(discs, trained, tmp_path):
    train_saliency(discs, tmp_path / "again.pt", PLAN)
    assert (tmp_path / "again.pt").read_bytes() == trained.read_bytes()
    train_saliency(discs, tmp_path / "other.pt", dataclasses.replace(PLAN, seed=1))
    assert not torch.equal(*(load_net(path)[0].head.weight for path in (trained, tmp_path / "other.pt")))


def test_a_stopped_run_goes_on_to_the_same_bytes(discs, trained, tmp_path, monkeypatch):
    out, run_epoch = tmp_path / "model.pt", RefineTrainer.run_epoch

    def interrupted(self, on_step):
        if self.epoch == 2:
            raise KeyboardInterrupt
        return run_epoch(self, on_step)

    monkeypatch.setattr(RefineTrainer, "run_epoch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train_saliency(discs, out, PLAN)
    monkeypatch.undo()
    with pytest.raises(ValueError, match="must be of the same training, got another kind, pixels; remove it"):
        train_saliency(discs, out, dataclasses.replace(PLAN, kind="alone"))
    assert train_saliency(discs, out, PLAN).resumed_at == 2
    assert out.read_bytes() == trained.read_bytes()


def test_planning_by_time_leaves_no_trace():
    images = disc_images(8, 64)
    trainer, fresh = RefineTrainer(PLAN, images), RefineTrainer(PLAN, images)
    assert trainer.seconds_per_epoch() > 0
    assert trainer.run_epoch() == fresh.run_epoch()


def test_prediction_mirrors_with_the_image(monkeypatch):
    """Teachers aside, which see an image and its mirror image a little differently."""
    torch.manual_seed(4)
    net, images = Refiner(TEACHERS, 4).eval(), torch.from_numpy(disc_images(2, 32))
    torch.nn.init.normal_(net.head.weight)
    maps = torch.rand(2, 2, 32, 32)
    monkeypatch.setattr(saliency_refiner, "teach", lambda images, teachers: maps)
    with torch.no_grad():
        here, maps = predict_refined(net, images), maps.flip(3)
        there = predict_refined(net, images.flip(3))
    torch.testing.assert_close(there, here.flip(2), rtol=0, atol=1e-5)
    assert here.std() > 0.05


def test_masks_do_not_depend_on_the_batch(trained):
    images = np.random.default_rng(0).integers(0, 256, (4, 3, 40, 40)).astype(np.uint8)
    estimate = resolve_method(f"net:{trained}")
    want = estimate(images, 56)
    assert want.shape == (4, 56, 56)
    assert want.dtype == np.uint8
    np.testing.assert_array_equal(np.concatenate([estimate(images[i : i + 1], 56) for i in range(4)]), want)
    assert set(method_record(f"net:{trained}")["model"]) == {"weights", "code"}


def test_a_file_gives_the_network_back(trained, tmp_path):
    net, side, card = load_net(trained)
    assert isinstance(net, Refiner)
    assert (net.teachers, net.width, side, card["kind"]) == (TEACHERS, 4, 48, "refine")
    assert not NetSaliency(trained).filtered
    save_net(tmp_path / "full.pt", Refiner(TEACHERS), side=96, card={})
    assert (tmp_path / "full.pt").stat().st_size < 5_000_000
    document = torch.load(trained, weights_only=True) | {"teachers": ["oracle"]}
    torch.save(document, tmp_path / "odd.pt")
    with pytest.raises(ValueError, match=r"must have teachers of fused, .*, got 'oracle'; train it anew"):
        load_net(tmp_path / "odd.pt")


def test_command(discs, tmp_path, capsys):
    def command(*arguments):
        parser = argparse.ArgumentParser()
        add_train_saliency(parser)
        return run_train_saliency(parser.parse_args([str(a) for a in (discs, *arguments, "--device", "cpu")]))

    small = ("--width", 4, "--size", 32, "--batch-size", 6, "--threads", 1, "--limit", 8)
    assert command("--out", tmp_path / "m.pt", "--epochs", 2, *small) == 0
    out, err = capsys.readouterr()
    assert "m.pt: 8 images, 2 epochs, loss " in out
    assert "epoch 2/2" in err
    assert (tmp_path / "m.pt.png").read_bytes().startswith(b"\x89PNG")
    assert command("--out", tmp_path / "t.pt", "--minutes", 0.02, "--quiet", *small) == 0
    assert command("--out", tmp_path / "n.pt", "--init", "ssl.pt", *small) == 2
    assert "init must go with kind 'alone', got kind 'refine'" in capsys.readouterr().err
    assert command("--out", tmp_path / "n.pt", *small, "--size", 160) == 2
    assert "size must be 32 to 128 px, got 160" in capsys.readouterr().err


def test_an_unknown_kind(discs, tmp_path):
    with pytest.raises(ValueError, match="kind must be one of refine, alone, got 'magic'"):
        train_saliency(discs, tmp_path / "m.pt", dataclasses.replace(PLAN, kind="magic"))
