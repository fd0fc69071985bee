"""The script of a GPU run: every part is tried, and what became of it is written down."""

from __future__ import annotations

import json
import sys

import pytest

from figureground.bench import gpu
from figureground.bench.gpu import Part, run_parts
from figureground.shards import MaskStore, Store


def test_a_part_that_fails_hangs_or_lacks_something_does_not_stop_the_others(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gpu.shutil, "which", lambda name, path: None)
    parts = {
        "good": Part(("-c", "print('all is well')")),
        "bad": Part(("-c", "print('the reason'); raise SystemExit(3)")),
        "slow": Part(("-c", "import time; print('begun', flush=True); time.sleep(60)")),
        "sanitizer": Part(("-c", ""), "memcheck"),
        "lacking": Part(("-c", ""), modules=("there_is_no_such_module",)),
        "last": Part(("-c", "")),
    }
    found = run_parts(parts, tmp_path, minutes=3 / 60)
    assert {name: row["result"] for name, row in found.items()} == {
        "good": "passed", "bad": "failed", "slow": "too slow", "sanitizer": "left out", "lacking": "left out", "last": "passed",
    }  # fmt: skip
    assert found["bad"]["why"] == "exit code 3"
    assert found["bad"]["last_lines"] == ["the reason"]
    assert found["sanitizer"]["why"] == "not there: compute-sanitizer"
    assert found["lacking"]["why"] == "not there: there_is_no_such_module"
    assert (tmp_path / "slow.log").read_text() == "begun\n"
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["parts"] == found
    assert {"gpu", "commit", "versions", "python", "date"} <= set(summary["machine"])
    assert "the reason" in capsys.readouterr().err


def test_compute_sanitizer_stands_before_python(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu.shutil, "which", lambda name, path: sys.executable)  # refuses --tool
    row = gpu.run_part("memcheck", Part(("-m", "pytest"), "memcheck"), tmp_path, 60)
    assert row["command"][:6] == [sys.executable, "--tool", "memcheck", "--error-exitcode", "9", sys.executable]
    assert row["result"] == "failed"


def test_one_part_as_a_whole(tmp_path, capsys, monkeypatch):
    """The bench of kernels, on the CPU."""
    out = tmp_path / "out"
    parts = gpu.make_parts(out, tmp_path, "none", "cpu", 8)
    small = Part((*parts["kernels"].arguments, "--views", "2", "--repeats", "1"))
    monkeypatch.setattr(gpu, "make_parts", lambda *_: {"kernels": small})
    assert gpu.main(["--out", str(out), "--device", "cpu", "--only", "kernels"]) == 0
    assert json.loads((out / "kernels.json").read_text())["kernels"]
    assert "passed" in capsys.readouterr().out


def test_the_tests_part_takes_this_checkouts_tests(tmp_path):
    parts = gpu.make_parts(tmp_path, tmp_path / "checkout", "x/*.tar", "cuda", 256)
    assert parts["tests"].arguments[-1] == str(tmp_path / "checkout" / "tests")
    assert parts["memcheck"].arguments[-2:] == ("--exact-memory", str(tmp_path / "checkout" / "tests" / "kernels"))
    assert {name for name, part in parts.items() if "x/*.tar" in part.arguments} == {
        "peers", "throughput", "scaling", "timeline",
    }  # fmt: skip


def test_shards_are_made_once_and_whole(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(gpu, "run_parts", lambda parts, out, minutes: asked.append(list(parts)) or {})
    options = ["--out", str(tmp_path), "--device", "cpu", "--only", "peers"]
    assert gpu.main(options) == 0
    gpu.make_shards(str(tmp_path), 6)
    assert gpu.main(options) == 0
    assert asked == [["shards", "peers"], ["peers"]]
    with Store(str(tmp_path / "shards" / "r*[0-9].tar")) as store, MaskStore(store) as masks:
        assert len(store) == 24
        assert masks.present.all()
    assert [path.name for path in tmp_path.iterdir()] == ["shards"]


@pytest.mark.parametrize("given", [["--only", "nonsense"], ["--minutes", "0"], ["--batch-size", "0"]])
def test_messages(given, capsys, tmp_path):
    assert gpu.main([*given, "--out", str(tmp_path)]) == 2
    assert "--only takes tests, kernels" in capsys.readouterr().err
