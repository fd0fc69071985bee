"""The profile counts what one can count by hand, and the estimate is the longest of its bounds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from host_cuda.ptx import profile
from host_cuda.ptx.costs import cost_of
from host_cuda.ptx.estimate import H100, H200, START_US, hot_lines, resident_blocks, summarise
from host_cuda.ptx.executor import PtxExecutor
from host_cuda.ptx.run import FIELDS

pytest.importorskip("cuda.bindings.nvrtc", reason="needs cuda-bindings and NVRTC to run the PTX")
FOLDER = Path(__file__).resolve().parent / "ptx"


def _counts(kernel, grid=1, words=256):
    """Counts of one launch by field, of the records that did anything."""
    executor = PtxExecutor(folder=FOLDER, checks=False)
    x, y = np.ones(words, np.int32), np.ones(words, np.int32)
    args = (x, y)
    (watched,) = profile.watch(lambda: executor.launch("shapes", f"shapes_{kernel}", (grid,), (32,), args), executor)
    return watched, {name: watched.counts[:, k].astype(int) for k, name in enumerate(FIELDS)}


def _of(watched, counts, field, name):
    return [int(counts[field][k]) for k, of in enumerate(watched.encoded.names) if of.startswith(name)]


def test_sectors_of_coalesced_accesses():
    watched, counts = _counts("copy", grid=4)
    for name in ("ld.global", "st.global"):
        assert _of(watched, counts, "sectors", name) == [4 * 4]  # 128 bytes are 4 sectors, 4 blocks
        assert _of(watched, counts, "useful", name) == [4 * 128]
        assert _of(watched, counts, "first", name) == [4 * 4]
    assert summarise(watched, scale=1, registers=16)["sectors_over_ideal"] == 1.0
    assert summarise(watched, scale=8, registers=16)["bytes"] == 8 * 2 * 4 * 128


def test_sectors_of_strided_accesses():
    watched, counts = _counts("strided")
    assert _of(watched, counts, "sectors", "ld.global") == [32]
    assert summarise(watched, scale=1, registers=16)["sectors_over_ideal"] == pytest.approx((32 + 4) / 8)


def test_what_a_block_has_read_is_in_its_cache():
    watched, counts = _counts("again")
    assert _of(watched, counts, "misses", "ld.global") == [4, 0]
    assert _of(watched, counts, "first", "ld.global") == [4, 0]


def test_banks():
    watched, counts = _counts("banks")
    assert sorted(_of(watched, counts, "waves", "st.shared")) == [2, 2]
    assert _of(watched, counts, "least_waves", "st.shared") == [1, 1]
    assert _of(watched, counts, "waves", "ld.shared") == [1, 1]


def test_lanes_and_classes():
    watched, counts = _counts("halves")
    assert _of(watched, counts, "runs", "div.s32") == [1, 1]
    assert _of(watched, counts, "lanes", "div.s32") == [16, 16]
    assert summarise(watched, scale=3, registers=16)["slots_division"] == 3 * 2 * cost_of("div.s32").slots
    place, shares = hot_lines(watched, 1)[0]
    line = int(place.split(":")[1])
    assert "/ y[threadIdx.x" in (FOLDER / "shapes.cu").read_text().splitlines()[line - 1]
    assert shares["slots"] > 20


def test_dependent_instructions_wait():
    watched, _ = _counts("halves")
    least = 2 * cost_of("div.s32").latency + 600  # of the first load, which comes from DRAM
    assert least < watched.clocks[0] < 3 * least


def test_estimate_is_the_longest_bound():
    watched, _ = _counts("copy", grid=8)
    row = summarise(watched, scale=2.0**20, registers=16)
    bounds = {name[3:]: value for name, value in row.items() if name.startswith("us_")}
    assert row["limit"] == max(bounds, key=bounds.get)
    assert row["us"] == pytest.approx(max(bounds.values()) + START_US, abs=0.02)
    moved = 8 * 2**20 * 256
    assert row["us_DRAM"] == pytest.approx(moved / (H200.dram_gb_s * 1e3), rel=1e-3)
    assert summarise(watched, scale=2.0**20, registers=16, gpu=H100)["us_DRAM"] > row["us_DRAM"]


@pytest.mark.parametrize(
    ("threads", "registers", "shared", "blocks"),
    [(256, 32, 0, 8), (256, 64, 0, 4), (1024, 64, 0, 1), (32, 16, 0, 32), (256, 32, 100_000, 2)],
)
def test_blocks_that_fit(threads, registers, shared, blocks):
    assert resident_blocks(H200, threads, registers, shared) == blocks


def test_tool(tmp_path, capsys):
    how = ["--only", "solarize", "--views", "1", "--lines", "1", "--json", str(tmp_path / "p.json")]
    assert profile.main(["--profile", *how]) == 0
    out = capsys.readouterr().out
    assert "estimates" in out
    assert "color.color_solarize16" in out
    assert "color.cu:" in out
    (row,) = json.loads((tmp_path / "p.json").read_text())["solarize"]["launches"]
    assert row["sectors_over_ideal"] < 1.1
    assert row["bytes"] == pytest.approx(2 * 3 * 224 * 224 * 256, rel=0.01)
