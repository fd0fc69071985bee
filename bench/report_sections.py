"""Sections of the report with parts of their own: presets, stalls, scaling, peers with their checks, the time line."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from figureground.bench.charts import Bar, bar_chart, lanes, line_chart, table

Document = Mapping[str, Any]
AXIS_NAMES = {
    "threads": "threads",
    "batch_size": "batch size",
    "image_px": "longer side of the images [px]",
    "p": "p of the swap",
}


def says(words: str) -> str:
    """Write a sentence that follows from the numbers."""
    return f'<p class="says">{escape(words)}</p>' if words else ""


def presets_part(document: Document) -> str:
    """Cost of each preset, decoding set off; empty without presets."""
    presets = document.get("presets", {})
    if not presets:
        return ""
    ideal = next(iter(presets.values()))["cpu_ms"]
    bars = [
        Bar(
            name,
            (min(ideal, row["cpu_ms"]), max(row["cpu_ms"] - ideal, 0.0)),
            f"{row['cpu_ms']:.2f} ms, {row['images_per_s']:.0f}/s",
            row.get("cpu_ms_iqr", 0.0),
        )
        for name, row in presets.items()
    ]
    chart = bar_chart("presets", "CPU ms an image", bars, legend=("read and decode", "augmentation"))
    return f"<h3>Each preset</h3>{chart}{table(presets, 'preset, per source image')}"


def stalls_part(document: Document) -> str:
    """What a simulated trainer waits, by its step; empty without stalls."""
    stalls = document.get("stalls", {})
    if not stalls:
        return ""
    bars = [Bar(name, (100 * row["stall_share"],), f"{100 * row['stall_share']:.1f} %") for name, row in stalls.items()]
    fine = [name for name, row in stalls.items() if row["stall_share"] < 0.01]
    words = (
        f"A trainer whose step of {document.get('batch_size')} images takes {fine[0]} waits for nothing."
        if fine
        else ""
    )
    return (
        f"<h3>What a trainer waits, by its step</h3>{says(words)}"
        + bar_chart("stalls", "% of the trainer's time", bars)
        + table(stalls, "a step")
    )


def techniques_section(document: Document) -> str:
    """What each technique adds to its base recipe."""
    found = document["techniques"]
    base, *others = found
    bars = [
        Bar(name, (max(found[name]["over_base_us"], 0.0),), f"{found[name]['over_base_us']:+.0f}") for name in others
    ]
    words = f"{base} takes {found[base]['us_per_image']:.0f} us an image, decoding not counted; each technique is at probability 1."
    return says(words) + bar_chart("techniques", "CPU us an image over the base", bars) + table(found, "technique")


def scaling_axes(document: Document) -> str:
    """One line chart and one table for each axis of `bench scaling`."""
    pieces = []
    for axis, rows in document["scaling"].items():
        words = AXIS_NAMES.get(axis, axis)
        unit, key = ("CPU ms an image", "cpu_ms") if axis in ("p", "image_px") else ("images/s", "images_per_s")
        points = [(float(name), float(row[key])) for name, row in rows.items()]
        chart = line_chart(f"{unit} by {words}", words, unit, {"moco_v2 + swap": points})
        pieces.append(f"<h3>By {escape(words)}</h3>{chart}{table(rows, words)}")
    return "".join(pieces)


def peer_bars(rows: Mapping[str, Mapping[str, Any]]) -> list[Bar]:
    """Return bars of CPU time; ours strong, a peer that does other work marked."""
    return [
        Bar(
            name + ("" if row.get("equal_work", True) else " (other work)"),
            (row["cpu_ms"],),
            f"{row['cpu_ms']:.2f} ms, {row['cpu_ratio']:.2f} ×",
            row.get("cpu_ms_iqr", 0.0),
            i == 0 or "ours" in name or name.startswith("figureground"),
        )
        for i, (name, row) in enumerate(rows.items())
    ]


def peers_section(document: Document) -> str:
    """CPU ms of each peer with its ratio to ours; the decoders; the check of equal work; what was skipped."""
    peers = document["peers"]
    others = {name: row["cpu_ratio"] for name, row in list(peers.items())[1:] if not name.startswith("figureground")}
    words = ""
    if others:
        best = min(others, key=lambda name: others[name])
        lead = others[best]
        words = f"The nearest peer, {best}, takes {lead:.2f} times the CPU time of ours" + (
            "." if lead > 1 else ": there it is the better choice."
        )
    pieces = [says(words), bar_chart("peers", "CPU ms an image", peer_bars(peers))]
    pieces.append(table(peers, "peer, per source image"))
    if decoders := document.get("decoders"):
        chart = bar_chart("decoders", "CPU ms an image", peer_bars(decoders))
        pieces.append(f"<h3>Decoding alone</h3>{chart}{table(decoders, 'decoder, per image')}")
    return "".join([*pieces, check_part(document), skipped_part(document)])


def check_part(document: Document) -> str:
    """The numbers of the equal-work check and its bounds; empty without them."""
    work = document.get("equal_work")
    if not work:
        return ""
    rows = {
        name: {
            "mean": ", ".join(f"{x:.2f}" for x in found.get("mean", [])),
            "deviation": ", ".join(f"{x:.2f}" for x in found.get("std", [])),
            "share of grey views": found.get("gray"),
            "step between neighbours": found.get("step"),
            "lean to one side": found.get("lean"),
            "views of a pair differ: brightness, contrast, hue, one grey": ", ".join(
                f"{found[key]:.2f}" for key in ("brightness", "contrast", "hue", "one_gray") if key in found
            ),
            "equal": "yes" if found["equal"] else f"no: {found['why']}",
        }
        for name, found in work["checks"].items()
    }
    bounds = ", ".join(f"{name} {value:g}" for name, value in work["bounds"].items())
    note = f"Largest differences to ours that count as equal: {bounds} (the step relative to ours)."
    return f'<h3>Do they do the same work?</h3>{table(rows, "views")}<p class="note">{escape(note)}</p>'


def skipped_part(document: Document) -> str:
    """Which peers were not there, and why."""
    lines = "".join(f"<br>{escape(name)}: {escape(why)}" for name, why in document.get("skipped", {}).items())
    return f'<p class="note">Not measured:{lines}</p>' if lines else ""


def peers_cuda_section(document: Document) -> str:
    """Images/s of each on the GPU, and the ratios that the goals ask for."""
    rows = document["peers_cuda"]
    bars = [
        Bar(
            name + ("" if row.get("equal_work", True) else " (other work)"),
            (row["images_per_s"],),
            f"{row['images_per_s']:,.0f}",
            strong="figureground" in name,
        )
        for name, row in rows.items()
    ]
    chart = bar_chart("peers on a GPU", "images/s", bars)
    tables = table(rows, "per source image") + table(document["ratios"], "speed")
    return chart + tables + check_part(document) + skipped_part(document)


def timeline_section(document: Document) -> str:
    """The picture, and the shares of the lanes."""
    from figureground.bench.timeline import shares

    rows = document["timeline"]
    note = f"Batches of {document.get('batch_size')}; the trainer sleeps {document.get('step_ms')} ms a step."
    return (
        f'<p class="note">{escape(note)}</p>'
        + lanes("time line", "ms", rows)
        + table(shares(rows), "share of the time")
    )
