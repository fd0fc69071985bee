"""Accuracy on the eight evaluation sets of `figureground bgsets`, and the BG-gap (Mixed-Same minus Mixed-Rand).

python -m figureground.bench bggap --sets bgsets --model resnet.py:make --device cpu
python -m figureground.bench bggap --sets bgsets --model encoder.pt --probe knn --json gap.json --plot gap.png

A classifier's outputs are the classes of the sets (else `--classes`); an encoder gets a k-NN or linear probe fit on Original.

Source: Xiao, Engstrom, Ilyas and Madry 2021, "Noise or signal: the role of image backgrounds in object recognition".
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from figureground.bench.given import check_counts, file_to_write, read_classes
from figureground.bench.harness import print_table, write_json
from figureground.bench.linear_probe import LinearProbe
from figureground.bench.models import Model, add_model_arguments, chosen_model, classes_of, run_model
from figureground.pipeline.bgsets import VARIANTS
from figureground.shards import ShardError, Store

PROBES = ("knn", "linear")
"""Probes of encoders."""
_CHUNK = 256
_TEMPERATURE = 0.07


@dataclass
class Outputs:
    """What a model says about one set."""

    values: np.ndarray
    """(N, K) float32."""
    labels: np.ndarray
    """(N,) int64."""
    keys: list[str]
    """Of the figures."""
    grounds: list[str | None]
    """Keys of the backgrounds."""


def run_set(folder: str | Path, model: Model, *, device: str = "cpu", batch_size: int = 64) -> Outputs:
    """Run a model over one folder of shards.

    Raises
    ------
    ShardError
        If there are none.
    ValueError
        If an image cannot be decoded.
    """
    with Store(str(Path(folder, "*.tar"))) as store:
        notes = [_note(store, i) for i in range(len(store))]
        values = [run_model(model, images, device=device, batch_size=batch_size) for images in _images(store)]
        keys = [store.key(i) for i in range(len(store))]
        return Outputs(np.concatenate(values), store.targets.copy(), keys, [n.get("background_key") for n in notes])


def _note(store: Store, sample: int) -> dict[str, Any]:
    text = store.component(sample, "json")
    return {} if text is None else json.loads(text.tobytes())


def _images(store: Store) -> Iterator[np.ndarray]:
    for first in range(0, len(store), _CHUNK):
        chunk = []
        for i in range(first, min(first + _CHUNK, len(store))):
            image = cv2.imdecode(store.image(i), cv2.IMREAD_COLOR_RGB)
            if image is None:
                raise ValueError(f"run_set: {store.key(i)} must be an image that can be decoded; make the sets again")
            chunk.append(image.transpose(2, 0, 1))
        yield np.ascontiguousarray(np.stack(chunk))


def vote_classes(
    queries: np.ndarray, bank: np.ndarray, labels: np.ndarray, *, k: int = 20, forbidden: np.ndarray | None = None
) -> np.ndarray:
    """Classify features by their nearest neighbours (Wu et al. 2018: cosine, weights exp(similarity / 0.07)).

    Parameters
    ----------
    queries : (M, D) float32
    bank : (N, D) float32
    labels : (N,) int64
    k : int
        Neighbours, at most N.
    forbidden : (M, F) int64, optional
        Rows of the bank that may not vote, -1 for none.

    Returns
    -------
    (M,) int64

    Raises
    ------
    ValueError
        If `k` is below 1.

    Examples
    --------
    >>> bank = np.array([[1, 0], [0, 1], [-1, 0]], np.float32)
    >>> vote_classes(np.array([[2, 1]], np.float32), bank, np.array([4, 5, 6]), k=1)
    array([4])
    """
    if k < 1:
        raise ValueError(f"vote_classes: k must be at least 1, got {k}")
    names, owner = np.unique(labels, return_inverse=True)
    queries, bank = (x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12) for x in (queries, bank))
    winners = np.empty(len(queries), np.int64)
    for first in range(0, len(queries), _CHUNK):
        rows = slice(first, first + _CHUNK)
        near = queries[rows] @ bank.T
        if forbidden is not None:
            row, column = np.nonzero(forbidden[rows] >= 0)
            near[row, forbidden[rows][row, column]] = -np.inf
        top = np.argsort(-near, axis=1, kind="stable")[:, :k]
        # Similarity 1 weighs 1, so that nothing overflows; a forbidden row weighs nothing.
        weights = np.exp((np.take_along_axis(near, top, 1).astype(np.float64) - 1) / _TEMPERATURE)
        votes = np.zeros((len(near), len(names)))
        np.add.at(votes, (np.arange(len(near))[:, None], owner[top]), weights)
        winners[rows] = names[votes.argmax(1)]
    return winners


def fit_probe(probe: str, bank: np.ndarray, labels: np.ndarray, *, k: int = 20) -> Callable[..., np.ndarray]:
    """Fit a probe to features.

    Parameters
    ----------
    probe : {"knn", "linear"}
    bank : (N, D) float32
    labels : (N,) int64
    k : int
        Neighbours.

    Returns
    -------
    callable (queries, *, forbidden) -> (M,) int64
        See `vote_classes` and `LinearProbe.classify`.

    Raises
    ------
    ValueError
        If the probe is another one, or the features are not fit for it.
    """
    if probe == "knn":
        return lambda queries, *, forbidden: vote_classes(queries, bank, labels, k=k, forbidden=forbidden)
    if probe == "linear":
        return LinearProbe(bank, labels).classify
    raise ValueError(f"fit_probe: probe must be None, 'knn' or 'linear', got {probe!r}")


def _own_images(outputs: Outputs, bank: Outputs) -> np.ndarray:
    """Rows of Original that show the figure or the background of each image of a set: (N, 2) int64."""
    row_of = {key: row for row, key in enumerate(bank.keys)}
    mine = [(row_of.get(key, -1), row_of.get(ground or "", -1)) for key, ground in zip(outputs.keys, outputs.grounds)]
    return np.array(mine, np.int64)


def measure_bggap(
    sets: str | Path,
    model: Model,
    *,
    probe: str | None = None,
    k: int = 20,
    classes: Sequence[int] | None = None,
    device: str = "cpu",
    batch_size: int = 64,
) -> dict[str, Any]:
    """Measure a model on the sets that `make_bgsets` wrote.

    Parameters
    ----------
    sets : path
        Folder of the folders.
    model : callable
        See `figureground.bench.models`.
    probe : {None, "knn", "linear"}
        None: the model is a classifier. Else its outputs are features; "knn": k neighbours in Original vote; "linear": a linear
        probe is fit on Original (`LinearProbe`). Both without the images that the figure and the background come from (so
        also on Original itself).
    k : int
    classes : sequence of int, optional
        Class of each output of a classifier, e.g. of ImageNet's 1000; -1 for outputs that are none of the classes.
    device : str
    batch_size : int

    Returns
    -------
    dict
        "samples"; "majority": share of the largest class [%], what a constant answer reaches; "accuracy" by set [%] and its
        "standard_error" [% points]; "bg_gap" = Mixed-Same - Mixed-Rand [% points] and "bg_gap_se", its standard error over
        samples, paired; "probe".

    Raises
    ------
    ShardError
        If a set is missing or damaged.
    ValueError
        If an argument does not fit the sets or the model.

    Notes
    -----
    Accuracies are means over samples. The sets hold the same figures, so the error of the gap is the one of the mean of
    the differences.
    """
    if probe not in (None, *PROBES):
        raise ValueError(f"measure_bggap: probe must be None, 'knn' or 'linear', got {probe!r}")
    table = None if classes is None else np.asarray(classes, np.int64)
    right: dict[str, np.ndarray] = {}
    bank, classify = None, None
    for name in VARIANTS:
        outputs = run_set(Path(sets, name), model, device=device, batch_size=batch_size)
        if bank is None:  # the first one is Original
            bank = outputs
            classify = None if probe is None else fit_probe(probe, bank.values, bank.labels, k=k)
        if outputs.keys != bank.keys:
            raise ValueError(
                f"measure_bggap: {name} must hold the samples of Original, got others; make the sets again"
            )
        said = (
            classes_of(outputs.values, int(outputs.labels.max()), table)
            if classify is None
            else classify(outputs.values, forbidden=_own_images(outputs, bank))
        )
        right[name] = said == outputs.labels
    assert bank is not None
    gap = right["Mixed-Same"].astype(np.float64) - right["Mixed-Rand"]
    return {
        "samples": len(gap),
        "probe": f"{k}-NN" if probe == "knn" else probe,
        "majority": 100 * float(np.unique(bank.labels, return_counts=True)[1].max() / len(gap)),
        "accuracy": {name: 100 * float(hits.mean()) for name, hits in right.items()},
        "standard_error": {name: _error(hits.astype(np.float64)) for name, hits in right.items()},
        "bg_gap": 100 * float(gap.mean()),
        "bg_gap_se": _error(gap),
    }


def _error(values: np.ndarray) -> float:
    """Standard error of the mean, in percent."""
    return 100 * float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0


def draw_bars(result: dict[str, Any], path: str | Path, *, title: str = "") -> None:
    """Write a bar chart of the accuracies with their standard errors."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.subplots()
    names = list(result["accuracy"])
    axes.bar(names, list(result["accuracy"].values()), yerr=list(result["standard_error"].values()), color="0.55")
    axes.axhline(result["majority"], color="0.2", linewidth=0.8, linestyle=":", label="largest class")
    axes.legend(fontsize="small")
    axes.set(ylabel="accuracy [%]", ylim=(0, 100),
             title=f"{title}  BG-gap {result['bg_gap']:.1f} ± {result['bg_gap_se']:.1f} points".strip())  # fmt: skip
    axes.tick_params(axis="x", labelrotation=30)
    figure.savefig(path, dpi=120)


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m figureground.bench bggap", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--sets", required=True, metavar="DIR", help="what figureground bgsets wrote")
    add_model_arguments(parser)
    parser.add_argument("--probe", choices=PROBES, help="the model is an encoder (default: a classifier)")
    parser.add_argument("--k", type=int, default=20, help="neighbours of the probe (default: 20)")
    parser.add_argument("--classes", metavar="JSON", help="list of the class of each output; -1: none of the sets'")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--json", type=file_to_write, metavar="PATH", help="write the result with the machine it was measured on")
    parser.add_argument("--plot", type=file_to_write, metavar="PNG", help="write a bar chart")
    return parser.parse_args(argv)


def main(argv: list[str]) -> int:
    """Run the command; returns its exit code."""
    args = _parse(argv)
    try:
        check_counts("--batch-size", args.batch_size, "--k", args.k)
        classes = read_classes(args.classes)
        model = chosen_model(args)
        result = measure_bggap(
            args.sets, model, probe=args.probe, k=args.k, classes=classes, device=args.device, batch_size=args.batch_size
        )  # fmt: skip
    except (OSError, ValueError, ShardError) as error:
        print(f"bggap: {error}", file=sys.stderr)
        return 2
    rows = {name: {"accuracy %": f"{value:.1f}", "± s.e.": f"{result['standard_error'][name]:.1f}"}
            for name, value in result["accuracy"].items()}  # fmt: skip
    rows["BG-gap"] = {"accuracy %": f"{result['bg_gap']:.1f}", "± s.e.": f"{result['bg_gap_se']:.1f}"}
    rows["largest class"] = {"accuracy %": f"{result['majority']:.1f}"}
    print_table(rows, title=f"{result['samples']} samples")
    if args.plot:
        draw_bars(result, args.plot, title=Path(args.model.rpartition(":")[0] or args.model).stem)
    write_json(args.json, {"bggap": {"model": args.model, **result}})
    return 0
