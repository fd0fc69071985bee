"""Sections of the report about whole runs: the small experiment, and the long runs that look for growth."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from figureground.bench.charts import Bar, bar_chart, table
from figureground.bench.report_sections import says

Document = Mapping[str, Any]
_ALSO = {"long_run": "A long run", "cycles": "Made and left again and again", "signals": "Stopped by signals"}
"""Titles of the parts of a soak."""


def experiment_section(document: Document) -> str:
    """Accuracy of each arm with swapped scenes; all accuracies, the differences to the baseline, and what chance can do."""
    from figureground.bench.experiment_report import BASELINE, closing_lines, facts_sentence, result_tables

    result = document["experiment"]
    bars = []
    for key, row in result["summary"].items():
        score = row["scores"]["linear/swapped"]
        bars.append(
            Bar(
                key, (score["mean"],), f"{score['mean']:.1f} %", 2 * (score["se"] or 0.0),
                strong=row["arm"]["name"] != BASELINE,
            )
        )  # fmt: skip
    pieces = [f'<p class="note">{escape(line)}</p>' for line in facts_sentence(result).splitlines()]
    pieces.append(bar_chart("swapped scenes", "linear accuracy [%], whiskers: a standard error to each side", bars))
    for title, rows in result_tables(result).items():
        pieces.append(f"<h3>{escape(title[:1].upper() + title[1:])}</h3>{table(rows, 'arm')}")
    return "".join([*pieces, *(says(line) for line in closing_lines(result))])


def soak_section(document: Document) -> str:
    """What grew, and what stayed behind; "before -> after" where something was looked at twice."""
    from figureground.bench.soak import grew

    found = document["soak"]
    if not found:
        raise KeyError("one of " + ", ".join(_ALSO))
    bad = [name for name, result in found.items() if grew(result)]
    words = f"Something grew or stayed behind: {', '.join(bad)}." if bad else "Nothing grew, and nothing stayed behind."
    pieces = [says(words)]
    for name, result in found.items():
        row = {
            key: " -> ".join(map(str, value)) if isinstance(value, list) else value for key, value in result.items()
        }
        pieces.append(f"<h3>{escape(_ALSO.get(name, name))}</h3>{table({name: row}, 'run')}")
    return "".join(pieces)
