"""What the benches run on when the user names no shards: photographs cut to ImageNet's sizes, packed, with masks."""

from __future__ import annotations

import os
from pathlib import Path

from figureground.bench.photos import write_photos
from figureground.pipeline.masks_job import make_masks
from figureground.shards import MaskStore, Store, expand
from figureground.shards.sidecar import sidecar_path
from figureground.shards.writer import pack


def default_shards(folder: str, count: int = 256, *, long_side: int = 500, shard_mb: float = 2) -> str:
    """Make shards of photographs, with masks, in a folder; returns their glob.

    Parameters
    ----------
    folder : str
    count : int
        Number of images.
    long_side : int
        Usual longer side of an image [px].
    shard_mb : float
        Size of a shard: small, so that peers which deal out whole shards to workers have enough of them.
    """
    write_photos(f"{folder}/photos", count=count, long_side=long_side)
    pack(f"{folder}/photos", f"{folder}/shards", shard_size_mb=shard_mb, progress=False, shuffle_seed=0)
    shards = f"{folder}/shards/*.tar"
    make_masks(shards, device="cpu", progress=False)
    return shards


def repeat_shards(shards: str, folder: str | Path, times: int) -> str:
    """Link shards, their indexes and masks under new names, for long epochs of few images; returns the glob.

    Parameters
    ----------
    shards : str
        With masks; on the file system of `folder`, which must have hard links.
    folder : path
        Made if missing.
    times : int
        Copies of each shard.
    """
    with Store(shards) as store, MaskStore(store):  # writes the indexes that are missing
        pass
    Path(folder).mkdir(parents=True, exist_ok=True)
    for number, path in enumerate(expand(shards)):
        sidecar = Path(sidecar_path(path, None))
        files = {".tar": Path(path), ".idx": Path(path).with_suffix(".idx")}
        files |= {".masks.tar": sidecar, ".masks.idx": sidecar.with_suffix(".idx")}
        for copy in range(times):
            for suffix, source in files.items():
                os.link(source, Path(folder) / f"r{copy:04d}-{number:04d}{suffix}")
    return f"{folder}/r*[0-9].tar"
