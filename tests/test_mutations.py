"""The tests of the CUDA sources can fail: kernels with a planted fault differ from the CPU version, or stop.

Two kinds of faults, on copies of the `.cu` files: every single `__syncthreads` is taken away, and every line of `FAULTS`
is planted. A case calls public functions on small arrays; it runs once on the CPU and once through the CUDA path.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from host_cuda.executor import ORDERS, HostExecutor, without_comments
from host_cuda.guarded import poisoned
from host_cuda.stand_in import in_place_of_launch

from figureground.kernels import (
    background,
    blocks,
    blur,
    color,
    ground,
    ground_share,
    ground_strips,
    normalize,
    patches,
    resample,
    saliency_barrier,
    saliency_lab,
    tiles,
    token_masks,
)
from figureground.kernels.arrays import Ragged

KERNELS = Path(__file__).resolve().parents[1] / "kernels"
SOURCES = sorted(KERNELS.glob("*.cu"))


def _bytes(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).integers(0, 256, shape, dtype=np.uint8)


def _background() -> list[Any]:
    shapes = [(2, 3, 5, 7), (3, 3, 16, 24)]
    return [background.composite_views(_bytes(*s), 255 - _bytes(*s), _bytes(s[0], *s[2:])) for s in shapes]


def _blur() -> list[Any]:
    shapes = [(3, 3, 13, 21), (3, 3, 40, 68)]
    return [blur.gaussian_blur(_bytes(*s), np.array([0.3, 1.5, 6.0], np.float32)) for s in shapes]


def _color() -> list[Any]:
    results = []
    for shape in [(3, 3, 13, 21), (3, 3, 16, 40)]:
        views = _bytes(*shape)
        factors = np.array([[1.3, 0.5, 0.4, 0.1], [0.7, 1.6, 1.5, -0.2], [1.2, 1.3, 0.9, 0.05]], np.float32)
        order = np.array([[0, 1, 2, 3], [3, 2, 1, 0], [2, 255, 0, 3]], np.uint8)
        results.append(color.jitter_color(views, factors=factors, order=order, grayscale=np.array([0, 0, 1], bool)))
        results.append(color.solarize(views, np.array([100, 256, 7])))
    return results


def _normalize() -> list[Any]:
    return [
        normalize.normalize_views(
            _bytes(*shape),
            (0.4, 0.5, 0.6),
            (0.2, 0.25, 0.3),
            dtype=dtype,
            channels_last=last,
            solarize=np.array([256, 128]),
        )
        for shape in [(2, 3, 5, 7), (2, 3, 16, 40), (2, 3, 71, 71)]
        for dtype in (np.float32, np.float16)
        for last in (False, True)
    ]


def _resample() -> list[Any]:
    images = [poisoned(_bytes(*size, 3), "end") for size in [(37, 53), (50, 70), (90, 7)]]
    masks = [poisoned(_bytes(*size), "end") for size in [(11, 13), (64, 48), (5, 5)]]
    rows = np.repeat(resample.full_rows([i.shape[:2] for i in images]), 2)
    rows["mask"] = np.arange(6) // 2
    rows["donor"] = (rows["image"] + 1) % 3
    rows["donor_box"] = [[0, 0, i.shape[1], i.shape[0]] for i in images[1:] + images[:1] for _ in "ab"]
    rows["mode"] = [0, 1, 2, 3, 4, 2]
    rows["flip"] = [0, 1, 0, 1, 0, 1]
    rows["fill"], rows["seed_lo"] = [9, 99, 200], 5
    batches = Ragged.from_arrays(images), Ragged.from_arrays(masks)
    results = [resample.render_views(batches[0], rows, size, masks=batches[1]) for size in [(20, 36), (35, 33)]]
    # Windows longer than the tables of weights.
    large = poisoned(_bytes(130, 260, 3), "end")
    results.append(resample.render_views(Ragged.from_arrays([large]), resample.full_rows([(130, 260)]), (2, 20)))
    return [array for pair in results for array in pair if array is not None]


def _ground() -> list[Any]:
    results = []
    for shape in [(4, 3, 13, 21), (4, 3, 140, 40), (4, 3, 1, 1)]:
        masks = np.where(_bytes(shape[0], *shape[2:]) < 6, 255, 0).astype(np.uint8)
        masks[0, : shape[2] // 2], masks[1], masks[2, :, : 3 * shape[3] // 4] = 9, 255, 9
        results.append(ground.inpaint_figures(_bytes(*shape), masks))
    return results


def _ground_strips() -> list[Any]:
    results: list[Any] = []
    for shape in [(4, 3, 13, 21), (4, 3, 20, 24)]:
        masks = np.zeros((4, *shape[2:]), np.uint8)
        for mask, (y, x) in zip(masks, [(0, 2), (0, 9), (6, 9), (8, 0)]):  # strips: right, left, top, top
            mask[y : y + 5, x : x + 11] = 51
        masks[0, 11, 3] = 255
        results += ground_strips.tile_ground(_bytes(*shape), masks)
    return results


def _ground_share() -> list[Any]:
    boxes = np.array(
        [[0, 0, 1, 1], [0.1, 0.2, 0.33, 0.71], [0.52, 0.3, 0.48, 0.2], [0.985, 0.05, 0.01, 0.9]], np.float32
    )
    return [ground_share.figure_share(_bytes(3, *size), np.tile(boxes, (3, 1, 1))) for size in [(9, 40), (33, 13)]]


def _saliency_lab() -> list[Any]:
    return [plane for shape in [(2, 3, 9, 13), (1, 3, 32, 20)] for plane in saliency_lab.lab_planes(_bytes(*shape))]


def _saliency_barrier() -> list[Any]:
    return [saliency_barrier.barrier_cost(_bytes(2, 3, *size)) for size in [(9, 40), (40, 33), (16, 16)]]


def _seeds(count: int) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 2**64, count, dtype=np.uint64)


def _blocks() -> list[Any]:
    results: list[Any] = []
    for shape in [(3, 3, 13, 21), (2, 3, 32, 40)]:
        how: dict[str, Any] = {"seeds": _seeds(shape[0]), "max_share": 0.8, "max_block": 0.5, "grid": 4}
        how["apply"] = np.arange(shape[0]) > 0
        partners = np.arange(shape[0], dtype=np.int32)[::-1].copy()
        results.extend(blocks.corrupt_blocks(_bytes(*shape), **how))
        results.extend(blocks.corrupt_blocks(_bytes(*shape), **how, fill="partner", partners=partners))
    return results


def _patches() -> list[Any]:
    results: list[Any] = []
    for shape, grid in [((3, 3, 13, 21), 4), ((2, 3, 20, 40), 5), ((2, 3, 32, 64), 2)]:
        how = {"seeds": _seeds(shape[0]), "grid": grid, "masks": _bytes(shape[0], *shape[2:]), "fraction": 0.8}
        for region in ("all", "figure", "ground"):
            results.extend(patches.shuffle_patches(_bytes(*shape), **how, region=region))
    for shape, patch in [((4, 3, 9, 6), 3), ((8, 3, 8, 12), 4), ((4, 3, 16, 32), 16)]:
        results.extend(patches.mix_patches(_bytes(*shape), seeds=_seeds(shape[0] // 4), group=4, patch=patch))
    return results


def _tiles() -> list[Any]:
    shapes = [(3, 3, 13, 21), (2, 3, 20, 40)]
    return [tiles.tile_patches(_bytes(*s), seeds=_seeds(s[0]), side_range=(3, 9), count=2) for s in shapes]


def _token_masks() -> list[Any]:
    return [
        token_masks.patch_masks(_bytes(5, 30, 43), seeds=_seeds(5), grid=grid, ratio=0.6, policy=policy)
        for grid in [(7, 7), (12, 14)]
        for policy in token_masks.POLICIES
    ]


CASES: dict[str, Callable[[], list[Any]]] = {
    "background": _background,
    "blocks": _blocks,
    "blur": _blur,
    "color": _color,
    "ground": _ground,
    "ground_share": _ground_share,
    "ground_strips": _ground_strips,
    "normalize": _normalize,
    "patches": _patches,
    "resample": _resample,
    "saliency_barrier": _saliency_barrier,
    "saliency_lab": _saliency_lab,
    "tiles": _tiles,
    "token_masks": _token_masks,
}
# (stem, the line below) of barriers that nothing needs today; the reason beside each.
SPARE_BARRIERS = {
    (
        "resample",
        "if (threadIdx.x == 0) s.plane = source;",
    ): "the tile before ends with a barrier, the first has none before",
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
    ("blur", r"1u << 23, sum1", "0u, sum1"),
    ("blur", r"left - halo \+ i", "left - radius + i"),
    ("blur", r"period - i;", "period - i - 1;"),
    ("blur", r"top \+ y >= height", "top + y > height"),
    ("color", r"view\[pixels \+ i\], view\[2 \* pixels \+ i\]", "view[2 * pixels + i], view[pixels + i]"),
    ("color", r"offset = 16", "offset = 8"),
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
    ("resample", r"top \+ y >= height\) continue", "top + y > height) continue"),
    ("resample", r"p\.flip \? width - 1 - x : x", "x"),
    ("resample", r"valid = width - left - x", "valid = width - left - x + 1"),
    ("resample", r"w\.count = end - begin", "w.count = end - begin + 1"),
    ("saliency_barrier", r"k >= 0", "k > 1"),
    ("saliency_barrier", r"threadIdx\.x < height\)", "threadIdx.x < width)"),
    ("saliency_lab", r"height - 1 \? here", "height ? here"),
    ("saliency_lab", r"i >= total", "i > total"),
    ("tiles", r"columns = width / side \+ 1", "columns = width / side"),
    ("tiles", r"\(x \+ k\) / side != gx", "x / side != gx"),
    ("tiles", r"cell \+ 1, width", "cell, width"),
    ("token_masks", r"fresh > most\) continue", "fresh > most + 1) continue"),
    ("token_masks", r"failed < 10", "failed < 3"),
    ("token_masks", r"left \* figures \+ patches", "left * figures"),
    ("token_masks", r"gw - w \+ 1\)", "gw - w)"),
]


def _run(stem: str, folder: Path, order: str, skipped_barrier: int = 0) -> list[Any]:
    executor = HostExecutor(order, seed=1, folder=folder, skipped_barrier=skipped_barrier)
    with in_place_of_launch(executor.launch, host_module=True, dispatch=True):
        results = CASES[stem]()
    assert executor.launched, f"the case of {stem} launched nothing"
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


def _barriers() -> list[tuple[str, int, str]]:
    found = []
    for path in SOURCES:
        lines = [line.strip() for line in without_comments(path.read_text()).splitlines()]
        for number, line in enumerate(lines, 1):
            if re.search(r"\b__syncthreads(_\w+)?\(", line) and (path.stem, lines[number]) not in SPARE_BARRIERS:
                found.append((path.stem, number, lines[number]))
    return found


@pytest.mark.parametrize(
    ("stem", "line", "below"), _barriers(), ids=lambda v: str(v) if not isinstance(v, str) else v[:20]
)
def test_a_missing_barrier_is_caught(stem, line, below):
    assert _caught(stem, KERNELS, skipped_barrier=line), (
        f"{stem}.cu:{line}: nothing notices when the barrier above '{below}' is gone"
    )


@pytest.mark.parametrize(("stem", "pattern", "replacement"), FAULTS)
def test_a_planted_fault_is_caught(stem, pattern, replacement, tmp_path):
    for path in KERNELS.glob("*.cu*"):
        shutil.copy(path, tmp_path)
    source = tmp_path / f"{stem}.cu"
    mutated, count = re.subn(pattern, lambda _: replacement, source.read_text())
    assert count, f"{stem}.cu no longer has {pattern!r}: plant the fault elsewhere"
    source.write_text(mutated)
    assert _caught(stem, tmp_path), f"{stem}.cu with {replacement!r} for {pattern!r} equals the CPU version"
