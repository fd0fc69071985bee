"""The commands `pack`, `index` and `check` of the command line, and what others share with them."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import re
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import TYPE_CHECKING

from .check import Inspect, check
from .errors import ShardError
from .index import index_is_fresh, write_index
from .patterns import expand
from .urls import is_url, shown
from .writer import pack

if TYPE_CHECKING:
    from .cache import ShardCache

SHARDS_HELP = "tars, folders of tars, globs, or brace patterns such as 'train-{000000..000099}.tar'"


_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def parse_bytes(text: str) -> int:
    """Read a size as people write it: decimal units, with or without the B.

    Raises
    ------
    argparse.ArgumentTypeError
        If it is none.

    Examples
    --------
    >>> parse_bytes("50GB"), parse_bytes("1.5 m"), parse_bytes("2048")
    (50000000000, 1500000, 2048)
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)B?\s*", text, re.IGNORECASE)
    size = int(float(match[1]) * _UNITS[match[2].upper()]) if match else 0
    if size < 1:
        raise argparse.ArgumentTypeError(f"a size must be a number of bytes, e.g. 50GB or 500M, got {text!r}")
    return size


def add_cache(parser: argparse.ArgumentParser) -> None:
    """Give a parser the arguments that shards and sidecars behind URLs need."""
    parser.add_argument("--cache", metavar="DIR", help="local folder that keeps shards and sidecars given as URLs")
    parser.add_argument(
        "--cache-size", type=parse_bytes, metavar="SIZE", help="size of --cache at most (default: 50GB)"
    )


def open_cache(args: argparse.Namespace, *others: str | None) -> ShardCache | None:
    """Open the cache that the arguments of `add_cache` name.

    Parameters
    ----------
    args : Namespace
        With `shards`.
    *others : str or None
        What else is read and may be a URL.

    Returns
    -------
    ShardCache or None
        None without `--cache`.

    Raises
    ------
    ShardError
        If the folder cannot be written, or there is a URL and no `--cache`.
    ValueError
        If there is a size and no `--cache`.
    """
    if args.cache is not None:
        from .cache import ShardCache  # local shards do without

        return ShardCache(args.cache, 50 * 10**9 if args.cache_size is None else args.cache_size)
    if args.cache_size is not None:
        raise ValueError(f"--cache-size is of no use without --cache DIR, got {args.cache_size} bytes")
    url = next((text for text in (*args.shards, *others) if text is not None and is_url(text)), None)
    if url is not None:
        raise ShardError(
            f"{shown(url)}: what is behind a URL needs a cache; pass --cache DIR (a folder on a local disk)"
        )
    return None


def add_pack(parser: argparse.ArgumentParser) -> None:
    """Give a parser the arguments of `pack`."""
    parser.add_argument("src", metavar="SRC", help="folder of images and videos; sub-folders are classes")
    parser.add_argument("out", metavar="OUT", help="folder of the shards")
    parser.add_argument("--shard-size-mb", type=float, default=256, metavar="MB", help="size of a shard (default: 256)")
    formats = ("keep", "jpg", "png")
    parser.add_argument("--image-ext", choices=formats, default="keep", help="re-encode other formats (default: keep)")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="threads (default: 1)")
    parser.add_argument("--name", default="shard", help="shards are NAME-000000.tar, ... (default: shard)")
    parser.add_argument("--limit", type=int, metavar="N", help="stop after N samples")
    parser.add_argument("--shuffle", type=int, metavar="SEED", help="store in a random order (default: by path)")
    parser.add_argument("--every", type=int, default=1, metavar="K", help="of videos: every K-th frame (default: 1)")
    parser.add_argument(
        "--frame-size", type=int, metavar="PX", help="of videos: reduce the shorter side (default: keep)"
    )
    parser.add_argument("--frame-quality", type=int, default=95, metavar="Q", help="of videos: JPEG's (default: 95)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def run_pack(args: argparse.Namespace) -> int:
    """Pack; 0 if it worked (files left out are listed on stderr), 1 if not, 2 for a bad argument."""
    try:
        report = pack(
            args.src, args.out, shard_size_mb=args.shard_size_mb, image_ext=args.image_ext, jobs=args.jobs,
            progress=not args.quiet, name=args.name, limit=args.limit, shuffle_seed=args.shuffle,
            every=args.every, frame_size=args.frame_size, frame_quality=args.frame_quality,
        )  # fmt: skip
    except ShardError as error:
        print(error, file=sys.stderr)
        return 1
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    for path, reason in report.skipped:
        print(f"left out {path!r}: {reason}", file=sys.stderr)
    print(report)
    return 0


def add_index(parser: argparse.ArgumentParser) -> None:
    """Give a parser the arguments of `index`."""
    parser.add_argument("shards", nargs="+", metavar="SHARDS", help=SHARDS_HELP)
    parser.add_argument("--force", action="store_true", help="write also the indexes that are fresh")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes (default: 1)")


def run_index(args: argparse.Namespace) -> int:
    """Write the indexes that are missing or stale; 1 if a tar could not be read."""
    if args.jobs < 1:
        print(f"index: jobs must be at least 1, got {args.jobs}", file=sys.stderr)
        return 2
    try:
        shards = expand(args.shards)
    except ShardError as error:
        print(error, file=sys.stderr)
        return 2
    work: Callable[[str], str] = _write_index if args.force else _mend_index
    if args.jobs == 1:
        errors = list(map(work, shards))
    else:
        with ProcessPoolExecutor(args.jobs, multiprocessing.get_context("spawn")) as pool:
            errors = list(pool.map(work, shards, chunksize=8))
    for message in filter(None, errors):
        print(message)
    return 1 if any(errors) else 0


def _write_index(shard: str) -> str:
    """Write one index; return what is wrong, or nothing."""
    try:
        write_index(shard)
    except ShardError as error:
        return str(error)
    except OSError as error:
        return f"{shard}: its index cannot be written: {error.strerror}"
    return ""


def _mend_index(shard: str) -> str:
    try:
        if index_is_fresh(shard):
            return ""
    except ShardError as error:
        return str(error)
    return _write_index(shard)


def add_check(parser: argparse.ArgumentParser) -> None:
    """Give a parser the arguments of `check`."""
    parser.add_argument("shards", nargs="+", metavar="SHARDS", help=SHARDS_HELP)
    parser.add_argument("--masks", metavar="DIR", help="folder of the mask sidecars (default: beside the shards)")
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def run_check(args: argparse.Namespace, inspect: Inspect | None = None) -> int:
    """Print one line a finding; 1 if there is any.

    Parameters
    ----------
    args : Namespace
        Of a parser made by `add_check`.
    inspect : callable, optional
        Looks into each image; see `check`.
    """
    try:
        findings = check(args.shards, inspect=inspect, masks_dir=args.masks)
    except ShardError as error:
        print(error, file=sys.stderr)
        return 2
    if args.json:
        print(json.dumps([vars(finding) for finding in findings], indent=1))
    else:
        for finding in findings:
            print(finding)
    return 1 if findings else 0
