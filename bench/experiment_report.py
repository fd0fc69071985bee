"""The experiment's runs as means and standard errors over seeds, a table and a figure."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from figureground.bench.experiment_score import compare, mean_error
from figureground.bench.harness import print_table

BASELINE = "baseline"
_COLUMNS = {
    "in-dist": "linear/in_distribution",
    "swapped": "linear/swapped",
    "gap": "linear/bg_gap",
    "knn in-d.": "knn/in_distribution",
    "knn swap.": "knn/swapped",
    "knn gap": "knn/bg_gap",
}


def summarize(runs: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Summarise runs by arm.

    Returns
    -------
    dict by key of the arm
        "seeds"; for each score its "mean" and "se" over seeds (None for one seed), and "difference" and "difference_se" to
        the baseline of the same method, paired by seed (None where there is no such baseline); medians over
        seeds of "step_ms" and "cpu_ms" and their ratios to the baseline's, "step_ratio" and "cpu_ratio"; "loss", the
        mean curve.
    """
    arms: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for run in runs:
        arms[run["key"]].append(run)
    return {
        key: _summarize_arm(mine, arms.get(f"{mine[0]['arm']['method']}-{BASELINE}", [])) for key, mine in arms.items()
    }


def _summarize_arm(mine: list[Mapping[str, Any]], baseline: list[Mapping[str, Any]]) -> dict[str, Any]:
    row: dict[str, Any] = {"arm": mine[0]["arm"], "seeds": len(mine), "scores": {}}
    shared = {run["seed"] for run in mine} & {run["seed"] for run in baseline}
    for name in mine[0]["scores"]:
        mean, error = mean_error([run["scores"][name] for run in mine])
        score = {"mean": round(mean, 3), "se": _number(error), "difference": None, "difference_se": None}
        if shared and mine[0]["arm"]["name"] != BASELINE:
            ours, theirs = ({run["seed"]: run["scores"][name] for run in some} for some in (mine, baseline))
            difference, error = compare(ours, theirs)
            score |= {"difference": round(difference, 3), "difference_se": _number(error)}
        row["scores"][name] = score
    for name in ("step_ms", "cpu_ms", "waited_ms"):
        row[name] = _median(mine, name)
        other = _median(baseline, name)
        if name != "waited_ms":
            row[name.replace("ms", "ratio")] = round(row[name] / other, 3) if row[name] and other else None
    curves = [run["loss"] for run in mine if run["loss"]]
    row["loss"] = [round(sum(values) / len(values), 4) for values in zip(*curves, strict=True)]
    return row


def pool_masks(runs: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Pool the arms by the kind of their masks: one comparison in place of many.

    Returns
    -------
    dict by kind of masks, and by pair of kinds ("true - wrong")
        By score "mean" and "se" over seeds [% points] of the mean difference to the baseline over those arms (method, background,
        p below 1) that were run with every kind; empty if there are none.
    """
    scores = {(run["arm"]["method"], run["arm"]["name"], run["arm"]["masks"], run["seed"]): run["scores"]
              for run in runs if run["arm"]["p"] < 1}  # fmt: skip
    kinds = list(dict.fromkeys(masks for _, _, masks, _ in scores if masks is not None))
    seeds = sorted({seed for *_, seed in scores})
    families = [
        (method, name) for method, name in dict.fromkeys((method, name) for method, name, *_ in scores)
        if all((method, name, masks, seed) in scores for masks in kinds for seed in seeds)
        and all((method, BASELINE, None, seed) in scores for seed in seeds)
    ]  # fmt: skip
    if not kinds or not families:
        return {}

    def change(masks: str, score: str) -> list[float]:
        return [
            sum(scores[m, n, masks, seed][score] - scores[m, BASELINE, None, seed][score] for m, n in families)
            / len(families)
            for seed in seeds
        ]

    pooled: dict[str, dict[str, Any]] = {}
    for score in _COLUMNS.values():
        by_kind = {masks: change(masks, score) for masks in kinds}
        pairs = {f"{a} - {b}": [x - y for x, y in zip(by_kind[a], by_kind[b], strict=True)]
                 for i, a in enumerate(kinds) for b in kinds[i + 1 :]}  # fmt: skip
        for kind, values in (by_kind | pairs).items():
            mean, error = mean_error(values)
            pooled.setdefault(kind, {})[score] = {"mean": round(mean, 3), "se": _number(error)}
    return pooled


def _number(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 3)


def _median(runs: Sequence[Mapping[str, Any]], name: str) -> float | None:
    values = sorted(run[name] for run in runs if run[name] is not None)
    return round(float(values[len(values) // 2]), 3) if values else None


def _with_error(mean: float | None, error: float | None, sign: str = "") -> str:
    if mean is None:
        return ""
    return f"{round(mean, 1) + 0.0:{sign}.1f}" + ("" if error is None else f" ± {error:.1f}")


def facts_sentence(result: Mapping[str, Any]) -> str:
    """Say what was trained on, and how long."""
    facts = result["data"][0]
    return (
        f"{facts['source']}: {len(facts['figures'])} classes of {facts['figures'][0]} figures; own scene: training "
        f"{100 * facts['own_scene_share']['train']:.0f} %, swapped {100 * facts['own_scene_share']['swapped']:.0f} %; masks' "
        f"IoU: unsupervised {facts['mask_iou']['unsupervised']:.2f}, wrong {facts['mask_iou']['wrong']:.2f}\n"
        f"{result['steps']} steps of {result['settings']['batch_size']} images for each arm, "
        f"{result['settings']['seeds']} seeds, {result['seconds_of_arms']:.0f} s for the arms; "
        f"chance {100 / len(facts['figures']):.1f} %"
    )


def result_tables(result: Mapping[str, Any]) -> dict[str, dict[str, dict[str, Any]]]:
    """Return the tables of an experiment by title: accuracies (linear, then k-NN) with standard errors, differences to the
    baseline, and these pooled by masks; what was not run has no table.
    """
    rows, changes = {}, {}
    for key, row in result["summary"].items():
        scores = row["scores"]
        rows[key] = {head: _with_error(scores[name]["mean"], scores[name]["se"]) for head, name in _COLUMNS.items()}
        rows[key]["ms a step"] = "" if row["step_ms"] is None else f"{row['step_ms']:.1f}"
        rows[key]["CPU ms"] = "" if row["cpu_ms"] is None else f"{row['cpu_ms']:.1f}"
        if row["arm"]["name"] != BASELINE and scores["linear/swapped"]["difference"] is not None:
            changes[key] = {
                head: _with_error(scores[name]["difference"], scores[name]["difference_se"], "+")
                for head, name in _COLUMNS.items()
            }
            changes[key]["step ratio"] = row["step_ratio"] or ""
    pooled = {
        kind: {head: _with_error(row[name]["mean"], row[name]["se"], "+") for head, name in _COLUMNS.items()}
        for kind, row in result["pooled"].items()
    }
    tables = {
        "linear and k-NN accuracy [%], mean ± standard error over seeds": rows,
        "difference to the baseline of the same seed [% points]": changes,
        "the same, mean of the arms that were run with all masks, by masks": pooled if changes else {},
    }
    return {title: table for title, table in tables.items() if table}


def closing_lines(result: Mapping[str, Any]) -> list[str]:
    """Say how much of the differences chance alone could do, and what a step without augmentation takes."""
    changed = sum(row["scores"]["linear/swapped"]["difference"] is not None for row in result["summary"].values())
    lines = [_on_chance(result["settings"]["seeds"], len(_COLUMNS) * changed)] if changed else []
    plain = {key: value for key, value in result["measured"].items() if key.endswith("plain")}
    for key, value in plain.items():
        lines.append(f"{key} (no augmentation): {value['step_ms']:.1f} ms a step, {value['cpu_ms']:.1f} ms CPU")
    return lines


def print_results(result: Mapping[str, Any]) -> None:
    """Print the data's facts, the tables, and what to make of them."""
    print(facts_sentence(result))
    for number, (title, rows) in enumerate(result_tables(result).items()):
        if number:
            print()
        print_table(rows, title=title)
    for line in closing_lines(result):
        print(line)


def _on_chance(seeds: int, count: int) -> str:
    """Say how much of what is printed chance alone could do."""
    if seeds < 2:
        return "one seed: nothing tells a difference from chance"
    from scipy.stats import t

    width = float(t.ppf(0.975, seeds - 1))
    return (
        f"{seeds} seeds: a 95 % interval is ± {width:.1f} standard errors, and about {0.05 * count:.0f} of these {count} "
        f"differences would lie beyond it by chance alone"
    )


def draw_results(result: Mapping[str, Any], path: str | Path) -> None:
    """Write the figure: for each method, linear accuracy with agreeing and swapped scenes, what the arms change on swapped
    scenes (paired by seed), the gap, and the loss.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    colors = colormaps["tab20"]  # more colours than the usual ten: no two arms share one
    methods = list(dict.fromkeys(row["arm"]["method"] for row in result["summary"].values()))
    figure = Figure(figsize=(18, 0.6 + 4.2 * len(methods)), layout="constrained")
    grid = figure.subplots(len(methods), 4, squeeze=False, width_ratios=(3, 2, 2, 2))
    for (accuracy, change, gap, loss), method in zip(grid, methods, strict=True):
        rows = {key: row for key, row in result["summary"].items() if row["arm"]["method"] == method}
        names = [key.removeprefix(f"{method}-").replace("-", " ") for key in rows]
        base = rows.get(f"{method}-{BASELINE}")
        _draw_bars(accuracy, rows, {"linear/in_distribution": "0.75", "linear/swapped": "tab:blue"}, base)
        _draw_bars(gap, rows, {"linear/bg_gap": "tab:orange"}, base)
        _draw_changes(change, rows)
        for axes in (accuracy, change, gap):
            axes.set_yticks(range(len(rows)), names if axes is accuracy else [""] * len(names))
            axes.set_ylim(len(rows) - 0.4, -0.6)
            axes.grid(axis="x", alpha=0.3)
        accuracy.axvline(100 / len(result["data"][0]["figures"]), color="0.4", linestyle=":", label="chance")
        accuracy.set(xlabel="linear accuracy [%]", xlim=(0, 100), title=f"{method}-like: scenes agree / swapped")
        gap.set(xlabel="Mixed-Same − Mixed-Rand [points]", title="BG-gap, linear")
        change.set(xlabel="difference to the baseline [points]", title="swapped scenes")
        for i, (name, row) in enumerate(zip(names, rows.values(), strict=True)):
            if row["loss"]:
                steps = [result["steps"] * (n + 0.5) / len(row["loss"]) for n in range(len(row["loss"]))]
                color = "black" if row["arm"]["name"] == BASELINE else colors(i)
                loss.plot(steps, row["loss"], label=name, linewidth=1, color=color)
        loss.set(xlabel="step", title="loss")
        loss.legend(fontsize="x-small", loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)  # beside the curves
    handles = {label: handle for axes in grid[0][:2] for handle, label in zip(*axes.get_legend_handles_labels())}
    figure.legend(handles.values(), handles.keys(), loc="outside lower left", ncols=5, fontsize="small")
    seeds = result["settings"]["seeds"]
    figure.suptitle(
        f"{result['steps']} steps, {seeds} seeds; mean ± standard error over seeds, differences paired by seed; dashed: baseline",
        fontsize="medium",
    )
    figure.savefig(path, dpi=110)


def _draw_bars(axes: Any, rows: Mapping[str, Any], shown: Mapping[str, str], base: Mapping[str, Any] | None) -> None:
    """Draw a bar with its error for each arm and score, and a dashed line at the baseline's last score."""
    height = 0.8 / len(shown)
    for i, (name, color) in enumerate(shown.items()):
        scores = [row["scores"][name] for row in rows.values()]
        axes.barh(
            [p + (i - (len(shown) - 1) / 2) * height for p in range(len(rows))], [s["mean"] for s in scores], height,
            xerr=[s["se"] or 0.0 for s in scores], label=name.partition("/")[2].replace("_", " "), color=color, ecolor="0.2",
        )  # fmt: skip
    if base is not None:
        axes.axvline(base["scores"][name]["mean"], color=color, linestyle="--", linewidth=0.8)


def _draw_changes(axes: Any, rows: Mapping[str, Any]) -> None:
    """Draw what each arm changes by both probes."""
    axes.axvline(0, color="0.4", linewidth=0.8)
    for name, color, shift in (("linear/swapped", "tab:blue", -0.15), ("knn/swapped", "tab:green", 0.15)):
        scores = {place: row["scores"][name] for place, row in enumerate(rows.values())}
        known = {place: score for place, score in scores.items() if score["difference"] is not None}
        if known:
            axes.errorbar(
                [s["difference"] for s in known.values()], [place + shift for place in known], fmt="o", markersize=4,
                xerr=[s["difference_se"] or 0.0 for s in known.values()], color=color,
                label=f"difference, {name.partition('/')[0].replace('knn', 'k-NN')}",
            )  # fmt: skip
