"""Ours against bare decoding and GPU augmentation by others, on one GPU. Not yet run on a GPU.

    python -m figureground.bench peers --device cuda [--shards ...] [--batch-size 256] [--dtype float16] [--json PATH]

    a  DALI decode only: webdataset reader and `mixed` decoder, nothing else
    b  figureground: decode and two MoCo-v2 views, swaps at p = 0.2, sidecar masks
    c  the same, masks by the saliency kernel on the device
    d  the same views by DALI's GPU operators, without backgrounds
    e  decode and crop by DALI, the rest by kornia on the GPU, without backgrounds

Wall images/s of whole epochs, interleaved; what is compared are ratios: b/a at least 0.95, c/a 0.85, b/d 1.5. Everything here also
runs with device "cpu" (DALI's CPU operators, kornia on the CPU), which is how it is tested; only clocks and memory differ.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch.utils.dlpack import from_dlpack

from figureground.bench.dali_views import SIZE, DaliOperators
from figureground.bench.equal_work import BOUNDS, check
from figureground.bench.given import check_device, check_files, take_shards
from figureground.bench.harness import Timing, measure, print_table, write_json
from figureground.bench.peers_libraries import kornia_rest
from figureground.bench.workload import default_shards, repeat_shards
from figureground.pipeline import Loader, recipes

DECODE, OURS, KERNEL = "a: DALI decode only", "b: figureground, sidecar masks", "c: figureground, saliency kernel"
DALI, KORNIA = "d: DALI's operators, no swap", "e: DALI crop + kornia, no swap"
GOALS = {
    "b/a": (OURS, DECODE, 0.95),
    "c/a": (KERNEL, DECODE, 0.85),
    "b/d": (OURS, DALI, 1.5),
    "b/e": (OURS, KORNIA, None),
}
"""Speed of the first over that of the second, and the goal."""


class Views:
    """Two views a batch from whatever makes them; called with a seed it yields lists of tensors (B, 3, 224, 224)."""

    def __init__(self, make: Callable[[int], Iterator[list[torch.Tensor]]]) -> None:
        self._make = make

    def __call__(self, seed: int) -> Iterator[list[torch.Tensor]]:
        """Run an epoch."""
        return self._make(seed)


def ours(shards: Any, device: str, batch_size: int, threads: int, half: bool, masks: str) -> Views:
    """Return the loader with swaps at p = 0.2; `masks` is "sidecar" or "kernel"."""
    loader = Loader(
        shards,
        recipes.moco_v2().with_background("swap", p=0.2),
        batch_size=batch_size,
        device=device,
        threads=threads,
        format="moco",
        masks="kernel" if masks == "kernel" else "sidecar",
        dtype=torch.float16 if half else torch.float32,
    )

    def epoch(seed: int) -> Iterator[list[torch.Tensor]]:
        loader.set_epoch(seed)
        for views, _ in loader:
            yield list(views)

    return Views(epoch)


def dali(shards: Any, device: str, batch_size: int, threads: int, half: bool) -> Views:
    """Return DALI's operators."""
    peer = DaliOperators(shards, threads, batch_size, gpu=device != "cpu", stage="views", half=half)

    def epoch(seed: int) -> Iterator[list[torch.Tensor]]:
        for outputs in peer.outputs():
            yield [from_dlpack(output.as_tensor()) for output in outputs]

    return Views(epoch)


def kornia(shards: Any, device: str, batch_size: int, threads: int, half: bool) -> Views:
    """Return DALI's crops, then kornia's colour, blur, flip and normalisation on the batch, in float32 as kornia computes."""
    peer = DaliOperators(shards, threads, batch_size, gpu=device != "cpu", stage="crop")
    rest = kornia_rest().to(device)

    def epoch(seed: int) -> Iterator[list[torch.Tensor]]:
        torch.manual_seed(seed)
        for outputs in peer.outputs():
            crops = [from_dlpack(output.as_tensor()) for output in outputs]
            with torch.no_grad():
                views = [rest(crop.permute(0, 3, 1, 2).float().div_(255)) for crop in crops]
            yield [view.half() if half else view for view in views]
            synchronize(device)  # the crops are DALI's: they must outlive the kernels that read them

    return Views(epoch)


def decode_only(shards: Any, device: str, batch_size: int, threads: int) -> Callable[[], int]:
    """Return a case that decodes an epoch and drops the images."""
    peer = DaliOperators(shards, threads, batch_size, gpu=device != "cpu", stage="decode")
    return lambda: sum(len(outputs[0]) for outputs in peer.outputs())


def synchronize(device: str) -> None:
    """Wait for the device; nothing on the CPU."""
    if device != "cpu":
        torch.cuda.synchronize(device)


def used_memory_mb(device: str) -> float:
    """Return the memory in use on the GPU, by all processes [MB]; 0 on the CPU."""
    if device == "cpu":
        return 0.0
    free, total = torch.cuda.mem_get_info(device)
    return (total - free) / 1e6


def speed_ratios(timings: Mapping[str, Timing]) -> dict[str, dict[str, Any]]:
    """Return the speeds that the goals compare: medians over the rounds of wall-time ratios.

    Examples
    --------
    >>> speed_ratios({OURS: Timing([2.0], [1.0]), DECODE: Timing([1.9], [1.0])})
    {'b/a': {'ratio': 0.95, 'goal': 0.95, 'met': 'yes'}}
    """
    found: dict[str, dict[str, Any]] = {}
    for name, (one, other, goal) in GOALS.items():
        if one in timings and other in timings:
            ratio = float(np.median(np.array(timings[other].wall_ms) / np.array(timings[one].wall_ms)))
            met = "" if goal is None else "yes" if ratio >= goal else "no"
            found[name] = {"ratio": round(ratio, 3), "goal": "" if goal is None else goal, "met": met}
    return found


def measure_gpu(shards: Any, device: str, batch_size: int, threads: int, half: bool, rounds: int) -> dict[str, Any]:
    """Check the work, measure, print; returns the document."""
    common = (shards, device, batch_size, threads, half)
    makers: dict[str, Callable[[], Views]] = {
        OURS: lambda: ours(*common, "sidecar"),
        KERNEL: lambda: ours(*common, "kernel"),
        DALI: lambda: dali(*common),
        KORNIA: lambda: kornia(*common),
    }
    skipped = {}
    if importlib.util.find_spec("kornia") is None:
        skipped[KORNIA] = "kornia is not installed"
        del makers[KORNIA]
        print(f"skipped: {KORNIA} ({skipped[KORNIA]})")
    cases: dict[str, Callable[[], int]] = {}
    memory: dict[str, float] = {}
    checks: dict[str, dict[str, Any]] = {}
    before = used_memory_mb(device)
    cases[DECODE] = decode_only(shards, device, batch_size, threads)
    cases[DECODE]()
    memory[DECODE] = round(used_memory_mb(device) - before, 1)
    epoch = {"number": 0}

    def case(peer: Views) -> Callable[[], int]:
        def run() -> int:
            epoch["number"] += 1
            count = sum(len(views[0]) for views in peer(epoch["number"]))
            synchronize(device)
            return count

        return run

    for name, make in makers.items():
        before = used_memory_mb(device)
        peer = make()
        parts: list[list[np.ndarray]] = []
        for views in peer(0):
            if sum(len(part[0]) for part in parts) < 1024:  # enough to compare
                parts.append([view.cpu().numpy().copy() for view in views])
        checks[name] = check(
            [np.concatenate(view) for view in zip(*parts, strict=True)],
            SIZE,
            np.float16 if half else np.float32,
            checks.get(OURS),
        )
        if checks[name]["why"]:
            print(f"other work: {name}: {checks[name]['why']}")
        cases[name] = case(peer)
        memory[name] = round(used_memory_mb(device) - before, 1)
    timings = measure(cases, rounds=rounds)
    rows: dict[str, dict[str, Any]] = {
        name: {**t.summary(), "gpu_memory_mb": memory[name]} for name, t in timings.items()
    }
    for name, found in checks.items():
        rows[name]["equal_work"] = bool(found["equal"])
    ratios = speed_ratios(timings)
    print_table(rows, title=f"per source image, on {device}")
    print_table(ratios, title="speed")
    return {
        "device": device, "batch_size": batch_size, "threads": threads, "rounds": rounds,
        "dtype": "float16" if half else "float32", "peers_cuda": rows, "ratios": ratios,
        "equal_work": {"bounds": BOUNDS, "checks": checks}, "skipped": skipped,
    }  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Run with the arguments of `peers`; returns the exit code."""
    check_device(args.device)
    if args.device not in ("cuda", "cuda:0"):
        print(
            f"peers: --device must be cpu, cuda or cuda:0 (DALI's graphs use GPU 0), got {args.device}", file=sys.stderr
        )
        return 2
    with tempfile.TemporaryDirectory() as folder:
        shards = args.shards
        if shards is None:
            made = default_shards(folder, args.images or 2048, shard_mb=32)
            shards = repeat_shards(made, f"{folder}/repeated", args.repeat)
        else:
            most = args.images or 16384
            shards = take_shards(shards, folder, most=most, batch_size=args.batch_size or 256).shards
            check_files(shards)
        document = measure_gpu(
            shards, args.device, args.batch_size or 256, args.threads, args.dtype == "float16", args.rounds
        )
    write_json(args.json, document)
    return 0
