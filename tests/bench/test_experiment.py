"""The experiment runs from end to end, continues where it was stopped, and says no to what makes no sense."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from figureground.bench import experiment, experiment_run
from figureground.bench.experiment_learn import Arm, BYOLLike, MoCoLike, train_arm
from figureground.bench.experiment_report import pool_masks, summarize
from figureground.bench.experiment_run import Settings, list_arms, open_workspace

TINY = Settings(
    classes=3, per_class=2, seeds=2, train=48, test=24, size=32, batch_size=16, threads=1,
    only=("moco-baseline", "moco-BG_Swaps-wrong-p0.2", "moco-untrained"),
)  # fmt: skip


def scores_of(result):
    return [(run["key"], run["seed"], run["scores"], run["loss"]) for run in result["runs"]]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One tiny experiment: two seeds, three arms, three steps."""
    out = tmp_path_factory.mktemp("experiment")
    return out, experiment.run_experiment(TINY, out, steps=3)


def test_it_reports_all_arms_and_seeds(finished, tmp_path, capsys):
    _, result = finished
    assert [(run["key"], run["seed"]) for run in result["runs"]] == [
        (key, seed) for seed in (0, 1) for key in TINY.only
    ]
    for run in result["runs"]:
        assert all(0 <= value <= 100 for name, value in run["scores"].items() if not name.endswith("bg_gap"))
        assert run["steps"] == (0 if run["key"] == "moco-untrained" else 3) == len(run["loss"])
    swaps = result["summary"]["moco-BG_Swaps-wrong-p0.2"]
    assert swaps["seeds"] == 2
    values = [run["scores"]["knn/swapped"] for run in result["runs"] if run["key"] == "moco-BG_Swaps-wrong-p0.2"]
    assert swaps["scores"]["knn/swapped"]["mean"] == pytest.approx(np.mean(values), abs=1e-3)
    for facts in result["data"]:
        assert facts["mask_iou"]["wrong"] < 0.6
        assert facts["own_scene_share"]["swapped"] == 0
    experiment.print_results(result)
    assert "moco-BG_Swaps-wrong-p0.2" in capsys.readouterr().out
    experiment.draw_results(result, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    json.dumps(result, allow_nan=False)


def test_a_stopped_run_continues_with_the_same_numbers(finished, monkeypatch):
    out, result = finished
    lost = out / "runs" / "1-moco-BG_Swaps-wrong-p0.2.json"
    lost.unlink()
    trained, run_arm = [], experiment.run_arm

    def watch(settings, arm, space, seed, steps):
        trained.append((arm.key, seed))
        return run_arm(settings, arm, space, seed, steps)

    monkeypatch.setattr(experiment, "run_arm", watch)
    again = experiment.run_experiment(TINY, out, steps=3)
    assert trained == [("moco-BG_Swaps-wrong-p0.2", 1)]
    assert scores_of(again) == scores_of(result)


def test_the_data_of_a_seed_is_made_once(tmp_path, monkeypatch):
    """Timing and the first seed share it; nothing is left behind."""
    made, places, opened = [], [], experiment.open_workspace

    def watch(settings, seed):
        made.append(seed)
        return opened(settings, seed)

    monkeypatch.setattr(experiment, "open_workspace", watch)
    monkeypatch.setattr(experiment, "measure_steps", lambda settings, arms, space: places.append(space.train) or {})
    experiment.run_experiment(replace(TINY, only=("moco-untrained",)), tmp_path, steps=3)
    assert made == [0, 1]
    assert len(places) == 1
    assert not Path(places[0]).parent.exists()


def test_a_folder_belongs_to_one_experiment(finished):
    out, _ = finished
    with pytest.raises(ValueError, match=r"other settings \(bias, steps\)"):
        experiment.run_experiment(replace(TINY, bias=0.5), out, steps=4)


def test_other_images_are_noticed(finished):
    out, _ = finished
    facts = out / "runs" / "0-data.json"
    kept = facts.read_text()
    facts.write_text(json.dumps(json.loads(kept) | {"fingerprint": "other"}))
    run = out / "runs" / "0-moco-baseline.json"
    moved = run.rename(run.with_suffix(".away"))
    try:
        with pytest.raises(ValueError, match=r"must be those that .* was begun with"):
            experiment.run_experiment(TINY, out, steps=3)
    finally:
        moved.rename(run)
        facts.write_text(kept)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"only": ("moco-magic",)}, "arms must be of moco-baseline.*got 'moco-magic'"),
        ({"bias": 1.5}, r"bias must be in \[0, 1\]"),
        ({"p": 0.0}, r"p in \(0, 1\]"),
        ({"seeds": 0}, "seeds must be at least 1, got 0"),
        ({"train": 8}, "train must be at least 16, got 8"),
        ({"scenes": "scenes"}, "masks and scenes must come with images, got none"),
        ({"masks": "masks"}, "masks and scenes must come with images, got none"),
    ],
)
def test_errors_of_settings(change, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        experiment.run_experiment(replace(TINY, **change), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_too_few_minutes(tmp_path):
    with pytest.raises(ValueError, match=r"minutes must allow 20 steps .* give about \d+ minutes more"):
        experiment.run_experiment(replace(TINY, only=("moco-baseline",), seeds=1), tmp_path, minutes=1e-3)


def test_the_steps_fill_the_minutes():
    arms = [Arm("moco", "baseline"), Arm("moco", "BG_RM", "remove", 0.2, "true")]
    measured = {arms[0].key: {"step_ms": 40.0}, arms[1].key: {"step_ms": 60.0}, "evaluation": {"seconds": 2.0}}
    # three seeds: 3 x 0.1 s a step, 3 x 2 x 2 s of evaluation
    assert experiment.choose_steps(measured, arms, 3, 60.0) == int(0.95 * (60 - 12) / 0.3)
    measured["evaluation"]["start_seconds"] = 1.0  # of loaders: 3 x 2 x 1 s
    assert experiment.choose_steps(measured, arms, 3, 60.0) == int(0.95 * (60 - 18) / 0.3)


def test_the_plan_counts_what_a_run_takes_besides_its_steps(finished):
    """A loader that takes its time to start: many short runs would go past the minutes."""
    _, result = finished
    assert result["measured"]["evaluation"]["seconds"] > 0
    assert result["measured"]["evaluation"]["start_seconds"] > 0


def test_the_arms_are_those_that_were_asked_for():
    arms = list_arms(0.2)
    assert len({arm.key for arm in arms}) == len(arms) == 22
    for method in ("moco", "byol"):
        mine = [arm for arm in arms if arm.method == method]
        assert {arm.background for arm in mine} == {None, "remove", "random", "swap"}
        assert {arm.masks for arm in mine} == {None, "true", "unsupervised", "wrong"}
        assert [arm.p for arm in mine].count(1.0) == 1
    crossed = {(arm.background, arm.masks) for arm in arms if arm.method == "moco" and arm.background and arm.p < 1}
    assert len(crossed) == 9  # three backgrounds, three kinds of masks
    assert [arm.method for arm in arms if arm.negatives] == ["moco"]
    assert len(list_arms(1.0)) == 20  # always-on is then the same as the others


@pytest.fixture(scope="module")
def space():
    with open_workspace(TINY, 0) as made:
        yield made


@pytest.mark.parametrize("method", ["moco", "byol"])
def test_a_learner_learns(space, method):
    arm = Arm(method, "BG_Swaps", "swap", 0.5, "true")
    trained = train_arm(arm, space.train, space.masks["true"], steps=6, size=32, batch_size=16, seed=0, schedule=100)
    assert len(trained.losses) == len(trained.step_ms) == 6
    assert np.isfinite(trained.losses).all()
    start = train_arm(arm, space.train, space.masks["true"], steps=0, size=32, batch_size=16, seed=0)
    moved = [
        not torch.equal(a, b) for a, b in zip(trained.encoder.parameters(), start.encoder.parameters(), strict=True)
    ]
    assert all(moved)


def one_step(arm, space, seed=0):
    masks = None if arm.masks is None else space.masks[arm.masks]
    return train_arm(arm, space.train, masks, steps=2, size=32, batch_size=16, seed=seed).losses


def test_an_arm_is_a_function_of_its_seed_and_each_part_of_it_matters(space):
    arms = [
        Arm("moco", "baseline"),
        Arm("moco", "patch", negatives="patch"),
        Arm("moco", "RM", "remove", 1.0, "true"),
        Arm("moco", "RM", "remove", 1.0, "wrong"),
        Arm("moco", "RM", "remove", 1.0, "unsupervised"),
        Arm("moco", "random", "random", 1.0, "true"),
        Arm("moco", "swap", "swap", 1.0, "true"),
        Arm("byol", "baseline"),
    ]
    losses = [tuple(one_step(arm, space)) for arm in arms]
    assert len(set(losses)) == len(arms)
    assert tuple(one_step(arms[6], space)) == losses[6]
    assert tuple(one_step(arms[6], space, seed=1)) != losses[6]


def batch_of(views, negatives=None, figure=1.0):
    masks = [torch.full((len(view), 32, 32), figure) for view in views]
    return {"views": views, "negatives": negatives, "masks": masks}


def test_the_moco_loss_by_hand():
    torch.manual_seed(0)
    learner = MoCoLike(None).eval()
    views = [torch.randn(4, 3, 32, 32), torch.randn(4, 3, 32, 32)]
    with torch.no_grad():
        q, k = (torch.nn.functional.normalize(learner.online(view), dim=1) for view in views)
        loss = learner.loss(batch_of(views))  # the target still equals the online network; the queue is empty
    logits = (q @ k.T / 0.2).double().numpy()
    want = np.mean(np.log(np.exp(logits).sum(1)) - logits.diagonal())
    assert loss.item() == pytest.approx(want, rel=1e-5)
    torch.testing.assert_close(learner.queue, k)


def test_an_extra_negative_adds_its_own_term():
    torch.manual_seed(0)
    views, extra = [torch.randn(4, 3, 32, 32), torch.randn(4, 3, 32, 32)], torch.randn(4, 1, 3, 32, 32)
    losses = {}
    for kind, alpha in (("patch", 2.0), ("swap", 1.0)):
        torch.manual_seed(1)
        learner = MoCoLike(kind).eval()
        with torch.no_grad():
            q, k, t = (torch.nn.functional.normalize(learner.online(x), dim=1) for x in (*views, extra[:, 0]))
            losses[kind] = learner.loss(batch_of(views, extra)).item()
        logits = torch.cat([q @ k.T, alpha * (q * t).sum(1, keepdim=True)], 1).double().numpy() / 0.2
        want = np.mean(np.log(np.exp(logits).sum(1)) - logits[:, :4].diagonal())
        assert losses[kind] == pytest.approx(want, rel=1e-5)


def test_a_swap_negative_without_a_figure_does_not_count():
    torch.manual_seed(0)
    views, extra = [torch.randn(4, 3, 32, 32), torch.randn(4, 3, 32, 32)], torch.randn(4, 1, 3, 32, 32)
    learner = MoCoLike("swap").eval()
    with torch.no_grad():
        without = learner.loss(batch_of(views)).item()
        learner.queue = learner.queue[:0]
        ignored = learner.loss(batch_of(views, extra, figure=0.01)).item()
    assert ignored == pytest.approx(without, rel=1e-6)


def test_the_byol_loss_is_zero_where_the_predictor_says_the_target():
    torch.manual_seed(0)
    learner = BYOLLike().eval()
    learner.predictor = torch.nn.Identity()
    view = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        assert learner.loss(batch_of([view, view])).item() == pytest.approx(0.0, abs=1e-5)
        other = learner.loss(batch_of([view, torch.randn(4, 3, 32, 32)])).item()
    assert 0 < other <= 8


def test_timing_knows_each_arm_once(space, monkeypatch):
    monkeypatch.setattr(experiment_run, "_PROBE", (0, 1))
    arms = [Arm("moco", "BG_RM", "remove", 0.2, kind) for kind in ("true", "wrong")]
    found = experiment_run.measure_steps(TINY, arms, space)
    assert set(found) == {"moco-plain", arms[0].key, arms[1].key, "evaluation"}
    assert found[arms[0].key] == found[arms[1].key]


def test_summary_by_hand():
    def run(name, seed, value, ms):
        return {
            "key": f"moco-{name}", "arm": {"method": "moco", "name": name}, "seed": seed, "scores": {"knn/swapped": value},
            "loss": [value, 1.0], "step_ms": ms, "cpu_ms": ms, "waited_ms": 0.5,
        }  # fmt: skip

    rows = summarize([
        run("baseline", 0, 10.0, 20.0), run("baseline", 1, 20.0, 20.0),
        run("BG_RM", 0, 13.0, 30.0), run("BG_RM", 1, 21.0, 30.0),
    ])  # fmt: skip
    assert rows["moco-baseline"]["scores"]["knn/swapped"] == {
        "mean": 15.0, "se": 5.0, "difference": None, "difference_se": None,
    }  # fmt: skip
    # differences 3 and 1: mean 2, standard deviation sqrt(2), standard error 1
    assert rows["moco-BG_RM"]["scores"]["knn/swapped"] == {
        "mean": 17.0, "se": 4.0, "difference": 2.0, "difference_se": 1.0,
    }  # fmt: skip
    assert rows["moco-BG_RM"]["step_ratio"] == 1.5
    assert rows["moco-BG_RM"]["loss"] == [17.0, 1.0]


def test_masks_are_pooled_over_the_arms_that_have_them_all():
    def run(name, masks, seed, value, p=0.2):
        arm = {"method": "moco", "name": name, "masks": masks, "p": p}
        scores = dict.fromkeys(
            (f"{probe}/{s}" for probe in ("linear", "knn") for s in ("swapped", "in_distribution", "bg_gap")), 0
        )
        return {"arm": arm, "seed": seed, "scores": scores | {"knn/swapped": value}}

    runs = [run("baseline", None, 0, 10.0, 0.0), run("baseline", None, 1, 20.0, 0.0)]
    assert pool_masks(runs) == {}
    runs += [
        run("RM", "true", 0, 13.0),
        run("RM", "true", 1, 21.0),
        run("RM", "wrong", 0, 11.0),
        run("RM", "wrong", 1, 20.0),
    ]
    runs += [
        run("swap", "true", 0, 15.0),
        run("swap", "true", 1, 25.0),
        run("swap", "wrong", 0, 11.0),
        run("swap", "wrong", 1, 20.0),
    ]
    runs += [run("random", "true", 0, 99.0), run("random", "true", 1, 99.0)]  # without wrong masks: not comparable
    runs += [run("RM", "true", 0, 0.0, 1.0), run("RM", "wrong", 1, 0.0, 1.0)]  # always on: something else
    pooled = {kind: row["knn/swapped"] for kind, row in pool_masks(runs).items()}
    # true: (3 + 5) / 2 = 4 and (1 + 5) / 2 = 3; wrong: 1 and 0
    assert pooled == {
        "true": {"mean": 3.5, "se": 0.5}, "wrong": {"mean": 0.5, "se": 0.5}, "true - wrong": {"mean": 3.0, "se": 0.0},
    }  # fmt: skip


def test_the_table_says_what_chance_can_do(finished, capsys):
    _, result = finished
    experiment.print_results(result)
    # Student's t with one degree of freedom: 12.7; two arms of six columns, 5 % of 12 is 0.6
    assert (
        "2 seeds: a 95 % interval is ± 12.7 standard errors, and about 1 of these 12 differences"
        in capsys.readouterr().out
    )


def chosen(arguments):
    settings, _ = experiment._parse(arguments)
    return settings.images, settings.scenes


def test_the_data_beside_the_checkout(tmp_path, monkeypatch, capsys):
    here = tmp_path / "checkout"
    here.mkdir()
    monkeypatch.chdir(here)
    assert chosen([]) == ((), None)
    for name in ("tuxpaint_rgba", "scenes6_64px"):
        (tmp_path / "shared" / "data" / name).mkdir(parents=True)
    data = "../shared/data"
    assert chosen([]) == ((f"{data}/tuxpaint_rgba",), f"{data}/scenes6_64px")
    assert chosen(["--images", "mine"]) == (("mine",), None)
    assert chosen(["--data", "other"]) == (("other/tuxpaint_rgba",), "other/scenes6_64px")
    assert experiment.main(["--data", "other", "--out", str(tmp_path / "out")]) == 2
    assert "images must be a folder, got other/tuxpaint_rgba" in capsys.readouterr().err


def test_command_line(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)  # no data beside it
    arguments = "--steps 1 --seeds 1 --classes 2 --per-class 1 --train 16 --test 8 --size 32 --batch-size 8 --threads 1"
    assert experiment.main([*arguments.split(), "--out", str(tmp_path), "--arms", "byol-BG_RM-unsupervised-p0.2"]) == 0
    document = json.loads((tmp_path / "experiment.json").read_text())
    assert document["experiment"]["settings"]["classes"] == 2
    assert "byol-BG_RM-unsupervised-p0.2" in document["experiment"]["summary"]
    assert (tmp_path / "experiment.png").is_file()
    assert "byol-plain (no augmentation)" in capsys.readouterr().out
    assert experiment.main(["--images", str(tmp_path / "none"), "--out", str(tmp_path / "new")]) == 2
    assert "images must be a folder" in capsys.readouterr().err


def test_a_report_names_folders_without_their_places():
    settings = {"images": ["/home/me/figures", "b"], "masks": None, "scenes": "/home/me/scenes/", "seeds": 3}
    assert experiment._without_places(settings) == {
        "images": ["figures", "b"], "masks": None, "scenes": "scenes", "seeds": 3,
    }  # fmt: skip
