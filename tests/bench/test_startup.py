"""Start-up measured on a small synthetic data set."""

from __future__ import annotations

import errno
import json

import pytest

from figureground.bench import startup
from figureground.shards import MaskStore, Store


def test_small_run(tmp_path, capsys, monkeypatch):
    # In this process: four fresh interpreters would take half a minute.
    monkeypatch.setattr(startup, "in_child", lambda function, *arguments: getattr(startup, function)(*arguments))
    path = tmp_path / "r.json"
    arguments = ["--shards", "10", "--samples", "8", "--index-samples", "100000", "--json", str(path)]
    assert startup.main(arguments) == 0
    document = json.loads(path.read_text())["startup"]
    assert document["index"]["whole"]["samples"] == 80
    assert document["index"]["tenth"]["shards"] == 1
    assert document["index"]["whole"]["components"] == 160  # jpg and cls
    assert list(document["order"]) == ["1,000", "10,000", "100,000"]
    first = document["first_batch"]["median of 3"]
    assert first["total_s"] == pytest.approx(first["import_s"] + first["loader_s"] + first["batch_s"], abs=0.01)
    assert "First batch of 10 shards" in capsys.readouterr().out


def test_linked_shards_are_a_data_set(tmp_path):
    shards = startup.make_shards(tmp_path, shards=3, samples=4, side=32)
    with Store(shards) as store, MaskStore(store) as masks:
        assert len(store) == 12
        assert masks.present.all()
        assert bytes(store.image(0)) == bytes(store.image(8))


def test_a_file_with_too_many_links_is_copied(tmp_path, monkeypatch):
    first = tmp_path / "a"
    first.write_bytes(b"tar")
    assert startup.link(first, tmp_path / "b") == first

    def full(source, target):
        raise OSError(errno.EMLINK, "Too many links")

    monkeypatch.setattr(startup.os, "link", full)
    assert startup.link(first, tmp_path / "c") == tmp_path / "c"
    assert (tmp_path / "c").read_bytes() == b"tar"


def test_array_bytes_counts_arrays_and_strings(tmp_path):
    class Thing:
        def __init__(self) -> None:
            self.keys, self.number = b"abc", 7

    assert startup.array_bytes(Thing()) == 3


def test_order_and_extrapolation():
    rows = startup.order_growth(100_000)
    assert set(rows["100,000"]) == {"open_and_seek_us", "ns_a_sample", "ns_back", "memory_kb"}
    index = {
        "samples": 10,
        "open_cpu_s": 1.0,
        "open_masks_cpu_s": 2.0,
        "bytes_a_sample": 1e8,
        "masks_bytes_a_sample": 0.0,
    }
    assert startup.extrapolate(index, 100) == {
        "open_cpu_s": 10.0,
        "open_masks_cpu_s": 20.0,
        "store_gb": 10.0,
        "masks_gb": 0.0,
    }
    assert startup.extrapolate({**index, "peak_a_sample": 2e8}, 100)["peak_gb"] == 20.0


def test_messages(capsys):
    assert startup.main(["--shards", "0"]) == 2
    assert "--shards must be at least 1, got 0" in capsys.readouterr().err
    with pytest.raises(RuntimeError, match="weigh_index failed in its own process"):
        startup.in_child("weigh_index", "/nonexistent/*.tar")
