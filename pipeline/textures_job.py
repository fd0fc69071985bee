"""`figureground textures`: a texture of each image of shards, for negatives with diminished semantics.

    figureground textures "shards/*.tar" --out textures --jobs 8
    figureground textures "s3://bucket/train-{000..099}.tar" --out s3://bucket/textures --cache /local/cache

Ge et al. 2021 synthesise, offline, one 224 px texture of each image from two exemplars of 96 px, the middle of the image and a
random place of it. Their tool is texture-synthesis of Embark Studios; here it is image quilting (`kernels/quilt.py`). Plan, pool of
processes, atomic sidecars and resume are those of the mask jobs. On the CPU alone.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from figureground.shards import Store
from figureground.shards.cache import ShardCache
from figureground.shards.cli import SHARDS_HELP, add_cache, open_cache
from figureground.shards.masks import TEXTURES, SidecarKind

from .masks_work import OpenTask, Result, usable_samples
from .processors import job_processors

if TYPE_CHECKING:
    from .masks_job import Overwrite

EXEMPLAR_PX = 96
_METHOD = "quilting"
_X, _Y = 1, 2
_LISTED = 10


@dataclass(frozen=True)
class MakeTextures:
    """Textures by image quilting: a task of the mask jobs' machinery."""

    seed: int = 0
    """Of exemplars and blocks; together with a sample's key."""
    size: int = 224
    """Side of the textures [px]."""
    block: int = 32
    """Side of a quilted block [px], at most 96."""
    overlap: int = 8
    """Pixels that neighbouring blocks share."""
    tolerance: float = 0.1
    """Blocks may differ by this share more than the best one."""
    quality: int = 95
    """Of the JPEG, 1 to 100."""
    threads: int = 1
    """CPU threads of a job."""
    max_pixels: int = 2**27
    """Images with more pixels count as undecodable."""
    method: str = _METHOD
    kind: SidecarKind = TEXTURES

    def __post_init__(self) -> None:
        if not 16 <= self.size <= 1024:
            raise ValueError(f"make_textures: size must be 16 to 1024 px, got {self.size}")
        if not 2 <= self.block <= EXEMPLAR_PX:
            raise ValueError(f"make_textures: block must be 2 to {EXEMPLAR_PX} px, got {self.block}")
        if not 1 <= self.overlap <= self.block // 2:
            raise ValueError(
                f"make_textures: overlap must be 1 to half a block, {self.block // 2} px, got {self.overlap}"
            )
        if not 0.0 <= self.tolerance <= 10.0:
            raise ValueError(f"make_textures: tolerance must be in 0 .. 10, got {self.tolerance}")
        if not 1 <= self.quality <= 100:
            raise ValueError(f"make_textures: quality must be 1 to 100, got {self.quality}")
        if self.threads < 1:
            raise ValueError(f"make_textures: threads must be at least 1, got {self.threads}")

    def parameters(self, store: Store) -> dict[str, Any]:
        """Return what the textures depend on."""
        names = ("seed", "size", "block", "overlap", "tolerance", "quality", "max_pixels")
        return {"exemplar": EXEMPLAR_PX, **{name: getattr(self, name) for name in names}}

    def open(self) -> OpenTask:
        """Start decoder and threads."""
        return TextureMaker(self)


class TextureMaker:
    """Decodes a batch ahead while it quilts."""

    def __init__(self, task: MakeTextures) -> None:
        from .decode import Decoder

        self._task, self._step = task, max(8, 2 * task.threads)
        self._decoder = Decoder(self._step, device="cpu", threads=task.threads, max_pixels=task.max_pixels)
        self._pool = ThreadPoolExecutor(task.threads, "figureground-textures")

    def close(self) -> None:
        """Stop decoder and threads."""
        self._decoder.close()
        self._pool.shutdown(cancel_futures=True)

    def results(self, store: Store) -> Iterator[Sequence[Result]]:
        """Make the textures of a one-shard store, a batch at a time."""
        samples, without = usable_samples(store)
        waiting: deque[Sequence[int]] = deque()
        try:
            for first in range(0, len(samples), self._step):
                batch = samples[first : first + self._step]
                self._decoder.submit([store.image(i) for i in batch])
                waiting.append(batch)
                if len(waiting) == self._decoder.depth:
                    yield self._finish(store, waiting.popleft())
            while waiting:
                yield self._finish(store, waiting.popleft())
        finally:
            for _ in waiting:  # stopped early: the next shard must not get these
                self._decoder.collect()
        yield without

    def _finish(self, store: Store, batch: Sequence[int]) -> list[Result]:
        from figureground.kernels.resample import render_views

        decoded = self._decoder.collect()
        valid = np.flatnonzero(decoded.valid)
        seeds = np.array([texture_seed(self._task.seed, store.key(batch[row])) for row in valid.tolist()], np.uint64)
        rows = exemplar_rows(decoded.images.sizes[valid], seeds)
        rows["image"] = np.repeat(valid, 2)
        exemplars = np.zeros((0, 3, EXEMPLAR_PX, EXEMPLAR_PX), np.uint8)
        if len(valid):
            exemplars, _ = render_views(decoded.images, rows, (EXEMPLAR_PX, EXEMPLAR_PX))
        pairs = exemplars.reshape(len(valid), 2, *exemplars.shape[1:])
        made = dict(zip(valid.tolist(), self._pool.map(self._texture, pairs, seeds), strict=True))
        results = []
        for row, sample in enumerate(batch):
            note = "no image" if store.image(sample).size == 0 else decoded.reasons[row] or ""
            results.append(Result(store.key(sample), made.get(row), None, note))
        return results

    def _texture(self, exemplars: np.ndarray, seed: np.uint64) -> bytes:
        from figureground.kernels.quilt import quilt_textures

        task = self._task
        (texture,) = quilt_textures(
            exemplars[None], seeds=np.array([seed], np.uint64), size=task.size, block=task.block, overlap=task.overlap,
            tolerance=task.tolerance,
        )  # fmt: skip
        bgr = np.ascontiguousarray(texture[::-1].transpose(1, 2, 0))
        _, jpeg = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, task.quality])
        return bytes(jpeg.tobytes())


def texture_seed(seed: int, key: str) -> int:
    """Return the seed of a sample's texture: a hash of the job's seed and of the sample's key, so that it does not depend on what
    other shards there are.

    Examples
    --------
    >>> texture_seed(0, "dog/1"), texture_seed(1, "dog/1")
    (16236813996467604886, 7048520845212036517)
    """
    text = f"{seed}:".encode() + key.encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "little")


def exemplar_rows(sizes: np.ndarray, seeds: np.ndarray) -> np.ndarray:
    """Return where exemplars are cut.

    Parameters
    ----------
    sizes : (N, 2) int
        Heights and widths of the images [px].
    seeds : (N,) uint64

    Returns
    -------
    (2 N,) RENDER_DTYPE
        The middle of each image and a random place of it: squares of 96 px; of images less high or wide, as large as they are,
        and enlarged.
    """
    from figureground.kernels.draws import QUILT_PLACE, draw_below, keys_of
    from figureground.kernels.resample import RENDER_DTYPE

    rows = np.zeros((len(sizes), 2), RENDER_DTYPE)
    rows["mask"], rows["donor"], rows["clip"] = -1, -1, 1
    keys = keys_of("exemplar_rows", seeds, len(sizes), QUILT_PLACE)
    for pair, (height, width), key in zip(rows, sizes.tolist(), keys, strict=True):
        side = min(EXEMPLAR_PX, height, width)
        places = (
            ((width - side) // 2, (height - side) // 2),
            (draw_below(key, _X, width - side + 1), draw_below(key, _Y, height - side + 1)),
        )
        pair["box"] = [(x, y, side, side) for x, y in places]
    return rows.reshape(-1)


def make_textures(
    shards: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    out: str | os.PathLike[str] | None = None,
    jobs: int = 1,
    overwrite: Overwrite = False,
    limit: int | None = None,
    progress: bool = True,
    cache: ShardCache | None = None,
    storage_options: Mapping[str, Mapping[str, Any]] | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Make a texture of each image and write them into sidecars, `<shard stem>.textures.tar`.

    Parameters
    ----------
    shards, out, jobs, overwrite, limit, progress, cache, storage_options
        As for `figureground.pipeline.masks_job.make_masks`.
    **settings
        Fields of `MakeTextures`; `threads` by default this process's processors (`own_processors`) shared out among the jobs.

    Returns
    -------
    dict
        "sidecars" made, kept and failed, "samples", "textures", "undecodable", "seconds", and the "shards" one by one: for JSON.

    Raises
    ------
    ShardError
        If no shard is found, or a finished sidecar was made otherwise and `overwrite` is false: nothing is done then. If the
        store of the sidecars takes none.
    ValueError
        If an argument is out of range.
    """
    from .masks_engines import make_engine
    from .masks_job import run_task

    settings.setdefault("threads", job_processors(jobs))
    report = run_task(
        MakeTextures(**settings), shards, out=out, engine=make_engine("local", jobs=jobs), overwrite=overwrite, limit=limit,
        progress=progress, cache=cache, storage_options=storage_options,
    )  # fmt: skip
    shown = ("shard", "sidecar", "status", "samples", "error")
    return {
        "sidecars": {status: report.count(status) for status in ("made", "kept", "failed")},
        "samples": report.total("samples"),
        "textures": report.total("masks"),
        "undecodable": report.total("undecodable"),
        "seconds": round(report.seconds, 3),
        "shards": [
            {**{name: getattr(shard, name) for name in shown}, "textures": shard.masks, "without": list(shard.without)}
            for shard in report.shards
        ],
    }


def add_textures(parser: argparse.ArgumentParser) -> None:
    """Give a parser the arguments of `textures`."""
    parser.add_argument("shards", nargs="+", metavar="SHARDS", help=SHARDS_HELP)
    parser.add_argument("--out", metavar="DIR", help="folder of the sidecars, or its URL (default: beside the shards)")
    add_cache(parser)
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="shards at a time (default: 1)")
    parser.add_argument(
        "--threads", type=int, metavar="N", help="CPU threads a job (default: the processors, shared out among the jobs)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, default=224, metavar="PX", help="side of the textures (default: 224)")
    parser.add_argument("--block", type=int, default=32, metavar="PX", help="side of a quilted block (default: 32)")
    again = parser.add_mutually_exclusive_group()
    again.add_argument("--overwrite", action="store_true", help="make all sidecars again, whatever is there")
    again.add_argument(
        "--update", action="store_true", help="make those again that were made otherwise; can be resumed"
    )
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N shards")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def run_textures(args: argparse.Namespace) -> int:
    """Make textures; 0 done, 1 a shard failed, 2 wrong usage, 130 or 143 interrupted."""
    from .masks_cli import Terminated, _sigterm_raises

    settings: dict[str, Any] = {"seed": args.seed, "size": args.size, "block": args.block, "overlap": args.block // 4}
    if args.threads is not None:
        settings["threads"] = args.threads
    try:
        with _sigterm_raises():
            report = make_textures(
                args.shards, out=args.out, jobs=args.jobs, overwrite="changed" if args.update else args.overwrite,
                limit=args.limit, progress=not args.quiet, cache=open_cache(args), **settings,
            )  # fmt: skip
    except KeyboardInterrupt as signalled:
        print("interrupted: finished sidecars are kept, the same command goes on", file=sys.stderr)
        return 143 if isinstance(signalled, Terminated) else 130
    except (ValueError, RuntimeError, ImportError) as error:  # ShardError too: nothing done, or a store takes nothing
        print(error, file=sys.stderr)
        return 2
    for shard in report["shards"]:
        if shard["error"]:
            print(f"failed: {shard['error']}", file=sys.stderr)
        for key, note in shard["without"][:_LISTED]:
            print(f"{shard['shard']}: {key}: {note}", file=sys.stderr)
    counts = report["sidecars"]
    print(
        json.dumps(report, indent=1) if args.json else
        f"textures: {counts['made']} sidecars made, {counts['kept']} kept, {counts['failed']} failed; "
        f"{report['textures']} textures of {report['samples']} images, {report['seconds']:.1f} s"
    )  # fmt: skip
    return 1 if counts["failed"] else 0
