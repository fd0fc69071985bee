"""The style sheet of the report and of single pictures: light and dark."""

from __future__ import annotations

STYLE = """
:root { color-scheme: light dark; --paper: #fcfcfa; --ink: #1d1f21; --soft: #6b7076; --rule: #e2e2dc; --rest: #b9c0c7;
  --c0: #2a6f97; --c1: #e09f3e; --c2: #5a8f5a; --c3: #b5484d; --c4: #7d6aa8; --c5: #6b7076; }
@media (prefers-color-scheme: dark) { :root { --paper: #16181a; --ink: #e6e4df; --soft: #9aa0a6; --rule: #303438;
  --rest: #545b62; --c0: #62a8d0; --c1: #e6b566; --c2: #86bb86; --c3: #dd7a7e; --c4: #a997d3; --c5: #9aa0a6; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 840px; padding: 48px 24px 96px; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 30px; line-height: 1.2; margin: 0 0 4px; letter-spacing: -0.02em; }
h2 { font-size: 20px; margin: 56px 0 4px; letter-spacing: -0.01em; }
p.where { color: var(--soft); font-size: 13.5px; margin: 0 0 16px; }
h3 { font-size: 15px; margin: 28px 0 0; }
p.says { border-left: 3px solid var(--c0); padding: 2px 0 2px 14px; margin: 16px 0; }
p.note { color: var(--soft); font-size: 13.5px; }
svg { width: 100%; height: auto; display: block; margin: 12px 0 8px; font-family: inherit; }
text { fill: var(--ink); font-size: 13px; } .tick { fill: var(--soft); font-size: 11.5px; }
.value { font-variant-numeric: tabular-nums; } .strong { font-weight: 650; }
.grid { stroke: var(--rule); } .whisker { stroke: var(--ink); stroke-width: 1.5; opacity: 0.55; } .rest { fill: var(--rest); }
.line { fill: none; stroke-width: 2; }
""" + "".join(f".s{i} {{ fill: var(--c{i}); }} .l{i} {{ stroke: var(--c{i}); }}\n" for i in range(6))  # fmt: skip
STYLE += """
.scroll { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-size: 13px; }
th, td { text-align: right; padding: 4px 10px; border-bottom: 1px solid var(--rule); font-variant-numeric: tabular-nums; }
th:first-child { text-align: left; font-weight: 500; } thead th { color: var(--soft); font-weight: 500; }
details { margin-top: 12px; } summary { cursor: pointer; color: var(--soft); }
pre { overflow-x: auto; font: 12px/1.5 ui-monospace, Menlo, Consolas, monospace; }
"""
STYLE += "".join(f".k{i} {{ fill: var(--c{i % 6}); opacity: {1 if i < 6 else 0.5}; }}\n" for i in range(12))
"""Colours by role; s0 to s5 fill series, l0 to l5 draw them, k0 to k11 are the kinds of a time line."""
