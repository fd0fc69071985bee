"""Write several sets of the same samples side by side, a folder of shards each."""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import numpy as np

from figureground.shards import ShardError, Store
from figureground.shards.files import publish
from figureground.shards.index import index_path, write_index

PER_SHARD = 1000
"""Samples a shard: the k-th shards of all sets hold the same samples."""
_LABELS = "labels.json"


def member_keys(store: Store, samples: np.ndarray) -> list[str]:
    """Return the key of each sample; keys that several shards use get their shard's name in front.

    Raises
    ------
    ShardError
        If they are not unique even so.
    """
    keys = [store.key(i) for i in samples.tolist()]
    often = Counter(keys)
    for place, (key, sample) in enumerate(zip(keys, samples.tolist(), strict=True)):
        if often[key] > 1:
            shard = os.path.basename(store.shards[store.shard_of(sample)]).removesuffix(".tar").replace(".", "_")
            keys[place] = f"{shard}_{key}"
    twice = [key for key, count in Counter(keys).items() if count > 1]
    if twice:
        raise ShardError(f"{store.shards[0]}: keys must differ between shards of one name, got {twice[0]!r} twice")
    return keys


class SetWriter:
    """Shards `<out>/<set>/part-000000.tar` and their indexes; each appears whole, or not at all.

    Parameters
    ----------
    out : path
        Made if there is none.
    sets : sequence of str
        Names of the folders.
    ext : str
        Of the images.
    source : str
        A shard of the source; the `labels.json` beside it, if there is one, is copied beside the new shards.

    Raises
    ------
    ShardError
        If a folder has shards already.
    """

    def __init__(self, out: str | os.PathLike[str], sets: Sequence[str], ext: str, source: str) -> None:
        self._folders = [Path(out, name) for name in sets]
        self._ext, self._stack, self._tars = ext, ExitStack(), []  # type: ignore[var-annotated]
        self._paths: list[str] = []
        self._written = 0
        for folder in self._folders:
            if any(folder.glob("*.tar")):
                raise ShardError(f"{folder}: has shards already; remove them or choose another folder")
        labels = Path(source).with_name(_LABELS)
        for folder in self._folders:
            folder.mkdir(parents=True, exist_ok=True)
            if labels.is_file():
                shutil.copyfile(labels, folder / _LABELS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: Any) -> None:
        if kind is None:
            self._close()
        else:
            self._stack.__exit__(kind, *rest)

    def add(self, key: str, images: Sequence[bytes], label: int, notes: Sequence[dict[str, Any]]) -> None:
        """Add a sample: an encoded image and a note per set."""
        if self._written % PER_SHARD == 0:
            self._close()
            self._open()
        for tar, image, note in zip(self._tars, images, notes, strict=True):
            text = json.dumps(note, sort_keys=True).encode()
            for ext, data in ((self._ext, image), ("cls", b"%d" % label), ("json", text)):
                info = tarfile.TarInfo(f"{key}.{ext}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
        self._written += 1

    def _open(self) -> None:
        name = f"part-{self._written // PER_SHARD:06d}.tar"
        self._paths = [str(folder / name) for folder in self._folders]
        for path in self._paths:
            file = self._stack.enter_context(publish(path, replaces=(index_path(path),)))
            tar = tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT)  # noqa: SIM115
            self._tars.append(tar)

    def _close(self) -> None:
        with self._stack:
            for tar in self._tars:
                tar.close()
        for path in self._paths:
            write_index(path)
        self._tars, self._paths = [], []
