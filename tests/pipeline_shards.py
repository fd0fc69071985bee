"""Makes small shards of generated images with known figures, for the tests of the pipeline."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import cv2
import numpy as np

from figureground.shards.index import write_index
from figureground.shards.masks import MaskWriter


def disc_image(rng: np.random.Generator, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """A bright disc on a dark, noisy ground, and its mask: (H, W, 3) and (H, W) uint8."""
    y, x = np.mgrid[:height, :width]
    cy, cx = rng.uniform(0.4, 0.6, 2) * (height, width)
    inside = (y - cy) ** 2 + (x - cx) ** 2 < (0.27 * min(height, width)) ** 2
    image = rng.integers(0, 60, (height, width, 3)).astype(np.uint8)
    image[inside] = rng.integers(170, 255, 3)
    return image, np.where(inside, 255, 0).astype(np.uint8)


def write_tar(path: Path, members: list[tuple[str, bytes]]) -> None:
    """Write a plain tar."""
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def write_shards(folder: Path, samples: int, *, per_shard: int = 40, masks: bool = True, seed: int = 0) -> str:
    """Write shards of discs with labels (and mask sidecars); returns a glob."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for shard, first in enumerate(range(0, samples, per_shard)):
        members, sidecar = [], []
        for i in range(first, min(first + per_shard, samples)):
            height, width = rng.integers(48, 130, 2)
            image, mask = disc_image(rng, int(height), int(width))
            members += [
                (f"{i:05d}.jpg", cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()),
                (f"{i:05d}.cls", str(i % 5).encode()),
            ]
            sidecar.append((f"{i:05d}", cv2.resize(mask, (112, 112), interpolation=cv2.INTER_AREA)))
        path = folder / f"part-{shard:06d}.tar"
        write_tar(path, members)
        write_index(path)
        if masks:
            with MaskWriter(path, method="truth") as writer:
                for key, mask in sidecar:
                    writer.add(key, mask)
    return str(folder / "part-*.tar")
