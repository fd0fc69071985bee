"""Real photographs without a download: those that scikit-image's wheel carries, cut to the sizes of ImageNet's.

Few photographs give many samples: each is cut into boxes of its own place and size, so no two samples are equal. What they are
for is throughput and a look at the views, not training.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

PHOTOS = (
    "astronaut.png", "camera.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "motorcycle_right.png", "rocket.jpg",
    "coins.png", "grass.png", "brick.png",
)  # fmt: skip
"""Files of `skimage/data`; the last two have no figure, as some images of any data set."""


def write_photos(
    folder: str | Path, *, count: int = 200, long_side: int = 500, quality: int = 92, seed: int = 0
) -> int:
    """Write `count` JPEG files in one sub-folder per photograph.

    Parameters
    ----------
    folder : path
        Made if missing; existing files of the same names are overwritten.
    count : int
        Number of files.
    long_side : int
        Longer side of most files [px]; some are smaller or larger, as in real data. 500 is ImageNet's commonest.
    quality : int
        JPEG quality, 1..100.
    seed : int

    Returns
    -------
    int
        Number of files written.

    Raises
    ------
    RuntimeError
        If scikit-image is not installed or lacks the photographs.
    """
    try:
        import skimage
    except ImportError as error:
        raise RuntimeError(
            f"write_photos: scikit-image must be installed, got {error}; pip install figureground[bench]"
        ) from error
    source = Path(skimage.__file__).parent / "data"
    photos = []
    for name in PHOTOS:
        photo = cv2.imread(str(source / name), cv2.IMREAD_COLOR)
        if photo is None:
            raise RuntimeError(
                f"write_photos: scikit-image must carry {name}, got none in {source}; install scikit-image 0.25"
            )
        photos.append(photo)
    rng = np.random.default_rng(seed)
    for i in range(count):
        which = i % len(photos)
        target = Path(folder) / PHOTOS[which].partition(".")[0]
        target.mkdir(parents=True, exist_ok=True)
        picture = _cut(photos[which], rng, long_side)
        cv2.imwrite(str(target / f"{i:05d}.jpg"), picture, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return count


def _cut(photo: np.ndarray, rng: np.random.Generator, long_side: int) -> np.ndarray:
    height, width = photo.shape[:2]
    share, aspect = rng.uniform(0.55, 1.0), rng.choice([4 / 3, 4 / 3, 3 / 2, 1.0, 3 / 4])
    w = min(width, int(np.sqrt(share * height * width * aspect)))
    h = min(height, int(w / aspect))
    x, y = rng.integers(0, width - w + 1), rng.integers(0, height - h + 1)
    scale = long_side * rng.choice([1.0, 1.0, 1.0, 1.0, 0.6, 1.6]) / max(h, w)
    size = (max(1, round(w * scale)), max(1, round(h * scale)))
    resized: np.ndarray = cv2.resize(
        photo[y : y + h, x : x + w], size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    )
    return resized
