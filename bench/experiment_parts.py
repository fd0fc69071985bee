"""Figures and scenes for the experiment: from folders of the user's, or from photographs that scikit-image's wheel carries."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from figureground.bench.experiment_data import Parts
from figureground.kernels.ground import inpaint_figures

FIGURE_PX = 96
"""Figures are kept at this size at most (longer side) [px]."""
_SCENE_PX = 160
_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
_SCENES = ("brick.png", "grass.png", "gravel.png", "hubble_deep_field.jpg", "ihc.png", "coins.png")
_SURFACES = ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg", "color.png")


def read_parts(
    images: Sequence[str | Path],
    masks: str | Path | None,
    scenes: str | Path | None,
    *,
    classes: int = 6,
    per_class: int = 8,
    seed: int = 0,
) -> Parts:
    """Cut figures out of folders of images, and read scenes.

    Parameters
    ----------
    images : sequence of path
        Folders. Sub-folders are classes; figures of folders without sub-folders are dealt out to `classes` groups.
    masks : path or None
        Folder of masks, `<same path and name>.png`, 255 = figure; files with an alpha channel need none.
    scenes : path or None
        Folder with a sub-folder of scenes for each class or more. None: each class's scenes are its own images with the
        figure inpainted.
    classes : int
        Number of groups where there are no sub-folders, and at most this many classes.
    per_class : int
        Figures of a class, at most.
    seed : int
        Of which figures make a class, and of which scenes are its own.

    Returns
    -------
    Parts

    Raises
    ------
    ValueError
        If there are fewer than two classes with a figure, or too few scenes.
    """
    rng = np.random.default_rng(seed)
    found: dict[str, list[tuple[Path, Path]]] = {}
    for folder in map(Path, images):
        if not folder.is_dir():
            raise ValueError(f"experiment: images must be a folder, got {folder}")
        for path in _files(folder):
            group = str(path.parent.relative_to(folder)) if path.parent != folder else ""
            found.setdefault(group, []).append((path, folder))
    loose = found.pop("", [])
    names = sorted(found)
    groups = [found[names[i]] for i in sorted(rng.permutation(len(names))[:classes])] if names else []
    if not groups:
        if scenes is None:
            raise ValueError(
                "experiment: scenes must be given where images lie in no sub-folders: without classes no scene is one's own"
            )
        loose = [loose[i] for i in rng.permutation(len(loose))]
        groups = [loose[c::classes] for c in range(classes)]
    figures: list[list[np.ndarray]] = []
    grounds: list[list[np.ndarray]] = []
    for members in groups:
        mixed = [members[i] for i in rng.permutation(len(members))]
        cut = _cut_figures(mixed, None if masks is None else Path(masks), per_class, scenes is None)
        if cut[0]:
            figures.append(cut[0])
            grounds.append(cut[1])
    if scenes is not None:
        grounds = _read_scenes(Path(scenes), len(figures), rng)
    _check(figures, grounds)
    taken = ", ".join(Path(folder).resolve().name for folder in images)
    return Parts(
        f"{taken} on {'their own grounds' if scenes is None else Path(scenes).resolve().name}", figures, grounds
    )


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in _ENDINGS)


def _cut_figures(
    members: list[tuple[Path, Path]], masks: Path | None, count: int, with_scenes: bool
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    figures: list[np.ndarray] = []
    scenes: list[np.ndarray] = []
    for path, folder in members:
        if len(figures) == count:
            break
        picture = read_figure(path, None if masks is None else (masks / path.relative_to(folder)).with_suffix(".png"))
        if picture is None:
            continue
        figures.append(_trim(picture))
        if with_scenes:
            scenes.append(_inpaint(picture))
    return figures, scenes


def read_figure(path: Path, mask: Path | None) -> np.ndarray | None:
    """Read an image whose alpha is its mask.

    Parameters
    ----------
    path : Path
    mask : Path or None
        File of the mask; not looked at where the image has an alpha channel.

    Returns
    -------
    (H, W, 4) uint8 RGBA, or None
        None where there is no mask, or no figure of 16 px, or nothing but figure.

    Raises
    ------
    ValueError
        If the image cannot be read, or its mask has another size.
    """
    picture = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if picture is None:
        raise ValueError(f"experiment: {path} must be an image that can be read")
    if picture.ndim == 2:
        picture = cv2.cvtColor(picture, cv2.COLOR_GRAY2BGR)
    if picture.dtype != np.uint8:
        raise ValueError(f"experiment: {path} must have 8 bits a channel, got {picture.dtype}")
    alpha: np.ndarray | None = picture[..., 3] if picture.shape[2] == 4 else None
    if alpha is None:
        if mask is None or not mask.is_file():
            return None
        alpha = cv2.imread(str(mask), cv2.IMREAD_GRAYSCALE)
        if alpha is None or alpha.shape != picture.shape[:2]:
            got = "none" if alpha is None else alpha.shape
            raise ValueError(f"experiment: {mask} must be a mask of {picture.shape[:2]} px, got {got}")
    y, x = np.nonzero(alpha >= 128)
    if not len(y) or min(np.ptp(y), np.ptp(x)) < 16 or (alpha >= 128).mean() > 0.99:
        return None
    return np.dstack([picture[..., 2::-1], alpha])


def _trim(picture: np.ndarray) -> np.ndarray:
    """Cut out the figure's box and shrink it to `FIGURE_PX`."""
    y, x = np.nonzero(picture[..., 3] >= 128)
    figure = picture[y.min() : y.max() + 1, x.min() : x.max() + 1]
    return _shrink(figure, FIGURE_PX, longer=True)


def _shrink(picture: np.ndarray, side: int, *, longer: bool) -> np.ndarray:
    """Shrink so that the longer (or the shorter) side is `side` px at most."""
    length = max(picture.shape[:2]) if longer else min(picture.shape[:2])
    if length <= side:
        return np.ascontiguousarray(picture)
    size = max(1, round(picture.shape[1] * side / length)), max(1, round(picture.shape[0] * side / length))
    shrunk: np.ndarray = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    return shrunk


def _inpaint(picture: np.ndarray) -> np.ndarray:
    small = _shrink(picture, _SCENE_PX, longer=False)
    planar = np.ascontiguousarray(small[None, ..., :3].transpose(0, 3, 1, 2))
    filled: np.ndarray = inpaint_figures(planar, np.ascontiguousarray(small[None, ..., 3]))[0].transpose(1, 2, 0)
    return np.ascontiguousarray(filled)


def _read_scenes(folder: Path, classes: int, rng: np.random.Generator) -> list[list[np.ndarray]]:
    shelves = [sub for sub in sorted(folder.iterdir()) if sub.is_dir() and _files(sub)] if folder.is_dir() else []
    if len(shelves) < classes:
        raise ValueError(
            f"experiment: scenes must hold {classes} sub-folders of images, got {len(shelves)} in {folder}"
        )
    read = []
    for i in rng.permutation(len(shelves))[:classes]:
        pictures = [cv2.imread(str(path), cv2.IMREAD_COLOR_RGB) for path in _files(shelves[i])]
        read.append([_shrink(picture, _SCENE_PX, longer=False) for picture in pictures if picture is not None])
    return read


def _check(figures: list[list[np.ndarray]], scenes: list[list[np.ndarray]]) -> None:
    if len(figures) < 2:
        raise ValueError(
            f"experiment: images must give figures of two classes at least, got {len(figures)}; each image needs an alpha "
            f"channel or a mask"
        )
    few = min(map(len, scenes))
    if few < 2:
        raise ValueError(f"experiment: each class must have two scenes at least, got {few}")


def package_parts(*, classes: int = 6, per_class: int = 8, seed: int = 0) -> Parts:
    """Make figures and scenes of the photographs in scikit-image's wheel.

    Scenes are squares of six photographs, one for each class: training's from the left two thirds, the tests' from the right
    third. Figures are generated outlines filled with pieces of other photographs. It is a tiny set.

    Parameters
    ----------
    classes : int
        2..6.
    per_class : int
    seed : int

    Returns
    -------
    Parts

    Raises
    ------
    ValueError
        If `classes` is out of range.
    RuntimeError
        If scikit-image is missing.
    """
    if not 2 <= classes <= len(_SCENES):
        raise ValueError(f"experiment: classes must be 2..{len(_SCENES)} without images, got {classes}")
    rng = np.random.default_rng(seed)
    surfaces = [_photo(name) for name in _SURFACES]
    figures = [[_shape(surfaces, rng) for _ in range(per_class)] for _ in range(classes)]
    scenes = [_squares(_photo(_SCENES[i]), rng) for i in rng.permutation(len(_SCENES))[:classes]]
    return Parts("photographs in scikit-image, generated outlines", figures, scenes)


def _photo(name: str) -> np.ndarray:
    try:
        import skimage
    except ImportError as error:
        raise RuntimeError(
            f"experiment: scikit-image must be installed, got {error}; pip install figureground[bench]"
        ) from error
    picture = cv2.imread(str(Path(skimage.__file__).parent / "data" / name), cv2.IMREAD_COLOR_RGB)
    if picture is None:
        raise RuntimeError(f"experiment: scikit-image must carry {name}, got none; install scikit-image 0.25")
    return picture


def _squares(photo: np.ndarray, rng: np.random.Generator, count: int = 24) -> list[np.ndarray]:
    """Squares of a photograph; every third, the tests', from its right third."""
    height, width = photo.shape[:2]
    edge = width * 2 // 3
    squares = []
    for i in range(count):
        left, right = (edge, width) if i % 3 == 1 else (0, edge)
        side = int(min(height, right - left) * rng.uniform(0.6, 1.0))
        y, x = int(rng.integers(0, height - side + 1)), int(rng.integers(left, right - side + 1))
        squares.append(_shrink(photo[y : y + side, x : x + side], _SCENE_PX, longer=False))
    return squares


def _shape(surfaces: list[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """A blob or a star with a random outline (a few harmonics of the radius), filled with a piece of a photograph."""
    photo = surfaces[int(rng.integers(len(surfaces)))]
    side = int(min(photo.shape[:2]) * rng.uniform(0.25, 0.5))
    y, x = (int(rng.integers(0, extent - side + 1)) for extent in photo.shape[:2])
    piece = cv2.resize(photo[y : y + side, x : x + side], (FIGURE_PX, FIGURE_PX), interpolation=cv2.INTER_AREA)
    angle = np.linspace(0, 2 * np.pi, 240, endpoint=False)
    radius = np.ones_like(angle)
    for harmonic in range(2, 7):
        radius += rng.uniform(0, 0.45) * np.cos(harmonic * angle + rng.uniform(0, 2 * np.pi))
    radius = radius.clip(0.2) / radius.max() * (FIGURE_PX / 2 - 2)
    points = FIGURE_PX / 2 + radius[:, None] * np.column_stack([np.cos(angle), np.sin(angle)])
    alpha = np.zeros((FIGURE_PX, FIGURE_PX), np.uint8)
    cv2.fillPoly(alpha, [np.rint(points * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
    return _trim(np.dstack([piece, alpha]))
