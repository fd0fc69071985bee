"""Does a model go by shape or by texture? Its accuracy on versions of images that keep one and lose the other.

python -m figureground.bench probes --model resnet.py:make --device cpu "val/*.tar"
python -m figureground.bench probes --model encoder.pt --probe linear --json probes.json --plot probes.png "val/*.tar"

patches g: a g x g grid permuted: local texture stays, the global shape goes. texture: random phase: colours and
spectrum stay, everything that is arranged goes. quilted: blocks of the image laid anew: small things stay too. style w: the
amplitudes of an image of another class, the own phase; here the answer counts twice: as the class of the shape (the image's own)
and as the class of the texture (the other image's). Mean colour and brightness are amplitudes, so they count as texture.

A classifier's outputs are the classes of the shards (else --classes); an encoder gets a k-NN or linear probe, fit on the originals
without the image itself and the image whose amplitudes it took.

Sources: Geirhos et al. 2019, "ImageNet-trained CNNs are biased towards texture" (cue conflict, shape share); Galerne, Gousseau
and Morel 2011; Efros and Freeman 2001; Yang and Soatto 2020 (the kernels); Ge et al. 2021 (patches and texture as what
diminishes semantics).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from figureground.bench.bggap import PROBES, fit_probe
from figureground.bench.given import check_counts, file_to_write, read_classes
from figureground.bench.harness import print_table, write_json
from figureground.bench.invariance_sets import Objects, read_objects
from figureground.bench.models import Model, add_model_arguments, chosen_model, classes_of, run_model
from figureground.bench.probe_sets import make_versions
from figureground.shards import ShardError


def measure_probes(
    objects: Objects,
    model: Model,
    *,
    probe: str | None = None,
    k: int = 20,
    classes: Sequence[int] | None = None,
    grids: Sequence[int] = (2, 4, 8),
    windows: Sequence[float] = (0.1, 0.5),
    seed: int = 0,
    device: str = "cpu",
    batch_size: int = 64,
) -> dict[str, Any]:
    """Measure a model on the original images and their versions.

    Parameters
    ----------
    objects : Objects
        Labelled images; see `read_objects`.
    model : callable
        See `figureground.bench.models`.
    probe : {None, "knn", "linear"}
        None: the model is a classifier. Else its outputs are features; the probe is fit on the originals, without those of
        the image and of the one whose amplitudes it took.
    k : int
        Neighbours.
    classes : sequence of int, optional
        Class of each output of a classifier; -1 for outputs that are none of the classes.
    grids, windows, seed
        See `make_versions`.
    device : str
        Of torch.
    batch_size : int

    Returns
    -------
    dict
        "samples", "probe"; "majority": share of the largest class [%], what a constant answer reaches; "versions": by name,
        "accuracy" [%] (for "style w" of the shape's class) and "standard_error" [% points], and for "style w" also "texture"
        [%], the share of answers that are the other image's class, "texture_error", and "shape_share" [%] = accuracy /
        (accuracy + texture), None where both are 0.

    Raises
    ------
    ValueError
        If an argument does not fit the images or the model.

    Notes
    -----
    A classifier was not trained on these versions, nor was the probe: low numbers also tell of unfamiliar images. The shape
    share compares two answers to the same images; of a model that guesses it is about 50 %.
    """
    if probe not in (None, *PROBES):
        raise ValueError(f"measure_probes: probe must be None, 'knn' or 'linear', got {probe!r}")
    labels, table = objects.classes, None if classes is None else np.asarray(classes, np.int64)
    own = np.arange(len(labels))
    classify = None
    versions: dict[str, dict[str, Any]] = {}
    for version in make_versions(objects.views, labels, grids=grids, windows=windows, seed=seed):
        values = run_model(model, version.views, device=device, batch_size=batch_size)
        if probe is None:
            said = classes_of(values, int(labels.max()), table)
        else:
            classify = classify or fit_probe(probe, values, labels, k=k)  # the first version is the original
            donors = np.full(len(own), -1) if version.donors is None else version.donors
            said = classify(values, forbidden=np.stack([own, donors], 1))
        share, error = _share(said == labels)
        versions[version.name] = {"accuracy": share, "standard_error": error}
        if version.donors is not None:
            texture, texture_error = _share(said == labels[version.donors])
            both = share + texture
            versions[version.name] |= {
                "texture": texture, "texture_error": texture_error, "shape_share": 100 * share / both if both else None,
            }  # fmt: skip
    return {
        "samples": len(labels),
        "probe": f"{k}-NN" if probe == "knn" else probe,
        "majority": 100 * float(np.unique(labels, return_counts=True)[1].max() / len(labels)),
        "versions": versions,
    }


def _share(hits: np.ndarray) -> tuple[float, float]:
    """Share and its standard error, in percent."""
    error = hits.std(ddof=1) / np.sqrt(len(hits)) if len(hits) > 1 else 0.0
    return 100 * float(hits.mean()), 100 * float(error)


def draw_versions(result: dict[str, Any], path: str | Path, *, title: str = "") -> None:
    """Write a bar chart: accuracy of each version, for the styles also the share of the texture's class."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.5), layout="constrained")
    axes = figure.subplots()
    versions = result["versions"]
    for name, found in versions.items():
        styled = "texture" in found
        axes.bar(name, found["accuracy"], -0.4 if styled else 0.8, align="edge" if styled else "center", color="0.4",
                 yerr=found["standard_error"], label="class of the image (shape)")  # fmt: skip
        if styled:
            axes.bar(name, found["texture"], 0.4, align="edge", color="0.75", yerr=found["texture_error"],
                     label="class of the other image (texture)")  # fmt: skip
    axes.axhline(result["majority"], color="0.2", linewidth=0.8, linestyle=":", label="largest class")
    axes.set(ylabel="answers [%]", ylim=(0, 100), title=title)
    axes.tick_params(axis="x", labelrotation=30)
    handles = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=3, fontsize="small")
    figure.savefig(path, dpi=120)


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m figureground.bench probes", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("shards", nargs="+", metavar="SHARDS", help="with classes; masks are not needed")
    add_model_arguments(parser)
    parser.add_argument("--probe", choices=PROBES, help="the model is an encoder (default: a classifier)")
    parser.add_argument("--k", type=int, default=20, help="neighbours of the probe (default: 20)")
    parser.add_argument("--classes", metavar="JSON", help="list of the class of each output; -1: none of the shards'")
    parser.add_argument("--grids", default="2,4,8", metavar="G,G", help="cells along a side (default: 2,4,8)")
    parser.add_argument("--windows", default="0.1,0.5", metavar="W,W", help="of the styles (default: 0.1,0.5)")
    parser.add_argument("--images", type=int, default=1000, metavar="N", help="spread evenly (default: 1000)")
    parser.add_argument("--size", type=int, default=224, metavar="PX", help="side of the images (default: 224)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--json", type=file_to_write, metavar="PATH", help="write the result with the machine it was measured on")
    parser.add_argument("--plot", type=file_to_write, metavar="PNG", help="write a bar chart")
    return parser.parse_args(argv)


def _numbers(option: str, text: str, kind: type) -> list[Any]:
    try:
        return [kind(part) for part in text.split(",") if part]
    except ValueError:
        raise ValueError(f"{option} must be numbers with commas between them, got {text!r}") from None


def main(argv: list[str]) -> int:
    """Run the command; returns its exit code."""
    args = _parse(argv)
    try:
        check_counts("--batch-size", args.batch_size, "--k", args.k)
        classes = read_classes(args.classes)
        grids, windows = _numbers("--grids", args.grids, int), _numbers("--windows", args.windows, float)
        model = chosen_model(args)
        objects = read_objects(args.shards, size=args.size, limit=args.images, need_masks=False)
        result = measure_probes(
            objects, model, probe=args.probe, k=args.k, classes=classes, grids=grids, windows=windows, seed=args.seed,
            device=args.device, batch_size=args.batch_size,
        )  # fmt: skip
    except (OSError, ValueError, ShardError) as error:
        print(f"probes: {error}", file=sys.stderr)
        return 2
    columns = {"accuracy": "accuracy %", "standard_error": "± s.e.", "texture": "texture %", "texture_error": "± s.e. ",
               "shape_share": "shape share %"}  # fmt: skip
    rows = {name: {title: f"{found[column]:.1f}" for column, title in columns.items() if found.get(column) is not None}
            for name, found in result["versions"].items()}  # fmt: skip
    rows["largest class"] = {"accuracy %": f"{result['majority']:.1f}"}
    print_table(rows, title=f"{result['samples']} samples")
    if args.plot:
        draw_versions(result, args.plot, title=Path(args.model.rpartition(":")[0] or args.model).stem)
    write_json(args.json, {"probes": {"model": args.model, "size_px": args.size, "seed": args.seed, **result}})
    return 0
