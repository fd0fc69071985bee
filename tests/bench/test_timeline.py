"""The time line: spans come from the loader's own calls, and the picture is an SVG."""

from __future__ import annotations

import json
import threading
from xml.etree import ElementTree

import pytest
from pipeline_shards import write_shards

from figureground.bench import timeline
from figureground.bench.timeline import DECODER, PRODUCER, TRAINER, WAIT, Recorder, by_lane, shares
from figureground.kernels.resample import render_views
from figureground.pipeline import augment
from figureground.pipeline.decode import Decoder


def test_small_run(tmp_path, capsys):
    out, path = tmp_path / "deep" / "t.svg", tmp_path / "r.json"
    submit = Decoder.submit
    arguments = ["--shards", write_shards(tmp_path / "s", 40), "--batch-size", "8", "--batches", "3", "--step", "5"]
    assert timeline.main([*arguments, "--out", str(out), "--json", str(path)]) == 0
    assert augment.render_views is render_views  # all calls are back
    assert Decoder.submit is submit
    rows = json.loads(path.read_text())["timeline"]
    assert [span[2] for span in rows[TRAINER]].count("step") == 3
    assert {TRAINER, PRODUCER, f"{DECODER} 1", "kernels 1"} <= rows.keys()
    assert {"read, guard", "plan", "make views", WAIT} <= {span[2] for span in rows[PRODUCER]}
    last = max(end for _, end, _ in rows[TRAINER])
    assert all(0 <= start <= end <= last for row in rows.values() for start, end, _ in row)
    steps = [end - start for start, end, kind in rows[TRAINER] if kind == "step"]
    assert min(steps) >= 4.9
    root = ElementTree.fromstring(out.read_text())
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    titles = [node.text for node in root.iter("{http://www.w3.org/2000/svg}title")]
    assert len(titles) == sum(len(row) for row in rows.values())
    assert "share of the time" in capsys.readouterr().out


def test_spans_by_hand():
    clock = iter([1.0, 3.0])
    recorder = Recorder(lambda: next(clock))
    assert recorder.wrap(lambda a, *, b: a + b, "add")(1, b=2) == 3
    assert recorder.spans == [(TRAINER, 1.0, 3.0, "add")]


def test_a_span_ends_with_an_exception():
    recorder = Recorder(iter([1.0, 2.0]).__next__)
    with pytest.raises(ZeroDivisionError):
        recorder.wrap(lambda: 1 / 0, "fails")()
    assert len(recorder.spans) == 1


def test_decoding_runs_from_submit_to_collect():
    recorder = Recorder(iter([1.0, 2.0, 4.0, 5.0, 6.0, 9.0]).__next__)
    submit, collect = recorder.submit(lambda: None), recorder.collect(lambda: None)
    submit(), submit()  # at 1 and 2
    collect(), collect()  # 4 to 5, 6 to 9
    assert [span for span in recorder.spans if span[3] == "decode"] == [
        (f"{DECODER} 1", 1.0, 5.0, "decode"), (f"{DECODER} 2", 2.0, 9.0, "decode"),
    ]  # fmt: skip


def test_events_become_spans():
    recorder = Recorder()
    recorder.events += [(10.0, 12.0, "blur"), (12.0, 13.0, "colour")]  # milliseconds of a make-believe stream
    recorder.resolve(lambda a, b: b - a, 4.0, 2.0)
    assert recorder.spans == [
        ("GPU stream", pytest.approx(2.006), pytest.approx(2.008), "blur"),
        ("GPU stream", pytest.approx(2.008), pytest.approx(2.009), "colour"),
    ]
    assert recorder.events == []


def test_lanes_are_threads():
    found = []
    for name in ("figureground-augment_1", "figureground-loader"):
        thread = threading.Thread(target=lambda: found.append(timeline.thread_lane()), name=name)
        thread.start()
        thread.join()
    assert found == ["kernels 2", PRODUCER]
    assert timeline.thread_lane() == TRAINER


def test_lanes_are_sorted_and_start_at_zero():
    spans = [("kernels 1", 1.5, 1.6, "blur"), (PRODUCER, 1.2, 1.4, "plan"), (TRAINER, 1.0, 2.0, "step")]
    assert by_lane(spans) == {
        TRAINER: [(0.0, 1000.0, "step")], PRODUCER: [(200.0, 400.0, "plan")], "kernels 1": [(500.0, 600.0, "blur")],
    }  # fmt: skip
    assert by_lane([]) == {}
    assert shares(by_lane(spans))[PRODUCER] == {"plan": 0.2}


def test_wrong_options(capsys):
    assert timeline.main(["--batches", "0"]) == 2
    assert "must be at least 1" in capsys.readouterr().err
