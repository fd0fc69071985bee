"""How invariant single neurons of a model are to transformations of an object.

python -m figureground.bench invariance --sets "demo/shards/*.tar" --model encoder.py:make --device cpu
python -m figureground.bench invariance --sets "clips/*.tar" --model encoder.pt --keys "(clip[0-9]+)-"

Sets come from shards with classes: an image transformed in several ways (--kinds), or images whose keys name one object (--keys).

A neuron fires above a threshold at which it fires on max(1 / classes, 5 %) of all images. Of an invariant one that fires on
one image of a set (one object, transformed), one expects that it fires on all of them.

Sources: Goodfellow, Lee, Saxe and Ng 2009, "Measuring invariances in deep networks"; Purushwalkam and Gupta 2020,
"Demystifying contrastive self-supervised learning: invariances, augmentations and dataset biases".
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from figureground.bench.given import file_to_write
from figureground.bench.harness import print_table, write_json
from figureground.bench.invariance_sets import KINDS, make_sets, read_objects, read_sets
from figureground.bench.models import add_model_arguments, chosen_model, run_model
from figureground.shards import ShardError
from figureground.shards.cli import SHARDS_HELP

LEAST_RATE = 0.05
"""Least global firing rate."""
LEAST_SET = 3
"""Smaller sets are left out."""


def invariance(
    features: np.ndarray, set_ids: np.ndarray, classes: np.ndarray, top: Sequence[int] = (10, 25)
) -> dict[str, Any]:
    """Score the invariance of a representation over sets of transformed images.

    Parameters
    ----------
    features : (n, d) float
        One row an image, one column a neuron.
    set_ids : (n,) integers
        Images of one set show one object; sets of fewer than three images are left out.
    classes : (n,) integers
        The class of each image; one class in a set.
    top : sequence of int
        How many of the best neurons are averaged, each 1..d.

    Returns
    -------
    dict
        "rate": the global firing rate that is aimed at, 0..1; "images", "sets", "classes", "neurons"; "top": by K, "score",
        the mean over classes of the mean local / global rate of the K best neurons of a class, and "invariance", the
        score times the rate; "per_class": by K and class, the score; "floor": the invariance of neurons that fire on one
        image of a set at most, in these sets.

    Raises
    ------
    ValueError
        If a shape does not fit, a feature is not finite, a set has two classes, no set has three images, or there is one
        class only (then the rate would be 1, and every neuron perfect).

    Notes
    -----
    For each neuron and sign the threshold is the k-th largest response, k = round(rate * n): it fires at or above it. Of tied
    responses at the threshold, which sparse neurons have (a ReLU's zeros), all fire or none, whichever brings the global rate
    G nearer to the rate, but not none if nothing else fires. The local rate of a class is the mean, over those of its sets in
    which the neuron fires at all, of the share of the set's images on which it fires; 0 if there is no such set. A neuron's
    score is local / max(G, rate), the larger of both signs: a neuron that fires less than it should gains nothing by it.
    "invariance" is 1 for a perfect neuron with G <= rate, and `rate` for a constant one, which fires always. Where the sets are
    so few that rate * n is no whole number of sets, ties can make G larger than the rate and perfect neurons stay below 1.
    The authors' code lets all ties fire in G and none in the sets, chooses the sign anew in each set, and divides by the G
    of the positive sign.

    Examples
    --------
    >>> objects = np.arange(40).repeat(5)
    >>> classes = objects // 2
    >>> detectors = np.eye(20)[classes]  # one neuron a class, which fires on all images of it
    >>> invariance(detectors, objects, classes, top=[1])["top"][1]
    {'score': 20.0, 'invariance': 1.0}
    """
    x, sets, labels = _checked(features, set_ids, classes)
    for k in top:
        if not 1 <= k <= x.shape[1]:
            raise ValueError(f"invariance: top must be 1..{x.shape[1]} (neurons), got {k}")
    order = np.argsort(sets, kind="stable")
    x, sets, labels = x[order], sets[order], labels[order]
    starts = np.flatnonzero(np.r_[True, sets[1:] != sets[:-1]])
    sizes = np.diff(np.r_[starts, len(sets)])
    names, owner = np.unique(labels[starts], return_inverse=True)
    if len(names) < 2:
        raise ValueError(f"invariance: classes must be at least two, got {len(names)}; the firing rate depends on them")
    rate = max(1 / len(names), LEAST_RATE)
    scores = np.maximum(*(_scores(sign * x, rate, starts, sizes, owner) for sign in (1, -1)))
    best = -np.sort(-scores, axis=1)
    per_class = {k: best[:, :k].mean(1) for k in top}
    return {
        "rate": rate, "images": len(x), "sets": len(starts), "classes": len(names), "neurons": x.shape[1],
        "top": {k: {"score": float(s.mean()), "invariance": float(s.mean() * rate)} for k, s in per_class.items()},
        "per_class": {k: dict(zip(names.tolist(), s.tolist(), strict=True)) for k, s in per_class.items()},
        "floor": float((1 / sizes).mean()),
    }  # fmt: skip


def _scores(x: np.ndarray, rate: float, starts: np.ndarray, sizes: np.ndarray, owner: np.ndarray) -> np.ndarray:
    """Return local / global firing rate of each class and neuron: (C, d); see the notes of `invariance`."""
    k = max(1, round(rate * len(x)))
    threshold = np.partition(x, len(x) - k, axis=0)[len(x) - k]
    fires, above = x >= threshold, x > threshold
    more, less = fires.mean(0), above.mean(0)
    fires = np.where((less > 0) & (rate - less < more - rate), above, fires)
    share = np.add.reduceat(fires.astype(np.float64), starts, axis=0) / sizes[:, None]
    total, fired = np.zeros((2, owner.max() + 1, x.shape[1]))
    np.add.at(total, owner, share)
    np.add.at(fired, owner, share > 0)
    return total / np.maximum(fired, 1) / np.maximum(fires.mean(0), rate)


def _checked(features: Any, set_ids: Any, classes: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Check the arguments and leave small sets out."""
    x, sets, labels = np.asarray(features), np.asarray(set_ids), np.asarray(classes)
    if x.ndim != 2 or not x.shape[1]:
        raise ValueError(f"invariance: features must be (n, d), got {x.shape}")
    for name, array in (("set_ids", sets), ("classes", labels)):
        if array.shape != (len(x),):
            raise ValueError(f"invariance: {name} must be ({len(x)},), got {array.shape}")
    x = x.astype(np.float64) if x.dtype.kind != "f" else x
    if not np.isfinite(x).all():
        raise ValueError(f"invariance: features must be finite, got {x[~np.isfinite(x)][0]}; check the model")
    _, group, sizes = np.unique(sets, return_inverse=True, return_counts=True)
    large = sizes[group] >= LEAST_SET
    if not large.any():
        raise ValueError(
            f"invariance: set_ids must have a set of {LEAST_SET} images, got {sizes.max(initial=0)} at most"
        )
    pairs = np.unique(np.stack([group, np.unique(labels, return_inverse=True)[1]], 1), axis=0)
    twice = np.flatnonzero(np.bincount(pairs[:, 0]) > 1)
    if len(twice):
        raise ValueError(
            f"invariance: classes must be the same within a set, got two in set {sets[group == twice[0]][0]}"
        )
    return x[large], group[large], labels[large]


def chance(
    features: np.ndarray, set_ids: np.ndarray, classes: np.ndarray, top: Sequence[int] = (10, 25), *, seed: int = 0
) -> dict[str, Any]:
    """Return `invariance` with the images of each class dealt to its sets at random.

    What is left is class information and the choice of the best of many neurons: compare it with `invariance`.
    """
    shuffled = np.arange(len(features))
    rng = np.random.default_rng(seed)
    for name in np.unique(classes):
        members = np.flatnonzero(np.asarray(classes) == name)
        shuffled[members] = rng.permutation(members)
    return invariance(np.asarray(features)[shuffled], set_ids, classes, top)


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m figureground.bench invariance", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument(
        "--sets", "--shards", dest="shards", required=True, nargs="+", metavar="SHARDS", help=SHARDS_HELP
    )
    parser.add_argument("--masks", metavar="DIR", help="folder of the sidecars (default: beside the shards)")
    add_model_arguments(parser)
    parser.add_argument("--kinds", default=",".join(KINDS), metavar="A,B", help=f"of {', '.join(KINDS)} (default: all)")
    parser.add_argument("--keys", metavar="REGEX", help="sets are the images whose keys agree in REGEX's first group")
    parser.add_argument("--images", type=int, default=400, metavar="N", help="objects, spread evenly (default: 400)")
    parser.add_argument("--count", type=int, metavar="N", help="images of a set (default: 8; with --keys all of them)")
    parser.add_argument("--size", type=int, default=96, metavar="PX", help="side of the images (default: 96)")
    parser.add_argument("--top", type=int, nargs="+", default=[10, 25], metavar="K")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=file_to_write, metavar="PATH", help="write the result with the machine it was measured on")
    return parser.parse_args(argv)


def _measure(args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    kinds = args.kinds.split(",")
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown:
        raise ValueError(f"--kinds must be of {', '.join(KINDS)}, got {unknown[0]!r}")
    model = chosen_model(args)
    given = args.keys is not None
    if given:
        objects, named = read_sets(args.shards, args.keys, size=args.size, limit=args.images, count=args.count)
    else:
        objects = read_objects(args.shards, masks_dir=args.masks, size=args.size, limit=args.images)
    count = args.count or 8
    results = {}
    for kind in ["keys"] if given else kinds:
        if given:
            images, sets, classes = objects.views, named, objects.classes
        else:
            images = make_sets(objects.views, objects.masks, kind, count=count, seed=args.seed)
            images = images.reshape(-1, *images.shape[2:])
            sets, classes = np.arange(len(objects.keys)).repeat(count), objects.classes.repeat(count)
        features = run_model(model, images, device=args.device)
        found, by_chance = (f(features, sets, classes, args.top) for f in (invariance, chance))
        results[kind] = {**found, "chance": by_chance["top"]}
    return results


def main(argv: list[str]) -> int:
    """Run the command; returns its exit code."""
    args = _parse(argv)
    try:
        results = _measure(args)
    except (OSError, ValueError, ShardError) as error:
        print(f"invariance: {error}", file=sys.stderr)
        return 2
    rows = {}
    for kind, found in results.items():
        row = {f"top {k}": f"{found['top'][k]['invariance']:.3f}" for k in args.top}
        row |= {f"chance {k}": f"{found['chance'][k]['invariance']:.3f}" for k in args.top}
        rows[kind] = row | {"floor": f"{found['floor']:.3f}"}
    first = next(iter(results.values()))
    print_table(rows, title=f"{first['sets']} sets, {first['classes']} classes, rate {first['rate']:.2f}")
    write_json(args.json, {"invariance": {"model": args.model, "size_px": args.size, "kinds": results}})
    return 0
