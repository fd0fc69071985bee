"""Where a cluster's limit lies, from measured costs: network, disk, CPU or GPU. Arithmetic, no simulation of time.

    python -m figureground.bench simulate --gpus 64 --gpus-per-node 8 --images-per-s-per-gpu 2500 --image-kb 110 --shard-mb 500 \
        --images 1281167 --network-gbit 100 --disk-gb-s 3 --cores 96 --json throughput.json

What one image costs on the CPU comes from the JSON of `bench throughput` (its cores taken to be like the cluster's, or
`--core-speed` times as fast) or from `--decode-ms` and `--augment-ms`. How fast a GPU trains is yours to say, and, when the loader
runs on the GPUs too, what one GPU decodes and augments with nothing else to do (`--gpu-loader-images-per-s`): both share its time.

Without lanes ranks take runs of each global batch, so every node visits every shard in each epoch. From a store (`--source store`)
each node therefore fetches the whole data set once an epoch, less what its cache keeps: the network's need per node does not fall
with the number of nodes. With `--lanes` (`Loader(lanes=...)`) a node fetches the shards of its own lanes only. What was used least
recently goes first, and each epoch comes in a new order, so a cache of half the data set saves 15 % of the fetches, not 50 % (see
`kept_share`). Gradients, checkpoints and headers of tars are left out.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from figureground.bench.cache_model import kept_share
from figureground.bench.given import file_to_write
from figureground.bench.harness import print_table, write_json
from figureground.pipeline.lanes import lanes_of_ranks

RECIPE = "moco_v2 + swap p=0.2"
"""Row of the throughput document whose CPU cost is used by default."""
ADVICE = {
    "network": "{lanes_advice}raise --cache-gb (whole data set: {dataset_gb:.0f} GB a node), or put the shards on the nodes' disks",
    "disk": "{lanes_advice}{disk_advice}more memory for the page cache, or faster disks",
    "CPU": "move decoding and augmentation to the GPUs (device='cuda'), or take more cores",
    "GPU": "nothing to gain from a faster loader on the CPU's side",
}


@dataclass(frozen=True)
class Cluster:
    """The machines."""

    gpus: int
    gpus_per_node: int
    train_rate: float
    """Images/s that one GPU trains when data is always there."""
    network_gbit: float
    """Per node, for data [Gbit/s]."""
    disk_gb_s: float
    """Per node, reading or writing [GB/s]."""
    cores: float
    """Per node, left for the loader."""
    memory_gb: float = 0.0
    """Per node, left for the page cache [GB]."""
    loader_rate: float | None = None
    """Images/s that one GPU decodes and augments with nothing else to do; None: the loader runs on the CPU."""

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value is not None and value <= 0 and name != "memory_gb":
                raise ValueError(f"Cluster: {name} must be more than 0, got {value}")
        if self.memory_gb < 0:
            raise ValueError(f"Cluster: memory_gb must not be negative, got {self.memory_gb}")

    @property
    def nodes(self) -> int:
        """Machines that the GPUs fill."""
        return math.ceil(self.gpus / self.gpus_per_node)

    @property
    def node_gpus(self) -> int:
        """GPUs of a full node."""
        return min(self.gpus, self.gpus_per_node)


@dataclass(frozen=True)
class Job:
    """The data and what it costs."""

    images: int
    image_kb: float
    """Encoded image and mask [kB]."""
    shard_mb: float
    cpu_ms: float
    """CPU ms an image, all stages that run on the CPU."""
    source: str = "store"
    """"store": shards are fetched over the network into a cache on the node's disk; "disk": each node has them."""
    cache_gb: float = 0.0
    """Room for fetched shards, per node [GB]."""
    window: int = 8
    """Shards whose samples are shuffled together when they are fetched."""
    lanes: int = 1
    """Parts of an epoch of which a node reads its own; 1: every node reads all."""

    def __post_init__(self) -> None:
        for name in ("images", "image_kb", "shard_mb", "cpu_ms", "window", "lanes"):
            if getattr(self, name) <= 0:
                raise ValueError(f"Job: {name} must be more than 0, got {getattr(self, name)}")
        if self.cache_gb < 0:
            raise ValueError(f"Job: cache_gb must not be negative, got {self.cache_gb}")
        if self.source not in ("store", "disk"):
            raise ValueError(f"Job: source must be 'store' or 'disk', got {self.source!r}")

    @property
    def dataset_gb(self) -> float:
        """Size of all images [GB]."""
        return self.images * self.image_kb / 1e6

    @property
    def shards(self) -> int:
        """Number of shards."""
        return math.ceil(1e3 * self.dataset_gb / self.shard_mb)


@dataclass(frozen=True)
class Need:
    """What one resource of a node must give, and what it has."""

    per_image: float
    """In the resource's unit of work: bytes, bytes, core seconds, GPU seconds."""
    has: float
    """Of that, per second."""

    @property
    def limit(self) -> float:
        """Images/s of a node that the resource allows."""
        return self.has / self.per_image if self.per_image else math.inf


def lanes_read(cluster: Cluster, job: Job) -> int:
    """Return how many lanes the node reads that reads most of them."""
    nodes = [
        (first, min(first + cluster.node_gpus, cluster.gpus)) for first in range(0, cluster.gpus, cluster.node_gpus)
    ]
    return max(len(lanes_of_ranks(first, end, cluster.gpus, job.lanes)) for first, end in nodes)


def least_cache_gb(cluster: Cluster, job: Job) -> float:
    """Return the size of two windows of shards for each lane of a node, or of the data set if that is smaller [GB]."""
    window = (
        job.window if job.lanes == 1 else min(job.window, math.ceil(job.shards / job.lanes)) + 2
    )  # and those that borders cut
    return min(2 * window * lanes_read(cluster, job) * job.shard_mb / 1e3, job.dataset_gb)


def node_needs(cluster: Cluster, job: Job) -> dict[str, Need]:
    """Return what an image costs a node, by resource.

    Notes
    -----
    store: of each image that any node trains, a node fetches the bytes that its cache does not hold, with lanes those of its own
    lanes and of one shard more (which a border cuts). So without lanes an image of its own costs a full node as many fetches as
    there are nodes. Each is written to disk and its own image is read back, from memory if that holds the windows that are in
    use. Cache and page cache save `kept_share` of the fetches and of the reads.

    Examples
    --------
    >>> cluster = Cluster(16, 8, 1000.0, network_gbit=8, disk_gb_s=2, cores=20)
    >>> two = Job(1_000_000, image_kb=100, shard_mb=500, cpu_ms=2.0, lanes=2)
    >>> needs = node_needs(cluster, Job(1_000_000, image_kb=100, shard_mb=500, cpu_ms=2.0))
    >>> {name: round(need.limit) for name, need in needs.items()}
    {'network': 5016, 'disk': 6681, 'CPU': 10000, 'GPU': 8000}
    >>> {name: round(need.limit) for name, need in node_needs(cluster, two).items()}
    {'network': 10004, 'disk': 10002, 'CPU': 10000, 'GPU': 8000}
    """
    size, least = 1e3 * job.image_kb, least_cache_gb(cluster, job)
    in_memory = kept_share(cluster.memory_gb / job.dataset_gb)
    fetched, read = 0.0, size
    if job.source == "store":
        visited = 1.0 if job.lanes == 1 else min(lanes_read(cluster, job) / job.lanes + 1 / job.shards, 1.0)
        kept = kept_share(max(job.cache_gb, least) / job.dataset_gb, visited)
        fetched = cluster.gpus / cluster.node_gpus * size * visited * (1 - kept)
        read = size * kept if cluster.memory_gb >= least else size
    gpu_s = 1 / cluster.train_rate + (1 / cluster.loader_rate if cluster.loader_rate else 0.0)
    return {
        "network": Need(fetched, cluster.network_gbit * 1e9 / 8),
        "disk": Need(fetched + read * (1 - in_memory), cluster.disk_gb_s * 1e9),
        "CPU": Need(job.cpu_ms / 1e3, cluster.cores),
        "GPU": Need(gpu_s, cluster.node_gpus),
    }


def predict(cluster: Cluster, job: Job) -> dict[str, Any]:
    """Predict the pace of a cluster.

    Returns
    -------
    dict
        "limit" (the resource), "images_per_s" of the cluster, "wanted_images_per_s" (the trainer alone), "stall_share" of the
        trainer's time, "epoch_s", sizes, and "resources" by name: images/s that each allows a node, what it needs at the
        trainer's full pace, and has.
    """
    needs = node_needs(cluster, job)
    limit = min(needs, key=lambda name: needs[name].limit)
    if math.isclose(needs[limit].limit, needs["GPU"].limit):
        limit = "GPU"
    share = cluster.gpus / cluster.node_gpus  # full nodes: the last one may have fewer GPUs
    wanted, rate = cluster.gpus * cluster.train_rate, share * needs[limit].limit
    full = cluster.node_gpus * cluster.train_rate
    scale = {"network": (8e-9, "Gbit/s"), "disk": (1e-9, "GB/s"), "CPU": (1.0, "cores"), "GPU": (1.0, "GPUs")}
    resources = {
        name: {
            "images_per_s_a_node": None if math.isinf(need.limit) else round(need.limit, 1),
            "needs": round(need.per_image * full * scale[name][0], 3),
            "has": round(need.has * scale[name][0], 3),
            "unit": scale[name][1],
        }
        for name, need in needs.items()
    }
    return {
        "limit": limit,
        "nodes": cluster.nodes,
        "images_per_s": round(rate, 1),
        "wanted_images_per_s": round(wanted, 1),
        "stall_share": round(1 - rate / wanted, 4),
        "epoch_s": round(job.images / rate, 1),
        "dataset_gb": round(job.dataset_gb, 1),
        "least_cache_gb": round(least_cache_gb(cluster, job), 1) if job.source == "store" else 0.0,
        "lanes": job.lanes,
        "shards": job.shards,
        "resources": resources,
    }


def verdict(result: Mapping[str, Any], loader_on_gpu: bool = False) -> str:
    """Say in one sentence what limits the cluster, and what would help."""
    limit = result["limit"]
    pace = f"{result['images_per_s']:,.0f} of {result['wanted_images_per_s']:,.0f} images/s"
    if limit == "GPU":
        taken = f", {100 * result['stall_share']:.0f} % of whose time the loader takes" if loader_on_gpu else ""
        return f"The GPUs are the limit{taken}: {pace}, an epoch in {result['epoch_s']:,.0f} s; {ADVICE['GPU']}."
    cached = result["least_cache_gb"] > 0
    advice = ADVICE[limit].format(
        **result,
        lanes_advice=f"--lanes {result['nodes']} (each node its own), "
        if cached and result["lanes"] % result["nodes"]
        else "",
        disk_advice="raise --cache-gb (what is fetched is written too), " if cached else "",
    )
    return (
        f"The {limit} is the limit: {pace}, the trainer waits {100 * result['stall_share']:.0f} % of its time, an epoch takes "
        f"{result['epoch_s']:,.0f} s; {advice}."
    )


def measured_ms(document: Mapping[str, Any], recipe: str) -> tuple[float, float]:
    """Take CPU ms an image from a throughput document: the decoder's, and all that comes on top of it.

    Raises
    ------
    ValueError
        If the document has no such recipe.
    """
    epochs: Mapping[str, Any] = document.get("epochs", {})
    if recipe not in epochs:
        raise ValueError(
            f"simulate: --recipe must be one of {', '.join(epochs) or '(none in the JSON)'}, got {recipe!r}"
        )
    total = float(epochs[recipe]["cpu_ms"])
    stages = document.get("stages", {})
    on_cpu = str(document.get("device", "cpu")) == "cpu"
    decode = float(stages.get("decode with masks", {}).get("cpu_ms", 0.0)) if on_cpu else 0.0
    return min(decode, total), max(total - decode, 0.0)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m figureground.bench simulate")
    add = parser.add_argument
    add("--gpus", type=int, required=True)
    add("--gpus-per-node", type=int, default=8)
    add("--images-per-s-per-gpu", type=float, required=True, help="what one GPU trains when data is always there")
    add(
        "--gpu-loader-images-per-s",
        type=float,
        help="what one GPU decodes and augments alone, if the loader runs there",
    )
    add("--images", type=int, default=1_281_167, help="of the data set")
    add("--image-kb", type=float, default=110, help="encoded, with its mask")
    add("--shard-mb", "--shards-mb", type=float, default=500)
    add("--source", choices=("store", "disk"), default="store", help="shards are fetched, or lie on each node's disk")
    add("--cache-gb", type=float, default=0, help="room for fetched shards a node (at least two windows are taken)")
    add("--window", type=int, default=8, help="shards shuffled together when they are fetched")
    add(
        "--lanes",
        type=int,
        default=1,
        help="parts of an epoch of which a node reads its own (default: 1, every node reads all)",
    )
    add("--network-gbit", type=float, required=True, help="a node")
    add("--disk-gb-s", type=float, required=True, help="a node")
    add("--memory-gb", type=float, default=0, help="page cache a node")
    add("--cores", type=float, required=True, help="a node, left for the loader")
    add("--core-speed", type=float, default=1.0, help="of the cluster's cores, in cores of the measured machine")
    add("--json", type=Path, help="result of `bench throughput`: CPU cost of an image")
    add("--recipe", default=RECIPE, help="row of that result")
    add("--decode-ms", type=float, help="CPU ms an image, instead of the JSON's")
    add("--augment-ms", type=float, help="CPU ms an image, instead of the JSON's")
    add("--out", type=file_to_write, help="write the prediction as JSON")
    return parser.parse_args(argv)


def _cpu_ms(args: argparse.Namespace) -> tuple[float, float]:
    decode, augment = 0.0, 0.0
    if args.json is not None:
        decode, augment = measured_ms(json.loads(args.json.read_text()), args.recipe)
    elif args.decode_ms is None and args.augment_ms is None:
        raise ValueError("simulate: the CPU cost must be given, got none; pass --json, or --decode-ms and --augment-ms")
    decode = decode if args.decode_ms is None else args.decode_ms
    augment = augment if args.augment_ms is None else args.augment_ms
    if args.core_speed <= 0:
        raise ValueError(f"simulate: --core-speed must be more than 0, got {args.core_speed}")
    return decode / args.core_speed, augment / args.core_speed


def main(argv: Sequence[str] | None = None) -> int:
    """Predict, print the table and the sentence; returns the exit code."""
    args = _parse(argv)
    try:
        decode, augment = _cpu_ms(args)
        cluster = Cluster(
            args.gpus, args.gpus_per_node, args.images_per_s_per_gpu, args.network_gbit, args.disk_gb_s, args.cores,
            args.memory_gb, args.gpu_loader_images_per_s,
        )  # fmt: skip
        job = Job(
            args.images, args.image_kb, args.shard_mb, decode + augment, args.source, args.cache_gb, args.window, args.lanes
        )  # fmt: skip
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    result = predict(cluster, job)
    print(
        f"{cluster.nodes} nodes, {result['shards']} shards, {result['dataset_gb']:g} GB; CPU {decode:.2f} + {augment:.2f} ms"
    )
    rows = {
        name: {
            "needs": row["needs"],
            "has": row["has"],
            "unit": row["unit"],
            "use": f"{100 * row['needs'] / row['has']:.0f} %",
            "images/s": row["images_per_s_a_node"] or "any",
        }
        for name, row in result["resources"].items()
    }
    print_table(rows, title="a node at full pace")
    if job.source == "store":
        print(f"cache: at least {result['least_cache_gb']:g} GB a node, {result['dataset_gb']:g} GB to fetch only once")
    print(verdict(result, cluster.loader_rate is not None))
    write_json(args.out, {"simulate": {"cluster": asdict(cluster), "job": asdict(job), **result}})
    return 0


if __name__ == "__main__":
    sys.exit(main())
