"""The tests of the CUDA sources can fail: kernels with a planted fault differ from the CPU version, or stop.

Two kinds of faults, on copies of the `.cu` files with their own headers in place: every single `__syncthreads` is taken
away, and every line of `FAULTS` is planted. The cases of `mutation_cases` run once on the CPU and once through the CUDA path.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

import pytest
from host_cuda.executor import ORDERS, HostExecutor, without_comments
from host_cuda.stand_in import in_place_of_launch
from mutation_cases import CASES

KERNELS = Path(__file__).resolve().parents[1] / "kernels"
SOURCES = sorted(KERNELS.glob("*.cu"))

# (file, one of the two lines above or the line below) of barriers that nothing needs while the others are there: why.
SPARE_BARRIERS = {
    ("saliency_graph.cu", "for (int f = 0; f < 4; f++) board.colors[f][i] *= scale;"): "two stretches come first",
    (
        "saliency_graph.cu",
        "if (on_border(j)) edge += r * (1.0f - c.doubt * board.padded[REACHES + j]);",
    ): "stretch comes before the next write to board.padded",
    (
        "saliency_graph.cu",
        "board.across[at] = apart ? decay(square_distance(board, i, j) * c.link_color) : 0.0f;",
    ): "even_cues comes first",
    ("saliency_logistic.cuh", "if (!(best > 0)) return 2.0f;"): "callers count anew, behind barriers",
}
FAULTS = [  # stem, pattern, replacement
    ("background", r"i >= items", "i >= items - 1"),
    ("background", r"255u - mask", "256u - mask"),
    ("background", r"\(plane / 3\) \* pixels", "(plane / 2) * pixels"),
    ("background", r"pixels / 16", "pixels / 8"),
    ("blocks", r"rest == grid && cells % 2 == 1", "rest == grid"),
    ("blocks", r"pixel == 0\)", "pixel != 1)"),
    ("blocks", r"gain \+ 512", "gain + 400"),
    ("blocks", r"first \+ k", "first"),
    ("blocks", r"partners\[n\] \* 3", "n * 3"),
    ("blur", r"left\[i\] \* weight \+ \(1u << 23\)", "left[i] * weight"),
    ("blur", r"left - halo \+ \(i", "left - radius + (i"),
    ("blur", r"\(left\[i\] \+ right\[i\]\)", "(left[i] + right[0])"),
    ("blur", r"i > period\)", "i > 2 * period)"),
    ("blur", r"period - i;", "period - i - 1;"),
    ("blur", r"top \+ y >= height", "top + y > height"),
    ("color", r"view\[pixels\], view\[2 \* pixels\]", "view[2 * pixels], view[pixels]"),
    ("color", r"offset = 16", "offset = 8"),
    ("color", r"row\.before \? result", "row.before == 99u ? result"),
    ("color", r"__fmaf_rn\(-6\.0f, quotient, x\)", "0.0f"),
    ("color", r"__fadd_rz", "__fadd_rn"),
    ("color", r"v < limit \?", "v <= limit ?"),
    ("color", r"sum \+ pixels\)", "sum + 2 * pixels)"),
    ("ground", r"known == 0u \? 0", "known == 1u ? 0"),
    ("ground", r"12u / known\) \+ 6u", "12u / known) + 5u"),
    ("ground", r"x & 1\) \? 1 : -1", "x & 1) ? -1 : 1"),
    ("ground", r"there \+ 8u", "there + 7u"),
    ("ground", r"v > y - margin", "v >= y - margin"),
    ("ground", r"8u \* 128u", "8u * 127u"),
    ("ground", r"\+ 4u\) >> 3", "+ 3u) >> 3"),
    ("ground_share", r"lane >= step", "lane > step"),
    ("ground_share", r"sum \+= before", "sum += 0u"),
    ("ground_share", r"left \+ 1, width", "left + 1, width - 1"),
    ("ground_strips", r"< threshold\) continue", "<= threshold) continue"),
    ("ground_strips", r"max\(r, x \+ 1\)", "max(r, x)"),
    ("ground_strips", r"first = right;", "first = right - 1;"),
    ("ground_strips", r"\(x \+ k\) % tile.length", "(x + k - tile.left) % tile.length"),
    ("normalize", r"v < limit \?", "v <= limit ?"),
    ("normalize", r"end = min\(start \+ span, groups\)", "end = start + span"),
    ("patches", r"sums\[j\] >= 128u", "sums[j] > 129u"),
    ("patches", r"eligible \+ 0\.5", "eligible"),
    ("patches", r"gy < gh && gx < gw", "gy < gh"),
    ("patches", r"\(n % group\)", "(n % 2)"),
    ("patches", r"k < group - 1\) \{", "k < group - 2) {"),
    ("resample", r"1 << 19", "1 << 18"),
    ("resample", r"i \* WARPS >= lines", "i * WARPS > lines"),
    ("resample", r"shift = 8 \* at", "shift = 8 * (at & 1u)"),
    ("resample", r"lane \? row\.x : row\.y", "lane ? row.y : row.x"),
    ("resample", r"min\(row, rows - 1\) \* pitch, count", "row * pitch, count + 1024"),
    ("resample", r"\[row % 2\] = weight", "[1 - row % 2] = weight"),
    ("resample", r"at \+ i >= low && at \+ i < high", "at + i > low && at + i < high"),
    ("resample", r"rows\) \+ 1\) / 2;", "rows)) / 2;"),
    ("resample", r"source\.flip \? width - 1 - x : x", "x"),
    ("resample", r"w\.count = end - begin", "w.count = end - begin + 1"),
    ("resample", r"least < 255\)", "least < 254)"),
    ("resample", r"most > 0\)", "most > 1)"),
    ("resample", r"255 \* 64\)", "255 * 65)"),
    ("resample", r"totals\[i\] >> 20, 0\), 255\)", "totals[i] >> 20, 0), 254)"),
    ("resample", r"16384\.5\)", "16384.0)"),
    ("resample", r"piece < 2 \? -1\.0 : 1\.0", "piece < 3 ? -1.0 : 1.0"),
    ("resample", r"window\.first \+ window\.count - r0, rows", "window.first + window.count - r0 - 1, rows"),
    ("resample", r"at \+ \(long long\)i \* WARPS \* p\.pitch", "at + (long long)i * p.pitch"),
    ("saliency_barrier", r"k >= 0", "k > 1"),
    ("saliency_barrier", r"threadIdx\.x < height\)", "threadIdx.x < width)"),
    ("saliency_border", r"\(width \+ 5\) / 10", "(width + 4) / 10"),
    ("saliency_border", r"k < 2 \? tall : height", "k < 3 ? tall : height"),
    ("saliency_border", r"nn \+ 20\.0", "nn + 19.0"),
    ("saliency_border", r"2\.0 \* \(c02", "2.0 * (c01"),
    ("saliency_border", r"high = -block_min\(-high, work\)", "high = block_min(high, work)"),
    ("saliency_cells", r"k % 3 - 1", "k % 3 - 2"),
    ("saliency_cells", r"row >= GRID \|\|", "row >= GRID - 1 ||"),
    ("saliency_cells", r"c == 0 \? 2 : 5", "c == 0 ? 5 : 2"),
    ("saliency_cells", r"max\(sums\[3\]\[t\], 1\)", "max(sums[3][t], 2)"),
    ("saliency_cells", r"i < total\)", "i < total - 1)"),
    ("saliency_frame", r"\(limit \+ 1\) \* length", "limit * length"),
    ("saliency_frame", r"side % 2 \? -1", "side % 2 ? 1"),
    ("saliency_frame", r"count < sides", "count <= sides"),
    ("saliency_frame", r"plane / channels \* 4", "plane / 2 * 4"),
    ("saliency_frame", r"width - 1 - frame\[3\]", "width - frame[3]"),
    ("saliency_frame", r"found\[side\] = k;", "found[side] = k - 1;"),
    ("saliency_graph", r"p - GRID\) % 2 \* \(GRID - 1\)", "p - GRID) % 2 * (GRID - 2)"),
    ("saliency_graph", r"on_border\(j\)\) edge \+= r;", "on_border(i)) edge += r;"),
    ("saliency_graph", r"c\.doubt \* board", "board"),
    ("saliency_graph", r"REACHES \+ i \+ ahead", "REACHES + i - ahead"),
    ("saliency_graph", r"pull\(sink, near", "pull(1.0f, near"),
    ("saliency_graph", r"1\.0f - c\.look_share", "c.look_share - 0.5f"),
    ("saliency_graph", r"> 2 \|\| abs", "> 1 || abs"),
    ("saliency_graph", r"at % 5 - 2\) < 2", "at % 5 - 2) < 3"),
    ("saliency_graph", r"\(cues \+ saliency\) \+ \(c", "cues + (c"),
    ("saliency_lab", r"height - 1 \? here", "height ? here"),
    ("saliency_lab", r"i >= total", "i > total"),
    ("saliency_logistic", r"i \+= 256\) atomicAdd", "i += 255) atomicAdd"),
    ("saliency_logistic", r"1\.0 / 255\)", "1.0 / 256)"),
    ("saliency_logistic", r"t >= step \? levels\.below", "t > step ? levels.below"),
    ("saliency_logistic", r"levels\.level\[t \+ half\] < levels", "levels.level[t + half] > levels"),
    ("saliency_pixels", r"high - low, 1\)", "high - low, 2)"),
    ("saliency_pixels", r"plus \? low_mixed : first", "first"),
    ("saliency_pixels", r"int\)cost\[i \+ 2 \* pixels\]", "int)cost[i + pixels]"),
    ("saliency_refine", r"k / wide - RADIUS, 0", "k / wide - RADIUS, 1"),
    ("saliency_refine", r"d = max\(fgg - f \* frg, least\)", "d = max(fgg - f * frb, least)"),
    ("saliency_refine", r"min\(max\(value, 0\.0f\), 255\.0f\)", "max(value, 0.0f)"),
    ("saliency_refine", r"dy = 1; dy < SIDE", "dy = 1; dy < SIDE - 1"),
    ("tiles", r"columns = width / side \+ 1", "columns = width / side"),
    ("tiles", r"\(x \+ k\) / side != gx", "x / side != gx"),
    ("tiles", r"cell \+ 1, width", "cell, width"),
    ("token_masks", r"fresh > most\) continue", "fresh > most + 1) continue"),
    ("token_masks", r"failed < 10", "failed < 3"),
    ("token_masks", r"left \* figures \+ patches", "left * figures"),
    ("token_masks", r"ratio \* figures \+ 0\.5", "ratio * figures"),
    ("token_masks", r"gw - w \+ 1\)", "gw - w)"),
]


def _lines(path: Path) -> list[tuple[str, str]]:
    """Give the lines of a source and where each comes from; own headers stand in the place of their `#include`."""
    found = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        header = re.match(r'#include "(\w+\.cuh)"', line)
        found += _lines(KERNELS / header[1]) if header else [(line, f"{path.name}:{number}")]
    return found


@functools.cache
def _source(stem: str) -> str:
    return "".join(f"{line}\n" for line, _ in _lines(KERNELS / f"{stem}.cu"))


@pytest.fixture(scope="module")
def copies(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kernels")
    for path in SOURCES:
        (folder / path.name).write_text(_source(path.stem))
    return folder


def _run(stem: str, folder: Path, order: str, skipped_barrier: int = 0) -> list[Any]:
    executor = HostExecutor(order, seed=1, folder=folder)

    def launch(name: str, *args: Any, **more: Any) -> None:
        executor.skipped_barrier = skipped_barrier if name == stem else 0  # a case may launch kernels of other sources
        executor.launch(name, *args, **more)

    with in_place_of_launch(launch, host_module=True, dispatch=True):
        results = CASES[stem]()
    assert any(kernel.startswith(f"{stem}.") for kernel in executor.launched), f"the case of {stem} does not launch it"
    return results


def _equal(got: list[Any], want: list[Any]) -> bool:
    return all(g.tobytes() == w.tobytes() for g, w in zip(got, want, strict=True))


def _caught(stem: str, folder: Path, skipped_barrier: int = 0) -> bool:
    """Tell whether one of the orders differs from the CPU or stops."""
    want = CASES[stem]()
    for order in ORDERS:
        try:
            if not _equal(_run(stem, folder, order, skipped_barrier), want):
                return True
        except RuntimeError as error:
            if "g++ refused it" in str(error):
                raise
            return True
    return False


def test_every_source_has_a_case():
    assert {p.stem for p in SOURCES} == set(CASES)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("stem", CASES)
def test_sources_as_they_are(stem, order):
    assert _equal(_run(stem, KERNELS, order), CASES[stem]())


def _barriers() -> dict[str, tuple[list[tuple[str, int]], set[tuple[str, str]]]]:
    """For the place of each `__syncthreads`: stems and lines of the copies it is in, and the names it may be spared by."""
    found: dict[str, tuple[list[tuple[str, int]], set[tuple[str, str]]]] = {}
    for stem in sorted(CASES):
        places = [place for _, place in _lines(KERNELS / f"{stem}.cu")]
        lines = [line.strip() for line in without_comments(_source(stem)).splitlines()]
        for i, line in enumerate(lines):
            if re.search(r"\b__syncthreads(_\w+)?\(", line):
                file = places[i].split(":")[0]
                copies, _ = found.setdefault(places[i], ([], {(file, lines[i + k]) for k in (-2, -1, 1)}))
                copies.append((stem, i + 1))
    return found


BARRIERS = _barriers()


def test_spare_barriers_are_there():
    assert set(SPARE_BARRIERS) <= set().union(*(names for _, names in BARRIERS.values()))


@pytest.mark.parametrize("place", BARRIERS)
def test_a_missing_barrier_is_caught(place, copies):
    where, names = BARRIERS[place]
    caught = any(_caught(stem, copies, skipped_barrier=line) for stem, line in where)
    if names & set(SPARE_BARRIERS):
        assert not caught, f"{place}: the barrier is needed, take it out of SPARE_BARRIERS"
    else:
        assert caught, f"{place}: nothing notices when the barrier is gone"


@pytest.mark.parametrize(("stem", "pattern", "replacement"), FAULTS)
def test_a_planted_fault_is_caught(stem, pattern, replacement, copies, tmp_path):
    for path in copies.iterdir():
        (tmp_path / path.name).symlink_to(path)
    mutated, count = re.subn(pattern, lambda _: replacement, _source(stem))
    assert count, f"{stem}.cu no longer has {pattern!r}: plant the fault elsewhere"
    (tmp_path / f"{stem}.cu").unlink()
    (tmp_path / f"{stem}.cu").write_text(mutated)
    assert _caught(stem, tmp_path), f"{stem}.cu with {replacement!r} for {pattern!r} equals the CPU version"
