"""`python -m figureground.bench VERB ...`: measure, show, try.

python -m figureground.bench demo --device cpu --out demo
python -m figureground.bench throughput --device cpu --shards "demo/shards/*.tar"
python -m figureground.bench saliency --images photos --masks truth
python -m figureground.bench train --shards "demo/shards/*.tar" --device cpu
"""

from __future__ import annotations

import importlib
import sys

VERBS = {
    "demo": "photographs to shards, masks, views and a contact sheet",
    "throughput": "images/s and CPU ms of each stage, end to end, each preset; a trainer's stall",
    "scaling": "with threads, batch size, image size, and p of the background augmentation",
    "timeline": "a picture of what overlaps in a few batches",
    "peers": "ours and other loaders, same shards and augmentations",
    "kernels": "each kernel alone: time, GB/s, share of the copy bandwidth",
    "masks": "what a mask job costs an image, by stage, and the share spent decoding",
    "techniques": "what each technique of a recipe costs over its base recipe",
    "saliency": "quality and cost of the saliency methods against true masks",
    "parity": "our views against Pillow's and torchvision's, same parameters",
    "report": "one self-contained HTML page from the JSON of the others",
    "simulate": "a cluster's limit (network, disk, CPU, GPU) from measured costs",
    "startup": "time to the first batch, memory of the index, growth of the order",
    "python_cost": "Python's own cost of a batch, decoding and kernels stubbed",
    "bggap": "accuracy on the sets of 'figureground bgsets', and the BG-gap",
    "probes": "shape or texture: accuracy on shuffled patches, textures and styles",
    "invariance": "how invariant the neurons of an encoder are to transformations",
    "soak": "long runs, many cycles, signals: what grows, what stays behind",
    "experiment": "a small SSL experiment: background augmentations and a background shortcut",
    "gpu": "all that needs a GPU, part by part: tests, compute-sanitizer, benches",
    "train": "a few steps of MoCo-v2 on shards",
}


def main(argv: list[str]) -> int:
    """Run one verb; returns its exit code."""
    if not argv or argv[0] not in VERBS:
        print("usage: python -m figureground.bench VERB ...; VERB is one of", file=sys.stderr)
        for verb, summary in VERBS.items():
            print(f"  {verb:<12}{summary}", file=sys.stderr)
        return 0 if argv and argv[0] in ("-h", "--help") else 2
    return int(importlib.import_module(f"figureground.bench.{argv[0]}").main(argv[1:]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
