"""How long until the first batch, and what many samples cost: a synthetic index of hard-linked shards.

    python -m figureground.bench startup [--shards 1000] [--samples 1000] [--index-samples 100000000] [--json PATH]

One tar is written, with masks, and linked under as many names as asked for, so a large data set takes the room of one shard;
the loader cannot tell. A fresh process then imports the library, opens the shards and takes one batch (Numba's cache is warm
after a first try), another one opens shards and masks and weighs them. The order of an epoch is a formula: it is asked for
random places of ever larger data sets. Quote wall times for an idle machine only; CPU times beside them bear a busy one.
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import gc
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from figureground.bench.given import file_to_write
from figureground.bench.harness import print_table, write_json
from figureground.pipeline.order import Order
from figureground.shards import MaskStore, Store
from figureground.shards.sidecar import sidecar_path
from figureground.shards.writer import pack

GOAL_S, GOAL_BYTES = 5.0, 40.0
_POSITIONS, _IMAGES = 1 << 16, 16


def make_shards(folder: Path, shards: int, samples: int, side: int = 256) -> str:
    """Write one shard of `samples` images and masks, link it `shards` times; returns the glob.

    Parameters
    ----------
    folder : Path
        Must be empty, on a file system with hard links.
    shards, samples : int
        Number of shards, and of samples in each.
    side : int
        Of the square images [px].
    """
    import cv2

    from figureground.pipeline.masks_job import make_masks

    rng, photos = np.random.default_rng(0), folder / "photos" / "kind"
    photos.mkdir(parents=True)
    encoded = []
    for _ in range(_IMAGES):
        image = cv2.resize(rng.integers(0, 256, (9, 9, 3), np.uint8), (side, side), interpolation=cv2.INTER_CUBIC)
        encoded.append(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 92])[1].tobytes())
    for number in range(samples):
        (photos / f"{number:07d}.jpg").write_bytes(encoded[number % _IMAGES])
    pack(folder / "photos", folder / "one", shard_size_mb=1 << 20, progress=False)
    (first,) = (folder / "one").glob("*.tar")
    make_masks(str(first), device="cpu", progress=False)
    names = {suffix: first.with_suffix(suffix) for suffix in (".tar", ".idx")}
    sidecar = Path(sidecar_path(str(first), None))
    with MaskStore(Store(str(first))):  # writes the sidecar's index
        pass
    names |= {".masks.tar": sidecar, ".masks.idx": sidecar.with_suffix(".idx")}
    (folder / "shards").mkdir()
    for number in range(shards):
        for suffix, source in names.items():
            names[suffix] = link(source, folder / "shards" / f"s-{number:06d}{suffix}")
    return str(folder / "shards" / "*[0-9].tar")


def link(source: Path, target: Path) -> Path:
    """Link a file, or copy it where it has as many links as the file system allows; returns the one to link the next time."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno != errno.EMLINK:
            raise
        shutil.copy2(source, target)
        return target
    return source


def resident_bytes(peak: bool = False) -> int:
    """Return the memory that this process holds now, or held at most since the last call."""
    if peak:
        lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return 1024 * int(lines["VmHWM"].split()[0])
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what was freed goes back: the rest is held
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def array_bytes(thing: object) -> int:
    """Return the bytes of the arrays and byte strings that an object holds itself."""
    return sum(
        value.nbytes if isinstance(value, np.ndarray) else len(value)
        for value in vars(thing).values()
        if isinstance(value, np.ndarray | bytes)
    )


def weigh_index(shards: str) -> dict[str, float]:
    """Open shards and sidecars in this process; return CPU seconds and bytes, by sample and by component.

    Returns
    -------
    dict
        CPU seconds; "bytes" of the arrays a sample, and a sample and component; "resident" what the process grew by, "peak"
        what it grew by while it opened the shards.
    """
    before, began = resident_bytes(), time.process_time()
    store = Store(shards)
    opened = time.process_time()
    peak, middle = resident_bytes(peak=True), resident_bytes()
    again = time.process_time()
    masks = MaskStore(store)
    masked, after = time.process_time(), resident_bytes()
    samples, components = len(store), len(store._offset)
    found = {
        "shards": len(store.shards),
        "samples": samples,
        "components": components,
        "open_cpu_s": round(opened - began, 3),
        "open_masks_cpu_s": round(masked - again, 3),
        "bytes_a_sample": round(array_bytes(store) / samples, 1),
        "bytes_a_component": round(array_bytes(store) / components, 1),
        "resident_a_sample": round((middle - before) / samples, 1),
        "peak_a_sample": round((peak - before) / samples, 1),
        "masks_bytes_a_sample": round(array_bytes(masks) / samples, 1),
        "masks_resident_a_sample": round((after - middle) / samples, 1),
    }
    masks.close()
    store.close()
    return found


def first_batch(shards: str, batch_size: int, started: float) -> dict[str, float]:
    """Take one batch in this process; `started` is `time.time()` when the process was started."""
    from figureground.pipeline import Loader, recipes

    imported = time.time()
    loader = Loader(
        shards, recipes.moco_v2().with_background("swap"), batch_size=batch_size, device="cpu", format="moco", masks="sidecar"
    )  # fmt: skip
    made = time.time()
    next(iter(loader))
    taken = time.time()
    loader.close()
    return {
        "import_s": round(imported - started, 3),
        "loader_s": round(made - imported, 3),
        "batch_s": round(taken - made, 3),
        "total_s": round(taken - started, 3),
        "cpu_s": round(time.process_time(), 3),
    }


def in_child(function: str, *arguments: Any) -> dict[str, float]:
    """Run a function of this module in a fresh interpreter."""
    code = (
        "import json, sys; from figureground.bench import startup; "
        f"print(json.dumps(startup.{function}(*json.loads(sys.argv[1]))))"
    )
    command = [sys.executable, "-c", code, json.dumps(arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"startup: {function} failed in its own process: {done.stderr.strip()[-2000:]}")
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def order_growth(largest: int) -> dict[str, dict[str, float]]:
    """Ask the order of 1/100, 1/10 and 1 of `largest` samples for random places."""
    rng, rows = np.random.default_rng(0), {}
    Order(1000).sample_ids(0, np.arange(2))  # loads the compiled code
    for samples in sorted({max(largest // 100, 1000), max(largest // 10, 1000), largest}):
        positions = rng.integers(0, samples, _POSITIONS)
        before, began = resident_bytes(), time.perf_counter()
        order = Order(samples, seed=1)
        order.sample_ids(0, positions[:256])
        sought, spent = time.perf_counter(), time.thread_time()
        ids = order.sample_ids(1, positions)
        spent = time.thread_time() - spent
        held = resident_bytes() - before - ids.nbytes
        back = time.thread_time()
        if not np.array_equal(order.positions(1, ids), positions):
            raise RuntimeError(
                f"order_growth: the order of {samples} samples must be a bijection, got another way back"
            )
        back = time.thread_time() - back
        rows[f"{samples:,}"] = {
            "open_and_seek_us": round(1e6 * (sought - began), 1),
            "ns_a_sample": round(1e9 * spent / _POSITIONS, 1),
            "ns_back": round(1e9 * back / _POSITIONS, 1),
            "memory_kb": round(max(held, 0) / 1e3, 1),
        }
    return rows


def extrapolate(index: dict[str, float], samples: int) -> dict[str, float]:
    """Scale the weighed index to more samples: all of it grows in proportion."""
    ratio = samples / index["samples"]
    peak = {"peak_gb": round(samples * index["peak_a_sample"] / 1e9, 2)} if "peak_a_sample" in index else {}
    return {
        "open_cpu_s": round(ratio * index["open_cpu_s"], 1),
        "open_masks_cpu_s": round(ratio * index["open_masks_cpu_s"], 1),
        "store_gb": round(samples * index["bytes_a_sample"] / 1e9, 2),
        "masks_gb": round(samples * index["masks_bytes_a_sample"] / 1e9, 2),
        **peak,
    }


def measure_startup(shards: int, samples: int, batch_size: int, largest: int) -> dict[str, Any]:
    """Measure all three; returns the document."""
    with tempfile.TemporaryDirectory() as folder:
        few, many = max(shards // 10, 1), shards
        made = make_shards(Path(folder), many, samples)
        some = str(Path(folder) / "some")
        os.mkdir(some)
        for path in Path(folder, "shards").iterdir():
            if int(path.name[2:8]) < few:
                link(path, Path(some) / path.name)
        batch_size = min(batch_size, samples)
        first_try = in_child("first_batch", made, batch_size, time.time())
        tries = [in_child("first_batch", made, batch_size, time.time()) for _ in range(3)]
        tries.sort(key=lambda row: row["total_s"])
        index = {"tenth": in_child("weigh_index", f"{some}/*[0-9].tar"), "whole": in_child("weigh_index", made)}
    whole = index["whole"]
    return {
        "first_batch": {"median of 3": tries[1], "first try": first_try},
        "index": index,
        "order": order_growth(largest),
        "extrapolated": {f"{n:,}": extrapolate(whole, n) for n in sorted({largest // 100, largest // 10, largest})},
    }


def verdict(document: dict[str, Any]) -> str:
    """Say in one sentence how the goals stand."""
    first, index = document["first_batch"]["median of 3"], document["index"]["whole"]
    slowest = max(("import_s", "loader_s", "batch_s"), key=lambda name: first[name])
    good = first["total_s"] <= GOAL_S
    small = index["bytes_a_component"] <= GOAL_BYTES
    return (
        f"First batch of {index['shards']:,} shards after {first['total_s']:.1f} s, {first['cpu_s']:.1f} s of CPU "
        f"time ({'within' if good else 'above'} the goal of "
        f"{GOAL_S:g} s; most of it: {slowest[:-2]}); the index takes {index['bytes_a_component']:g} bytes a sample and "
        f"component ({'within' if small else 'above'} the goal of {GOAL_BYTES:g}); an epoch's order needs no memory of its own."
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the tables, write the JSON; returns the exit code."""
    parser = argparse.ArgumentParser("python -m figureground.bench startup")
    parser.add_argument("--shards", type=int, default=1000)
    parser.add_argument("--samples", type=int, default=1000, help="a shard")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--index-samples", type=int, default=100_000_000, help="largest data set whose order is asked")
    parser.add_argument("--json", type=file_to_write)
    args = parser.parse_args(argv)
    for name in ("shards", "samples", "batch_size", "index_samples"):
        if getattr(args, name) < 1:
            option = name.replace("_", "-")
            print(f"startup: --{option} must be at least 1, got {getattr(args, name)}", file=sys.stderr)
            return 2
    document = measure_startup(args.shards, args.samples, args.batch_size, args.index_samples)
    print_table(document["first_batch"], title="first batch")
    shards = {name: {key: row[name] for key, row in document["index"].items()} for name in document["index"]["whole"]}
    print_table(shards, title="index of the shards")
    print_table(document["order"], title="order of")
    print_table(document["extrapolated"], title="index of (in proportion)")
    print(verdict(document))
    write_json(args.json, {"startup": document})
    return 0


if __name__ == "__main__":
    sys.exit(main())
