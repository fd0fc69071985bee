"""The eight evaluation sets of the backgrounds challenge, made from any shards with masks and classes.

figureground bgsets "val/*.tar" --masks masks --out bgsets --device cpu

All sets hold the same samples in the same order; a sample's `.json` names the key and class of its background. Figures are
cut with soft masks by the loader's kernels.

Source: Xiao, Engstrom, Ilyas and Madry 2021, "Noise or signal: the role of image backgrounds in object recognition".
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from figureground.kernels.arrays import array_module
from figureground.kernels.background import composite_views
from figureground.kernels.ground import inpaint_figures
from figureground.kernels.ground_strips import THRESHOLD, tile_ground
from figureground.shards import MaskStore, Store
from figureground.shards.cli import SHARDS_HELP

from .bgsets_donors import MIXED, choose_donors
from .bgsets_write import SetWriter, member_keys
from .squares import SquareReader, on_host

VARIANTS = ("Original", "Only-BG-B", "Only-BG-T", "No-FG", "Only-FG", *MIXED)
"""Published names, and names of the folders."""
_BATCH, _SHEET_ROWS = 32, 12
_REMEDIES = {
    "without mask": "make them with 'figureground masks' and name their folder with --masks (masks_dir)",
    "without class": "'figureground pack' takes sub-folders as classes",
    "figure too large": "see --max-area and --max-box (max_area, max_box)",
    "figure too small": "see --min-area (min_area)",
}


@dataclass
class BgsetsReport:
    """What `make_bgsets` did."""

    out: str
    samples: int = 0
    """Samples of each set."""
    classes: dict[int, int] = field(default_factory=dict)
    """Samples of each class."""
    dropped: dict[str, int] = field(default_factory=dict)
    """Samples that were left out, by reason."""
    parameters: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        lost = ", ".join(f"{count} {reason}" for reason, count in self.dropped.items()) or "none"
        return f"{self.out}: {len(VARIANTS)} sets of {self.samples} samples of {len(self.classes)} classes; left out: {lost}"


@dataclass
class _Kept:
    """The samples that all sets are made of."""

    samples: np.ndarray
    classes: np.ndarray
    areas: np.ndarray


def make_bgsets(
    shards: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    masks_dir: str | os.PathLike[str] | None = None,
    size: int = 224,
    min_area: float = 0.02,
    max_area: float = 0.75,
    max_box: float = 0.9,
    donor_ground: str = "tile",
    image_ext: str = "png",
    seed: int = 0,
    device: str = "cpu",
    threads: int = 2,
    limit: int | None = None,
) -> BgsetsReport:
    """Write the eight sets, one folder of shards each, a contact sheet and `bgsets.json`.

    Parameters
    ----------
    shards : str, path or sequence of these
        As for `Store`; with classes.
    out : path
        Folder of the folders; must hold no sets yet.
    masks_dir : path, optional
        Of the sidecars; by default beside the shards.
    size : int
        Side of the images [px]: the centre square, 7/8 of the shorter side.
    min_area, max_area : float
        Samples whose mask's mean within the square lies outside are left out, 0..1.
    max_box : float
        So are those whose figure's box covers a larger share of the square, (0, 1): too little ground to tile.
    donor_ground : {"tile", "inpaint"}
        Ground of the mixed sets: the donor's Only-BG-T, as published, or its figure inpainted.
    image_ext : {"png", "jpg"}
        Lossless; or JPEG of quality 95 without chroma subsampling, a fifth of the size, which rings across the cut: faint
        traces of the figure in a black ground, and the other way round.
    seed : int
        Of the donors.
    device : str
        "cpu", "cuda" or "cuda:N".
    threads : int
        For decoding and encoding.
    limit : int, optional
        Look at this many samples only, spread evenly.

    Returns
    -------
    BgsetsReport

    Raises
    ------
    ValueError
        If an argument is out of range, or fewer than two classes of two samples are left.
    ShardError
        If shards or sidecars are damaged, or `out` has sets already.

    Notes
    -----
    Box: the pixels whose mask is at least 51 (0.2), ends included. Original: the square. Only-BG-B: the box black.
    Only-BG-T: the box filled with tiles of the largest strip beside it (`tile_ground`). No-FG: the figure black, through its
    soft mask. Only-FG: the ground black. Mixed-Same, -Rand, -Next: the figure on the ground of another image of its class,
    of a random class, of the next class. The source cuts with binary masks and drops boxes above 0.9.
    """
    _check(size, min_area, max_area, max_box, donor_ground, image_ext, threads, limit)
    report = BgsetsReport(os.fspath(out), parameters={
        "size": size, "min_area": min_area, "max_area": max_area, "max_box": max_box, "donor_ground": donor_ground,
        "image_ext": image_ext, "seed": seed, "limit": limit,
    })  # fmt: skip
    with ExitStack() as stack:
        store = stack.enter_context(Store(shards))
        masks = stack.enter_context(MaskStore(store, masks_dir))
        report.parameters["source"] = store.fingerprint
        reader = stack.enter_context(
            SquareReader(store, masks, size=size, device=device, batch_size=_BATCH, threads=threads)
        )
        kept = _keep(store, masks, reader, report)
        donors = choose_donors(kept.samples, kept.classes, seed=seed)
        keys = member_keys(store, kept.samples)
        writer = stack.enter_context(SetWriter(out, VARIANTS, image_ext, store.shards[0]))
        pool = stack.enter_context(ThreadPoolExecutor(threads, "figureground-bgsets"))
        sheet: list[list[np.ndarray]] = []
        shown = set(np.linspace(0, len(keys) - 1, min(_SHEET_ROWS, len(keys))).astype(int).tolist())
        for places, images in _compose(kept, donors, reader, donor_ground == "tile"):
            encoded = list(pool.map(lambda picture: _encode(picture, image_ext), images.reshape(-1, *images.shape[2:])))
            for row, place in enumerate(places.tolist()):
                files = encoded[row * len(VARIANTS) : (row + 1) * len(VARIANTS)]
                writer.add(keys[place], files, int(kept.classes[place]), _notes(place, keys, kept, donors))
                if place in shown:
                    sheet.append(list(images[row]))
    _draw(sheet, out, report)
    return report


def _keep(store: Store, masks: MaskStore, reader: SquareReader, report: BgsetsReport) -> _Kept:
    """Find the samples that every set can hold, and count the others by reason."""
    options, lost = report.parameters, Counter[str]()
    limit = options["limit"]
    looked = np.arange(len(store))
    if limit is not None and limit < len(store):
        looked = np.linspace(0, len(store) - 1, limit).round().astype(np.int64)
    classes = np.array([store.target(i) for i in looked.tolist()], np.int64)
    reasons = np.where(classes < 0, "without class", np.where(masks.present[looked], "", "without mask")).astype(object)
    areas = np.zeros(len(looked))
    candidates = np.flatnonzero(reasons == "")
    for first in range(0, len(candidates), _BATCH):
        places = candidates[first : first + _BATCH]
        with reader.device.producing():
            squares = reader.read(looked[places].tolist())
            areas[places] = on_host(squares.masks.mean((1, 2))) / 255
            box = on_host(_boxes(squares.masks).mean((1, 2))) / 255
        area = areas[places]
        tests = {
            "not decoded": ~(squares.valid & squares.mask_valid),
            "figure too small": area < options["min_area"],
            "figure too large": (area > options["max_area"]) | (box > options["max_box"]),
            "without a pixel above the threshold": box == 0,
        }
        for reason, fails in tests.items():
            reasons[places[fails & (reasons[places] == "")]] = reason
    numbers, counts = np.unique(classes[reasons == ""], return_counts=True)
    reasons[(reasons == "") & np.isin(classes, numbers[counts < 2])] = "alone in their class"
    good = reasons == ""
    lost.update(reasons[~good].tolist())
    report.dropped = dict(sorted(lost.items()))
    numbers, counts = np.unique(classes[good], return_counts=True)
    report.samples, report.classes = int(good.sum()), dict(zip(numbers.tolist(), counts.tolist(), strict=True))
    if len(numbers) < 2:
        raise ValueError(
            f"make_bgsets: shards must hold two classes of two usable samples, got {len(numbers)}; "
            f"of {len(looked)} samples were left out: {report.dropped}" + _remedy(lost)
        )
    return _Kept(looked[good], classes[good], areas[good])


def _remedy(lost: Counter[str]) -> str:
    """What to do about the commonest reason."""
    reason = lost.most_common(1)[0][0] if lost else ""
    return f"; {_REMEDIES[reason]}" if reason in _REMEDIES else ""


def _compose(
    kept: _Kept, donors: dict[str, np.ndarray], reader: SquareReader, tile: bool
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield places and their pictures (n, 8, size, size, 3) on the host, a batch at a time."""
    step = max(1, _BATCH // 4)
    for first in range(0, len(kept.samples), step):
        places = np.arange(first, min(first + step, len(kept.samples)))
        everyone = np.concatenate([places, *(donors[name][places] for name in MIXED)])
        needed, row = np.unique(everyone, return_inverse=True)
        row = row.reshape(1 + len(MIXED), len(places))
        with reader.device.producing():
            squares = reader.read(kept.samples[needed].tolist())
            tiled, _ = tile_ground(squares.views, squares.masks)
            grounds = tiled if tile else inpaint_figures(squares.views, squares.masks)
            views, masks = squares.views[row[0]], squares.masks[row[0]]
            mixed = [composite_views(views, grounds[row[1 + k]], masks) for k in range(len(MIXED))]
            sets = [*_alone(views, masks), *mixed]
            sets.insert(VARIANTS.index("Only-BG-T"), tiled[row[0]])
            pictures = np.stack([on_host(each) for each in sets], 1)
        yield places, np.ascontiguousarray(pictures.transpose(0, 1, 3, 4, 2))


def _alone(views: Any, masks: Any) -> list[Any]:
    """Original, Only-BG-B, No-FG, Only-FG."""
    black = array_module(views).zeros_like(views)
    box = _boxes(masks)
    return [views, composite_views(black, views, box), composite_views(black, views, masks),
            composite_views(views, black, masks)]  # fmt: skip


def _boxes(masks: Any) -> Any:
    """(N, H, W) uint8: 255 inside the bounding box of each figure, as `tile_ground` finds it."""
    xp = array_module(masks)

    def inside(hit: Any) -> Any:
        length = hit.shape[1]
        first, last = hit.argmax(1)[:, None], length - hit[:, ::-1].argmax(1)[:, None]
        at = xp.arange(length)[None]
        return (at >= first) & (at < last) & hit.any(1)[:, None]

    figure = masks >= THRESHOLD
    box = inside(figure.any(2))[:, :, None] & inside(figure.any(1))[:, None, :]
    return xp.ascontiguousarray(box).astype(np.uint8) * np.uint8(255)


def _notes(place: int, keys: list[str], kept: _Kept, donors: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """Return the `.json` of a sample in each set."""
    notes = []
    for name in VARIANTS:
        ground = int(donors[name][place]) if name in donors else place
        notes.append({
            "variant": name, "label": int(kept.classes[place]), "figure_area": round(float(kept.areas[place]), 4),
            "background_key": None if name == "Only-FG" else keys[ground],
            "background_class": None if name == "Only-FG" else int(kept.classes[ground]),
        })  # fmt: skip
    return notes


def _encode(picture: np.ndarray, ext: str) -> bytes:
    flags = [cv2.IMWRITE_PNG_COMPRESSION, 3]
    if ext == "jpg":  # 4:2:0 would carry colours 16 px across the cut
        full = cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444
        flags = [cv2.IMWRITE_JPEG_QUALITY, 95, *full]
    done, data = cv2.imencode("." + ext, picture[..., ::-1], flags)
    if not done:
        raise RuntimeError(f"make_bgsets: OpenCV must encode {ext}, got a refusal for {picture.shape}")
    return data.tobytes()


def _draw(rows: list[list[np.ndarray]], out: str | os.PathLike[str], report: BgsetsReport) -> None:
    from .preview import Group, draw_sheet

    sheet = draw_sheet([Group("", VARIANTS, rows)], title=f"{report.samples} samples, seed {report.parameters['seed']}")
    sheet.save(Path(out, "contact_sheet.png"))
    Path(out, "bgsets.json").write_text(json.dumps(asdict(report) | {"out": None}, indent=1) + "\n")


def _check(
    size: int, min_area: float, max_area: float, max_box: float, donor_ground: str, image_ext: str, threads: int,
    limit: int | None,
) -> None:  # fmt: skip
    for name, value in (("size", size), ("threads", threads), ("limit", 1 if limit is None else limit)):
        if value < 1:
            raise ValueError(f"make_bgsets: {name} must be at least 1, got {value}")
    if not 0 <= min_area < max_area <= 1:
        raise ValueError(f"make_bgsets: areas must be 0 <= min_area < max_area <= 1, got {min_area} and {max_area}")
    if not 0 < max_box < 1:
        raise ValueError(f"make_bgsets: max_box must be in (0, 1), got {max_box}")
    for name, word, words in (
        ("donor_ground", donor_ground, ("tile", "inpaint")), ("image_ext", image_ext, ("png", "jpg")),
    ):  # fmt: skip
        if word not in words:
            raise ValueError(f"make_bgsets: {name} must be {' or '.join(map(repr, words))}, got {word!r}")


def add_bgsets(parser: argparse.ArgumentParser) -> None:
    """Give a parser the arguments of `bgsets`."""
    parser.add_argument("shards", nargs="+", metavar="SHARDS", help=SHARDS_HELP)
    parser.add_argument("--masks", metavar="DIR", help="folder of the sidecars (default: beside the shards)")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder of the eight folders")
    parser.add_argument("--size", type=int, default=224, metavar="PX", help="side of the images (default: 224)")
    parser.add_argument("--min-area", type=float, default=0.02, help="least share of the figure (default: 0.02)")
    parser.add_argument("--max-area", type=float, default=0.75, help="largest share of the figure (default: 0.75)")
    parser.add_argument("--max-box", type=float, default=0.9, help="largest share of the figure's box (default: 0.9)")
    parser.add_argument("--donor-ground", choices=("tile", "inpaint"), default="tile", help="default: tile")
    parser.add_argument(
        "--image-ext", choices=("png", "jpg"), default="png", help="default: png; jpg is smaller and rings"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N or cpu (default: cuda)")
    parser.add_argument("--threads", type=int, default=2, metavar="N")
    parser.add_argument("--limit", type=int, metavar="N", help="look at N samples only, spread evenly")
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def run_bgsets(args: argparse.Namespace) -> int:
    """Write the sets; 0 done, 2 wrong usage."""
    try:
        report = make_bgsets(
            args.shards, args.out, masks_dir=args.masks, size=args.size, min_area=args.min_area, max_area=args.max_area,
            max_box=args.max_box, donor_ground=args.donor_ground, image_ext=args.image_ext, seed=args.seed,
            device=args.device, threads=args.threads, limit=args.limit,
        )  # fmt: skip
    except (ValueError, RuntimeError) as error:  # ShardError too
        print(error, file=sys.stderr)
        return 2
    print(json.dumps(asdict(report), indent=1) if args.json else report)
    return 0
