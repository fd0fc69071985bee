"""`figureground run`: stream epochs as a trainer would, and say how fast and what limits it."""

from __future__ import annotations

import argparse
import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from figureground.shards.cli import open_cache

from .loader import Loader
from .recipe import Recipe
from .whole_numbers import as_integer


def stream_epochs(args: argparse.Namespace, recipe: Recipe) -> int:
    """Iterate over `args.epochs` epochs and print images/s of each; returns the exit code."""
    epochs, cache = as_integer("run: --epochs", args.epochs, 1), open_cache(args, args.masks)
    with Loader(
        args.shards, recipe, batch_size=args.batch_size, device=args.device, masks_dir=args.masks, seed=args.seed,
        threads=args.threads, format="moco", cache=cache, window=args.window, lanes=args.lanes,
    ) as loader:  # fmt: skip
        columns = (TextColumn("epoch {task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, transient=True, console=Console(stderr=True)) as bar:
            for epoch in range(epochs):
                task = bar.add_task(str(epoch), total=len(loader))
                loader.set_epoch(epoch)
                began, cpu, samples = time.perf_counter(), time.process_time(), 0
                for _, target in loader:
                    samples += len(target)
                    bar.advance(task)
                wall, cpu = time.perf_counter() - began, time.process_time() - cpu
                bar.remove_task(task)
                print(
                    f"epoch {epoch}: {samples} images, {samples / wall:.1f} images/s, {1e3 * cpu / samples:.2f} ms of CPU an image"
                )
        stats = loader.stats()
        print("producer [s]: " + ", ".join(f"{name} {value:.2f}" for name, value in stats["seconds"].items()))
        print(f"bottleneck: {stats['bottleneck']}; replaced samples: {stats['replaced']}")
    return 0
