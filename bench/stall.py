"""How long a trainer waits for the loader: a simulated step behind real batches.

A sleeping step stands for a GPU that trains while the CPU is free for the loader; a busy one computes on one core of the CPU (on
a GPU: on the GPU itself), so that both compete. The first batch, which is start-up, does not count.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch

from figureground.pipeline import Loader, recipes

LEAST_BATCHES, MOST_BATCHES = 4, 200
Step = Callable[[], object]


def endless(loader: Loader) -> Iterator[Any]:
    """Yield batches of one epoch after the other."""
    for epoch in itertools.count():
        loader.set_epoch(epoch)
        yield from loader


def waiting(
    batches: Iterable[Any], step: Step, count: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """Take a first batch, then `count` more, each followed by a step; return what the trainer waited.

    Examples
    --------
    >>> now = [0.0]
    >>> def clock():
    ...     return now[0]
    >>> def batches():
    ...     while True:
    ...         now[0] += 1.0  # a batch takes 1 s to come
    ...         yield None
    >>> def step():
    ...     now[0] += 3.0
    >>> waiting(batches(), step, 5, clock)
    {'batches': 5, 'waited_ms': 1000.0, 'step_ms': 3000.0, 'stall_share': 0.25}
    """
    source = iter(batches)
    next(source)
    step()
    waited = worked = 0.0
    for _ in range(count):
        began = clock()
        next(source)
        came = clock()
        step()
        waited += came - began
        worked += clock() - came
    return {
        "batches": count,
        "waited_ms": round(1e3 * waited / count, 2),
        "step_ms": round(1e3 * worked / count, 2),
        "stall_share": round(waited / (waited + worked), 4),
    }


def sleeping_step(ms: float) -> Step:
    """Return a step that sleeps."""
    return lambda: time.sleep(ms / 1e3)


def busy_step(ms: float) -> Step:
    """Return a step that multiplies matrices on one core, without the GIL, until its time is over."""
    matrix = np.ones((96, 96), np.float32)

    def step() -> None:
        end = time.perf_counter() + ms / 1e3
        while time.perf_counter() < end:
            matrix @ matrix

    return step


def gpu_step(ms: float, device: str) -> Step:
    """Return a step of matrix products on the GPU that takes `ms` when it has the GPU alone. Not yet run on a GPU."""
    matrix = torch.ones((2048, 2048), dtype=torch.float16, device=device)

    def products(count: int) -> None:
        for _ in range(count):
            torch.mm(matrix, matrix)
        torch.cuda.synchronize(device)

    products(10)
    began = time.perf_counter()
    products(100)
    count = max(1, round(100 * ms / 1e3 / (time.perf_counter() - began)))
    return lambda: products(count)


def batch_count(step_ms: float, seconds: float) -> int:
    """Return how many batches fill `seconds` at `step_ms` each, within bounds.

    Examples
    --------
    >>> batch_count(50, 3.0), batch_count(2000, 3.0), batch_count(1, 3.0)
    (60, 4, 200)
    """
    return int(min(max(1e3 * seconds / step_ms, LEAST_BATCHES), MOST_BATCHES))


def _free_memory(device: str) -> int:
    """Return the bytes that are free on a GPU once the memory pools have given back what they do not use."""
    import cupy

    torch.cuda.empty_cache()
    cupy.get_default_memory_pool().free_all_blocks()
    free: int = torch.cuda.mem_get_info(device)[0]
    return free


def measure_stalls(
    shards: Any, steps_ms: Iterable[float], kind: str, device: str, batch_size: int, threads: int, seconds: float
) -> dict[str, dict[str, Any]]:
    """Measure the stall of MoCo-v2 with swaps behind steps of several lengths.

    Parameters
    ----------
    kind : {"sleep", "busy"}
    seconds : float
        About how long each takes, if the trainer need not wait.

    Returns
    -------
    dict of rows by step
        That of `waiting`; "images_per_s" asked for by the trainer and given. With busy steps on a GPU also
        "gpu_time_taken_share", by how much the loader slows the step down, and "gpu_memory_mb" of the loader.
    """
    cuda = device != "cpu"
    rows: dict[str, dict[str, Any]] = {}
    for ms in steps_ms:
        step = sleeping_step(ms) if kind == "sleep" else gpu_step(ms, device) if cuda else busy_step(ms)
        alone = waiting(itertools.repeat(None), step, batch_count(ms, seconds / 3)) if cuda and kind == "busy" else None
        free = _free_memory(device) if cuda else 0
        loader = Loader(
            shards, recipes.moco_v2().with_background("swap", p=0.2), batch_size=batch_size, device=device,
            threads=threads, format="moco", masks="auto",
        )  # fmt: skip
        row = waiting(endless(loader), step, batch_count(ms, seconds))
        total = row["waited_ms"] + row["step_ms"]
        row |= {
            "wanted_images_per_s": round(1e3 * batch_size / row["step_ms"], 1),
            "images_per_s": round(1e3 * batch_size / total, 1),
        }
        if cuda:
            row["gpu_memory_mb"] = round((free - torch.cuda.mem_get_info(device)[0]) / 1e6, 1)
        if alone is not None:
            row["gpu_time_taken_share"] = round(1 - alone["step_ms"] / row["step_ms"], 4)
        loader.close()
        rows[f"{ms:g} ms, {kind}"] = row
    return rows
