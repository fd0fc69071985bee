"""Ours and its peers on the same shards, with the same augmentations, in the same run.

    python -m figureground.bench peers [--shards "shards/*.tar"] [--rounds 5] [--json PATH]
    python -m figureground.bench peers --device cuda        (see peers_cuda: not yet run on a GPU)

Two MoCo-v2 views of 224 px, float32, normalised, on the CPU; where a peer can do it at bearable cost, background swaps at p = 0.2
with sidecar masks (the rows "no swap" do without: compare them with ours without). `make bench-peers` installs all peers
into an environment of their own; what is missing is skipped with a note. Before the clock starts the work is compared
(`equal_work`), of rows without swaps with ours without: a peer out of bounds is marked in table and JSON, and stays in. All images
must be intact JPEG or PNG files, since most peers stop at the first one that is not.

CPU milliseconds count all threads and worker processes. Decoders are compared apart, on the same files.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from figureground.bench import peers_libraries as libraries
from figureground.bench.dali_views import DaliOperators
from figureground.bench.equal_work import BOUNDS, ENOUGH, check
from figureground.bench.given import check_files, file_to_write, in_one_sentence, take_shards
from figureground.bench.harness import Timing, measure, print_table, write_json
from figureground.bench.peers_hand import SIZE, SWAP_P, Batches, OpenCV, WebDatasetPIL
from figureground.bench.workload import default_shards
from figureground.pipeline import Loader, recipes
from figureground.pipeline.decode import Decoder
from figureground.pipeline.processors import own_processors
from figureground.pipeline.recipe import Recipe
from figureground.shards import Store

OURS, OURS_PLAIN = f"figureground, swap p={SWAP_P}", "figureground, no swap"
Peer = Callable[[int], Batches]


class Ours:
    """The loader."""

    def __init__(self, shards: Any, threads: int, batch_size: int, recipe: Recipe | None = None) -> None:
        recipe = recipe or recipes.moco_v2().with_background("swap", p=SWAP_P)
        self._loader = Loader(
            shards, recipe, batch_size=batch_size, device="cpu", threads=threads, format="moco", masks="sidecar"
        )

    def __call__(self, seed: int) -> Batches:
        self._loader.set_epoch(seed)
        for views, _ in self._loader:
            yield [view.numpy() for view in views]


def _ours_plain(shards: Any, threads: int, batch_size: int) -> Peer:
    return Ours(shards, threads, batch_size, recipes.moco_v2())


PEERS: dict[str, tuple[Callable[..., Peer], str | None]] = {
    OURS: (Ours, None),
    OURS_PLAIN: (_ours_plain, None),
    f"OpenCV by hand, swap p={SWAP_P}": (OpenCV, None),
    "DALI's operators, no swap": (DaliOperators, None),
    f"webdataset + PIL by hand, swap p={SWAP_P}": (WebDatasetPIL, None),
    "webdataset + PIL + torchvision, no swap": (libraries.WebDatasetTorchvision, "torchvision"),
    "torchvision v2 on uint8 tensors, no swap": (libraries.TorchvisionTensors, "torchvision"),
    "kornia on batches, no swap": (libraries.Kornia, "kornia"),
}
"""Peers by name: class, and the module that must be installed. Ours come first."""


def make_peers(
    shards: Any, threads: int, batch_size: int, *, masks: bool = True
) -> tuple[dict[str, Peer], dict[str, str]]:
    """Make all peers that are there; returns them and why the others are skipped. Without masks no row swaps."""
    made: dict[str, Peer] = {}
    skipped: dict[str, str] = {}
    for name, (make, module) in PEERS.items():
        if not masks and _swaps(name):
            skipped[name] = "the shards have no masks: run 'figureground masks' on them"
            continue
        if module and importlib.util.find_spec(module) is None:
            skipped[name] = f"{module} is not installed"
            continue
        try:
            made[name] = make(shards, threads, batch_size)
        except ImportError as error:
            skipped[name] = str(error)
    return made, skipped


def _swaps(name: str) -> bool:
    return f"swap p={SWAP_P}" in name


def check_peers(peers: Mapping[str, Peer]) -> dict[str, dict[str, Any]]:
    """Run an epoch of each peer and compare its views with the first one's, or ours without swaps; prints what differs."""
    checks: dict[str, dict[str, Any]] = {}
    for name, peer in peers.items():
        batches = [[np.array(view) for view in views] for views in peer(0)]
        views = [np.concatenate(part) for part in zip(*batches, strict=True)]
        first = next(iter(checks.values()), None)
        if not _swaps(name):
            first = checks.get(OURS_PLAIN, first)
        checks[name] = check(views, SIZE, np.float32, first)
        if checks[name]["why"]:
            print(f"other work: {name}: {checks[name]['why']}")
    rows = {
        name: {
            **{key: found.get(key, "") for key in ("views", *BOUNDS) if key not in ("mean", "std")},
            **{f"{key} {c}": found.get(key, ["", "", ""])[i] for key in ("mean", "std") for i, c in enumerate("RGB")},
            "equal": "yes" if found["equal"] else "NO",
        }
        for name, found in checks.items()
    }
    bounds = ", ".join(f"{name} {value:g}" for name, value in BOUNDS.items())
    print_table(rows, title="equal work")
    print(f"bounds on the difference to ours: {bounds}\n")
    if checks and min(found.get("views", ENOUGH) for found in checks.values()) < ENOUGH:
        print(f"fewer than {ENOUGH} views: chance alone may be out of bounds\n")
    return checks


def peer_rows(timings: Mapping[str, Timing], checks: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the table: medians, and the median over the rounds of the ratio to the first row.

    Examples
    --------
    >>> rows = peer_rows({"a": Timing([1.0], [2.0]), "b": Timing([4.0], [5.0])}, {"b": {"equal": False}})
    >>> rows["b"]["cpu_ratio"], rows["b"]["wall_ratio"], rows["b"]["equal_work"]
    (2.5, 4.0, False)
    """
    rows: dict[str, dict[str, Any]] = {}
    first = next(iter(timings.values()))
    for name, timing in timings.items():
        rows[name] = {
            **timing.summary(),
            "cpu_ratio": round(float(np.median(np.array(timing.cpu_ms) / np.array(first.cpu_ms))), 2),
            "wall_ratio": round(float(np.median(np.array(timing.wall_ms) / np.array(first.wall_ms))), 2),
        }
        if name in checks:
            rows[name]["equal_work"] = bool(checks[name]["equal"])
    return rows


def decoder_cases(shards: Any, threads: int, images: int) -> tuple[dict[str, Callable[[], int]], dict[str, Any]]:
    """Return decoders of the same files on as many threads, and how their pixels differ from OpenCV's [grey levels]."""
    store, pool = Store(shards), ThreadPoolExecutor(threads)
    encoded = [store.image(i) for i in range(min(images, len(store)))]
    ours = Decoder(len(encoded), threads=threads)
    decoders: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "OpenCV": libraries.decode_opencv,
        "Pillow": libraries.decode_pil,
    }
    notes: dict[str, Any] = {}
    try:
        decoders["SPDL (FFmpeg)"] = libraries.spdl_decoder()
    except ImportError as error:
        print(f"skipped: SPDL decode ({error})")
    few = encoded[:8]
    for name, decode in decoders.items():
        pairs = [(decode(e).astype(np.int16), libraries.decode_opencv(e)) for e in few]
        notes[name] = {
            "mean_difference": round(float(np.mean([np.abs(a - b).mean() for a, b in pairs])), 3),
            "max_difference": int(max(np.abs(a - b).max() for a, b in pairs)),
        }

    def dali() -> int:
        ours.submit(encoded)
        return len(ours.collect().valid)

    def case(decode: Callable[[np.ndarray], np.ndarray]) -> Callable[[], int]:
        return lambda: sum(len(image) > 0 for image in pool.map(decode, encoded))

    cases: dict[str, Callable[[], int]] = {"DALI (ours)": dali}
    return cases | {name: case(decode) for name, decode in decoders.items()}, notes


def measure_peers(shards: Any, threads: int, batch_size: int, rounds: int, *, masks: bool = True) -> dict[str, Any]:
    """Check, measure and print; returns the document."""
    peers, skipped = make_peers(shards, threads, batch_size, masks=masks)
    for name, why in skipped.items():
        print(f"skipped: {name} ({why})")
    checks = check_peers(peers)
    epoch = {"number": 0}

    def case(peer: Peer) -> Callable[[], int]:
        def run() -> int:
            epoch["number"] += 1
            return sum(len(views[0]) for views in peer(epoch["number"]))

        return run

    rows = peer_rows(measure({name: case(peer) for name, peer in peers.items()}, rounds=rounds), checks)
    print_table(rows, title="two MoCo-v2 views, per source image")
    cases, notes = decoder_cases(shards, threads, 128)
    decoders = peer_rows(measure(cases, rounds=rounds), {})
    for name, note in notes.items():
        decoders[name] |= note
    print_table(decoders, title="decoding alone, per image")
    return {
        "batch_size": batch_size, "threads": threads, "rounds": rounds, "peers": rows, "decoders": decoders,
        "equal_work": {"bounds": BOUNDS, "checks": checks}, "skipped": skipped,
    }  # fmt: skip


@in_one_sentence
def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the tables, write the JSON; returns the exit code."""
    parser = argparse.ArgumentParser("python -m figureground.bench peers")
    parser.add_argument("--shards", nargs="+", help="your shards, with mask sidecars (default: made of photographs)")
    parser.add_argument("--device", default="cpu", help="cpu, or cuda for the comparison of peers_cuda")
    parser.add_argument(
        "--images",
        type=int,
        help="photographs to make (cpu: 256, cuda: 2048); samples of --shards that are enough (512, 16384)",
    )
    parser.add_argument("--batch-size", type=int, help="default: 32 on the CPU, 256 on a GPU")
    parser.add_argument("--threads", type=int, default=own_processors())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--repeat", type=int, default=8, help="cuda: each made shard this many times, for long epochs")
    parser.add_argument("--dtype", choices=("float32", "float16"), default="float16", help="cuda: of the views")
    parser.add_argument("--json", type=file_to_write)
    args = parser.parse_args(argv)
    for name in ("images", "batch_size", "threads", "rounds", "repeat"):
        value = getattr(args, name)
        if value is not None and value < 1:
            print(f"peers: --{name.replace('_', '-')} must be at least 1, got {value}", file=sys.stderr)
            return 2
    if args.device != "cpu":
        from figureground.bench import peers_cuda

        return peers_cuda.run(args)
    with tempfile.TemporaryDirectory() as folder:
        batch_size = args.batch_size or 32
        shards = args.shards or default_shards(folder, args.images or 256)
        given = take_shards(shards, folder, most=args.images or 512, batch_size=batch_size)
        check_files(given.shards)
        document = measure_peers(given.shards, args.threads, batch_size, args.rounds, masks=given.masked > 0)
        document |= {"images": given.samples, "masks": given.masked}
    write_json(args.json, document)
    return 0


if __name__ == "__main__":
    sys.exit(main())
