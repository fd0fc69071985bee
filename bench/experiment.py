"""Does it help? A small self-supervised experiment with a background shortcut, that anyone can repeat.

python -m figureground.bench experiment --minutes 20 --out experiment
python -m figureground.bench experiment --images figures --scenes scenes --device cuda --minutes 2
python -m figureground.bench experiment --images photos --masks masks

A MoCo-v2-like and a BYOL-like learner, trained without labels on figures whose scenes give the class away 9 times out of 10, with
and without background augmentations, with true masks, unsupervised ones and those of other images; three seeds. Classes are then
read off the features by k-NN and a linear probe, which see the biased training images, and tested on scenes that agree with the
class and on scenes that do not. All arms train for the same number of steps, chosen so that everything fits the minutes.

Data: folders of the user's (`--images`, RGBA files or with `--masks`, and `--scenes`), else `tuxpaint_rgba` and `scenes6_64px` in
`--data` where they are there, else a tiny set made of the photographs in scikit-image's wheel. A run that was interrupted
continues: finished arms are kept in `--out`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from figureground.bench.experiment_learn import Arm
from figureground.bench.experiment_report import draw_results, pool_masks, print_results, summarize
from figureground.bench.experiment_run import Settings, Workspace, list_arms, measure_steps, open_workspace, run_arm
from figureground.bench.given import file_to_write, folder_to_write, in_one_sentence
from figureground.bench.harness import write_json
from figureground.shards import ShardError
from figureground.shards.files import publish

_FEWEST = 20
"""Steps."""
_DATA = "../shared/data"
_FIGURES, _SCENES = "tuxpaint_rgba", "scenes6_64px"
"""Folders in `--data`: figures with an alpha channel, and a sub-folder of scenes for each class."""


def choose_steps(measured: dict[str, dict[str, float]], arms: Sequence[Arm], seeds: int, seconds: float) -> int:
    """Return how many steps of each arm and seed fit some seconds, start and evaluation included, with 5 % to spare.

    Raises
    ------
    ValueError
        If fewer than 20 do.

    Examples
    --------
    >>> measured = {"moco-baseline": {"step_ms": 50.0}, "evaluation": {"seconds": 1.0}}
    >>> choose_steps(measured, [Arm("moco", "baseline")], 2, 42.0)
    380
    """
    a_step = seeds * sum(measured[arm.key]["step_ms"] for arm in arms if arm.key in measured) / 1e3
    fixed = seeds * len(arms) * sum(measured["evaluation"].values())
    steps = int(0.95 * (seconds - fixed) / a_step)
    if steps < _FEWEST:
        need = (fixed + _FEWEST * a_step / 0.95 - seconds) / 60
        raise ValueError(
            f"experiment: minutes must allow {_FEWEST} steps for each arm and seed, got {max(steps, 0)}; give about "
            f"{need:.0f} minutes more, or choose fewer --arms or --seeds"
        )
    return steps


def _load(path: Path) -> Any:
    return json.loads(path.read_text()) if path.is_file() else None


def _save(path: Path, document: Any) -> None:
    with publish(str(path)) as file:
        file.write((json.dumps(document, indent=1) + "\n").encode())


class _Spaces:
    """One workspace at a time: the one that was asked for last, which timing and the first seed share."""

    def __init__(self, settings: Settings) -> None:
        self._settings, self._stack = settings, ExitStack()
        self._held: tuple[int, Workspace] | None = None

    def open(self, seed: int) -> Workspace:
        """Return the workspace of a seed."""
        if self._held is None or self._held[0] != seed:
            self.close()
            self._held = seed, self._stack.enter_context(open_workspace(self._settings, seed))
        return self._held[1]

    def close(self) -> None:
        """Remove the files."""
        self._held = None
        self._stack.close()


def _plan(
    settings: Settings, arms: Sequence[Arm], out: Path, minutes: float, steps: int | None, began: float, spaces: _Spaces
) -> dict[str, Any]:  # fmt: skip
    """Read the plan of an experiment that was begun, or measure and make one."""
    asked = json.loads(json.dumps(asdict(settings)))
    plan: dict[str, Any] | None = _load(out / "plan.json")
    if plan is not None:
        differing = [name for name in asked if plan["settings"].get(name) != asked[name]]
        if steps is not None and plan["steps"] != steps:
            differing.append("steps")
        if differing:
            raise ValueError(
                f"experiment: {out} holds an experiment with other settings ({', '.join(differing)}); choose another folder"
            )
        return plan
    space = spaces.open(0)
    composed = time.perf_counter() - began
    measured = measure_steps(settings, arms, space)
    if steps is None:
        spent = time.perf_counter() - began + (settings.seeds - 1) * composed
        steps = choose_steps(measured, arms, settings.seeds, 60 * minutes - spent)
    plan = {"settings": asked, "minutes": minutes, "steps": steps, "measured": measured}
    _save(out / "plan.json", plan)
    return plan


def run_experiment(
    settings: Settings, out: Path, *, minutes: float = 20, steps: int | None = None
) -> dict[str, Any]:  # fmt: skip
    """Run, or continue, an experiment.

    Parameters
    ----------
    settings : Settings
    out : Path
        Finished arms are kept here; a folder belongs to one experiment.
    minutes : float
        Wall time of everything together, kept roughly.
    steps : int, optional
        Steps of each arm and seed, in place of as many as fit the minutes.

    Returns
    -------
    dict
        As in the JSON: settings, data, timing, runs and their summary. "seconds" is of this call, "seconds_of_arms" of
        all runs, also of earlier calls.

    Raises
    ------
    ValueError
        If the settings are out of range, the minutes too few, or `out` holds another experiment.
    """
    _check(settings, minutes, steps)
    began = time.perf_counter()
    out.mkdir(parents=True, exist_ok=True)
    arms = [arm for arm in list_arms(settings.p) if not settings.only or arm.key in settings.only]
    threads = torch.get_num_threads()
    torch.set_num_threads(settings.threads)
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    spaces = _Spaces(settings)
    try:
        plan = _plan(settings, arms, out, minutes, steps, began, spaces)
        runs, facts = [], []
        for seed in range(settings.seeds):
            made, data = _run_seed(settings, arms, out, seed, plan["steps"], spaces)
            runs += made
            facts.append(data)
    finally:
        spaces.close()
        torch.set_num_threads(threads)
    return {
        "settings": _without_places(plan["settings"]), "minutes": plan["minutes"], "steps": plan["steps"],
        "seconds": round(time.perf_counter() - began, 1),
        "seconds_of_arms": round(sum(run["seconds"] for run in runs), 1), "data": facts, "measured": plan["measured"],
        "summary": summarize(runs), "pooled": pool_masks(runs), "runs": runs,
    }  # fmt: skip


def _without_places(settings: dict[str, Any]) -> dict[str, Any]:
    """Leave of folders their names: a report may be published."""
    named = {key: None if settings[key] is None else Path(settings[key]).name for key in ("masks", "scenes")}
    return settings | named | {"images": [Path(folder).name for folder in settings["images"]]}


def _run_seed(
    settings: Settings, arms: Sequence[Arm], out: Path, seed: int, steps: int, spaces: _Spaces
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Run the arms of a seed that are not finished."""
    places = {arm: out / "runs" / f"{seed}-{arm.key}.json" for arm in arms}
    runs, facts = {arm: _load(place) for arm, place in places.items()}, _load(out / "runs" / f"{seed}-data.json")
    if facts is None or not all(runs.values()):
        (out / "runs").mkdir(exist_ok=True)
        space = spaces.open(seed)
        if facts is not None and facts["fingerprint"] != space.facts["fingerprint"]:
            raise ValueError(f"experiment: the images must be those that {out} was begun with; choose another folder")
        facts = space.facts
        _save(out / "runs" / f"{seed}-data.json", facts)
        for arm in arms:
            if runs[arm] is None:
                runs[arm] = run_arm(settings, arm, space, seed, steps)
                _save(places[arm], runs[arm])
                print(f"seed {seed}  {arm.key:<32} {_words(runs[arm])}", file=sys.stderr, flush=True)
    return list(runs.values()), facts


def _words(run: dict[str, Any]) -> str:
    scores = run["scores"]
    time_words = "" if run["step_ms"] is None else f", {run['step_ms']:.0f} ms a step"
    return (
        f"linear {scores['linear/in_distribution']:.1f} %, swapped {scores['linear/swapped']:.1f} %, "
        f"gap {scores['linear/bg_gap']:.1f}{time_words}"
    )


def _check(settings: Settings, minutes: float, steps: int | None) -> None:
    if not settings.images and (settings.masks or settings.scenes):
        raise ValueError("experiment: masks and scenes must come with images, got none")
    if not 0 <= settings.bias <= 1 or not 0 < settings.p <= 1:
        raise ValueError(f"experiment: bias must be in [0, 1] and p in (0, 1], got {settings.bias} and {settings.p}")
    keys = [arm.key for arm in list_arms(settings.p)]
    unknown = [key for key in settings.only if key not in keys]
    if unknown:
        raise ValueError(f"experiment: arms must be of {', '.join(keys)}, got {unknown[0]!r}")
    least = {"classes": 2, "per_class": 1, "seeds": 1, "size": 16, "batch_size": 2, "threads": 1}
    least |= {"train": settings.batch_size, "test": 2 * settings.classes}
    for name, low in least.items():
        if getattr(settings, name) < low:
            raise ValueError(f"experiment: {name} must be at least {low}, got {getattr(settings, name)}")
    if minutes <= 0 or (steps is not None and steps < 1):
        raise ValueError(f"experiment: minutes and steps must be positive, got {minutes} and {steps}")


def _parse(argv: list[str]) -> tuple[Settings, argparse.Namespace]:
    parser = argparse.ArgumentParser(
        "python -m figureground.bench experiment", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    base = Settings()
    add = parser.add_argument
    add(
        "--minutes",
        type=float,
        default=20,
        help="wall time of everything together, when a run begins (default: 20)",
    )
    add("--images", nargs="+", default=(), metavar="DIR", help="folders of images; sub-folders are classes")
    add("--masks", metavar="DIR", help="folder of masks of the same paths, .png; RGBA files need none")
    add(
        "--scenes",
        metavar="DIR",
        help="folder of sub-folders of scenes (default: those of --images without their figures)",
    )
    add(
        "--data",
        metavar="DIR",
        help=f"without --images: folder of {_FIGURES} and {_SCENES} (default: {_DATA}, if there)",
    )
    add("--out", type=folder_to_write, default=Path("experiment"), metavar="DIR", help="results (default: experiment)")
    add("--device", default=base.device, help="cpu, cuda or cuda:N (default: cpu)")
    add("--classes", type=int, default=base.classes)
    add("--per-class", type=int, default=base.per_class, help=f"figures of a class (default: {base.per_class})")
    add("--seeds", type=int, default=base.seeds)
    add("--train", type=int, default=base.train, metavar="N", help=f"training images (default: {base.train})")
    add("--test", type=int, default=base.test, metavar="N", help=f"images of each test set (default: {base.test})")
    add("--size", type=int, default=base.size, metavar="PX", help=f"side of the views (default: {base.size})")
    add("--batch-size", type=int, default=base.batch_size)
    add("--bias", type=float, default=base.bias, help=f"share of own scenes in training (default: {base.bias})")
    add("--p", type=float, default=base.p, help=f"probability of the background augmentations (default: {base.p})")
    add("--threads", type=int, default=base.threads, help=f"of torch on the CPU (default: {base.threads})")
    add("--arms", nargs="+", default=(), metavar="KEY", help="only these arms, by the keys of the table")
    add("--steps", type=int, help="steps of each arm and seed (default: as many as fit the minutes)")
    add("--json", type=file_to_write, metavar="PATH", help="default: OUT/experiment.json")
    args = parser.parse_args(argv)
    if not args.images:
        _take_data(args)
    chosen = {name: getattr(args, name) for name in vars(base) if hasattr(args, name)}
    return Settings(**(chosen | {"images": tuple(args.images), "only": tuple(args.arms)})), args


def _take_data(args: argparse.Namespace) -> None:
    """Choose the images and scenes of `--data`, or of its default where that is there."""
    folder = Path(args.data or _DATA)
    if args.data is not None or (args.scenes is None and (folder / _FIGURES).is_dir() and (folder / _SCENES).is_dir()):
        args.images, args.scenes = (str(folder / _FIGURES),), args.scenes or str(folder / _SCENES)


@in_one_sentence
def main(argv: list[str]) -> int:
    """Run the command; returns its exit code."""
    settings, args = _parse(argv)
    try:
        result = run_experiment(settings, args.out, minutes=args.minutes, steps=args.steps)
    except (ValueError, RuntimeError, ShardError) as error:
        print(error, file=sys.stderr)
        return 2
    print_results(result)
    draw_results(result, args.out / "experiment.png")
    write_json(args.json or args.out / "experiment.json", {"experiment": result})
    return 0
