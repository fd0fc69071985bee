"""One seed of the experiment: compose, pack and mask the data, train an arm, score it, time a few steps."""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from figureground.bench.experiment_data import (
    TEST_SETS,
    Composed,
    compose_tests,
    compose_train,
    count_own,
    derange,
    place_of,
    write_masks,
    write_set,
)  # fmt: skip
from figureground.bench.experiment_learn import (
    PLAIN,
    Arm,
    CentreViews,
    Encoder,
    Trained,
    find_features,
    read_views,
    train_arm,
)
from figureground.bench.experiment_parts import package_parts, read_parts
from figureground.bench.experiment_score import mask_overlap, score_sets
from figureground.pipeline.masks_job import make_masks
from figureground.shards import MaskStore, Store

_PROBE = 4, 12
"""Steps of a timing run: warm up, counted."""
_POINTS = 40
"""Points of a loss curve in the report."""
UNTRAINED = "untrained"
"""Name of the arm of no step: the encoder as it starts."""


@dataclass(frozen=True)
class Settings:
    """What an experiment is, apart from its time."""

    images: tuple[str, ...] = ()
    masks: str | None = None
    scenes: str | None = None
    classes: int = 6
    per_class: int = 4
    """Figures of a class."""
    seeds: int = 3
    train: int = 1920
    """Training images."""
    test: int = 600
    """Images of each test set."""
    size: int = 64
    """Side of the views [px]; composed images have 9/8 of it."""
    batch_size: int = 64
    bias: float = 0.9
    p: float = 0.2
    device: str = "cpu"
    threads: int = 2
    """Of torch on the CPU; results depend on it in the last bits."""
    only: tuple[str, ...] = ()
    """Keys of arms; all if empty."""


def list_arms(p: float) -> tuple[Arm, ...]:
    """Return all arms of the experiment; `p` is the probability of a background augmentation for each view.

    BYOL has no negatives, so its BG_Swaps is its BG_Random: with the other masks only one of them is run.
    """
    arms: list[Arm] = []
    for method in ("moco", "byol"):
        arms += [
            Arm(method, "baseline"),
            Arm(method, "BG_RM", "remove", p, "true"),
            Arm(method, "BG_Random", "random", p, "true"),
            Arm(method, "BG_Swaps", "swap", p, "true"),
            Arm(method, "BG_RM", "remove", 1.0, "true"),
        ]
        for masks in ("unsupervised", "wrong"):
            arms.append(Arm(method, "BG_RM", "remove", p, masks))
            if method == "moco":
                arms.append(Arm(method, "BG_Random", "random", p, masks))
            arms.append(Arm(method, "BG_Swaps", "swap", p, masks))
    arms += [Arm("moco", "patch_negatives", negatives="patch"), Arm("moco", UNTRAINED)]
    return tuple(dict.fromkeys(arms))


@dataclass(frozen=True)
class Workspace:
    """The packed data of one seed."""

    train: str
    bank: CentreViews
    """Of the training images."""
    tests: dict[str, CentreViews]
    masks: dict[str, Path]
    """Folders of sidecars, by kind."""
    facts: dict[str, Any]
    """What the data is, measured; `fingerprint` is of its pixels."""


@contextmanager
def open_workspace(settings: Settings, seed: int) -> Iterator[Workspace]:
    """Compose, pack and mask the data of a seed in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="figureground-experiment-") as name:
        folder, size = Path(name), settings.size * 9 // 8
        choice: dict[str, Any] = {"classes": settings.classes, "per_class": settings.per_class, "seed": seed}
        if settings.images:
            parts = read_parts(settings.images, settings.masks, settings.scenes, **choice)
        else:
            parts = package_parts(**choice)
        train = compose_train(parts, settings.train, size=size, bias=settings.bias, seed=seed)
        tests = compose_tests(parts, settings.test, size=size, bias=settings.bias, seed=seed)
        shards = write_set(train, folder / "train")
        masks = {kind: folder / kind for kind in ("true", "unsupervised", "wrong")}
        write_masks(shards, train.masks, masks["true"], method="true")
        other = train.masks[derange(len(train.masks), np.random.default_rng([seed, 3]))]
        write_masks(shards, other, masks["wrong"], method="of another image")
        make_masks(shards, method="fused", out=masks["unsupervised"], device=settings.device, progress=False)
        facts = {
            "source": parts.source,
            "figures": [len(group) for group in parts.figures],
            "scenes": [len(shelf) for shelf in parts.scenes],
            "own_scene_share": {"train": count_own(train.grounds, train.labels)}
            | {name: count_own(tests[name].grounds, tests[name].labels) for name in TEST_SETS},
            "figure_area": round(float(train.masks.mean() / 255), 4),
            "mask_iou": {
                "unsupervised": round(_overlap(shards, masks["unsupervised"], train), 4),
                "wrong": round(mask_overlap(other, train.masks), 4),
            },
            "fingerprint": _fingerprint([train, *tests.values()]),
        }
        packed = {name: write_set(composed, folder / name) for name, composed in tests.items()}
        bank, *views = [
            read_views(each, size=settings.size, device=settings.device) for each in (shards, *packed.values())
        ]
        yield Workspace(shards, bank, dict(zip(packed, views, strict=True)), masks, facts)


def _overlap(shards: str, masks: Path, train: Composed) -> float:
    """Intersection over union of sidecars with the true masks, at the sidecars' size."""
    with Store(shards) as store, MaskStore(store, masks) as sidecars:
        overlaps = []
        for i in range(len(store)):
            data = sidecars.mask(i)
            if data is not None:
                mask = np.asarray(cv2.imdecode(data, cv2.IMREAD_GRAYSCALE), np.uint8)
                truth = cv2.resize(train.masks[place_of(store.key(i))], mask.shape[::-1])
                overlaps.append(mask_overlap(mask[None], truth[None]))
    return float(np.mean(overlaps))


def _fingerprint(sets: Iterable[Composed]) -> str:
    digest = hashlib.sha256()
    for composed in sets:
        for array in (composed.images, composed.masks, composed.labels):
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]


def _train(
    settings: Settings, arm: Arm, space: Workspace, seed: int, steps: int, schedule: int | None = None
) -> Trained:
    return train_arm(
        arm, space.train, None if arm.masks is None else space.masks[arm.masks], steps=steps, size=settings.size,
        batch_size=settings.batch_size, seed=seed, device=settings.device, schedule=schedule,
    )  # fmt: skip


def _score(settings: Settings, encoder: Encoder, space: Workspace) -> dict[str, float]:
    tests = {name: find_features(encoder, views, device=settings.device) for name, views in space.tests.items()}
    return score_sets(find_features(encoder, space.bank, device=settings.device), tests)


def run_arm(settings: Settings, arm: Arm, space: Workspace, seed: int, steps: int) -> dict[str, Any]:
    """Train one arm with one seed and score it; the result is fit for JSON."""
    steps = 0 if arm.name == UNTRAINED else steps
    began = time.perf_counter()
    trained = _train(settings, arm, space, seed, steps)
    curve = (
        [round(float(np.mean(part)), 4) for part in np.array_split(trained.losses, min(_POINTS, steps))]
        if steps
        else []
    )
    return {
        "arm": asdict(arm), "key": arm.key, "seed": seed, "steps": steps, "data": space.facts["fingerprint"],
        "scores": {name: round(score, 4) for name, score in _score(settings, trained.encoder, space).items()},
        "loss": curve,
        "step_ms": round(float(np.median(trained.step_ms)), 3) if steps else None,
        "waited_ms": round(float(np.median(trained.waited_ms)), 3) if steps else None,
        "cpu_ms": round(trained.cpu_ms, 3) if steps else None,
        "seconds": round(time.perf_counter() - began, 2),
    }  # fmt: skip


def measure_steps(settings: Settings, arms: Sequence[Arm], space: Workspace) -> dict[str, dict[str, float]]:
    """Time a few steps of each arm, and the scoring.

    Returns
    -------
    dict by key of the arm
        "step_ms" and "cpu_ms"; of the arms `plain`, without augmentation, too. "evaluation": what a run takes besides its
        steps, "seconds" for the scores and "start_seconds" for the loader and the first batch.
    """
    skip, count = _PROBE
    found: dict[str, dict[str, float]] = {}
    seen: dict[Any, str] = {}
    plain = [Arm(method, PLAIN) for method in dict.fromkeys(arm.method for arm in arms)]
    for arm in [*plain, *arms]:
        if arm.name == UNTRAINED:
            continue
        alike = replace(arm, masks=arm.masks and "true")  # masks of another source cost the same
        if alike in seen:
            found[arm.key] = found[seen[alike]]
            continue
        began = time.perf_counter()
        trained = _train(settings, arm, space, 0, skip + count, schedule=1000)
        start = time.perf_counter() - began - sum(trained.step_ms[1:]) / 1e3  # the first step waits for the loader
        found[arm.key] = {"step_ms": float(np.median(trained.step_ms[skip:])), "cpu_ms": trained.cpu_ms}
        seen[alike] = arm.key
    began = time.perf_counter()
    _score(settings, trained.encoder, space)
    found["evaluation"] = {"seconds": time.perf_counter() - began, "start_seconds": start}
    return found
