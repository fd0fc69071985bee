"""Measuring and reporting."""

from __future__ import annotations

import json
import multiprocessing
import time

from figureground.bench import __main__ as door
from figureground.bench.harness import Timing, cpu_seconds, machine, measure, print_table, write_json


def test_cases_take_turns():
    calls = []
    timings = measure({"a": lambda: calls.append("a") or 2, "b": lambda: calls.append("b") or 1}, rounds=2, warm_up=1)
    assert calls == ["a", "b"] * 3
    assert all(len(t.wall_ms) == len(t.cpu_ms) == 2 for t in timings.values())


def test_summary_is_of_medians():
    assert Timing([1.0, 2.0, 9.0], [4.0, 4.0, 5.0]).summary() == {
        "wall_ms": 2.0, "cpu_ms": 4.0, "cpu_ms_iqr": 0.5, "images_per_s": 500.0,
    }  # fmt: skip


def test_results_carry_their_machine(tmp_path, capsys):
    write_json(tmp_path / "deep" / "r.json", {"x": 1})
    document = json.loads((tmp_path / "deep" / "r.json").read_text())
    assert document["x"] == 1
    assert document["machine"]["cores"] >= 1
    assert document["machine"].keys() == machine().keys()
    write_json(None, {"x": 1})
    print_table({"row": {"a": 1, "b": 2}, "other": {"b": 3}}, title="t")
    assert capsys.readouterr().out.splitlines()[2].split() == ["other", "3"]


def test_unknown_verbs_are_listed(capsys):
    assert door.main(["nonsense"]) == 2
    err = capsys.readouterr().err
    assert all(verb in err for verb in door.VERBS)


def test_cpu_time_counts_live_workers():
    code = "import time\nwhile time.process_time() < 0.2: pass\ntime.sleep(60)"
    before, own = cpu_seconds(), time.process_time()
    worker = multiprocessing.get_context("spawn").Process(target=exec, args=(code,))
    worker.start()
    try:
        spent, deadline = 0.0, time.monotonic() + 60
        while spent < 0.15 and time.monotonic() < deadline:
            time.sleep(0.05)
            spent = cpu_seconds() - before - (time.process_time() - own)
        assert spent >= 0.15  # ticks are of 10 ms, rounded down twice
    finally:
        worker.terminate()
        worker.join()


def test_tables_write_yes_and_no(capsys):
    print_table({"a": {"equal": True, "why": None}, "b": {"equal": False, "n": 1.5}}, title="t")
    assert [line.split()[1:] for line in capsys.readouterr().out.splitlines()[1:]] == [["yes"], ["NO", "1.5"]]
