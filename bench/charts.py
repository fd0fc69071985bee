"""Charts and tables as pieces of HTML: inline SVG drawn by hand, colours from the page's style sheet."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

WIDTH, LABELS, VALUES, ROW = 820, 310, 150, 28
SERIES = 6
"""Colours of the style sheet, s0 to s5."""
KINDS = 12
"""Colours of a time line, k0 to k11: those of the series, then the same at half strength."""


@dataclass(frozen=True)
class Bar:
    """One row of a bar chart."""

    label: str
    parts: tuple[float, ...]
    """Lengths of its stacked segments."""
    note: str
    """Written at the end of the bar."""
    spread: float = 0.0
    """Interquartile range, drawn as a whisker around the end."""
    strong: bool = False
    """Drawn in the colour of ours."""


def number(value: Any) -> str:
    """Write a number as the JSON has it, other things as text."""
    return json.dumps(value) if isinstance(value, int | float) else "" if value is None else str(value)


def ticks(largest: float, count: int = 4) -> list[float]:
    """Return round numbers from 0 to at most `largest`.

    Examples
    --------
    >>> ticks(2.3)
    [0.0, 0.5, 1.0, 1.5, 2.0]
    >>> ticks(100)
    [0.0, 20.0, 40.0, 60.0, 80.0, 100.0]
    """
    if largest <= 0:
        return [0.0]
    raw = largest / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(s * power for s in (1, 2, 2.5, 5, 10) if s * power >= raw * 0.8)
    return [round(i * step, 10) for i in range(int(largest / step + 1e-9) + 1)]


def _text(x: float, y: float, words: str, kind: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}">{escape(words)}</text>'


def bar_chart(title: str, unit: str, bars: Sequence[Bar], legend: Sequence[str] = ()) -> str:
    """Draw horizontal bars from zero, one a row."""
    if not bars:
        return ""
    largest = max(sum(bar.parts) + bar.spread / 2 for bar in bars) or 1.0
    scale = (WIDTH - LABELS - VALUES) / largest
    top = 26 if legend else 8
    height = top + ROW * len(bars) + 30
    pieces = [
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}" width="{WIDTH}" height="{height}">'
    ]
    for tick in ticks(largest):
        x = LABELS + tick * scale
        pieces.append(f'<line x1="{x:.1f}" y1="{top}" x2="{x:.1f}" y2="{height - 24}" class="grid"/>')
        pieces.append(_text(x, height - 9, f"{tick:g}", "tick", "middle"))
    pieces.append(_text(WIDTH, height - 9, unit, "tick", "end"))
    for i, name in enumerate(legend):
        x = LABELS + 170 * i
        pieces.append(
            f'<rect x="{x}" y="4" width="11" height="11" rx="2" class="s{i}"/>' + _text(x + 17, 14, name, "tick")
        )
    for row, bar in enumerate(bars):
        y, x = top + ROW * row, float(LABELS)
        pieces.append(_text(LABELS - 10, y + 18, bar.label, "label strong" if bar.strong else "label", "end"))
        for i, part in enumerate(bar.parts):
            kind = f"s{i}" if len(bar.parts) > 1 else "s0" if bar.strong or not any(b.strong for b in bars) else "rest"
            pieces.append(
                f'<rect x="{x:.1f}" y="{y + 5}" width="{max(part * scale, 0):.1f}" height="18" class="{kind}"/>'
            )
            x += max(part, 0) * scale
        if bar.spread:
            half = bar.spread * scale / 2
            pieces.append(
                f'<line x1="{x - half:.1f}" y1="{y + 14}" x2="{x + half:.1f}" y2="{y + 14}" class="whisker"/>'
            )
        pieces.append(_text(x + bar.spread * scale / 2 + 7, y + 18, bar.note, "value"))
    return "".join([*pieces, "</svg>"])


def line_chart(title: str, x_name: str, y_name: str, series: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """Draw lines through points; both axes linear, y from zero, x as equal steps of its values."""
    xs = sorted({x for points in series.values() for x, _ in points})
    largest = max((y for points in series.values() for _, y in points), default=0.0)
    if len(xs) < 2 or largest <= 0:
        return ""
    left, right, top, bottom = 60, WIDTH - 260, 14, 250
    place = {x: left + (right - left) * i / (len(xs) - 1) for i, x in enumerate(xs)}
    pieces = [f'<svg viewBox="0 0 {WIDTH} 290" role="img" aria-label="{escape(title)}" width="{WIDTH}" height="290">']
    for tick in ticks(largest):
        y = bottom - (bottom - top) * tick / largest
        pieces.append(f'<line x1="{left}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}" class="grid"/>')
        pieces.append(_text(left - 8, y + 4, f"{tick:g}", "tick", "end"))
    pieces += [_text(place[x], bottom + 18, f"{x:g}", "tick", "middle") for x in xs]
    pieces += [_text((left + right) / 2, bottom + 36, x_name, "tick", "middle"), _text(2, 10, y_name, "tick")]
    for i, (name, points) in enumerate(series.items()):
        spots = [(place[x], bottom - (bottom - top) * y / largest) for x, y in sorted(points)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in spots)
        pieces.append(f'<polyline points="{path}" class="line l{i % SERIES}"/>')
        pieces += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" class="s{i % SERIES}"/>' for x, y in spots]
        y = top + 10 + 20 * i
        pieces.append(f'<rect x="{right + 24}" y="{y - 9}" width="11" height="11" rx="2" class="s{i % SERIES}"/>')
        pieces.append(_text(right + 41, y, name, "tick"))
    return "".join([*pieces, "</svg>"])


def lanes(title: str, unit: str, spans: Mapping[str, Sequence[tuple[float, float, str]]]) -> str:
    """Draw a time line: one row a lane, a box for each (start, end, kind); every kind has a colour and a place in the legend.

    Examples
    --------
    >>> lanes("t", "ms", {"a": [(0.0, 5.0, "x"), (5.0, 10.0, "y")], "b": [(2.0, 4.0, "x")]}).count('height="16"')
    3
    """
    largest = max((end for row in spans.values() for _, end, _ in row), default=0.0)
    if largest <= 0:
        return ""
    kinds = list(dict.fromkeys(kind for row in spans.values() for _, _, kind in row))
    left, scale, columns = 150, (WIDTH - 170) / largest, 4
    top = 12 + 18 * math.ceil(len(kinds) / columns)
    height = top + ROW * len(spans) + 30
    pieces = [
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}" width="{WIDTH}" height="{height}">'
    ]
    for i, kind in enumerate(kinds):
        column, line = left + 150 * (i % columns), 4 + 18 * (i // columns)
        pieces.append(f'<rect x="{column}" y="{line}" width="11" height="11" rx="2" class="k{i % KINDS}"/>')
        pieces.append(_text(column + 17, line + 10, kind, "tick"))
    for tick in ticks(largest, 8):
        x = left + tick * scale
        pieces.append(f'<line x1="{x:.1f}" y1="{top}" x2="{x:.1f}" y2="{height - 24}" class="grid"/>')
        pieces.append(_text(x, height - 9, f"{tick:g}", "tick", "middle"))
    pieces.append(_text(WIDTH, height - 9, unit, "tick", "end"))
    for number, (name, row) in enumerate(spans.items()):
        y = top + ROW * number
        pieces.append(_text(left - 10, y + 18, name, "label", "end"))
        for start, end, kind in row:
            pieces.append(
                f'<rect x="{left + start * scale:.1f}" y="{y + 6}" width="{max((end - start) * scale, 0.4):.1f}" height="16" '
                f'class="k{kinds.index(kind) % KINDS}"><title>{escape(kind)} {end - start:.2f} {escape(unit)}</title></rect>'
            )
    return "".join([*pieces, "</svg>"])


def table(rows: Mapping[str, Mapping[str, Any]], title: str) -> str:
    """Write rows by name, columns in the order in which they first appear."""
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    head = "".join(f"<th>{escape(column.replace('_', ' '))}</th>" for column in columns)
    body = "".join(
        f"<tr><th>{escape(name)}</th>"
        + "".join(f"<td>{escape(number(row.get(column)))}</td>" for column in columns)
        + "</tr>"
        for name, row in rows.items()
    )
    return f"<div class='scroll'><table><thead><tr><th>{escape(title)}</th>{head}</tr></thead><tbody>{body}</tbody></table></div>"
