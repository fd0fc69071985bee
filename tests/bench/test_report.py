"""The page: valid, complete, self-contained; its sentences follow from the numbers."""

from __future__ import annotations

import json
import re
from html import unescape
from html.parser import HTMLParser

import pytest

from figureground.bench import report, soak
from figureground.bench.charts import Bar, bar_chart, lanes, line_chart, table, ticks

MACHINE = {
    "date": "2026-01-02", "cpu": "A <fast> CPU", "cores": 2, "python": "3.11.9", "gpu": None, "commit": "abc1234",
    "versions": {"numpy": "2.3.4"},
}  # fmt: skip


def row(cpu: float) -> dict[str, float]:
    return {"wall_ms": cpu / 1.9, "cpu_ms": cpu, "cpu_ms_iqr": 0.0123, "images_per_s": round(1900 / cpu, 1)}


THROUGHPUT = {
    "machine": MACHINE, "images": 256, "batch_size": 64, "device": "cpu",
    "stages": {"read": row(0.0018), "decode with masks": row(1.1)},
    "epochs": {
        "ideal: read and decode": row(1.0), "moco_v2": row(2.0), "moco_v2 + swap p=0.2": row(2.2), "moco_v2 + swap p=1": row(2.4),
    },
}  # fmt: skip
PEERS = {
    "machine": MACHINE, "batch_size": 32, "threads": 2, "rounds": 5,
    "peers": {
        "figureground": {**row(2.2), "cpu_ratio": 1.0}, "OpenCV by hand": {**row(3.3), "cpu_ratio": 1.51},
        "PIL & webdataset": {**row(11.1), "cpu_ratio": 5.07},
    },
}  # fmt: skip
KERNELS = {
    "machine": MACHINE, "device": "cpu", "copy_gb_per_s": 11.1,
    "kernels": {"blur": {"us_per_image": 101.234, "iqr_us": 2.5, "images_per_s": 9878, "gb_per_s": 3.0, "of_copy": 0.27}},
}  # fmt: skip
TECHNIQUES = {
    "machine": MACHINE, "count": 64, "size": 224,
    "techniques": {
        "moco_v2": {"us_per_image": 750.4, "over_base_us": 0.0, "iqr_us": 0.0},
        "no blur": {"us_per_image": 650.0, "over_base_us": -100.4, "iqr_us": 3.0},
        "style transfer": {"us_per_image": 3350.0, "over_base_us": 2599.6, "iqr_us": 9.0},
    },
}  # fmt: skip
SALIENCY = {
    "machine": MACHINE,
    "saliency": {"images": 3, "size_px": 96, "half": None,
                 "methods": {"center": {"IoU@.5": 0.31, "MAE": 0.2}, "fused": {"IoU@.5": 0.5178, "cpu_ms": 0.71}}},
}  # fmt: skip
PYTHON = {
    "machine": MACHINE,
    "python_cost": {"python_ms": 2.5, "without_guard_ms": 1.6, "batch": 256, "parts": {"read": 0.2}},
}
STARTUP = {
    "machine": MACHINE,
    "startup": {
        "first_batch": {"median of 3": {"import_s": 2.0, "loader_s": 1.7, "batch_s": 1.2, "total_s": 4.9, "cpu_s": 5.1}},
        "index": {"whole": {"shards": 1000, "samples": 10**6, "bytes_a_component": 38.0}},
        "order": {"1,000": {"ns_a_sample": 31.8}},
        "extrapolated": {"1,000": {"open_s": 0.1}},
    },
}  # fmt: skip
SIMULATE = {
    "machine": MACHINE,
    "simulate": {
        "cluster": {"loader_rate": None}, "limit": "CPU", "images_per_s": 900.0, "wanted_images_per_s": 1000.0, "stall_share": 0.1,
        "epoch_s": 12.5, "dataset_gb": 1.5, "least_cache_gb": 0.0,
        "resources": {"CPU": {"images_per_s_a_node": 900.0, "needs": 10.0, "has": 9.0, "unit": "cores"}},
    },
}  # fmt: skip
PRESETS = {"ideal: read and decode": row(1.0), "moco_v2, simsiam": row(2.0), "mae": row(0.9)}
STALLS = {
    "10 ms, sleep": {"batches": 7, "waited_ms": 30.5, "step_ms": 10.25, "stall_share": 0.748},
    "200 ms, sleep": {"batches": 6, "waited_ms": 0.375, "step_ms": 200.5, "stall_share": 0.0019},
}
SCALING = {
    "machine": MACHINE, "device": "cpu", "batch_size": 64, "threads": 2, "rounds": 3,
    "scaling": {
        "threads": {"1": {**row(2.0), "speedup": 1.0}, "2": {**row(2.1), "speedup": 1.83}},
        "p": {"0": {**row(2.0), "cpu_ratio": 1.0}, "1": {**row(2.5), "cpu_ratio": 1.25}},
    },
}  # fmt: skip
CHECKS = {
    "figureground": {"mean": [0.125] * 3, "std": [1.0] * 3, "gray": 0.203, "step": 0.101, "equal": True, "why": ""},
    "OpenCV by hand": {"equal": False, "why": "gives something else"},
}
CUDA = {
    "machine": MACHINE, "device": "cuda", "dtype": "float16",
    "peers_cuda": {
        "a: DALI decode only": {**row(0.1), "gpu_memory_mb": 812.5},
        "b: figureground, sidecar masks": {**row(0.11), "gpu_memory_mb": 913.5, "equal_work": True},
        "d: DALI's operators, no swap": {**row(0.21), "gpu_memory_mb": 914.5, "equal_work": False},
    },
    "ratios": {"b/a": {"ratio": 0.909, "goal": 0.95, "met": "no"}},
    "equal_work": {"bounds": {"mean": 0.15}, "checks": CHECKS}, "skipped": {"e: kornia": "kornia is not installed"},
}  # fmt: skip
TIMELINE = {
    "machine": MACHINE, "batch_size": 32, "step_ms": 30.0,
    "timeline": {"trainer": [[0.0, 30.5, "step"], [30.5, 40.5, "waits"]], "producer": [[1.25, 20.75, "make views"]]},
}  # fmt: skip
NAMES = ("linear/in_distribution", "linear/swapped", "linear/bg_gap", "knn/in_distribution", "knn/swapped", "knn/bg_gap")


def arm(mean: float, difference: float | None, name: str = "BG_RM") -> dict[str, object]:
    error = None if difference is None else 0.75
    score = {"mean": mean, "se": 1.25, "difference": difference, "difference_se": error}
    return {
        "arm": {"method": "moco", "name": name, "p": 0.2, "masks": "true"}, "seeds": 3, "scores": dict.fromkeys(NAMES, score),
        "step_ms": 50.5, "cpu_ms": 70.25, "step_ratio": 1.125,
    }  # fmt: skip


EXPERIMENT = {
    "machine": MACHINE,
    "experiment": {
        "settings": {"seeds": 3, "batch_size": 64}, "steps": 260, "seconds_of_arms": 99.5,
        "data": [{"source": "figures on <scenes>", "figures": [4, 4], "own_scene_share": {"train": 0.9, "swapped": 0.0},
                  "mask_iou": {"unsupervised": 0.7, "wrong": 0.25}}],
        "summary": {"moco-baseline": arm(40.5, None, "baseline"), "moco-BG_RM-true-p0.2": arm(43.25, 2.75)},
        "pooled": {"true": {name: {"mean": 2.5, "se": 0.5} for name in NAMES}},
        "measured": {"moco-plain": {"step_ms": 42.5, "cpu_ms": 67.5}},
    },
}  # fmt: skip
SOAK = {
    "machine": MACHINE,
    "soak": {
        "long_run": {"batches": 100, "memory_mb": [500.5, 501.5], "handles": [6, 6], "threads": [3, 2]},
        "signals": {"signals": 50, "slowest_s": 1.25, "later_than_5_s": 0, "orphans": 0},
    },
}  # fmt: skip
ALL = {
    "throughput": {**THROUGHPUT, "presets": PRESETS, "stalls": STALLS}, "scaling": SCALING, "cuda": CUDA, "timeline": TIMELINE,
    "peers": PEERS, "kernels": KERNELS, "techniques": TECHNIQUES, "saliency": SALIENCY, "python": PYTHON, "startup": STARTUP,
    "simulate": SIMULATE, "experiment": EXPERIMENT, "soak": SOAK,
}  # fmt: skip
VOID = {"meta", "br"}


class Checker(HTMLParser):
    """Every tag is closed in order; collects attributes and text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag, attrs):
        self.attributes += attrs
        self.tags.add(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.attributes += attrs
        self.tags.add(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def numbers(value):
    if isinstance(value, dict | list):
        return [n for v in (value.values() if isinstance(value, dict) else value) for n in numbers(v)]
    return [value] if isinstance(value, int | float) and not isinstance(value, bool) else []


def checked(page: str) -> Checker:
    checker = Checker()
    checker.feed(page)
    checker.close()
    assert checker.open == []
    return checker


def test_valid_complete_and_self_contained():
    page = report.make_page(ALL)
    checker = checked(page)
    text = " ".join(checker.text)
    assert all(json.dumps(n) in text for n in numbers(ALL))
    assert {"svg", "table", "details"} <= checker.tags
    assert not checker.tags & {"script", "img", "link", "iframe", "image"}
    assert not [name for name, _ in checker.attributes if name in ("src", "href", "xlink:href")]
    assert not re.search(r"https?://|url\(|@import", page)
    assert "A <fast> CPU" in text
    assert "commit abc1234" in text
    assert "2026-01-02" in text


def test_tables_have_the_numbers_of_each_case():
    cells = re.findall(r"<td>(.*?)</td>", report.make_page({"peers": PEERS}))
    assert all(json.dumps(n) in map(unescape, cells) for n in numbers(PEERS["peers"]))


def test_sentences():
    words = report.limits_sentence(THROUGHPUT)
    assert words.startswith("Decoding takes 50 % of the CPU time")
    assert "could at most double the speed" in words
    assert "of 2 cores 1.9 were at work" in words
    assert "cost +10.0 %" in words
    assert "spread" not in words
    noisy = {**THROUGHPUT["epochs"], "moco_v2": {**row(2.0), "cpu_ms_iqr": 0.3}}
    assert "(less than the rounds' spread)" in report.limits_sentence({**THROUGHPUT, "epochs": noisy})
    assert report.limits_sentence({"epochs": {}}) == ""
    assert "OpenCV by hand, takes 1.51 times" in report.peers_section(PEERS)
    faster = {
        **PEERS,
        "peers": {"figureground": {**row(2.2), "cpu_ratio": 1.0}, "other": {**row(1.0), "cpu_ratio": 0.45}},
    }
    assert "there it is the better choice" in report.peers_section(faster)


def test_scaling_where_documents_differ():
    other = {**THROUGHPUT, "batch_size": 256}
    page = report.make_page({"a": THROUGHPUT, "b": other})
    assert "By batch size" in page
    assert "Throughput: a" in page
    assert "Several runs" not in report.make_page({"a": THROUGHPUT})
    checked(page)


def test_charts_by_hand():
    # 820 - 310 - 150 = 360 px for the longest bar; the other is half as long.
    chart = bar_chart("t", "ms", [Bar("a", (2.0,), "2"), Bar("b", (1.0,), "1", spread=0.0)])
    assert re.findall(r'height="18" class="s0"', chart) == ['height="18" class="s0"'] * 2
    assert re.findall(r'width="([\d.]+)" height="18"', chart) == ["360.0", "180.0"]
    assert bar_chart("t", "ms", []) == ""
    assert line_chart("t", "x", "y", {"a": [(1, 2.0)]}) == ""
    assert line_chart("t", "x", "y", {"a": [(1, 2.0), (2, 4.0)]}).count("<circle") == 2
    assert ticks(0) == [0.0]
    assert "<td></td>" in table({"a": {"x": 1}, "b": {"x": None}}, "t")


def test_main(tmp_path, capsys):
    paths = []
    for name, document in ALL.items():
        paths.append(tmp_path / f"{name}.json")
        paths[-1].write_text(json.dumps(document))
    out = tmp_path / "deep" / "report.html"
    assert report.main([*map(str, paths), "--out", str(out)]) == 0
    checked(out.read_text())
    paths[0].write_text("{}")
    assert report.main([str(paths[0]), "--out", str(out)]) == 2
    assert "throughput must have one of epochs, scaling, techniques, peers" in capsys.readouterr().err


def test_other_work_is_marked_not_hidden():
    peers = {**PEERS["peers"], "OpenCV by hand": {**PEERS["peers"]["OpenCV by hand"], "equal_work": False}}
    document = {
        **PEERS, "peers": peers, "equal_work": {"bounds": {"mean": 0.15}, "checks": CHECKS},
        "skipped": {"kornia": "kornia is not installed"}, "decoders": {"DALI (ours)": {**row(1.0), "cpu_ratio": 1.0}},
    }  # fmt: skip
    text = " ".join(checked(report.make_page({"peers": document})).text)
    assert "OpenCV by hand (other work)" in text
    assert "no: gives something else" in text
    assert "kornia: kornia is not installed" in text
    assert "mean 0.15" in text
    assert "Decoding alone" in text


def test_ours_without_swaps_is_no_peer():
    ours = {**row(2.0), "cpu_ratio": 0.9}
    peers = {**PEERS, "peers": {**PEERS["peers"], "figureground, no swap": ours}}
    assert "The nearest peer, OpenCV by hand" in report.peers_section(peers)


def test_stalls_and_presets_are_parts_of_throughput():
    page = report.make_page({"t": {**THROUGHPUT, "presets": PRESETS, "stalls": STALLS}})
    assert "74.8 %" in page
    assert "A trainer whose step of 64 images takes 200 ms, sleep waits for nothing." in page
    assert "2.00 ms, 950/s" in page
    assert "Each preset" not in report.make_page({"t": THROUGHPUT})


def test_lanes_by_hand():
    # 820 - 170 = 650 px for 40 ms: 10 ms are 162.5 px.
    picture = lanes("t", "ms", {"a": [(0.0, 10.0, "x"), (10.0, 40.0, "y")], "b": []})
    assert re.findall(r'width="([\d.]+)" height="16"', picture) == ["162.5", "487.5"]
    assert lanes("t", "ms", {}) == ""


def test_unknown_documents_are_refused():
    with pytest.raises(ValueError, match="make_page: odd must have one of epochs"):
        report.make_page({"odd": {"x": 1}})


def _cells(page: str) -> list[str]:
    return [unescape(cell) for cell in re.findall(r"<td>(.*?)</td>", page)]


def test_the_experiment_has_its_tables_and_says_what_chance_can_do():
    page = report.make_page({"experiment": EXPERIMENT})
    text = " ".join(checked(page).text)
    cells = _cells(page)
    assert cells.count("40.5 ± 1.2") == cells.count("43.2 ± 1.2") == 6
    assert cells.count("+2.8 ± 0.8") == cells.count("+2.5 ± 0.5") == 6
    assert "1.125" in cells
    assert "2 classes of 4 figures" in text
    assert "figures on <scenes>" in text
    assert "a 95 % interval is ± 4.3 standard errors" in text
    assert "moco-plain (no augmentation): 42.5 ms a step" in text
    alone = {**EXPERIMENT["experiment"], "summary": {"moco-baseline": arm(40.5, None, "baseline")}, "pooled": {}}
    page = report.make_page({"experiment": {"experiment": alone}})
    assert "baseline of the same seed" not in page
    assert "standard errors" not in page


def test_a_soak_says_what_grew():
    page = report.make_page({"soak": SOAK})
    assert "500.5 -> 501.5" in _cells(page)
    assert "1.25" in _cells(page)
    assert "Nothing grew, and nothing stayed behind." in page
    for name, change in (("long_run", {"handles": [6, 9]}), ("signals", {"orphans": 1})):
        found = {**SOAK["soak"], name: {**SOAK["soak"][name], **change}}
        assert f"Something grew or stayed behind: {name}." in report.make_page({"soak": {"soak": found}})


def test_what_soak_writes_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(soak, "make_shards", lambda folder: folder)
    grown = {"memory_mb": [1.0, 2.0], "handles": [5, 7], "threads": [1, 1]}
    monkeypatch.setattr(soak, "cycles", lambda shards, count: {"cycles": count, **grown})
    assert soak.main(["--cycles", "3", "--json", str(tmp_path / "soak.json")]) == 1
    assert report.main([str(tmp_path / "soak.json"), "--out", str(tmp_path / "page.html")]) == 0
    assert "Something grew or stayed behind: cycles." in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 2]", "must be an object as the benches write it, got a list"),
        ("not json", "must be JSON that a bench wrote, got something else"),
        ('{"soak": {}}', "lacks what this version shows of it"),
        ('{"experiment": {"steps": 3}}', "lacks what this version shows of it"),
        ('{"kernels": null}', "lacks what this version shows of it"),
        ("{}", "must have one of epochs, .*, experiment, soak, got nothing"),
    ],
)
def test_other_documents_are_refused_in_a_sentence(tmp_path, capsys, text, message):
    (tmp_path / "a.json").write_text(text)
    assert report.main([str(tmp_path / "a.json"), "--out", str(tmp_path / "page.html")]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "page.html").exists()


def test_a_page_that_cannot_be_written(tmp_path, capsys):
    (tmp_path / "a.json").write_text(json.dumps(SOAK))
    (tmp_path / "file").touch()
    for place in (tmp_path, tmp_path / "file" / "page.html"):
        with pytest.raises(SystemExit):
            report.main([str(tmp_path / "a.json"), "--out", str(place)])
        assert f"report: error: argument --out: {tmp_path}" in capsys.readouterr().err
