"""The commands `masks` and `show masks` of the command line.

examples:
    figureground masks "shards/*.tar" --out masks --jobs 8
    figureground masks "shards/*.tar" --out masks --from-folder pngs
    figureground masks "s3://bucket/train-{000..099}.tar" --out s3://bucket/masks --cache /local/cache --cache-size 50GB
    figureground show masks "shards/*.tar" --masks masks --out masks.html

`masks` goes on where it was stopped: finished sidecars of the same method, size and version are kept. Exit codes: 0 done, 1 a shard
failed or no file of --from-folder fits, 2 wrong usage, 130 or 143 interrupted.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from figureground.kernels.saliency import METHODS
from figureground.shards.cli import SHARDS_HELP, add_cache, open_cache
from figureground.shards.errors import ShardError

if TYPE_CHECKING:
    from .masks_totals import MasksReport

_LISTED = 10


class Terminated(KeyboardInterrupt):
    """SIGTERM, made an exception so that it ends a run as cleanly as Ctrl-C."""


def show_text(parser: argparse.ArgumentParser, text: str | None) -> None:
    """Put all of a module's text but its first line below the help of a command, as it is."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = (text or "").partition("\n\n")[2]


def add_masks(parser: argparse.ArgumentParser) -> None:
    """Give a parser the arguments of `masks`."""
    show_text(parser, __doc__)
    parser.add_argument("shards", nargs="+", metavar="SHARDS", help=SHARDS_HELP)
    parser.add_argument(
        "--out",
        metavar="DIR",
        help="folder of the sidecars, or its URL, e.g. s3://bucket/masks (default: beside the shards)",
    )
    add_cache(parser)
    parser.add_argument(
        "--method", metavar="NAME", help=f"{', '.join(METHODS)}, net:FILE, vit:FILE or vit-ncut:FILE (default: fused)"
    )
    parser.add_argument(
        "--size", type=int, metavar="PX", help="side of the masks (default: 112; of imported ones: their own)"
    )
    parser.add_argument("--from-folder", metavar="DIR", help="take masks made elsewhere: DIR/<key>.png of any size")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N or cpu (default: cuda)")
    parser.add_argument("--batch-size", type=int, default=64, metavar="N", help="images at a time (default: 64)")
    parser.add_argument(
        "--max-pixels", type=int, default=2**27, metavar="N",
        help="larger images count as undecodable (default: 2^27; part of what a sidecar was made with)",
    )  # fmt: skip
    parser.add_argument(
        "--threads", type=int, metavar="N", help="CPU threads a job (default: the processors, shared out among the jobs)"
    )
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="shards at a time (default: 1)")
    again = parser.add_mutually_exclusive_group()
    again.add_argument("--overwrite", action="store_true", help="make all sidecars again, whatever is there")
    again.add_argument(
        "--update",
        action="store_true",
        help="make those again that were made otherwise (method, size, version); can be resumed",
    )
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N shards")
    parser.add_argument("--engine", choices=("local", "ray"), default="local", help="this machine or a Ray cluster")
    parser.add_argument("--address", help="of a Ray cluster, e.g. auto (default: start a local one)")
    parser.add_argument(
        "--gpus-per-worker", type=float, metavar="X", help="share of a GPU a Ray worker takes (default: 1)"
    )
    parser.add_argument("--retries", type=int, metavar="N", help="times a shard is made again whose worker died")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def run_masks(args: argparse.Namespace) -> int:
    """Make or import masks; 0 done, 1 a shard failed, or no file of an import fits, 2 wrong usage, 130 or 143 interrupted."""
    try:
        with _sigterm_raises():
            report = _run(args)
    except KeyboardInterrupt as signalled:
        goes_on = "--update in place of --overwrite goes on" if args.overwrite else "the same command goes on"
        print(f"interrupted: finished sidecars are kept, {goes_on}", file=sys.stderr)
        return 143 if isinstance(signalled, Terminated) else 130
    except (
        ValueError,
        RuntimeError,
        ImportError,
        OSError,
    ) as error:  # ShardError too: nothing was done, or a store takes nothing
        print(error, file=sys.stderr)
        return 2
    _list_problems(report)
    print(json.dumps(report.to_dict(), indent=1) if args.json else report)
    return 1 if report.count("failed") or report.unmatched else 0


def _run(args: argparse.Namespace) -> MasksReport:
    from .masks_engines import make_engine
    from .masks_job import import_masks, make_masks

    if args.engine != "ray" and (args.address or args.gpus_per_worker is not None):
        raise ValueError("masks: --address and --gpus-per-worker need --engine ray, got --engine local")
    engine = make_engine(
        args.engine, jobs=args.jobs, address=args.address, gpus_per_worker=args.gpus_per_worker, retries=args.retries
    )
    common: dict[str, Any] = {
        "out": args.out, "engine": engine, "overwrite": "changed" if args.update else args.overwrite, "limit": args.limit,
        "progress": not args.quiet, "cache": open_cache(args),
    }  # fmt: skip
    if args.from_folder is not None:
        return import_masks(args.shards, args.from_folder, method=args.method or "imported", size=args.size, **common)
    return make_masks(
        args.shards, method=args.method or "fused", device=args.device, batch_size=args.batch_size,
        size=112 if args.size is None else args.size, threads=args.threads, max_pixels=args.max_pixels, **common,
    )  # fmt: skip


def _list_problems(report: MasksReport) -> None:
    """Name the failed shards, and the first samples of each shard without a mask, on stderr."""
    for shard in report.shards:
        if shard.error:
            print(f"failed: {shard.error}", file=sys.stderr)
        for key, note in shard.without[:_LISTED]:
            print(f"{shard.shard}: {key}: {note}", file=sys.stderr)
        if len(shard.without) > _LISTED:
            print(f"{shard.shard}: and {len(shard.without) - _LISTED} more (--json lists all)", file=sys.stderr)


@contextmanager
def _sigterm_raises() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise Terminated

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def add_show_masks(parser: argparse.ArgumentParser) -> None:
    """Give a parser the arguments of `show masks`."""
    show_text(parser, __doc__)
    parser.add_argument("shards", nargs="+", metavar="SHARDS", help=SHARDS_HELP)
    parser.add_argument("--masks", metavar="DIR", help="folder or URL of the sidecars (default: beside the shards)")
    add_cache(parser)
    parser.add_argument("--out", default="masks.html", metavar="HTML", help="the page (default: masks.html)")
    parser.add_argument("--limit", type=int, default=2000, metavar="N", help="images, spread evenly (default: 2000)")
    parser.add_argument("--compare", metavar="METHOD", help="a saliency method, or a folder of other sidecars")
    parser.add_argument("--device", default="cuda", help="of --compare METHOD: cuda, cuda:N or cpu (default: cuda)")
    parser.add_argument("--title", help="of the page")


def run_show_masks(args: argparse.Namespace) -> int:
    """Write the page; 0 done, 2 wrong usage."""
    from .masks_report import write_page

    try:
        summary = write_page(
            args.shards, args.out, masks_dir=args.masks, limit=args.limit, compare=args.compare, device=args.device,
            title=args.title, cache=open_cache(args, args.masks, args.compare),
        )  # fmt: skip
    except (ShardError, ValueError, RuntimeError, ImportError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    print(summary)
    return 0
