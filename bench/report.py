"""One self-contained page from the benches' JSON: charts, tables, and what limits you.

    python -m figureground.bench report throughput.json peers.json kernels.json --out bench/report.html

Takes what `throughput`, `scaling`, `techniques`, `peers`, `timeline`, `kernels`, `saliency`, `masks`, `python_cost`, `startup`,
`simulate`, `experiment` and `soak` write with `--json`, any number of each; throughput documents that differ in batch size or
threads also give a chart. No script, no image, no link: the page can be mailed. Every number of every document is in it, at the
end as it was read.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from figureground.bench.charts import Bar, bar_chart, line_chart, table
from figureground.bench.given import file_to_write
from figureground.bench.report_runs import experiment_section, soak_section
from figureground.bench.report_sections import (
    peers_cuda_section,
    peers_section,
    presets_part,
    says,
    scaling_axes,
    stalls_part,
    techniques_section,
    timeline_section,
)
from figureground.bench.style import STYLE

Document = Mapping[str, Any]
BASE, SWAP, IDEAL = "moco_v2", "moco_v2 + swap p=0.2", "ideal: read and decode"
OVER = "over_moco_v2_%"


def _where(document: Document) -> str:
    machine = document.get("machine", {})
    parts = [
        str(machine.get("cpu", "")),
        f"{machine['cores']} cores" if "cores" in machine else "",
        str(machine.get("gpu") or "no GPU"),
        f"Python {machine['python']}" if "python" in machine else "",
        *(f"{name} {version}" for name, version in machine.get("versions", {}).items()),
        f"commit {machine['commit']}" if machine.get("commit") else "",
        str(machine.get("date", "")),
    ]
    settings = [f"{key.replace('_', ' ')} {value}" for key, value in document.items() if isinstance(value, int | str)]
    return f'<p class="where">{escape(" · ".join(part for part in [*parts, *settings] if part))}</p>'


def limits_sentence(document: Document) -> str:
    """Say what limits the loader, from a throughput document; empty if it lacks the rows.

    Examples
    --------
    >>> epochs = {BASE: {"cpu_ms": 1.9}, SWAP: {"cpu_ms": 2.0, "wall_ms": 1.25}}
    >>> stages = {"decode with masks": {"cpu_ms": 1.0}}
    >>> limits_sentence({"epochs": epochs, "stages": stages, "machine": {"cores": 2}})[:92]
    'Decoding takes 50 % of the CPU time of an image: a faster augmentation could at most double '
    """
    epochs, stages = document.get("epochs", {}), document.get("stages", {})
    decode = stages.get("decode with masks", {}).get("cpu_ms") or epochs.get(IDEAL, {}).get("cpu_ms")
    row = epochs.get(SWAP) or epochs.get(BASE)
    if not row or not decode:
        return ""
    share = decode / row["cpu_ms"]
    words = f"Decoding takes {100 * share:.0f} % of the CPU time of an image: "
    if share >= 0.4:
        gain = "double" if abs(1 / share - 2) < 0.05 else f"multiply by {1 / share:.1f}"
        words += f"a faster augmentation could at most {gain} the speed"
    else:
        words += "the augmentation is the larger part"
    cores = document.get("machine", {}).get("cores")
    if cores and row.get("wall_ms"):
        used = row["cpu_ms"] / row["wall_ms"]
        words += f"; of {cores} cores {used:.1f} were at work"
    if BASE in epochs and SWAP in epochs:
        base, swap = epochs[BASE], epochs[SWAP]
        words += f"; background swaps at p = 0.2 cost {over_base(swap, base['cpu_ms']):+.1f} %"
        if abs(swap["cpu_ms"] - base["cpu_ms"]) < max(base.get("cpu_ms_iqr", 0), swap.get("cpu_ms_iqr", 0)):
            words += " (less than the rounds' spread)"
    return words + "."


def over_base(row: Mapping[str, Any], base_ms: float) -> float:
    """Return by how much [%] a row is above the base: as it was measured, within the rounds, else by the medians."""
    return float(row.get(OVER, round(100 * (row["cpu_ms"] / base_ms - 1), 1)))


def throughput_section(document: Document) -> str:
    """Bars by stage, end to end with decoding set off, and the cost of the backgrounds."""
    stages, epochs = document.get("stages", {}), document.get("epochs", {})
    bars = [
        Bar(name, (1e3 * row["cpu_ms"],), f"{1e3 * row['cpu_ms']:.0f}", 1e3 * row.get("cpu_ms_iqr", 0.0))
        for name, row in stages.items()
    ]
    pieces = [
        says(limits_sentence(document)),
        given_part(document),
        "<h3>Stages apart</h3>",
        bar_chart("stages", "CPU µs an image", bars),
    ]
    pieces.append(table(stages, "stage, per image"))
    ideal, base = epochs.get(IDEAL, {}).get("cpu_ms", 0.0), epochs.get(BASE, {}).get("cpu_ms")
    bars, rows = [], {}
    for name, row in epochs.items():
        cost = row["cpu_ms"]
        over = {OVER: over_base(row, base)} if base and name not in (IDEAL, BASE) else {}
        rows[name] = {**row, **over}
        note = f"{cost:.2f} ms" + (f", {over[OVER]:+.1f} %" if over else "")
        bars.append(Bar(name, (min(ideal, cost), max(cost - ideal, 0.0)), note, row.get("cpu_ms_iqr", 0.0)))
    chart = bar_chart("end to end", "CPU ms an image", bars, legend=("read and decode", "augmentation"))
    return (
        "".join([*pieces, "<h3>End to end, and with p of the background augmentation</h3>", chart])
        + table(rows, "end to end, per source image")
        + presets_part(document)
        + stalls_part(document)
    )


def given_part(document: Document) -> str:
    """What of a user's data was measured; empty where all of it was."""
    read, images = document.get("first_read"), document.get("images")
    words = []
    if read:
        words.append(
            f"{images} of {document['images_of_the_data_set']:,} images were measured, from a local copy; from where they lie "
            f"they came at {read['mb_per_s']:g} MB/s, {read['images_per_s']:g} images/s, one by one."
        )
    if images and document.get("masks", images) < images:
        words.append(f"{images - document['masks']} of {images} have no mask: theirs are estimated on the way.")
    return f'<p class="note">{escape(" ".join(words))}</p>' if words else ""


def scaling_section(documents: Sequence[Document]) -> str:
    """Images/s over batch size and threads, where throughput documents differ in them."""
    pieces = []
    for setting in ("batch_size", "threads"):
        found = [d for d in documents if setting in d and "epochs" in d]
        series: dict[str, list[tuple[float, float]]] = {}
        for document in found:
            for name, row in document["epochs"].items():
                series.setdefault(name, []).append((float(document[setting]), float(row["images_per_s"])))
        words = setting.replace("_", " ")
        if chart := line_chart(f"images/s by {words}", words, "images/s", series):
            pieces.append(f"<h3>By {words}</h3>{chart}")
    return f"<h2>Several runs</h2>{''.join(pieces)}" if pieces else ""


def kernels_section(document: Document) -> str:
    """Time of each kernel, with its share of the copy bandwidth."""
    rows = document["kernels"]
    bars = [
        Bar(
            name,
            (row["us_per_image"],),
            f"{row['us_per_image']:.1f}, {100 * row['of_copy']:.0f} % of copy",
            row["iqr_us"],
        )
        for name, row in rows.items()
    ]
    slowest = max(rows, key=lambda name: rows[name]["us_per_image"])
    words = f"The dearest kernel is {slowest}; a plain copy moves {document['copy_gb_per_s']} GB/s here."
    return says(words) + bar_chart("kernels", "µs an image", bars) + table(rows, "kernel")


def saliency_section(document: Document) -> str:
    """Overlap with the true masks, and cost."""
    rows = document["saliency"]["methods"]
    bars = [Bar(name, (row["IoU@.5"],), f"{row['IoU@.5']:.3f}") for name, row in rows.items() if "IoU@.5" in row]
    costs = [Bar(name, (row["cpu_ms"],), f"{row['cpu_ms']:.2f}") for name, row in rows.items() if "cpu_ms" in row]
    rounded = {name: {key: round(value, 4) for key, value in row.items()} for name, row in rows.items()}
    charts = bar_chart("overlap", "IoU at one half", bars) + bar_chart("cost", "CPU ms an image", costs)
    return charts + table(rounded, "method")


def masks_section(document: Document) -> str:
    """What a mask costs by stage."""
    from figureground.bench.masks import verdict

    found = document["masks"]
    bars = [
        Bar(name, (row["cpu_ms"],), f"{row['cpu_ms']:.2f}", row.get("cpu_ms_iqr", 0.0))
        for name, row in found["stages"].items()
    ]
    rows = {**found["stages"], "the job": found["job"]}
    return says(verdict(found)) + bar_chart("a mask", "CPU ms an image", bars) + table(rows, "stage, per image")


def python_section(document: Document) -> str:
    """Milliseconds of each part of a batch."""
    from figureground.bench.python_cost import verdict

    found = document["python_cost"]
    bars = [Bar(name, (ms,), f"{ms:.3f}") for name, ms in found["parts"].items()]
    rows = {name: {"ms": ms} for name, ms in found["parts"].items()} | {"whole batch": {"ms": found["python_ms"]}}
    if "dali_ms" in found:
        rows["DALI's calls, beside it"] = {"ms": found["dali_ms"]}
    return (
        says(verdict(found)) + bar_chart("Python", "CPU ms a batch", bars) + table(rows, f"batch of {found['batch']}")
    )


def startup_section(document: Document) -> str:
    """Seconds to the first batch; how index and order grow."""
    from figureground.bench.startup import verdict

    found = document["startup"]
    bars = [
        Bar(name, tuple(row[f"{part}_s"] for part in ("import", "loader", "batch")), f"{row['total_s']:.1f} s")
        for name, row in found["first_batch"].items()
    ]
    chart = bar_chart("first batch", "s", bars, legend=("import", "open shards and masks", "first batch"))
    tables = [table(found[name], name) for name in ("first_batch", "index", "order", "extrapolated")]
    return says(verdict(found)) + chart + "".join(tables)


def simulate_section(document: Document) -> str:
    """Use of each resource at the trainer's full pace."""
    from figureground.bench.simulate import verdict

    found = document["simulate"]
    bars = [
        Bar(
            name,
            (100 * row["needs"] / row["has"],),
            f"{100 * row['needs'] / row['has']:.0f} %",
            strong=name == found["limit"],
        )
        for name, row in found["resources"].items()
    ]
    words = says(verdict(found, found["cluster"]["loader_rate"] is not None))
    return words + bar_chart("use", "% of what a node has", bars) + table(found["resources"], "a node at full pace")


SECTIONS: dict[str, tuple[str, Callable[[Document], str]]] = {
    "epochs": ("Throughput", throughput_section),
    "scaling": ("Scaling", scaling_axes),
    "techniques": ("Techniques", techniques_section),
    "peers": ("Peers", peers_section),
    "peers_cuda": ("Peers on a GPU", peers_cuda_section),
    "timeline": ("What overlaps", timeline_section),
    "kernels": ("Kernels", kernels_section),
    "saliency": ("Saliency", saliency_section),
    "masks": ("Masks", masks_section),
    "python_cost": ("Python's cost", python_section),
    "startup": ("Start-up", startup_section),
    "simulate": ("A cluster, predicted", simulate_section),
    "experiment": ("A small experiment", experiment_section),
    "soak": ("Long runs", soak_section),
}
"""Title and section of a document by the key that tells its kind."""


def _written(section: Callable[[Document], str], name: str, document: Document) -> str:
    try:
        return section(document)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(
            f"make_page: {name} lacks what this version shows of it ({type(error).__name__}: {error}); measure again, or leave it "
            f"out"
        ) from error


def make_page(documents: Mapping[str, Document]) -> str:
    """Make the page.

    Parameters
    ----------
    documents : mapping of name to document
        As the benches write them; a name is a file's stem.

    Returns
    -------
    str
        HTML.

    Raises
    ------
    ValueError
        If a document is of no known kind, or lacks what its kind has.
    """
    kinds = {}
    for name, document in documents.items():
        if not isinstance(document, Mapping):
            raise ValueError(f"make_page: {name} must be an object as the benches write it, got a {type(document).__name__}")
        kind = next((key for key in SECTIONS if key in document), None)
        if kind is None:
            raise ValueError(
                f"make_page: {name} must have one of {', '.join(SECTIONS)}, got {', '.join(document) or 'nothing'}"
            )
        kinds[name] = kind
    body = []
    for kind, (title, section) in SECTIONS.items():
        chosen = [name for name in documents if kinds[name] == kind]
        for name in chosen:
            heading = title if len(chosen) == 1 else f"{title}: {name}"
            body.append(
                f"<section><h2>{escape(heading)}</h2>{_where(documents[name])}{_written(section, name, documents[name])}</section>"
            )
        if kind == "epochs":
            body.append(scaling_section([documents[name] for name in chosen]))
    commits = {str(document.get("machine", {}).get("commit")) for document in documents.values()}
    if len(commits) > 1:
        body.insert(0, f'<p class="note">Measured at several commits: {escape(", ".join(sorted(commits)))}.</p>')
    raw = "".join(
        f"<details><summary>{escape(name)}</summary>"
        f"<pre>{escape(json.dumps(document, indent=2, ensure_ascii=False))}</pre></details>"
        for name, document in documents.items()
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><title>figureground: measured</title>'
        f"<style>{STYLE}</style></head><body><h1>figureground: measured</h1>"
        '<p class="where">Medians of interleaved rounds; whiskers are interquartile ranges. CPU time counts all threads.</p>'
        f"{''.join(body)}<h2>As read</h2>{raw}</body></html>\n"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Read the documents, write the page; returns the exit code."""
    parser = argparse.ArgumentParser("python -m figureground.bench report")
    parser.add_argument("results", nargs="+", type=Path, metavar="RESULT.json")
    parser.add_argument("--out", type=file_to_write, default=Path("bench/report.html"))
    args = parser.parse_args(argv)
    try:
        documents: dict[str, Document] = {}
        for path in args.results:
            name = path.stem if path.stem not in documents else str(path)
            try:
                documents[name] = json.loads(path.read_text(encoding="utf-8"))
            except ValueError as error:
                raise ValueError(f"{path} must be JSON that a bench wrote, got something else ({error})") from error
        page = make_page(documents)
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(page, encoding="utf-8")
    except (OSError, ValueError) as error:
        print(f"report: {error}", file=sys.stderr)
        return 2
    print(f"wrote {args.out}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
