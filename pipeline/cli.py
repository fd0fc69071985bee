"""The `figureground` command: pack | index | check | masks | textures | train-saliency | bgsets | show | run.

    figureground pack photographs/ shards/ --jobs 2
    figureground masks "shards/*.tar" --device cpu
    figureground show views "shards/*.tar" --background swap --out sheet.png

Results go to stdout, progress and warnings to stderr. Exit codes: 0 done, 1 problems were found, 2 wrong usage,
130 interrupted.
"""

from __future__ import annotations

import argparse
import difflib
import inspect
import io
import os
import runpy
import sys
from collections.abc import Sequence
from typing import Any

from figureground.shards import cli as shards_cli
from figureground.shards.errors import ShardError

from .recipe import Recipe
from .recipes import PRESETS


def add_recipe(parser: argparse.ArgumentParser) -> None:
    """Give a parser the arguments that choose a recipe."""
    parser.add_argument(
        "--recipe", default="moco_v2", metavar="NAME",
        help=f"{', '.join(sorted(PRESETS))}; or FILE.py:NAME, a Recipe of your own or a function that returns one "
        "(default: moco_v2)",
    )  # fmt: skip
    parser.add_argument(
        "--background", choices=("remove", "random", "swap"), help="background augmentation (default: none)"
    )
    parser.add_argument("--p", type=float, help="its probability per view (default: 0.2)")
    parser.add_argument(
        "--fill", choices=("constant", "grey", "mean", "noise"), help="of --background remove (default: grey)"
    )
    parser.add_argument("--pairs", choices=("clip", "class"), help="the second view shows another image of it")
    parser.add_argument(
        "--gap", type=int, nargs=2, metavar=("LOW", "HIGH"), help="of --pairs clip [frames] (default: any)"
    )
    parser.add_argument("--object-crops", action="store_true", help="crops follow the object's box")
    parser.add_argument("--size", type=int, help="side of the largest view [px] (default: the recipe's)")


def named_recipe(name: str) -> Recipe:
    """Return a preset, or the recipe that a file of the user's own defines; the file is run.

    Raises
    ------
    ValueError
        If there is no such preset or file, or the file has no recipe of that name.
    """
    if name in PRESETS:
        return PRESETS[name]()
    path, colon, attribute = name.rpartition(":")
    if not colon or not os.path.isfile(path):
        near = difflib.get_close_matches(name, PRESETS, 1)
        raise ValueError(
            f"--recipe must be one of {', '.join(sorted(PRESETS))}, or FILE.py:NAME, got {name!r}"
            + (f"; did you mean {near[0]}?" if near else "")
        )
    made = runpy.run_path(path, run_name="figureground_recipe").get(attribute)
    if callable(made):
        try:
            inspect.signature(made).bind()
        except TypeError as error:
            raise ValueError(
                f"--recipe: {attribute} of {path} must take no arguments, got a function with some ({error})"
            ) from error
        made = made()
    if not isinstance(made, Recipe):
        raise ValueError(
            f"--recipe: {attribute} of {path} must be a Recipe, or a function that returns one, got {type(made).__name__}"
        )
    return made


def chosen_recipe(args: argparse.Namespace) -> Recipe:
    """Return the recipe that the arguments of `add_recipe` describe."""
    recipe = named_recipe(args.recipe)
    if args.size is not None:
        recipe = recipe.with_size(args.size)
    if args.background is None and args.p is not None:
        raise ValueError(f"--p is of no use without --background, got {args.p}; add --background swap, say")
    if args.background != "remove" and args.fill is not None:
        raise ValueError(f"--fill is of no use without --background remove, got {args.fill!r}")
    if args.background is not None:
        given = {name: getattr(args, name) for name in ("p", "fill") if getattr(args, name) is not None}
        recipe = recipe.with_background(args.background, **given)
    if args.pairs or args.gap:
        recipe = recipe.with_pairs(args.pairs or "clip", gap=tuple(args.gap) if args.gap else None)
    if args.object_crops:
        recipe = recipe.with_object_crops()
    return recipe


def add_loading(parser: argparse.ArgumentParser) -> None:
    """Give a parser the arguments that choose shards, masks and a device."""
    parser.add_argument("shards", nargs="+", metavar="SHARDS", help=shards_cli.SHARDS_HELP)
    parser.add_argument("--masks", metavar="DIR", help="folder or URL of the sidecars (default: beside the shards)")
    shards_cli.add_cache(parser)
    parser.add_argument(
        "--window", type=int, default=8, metavar="N", help="shards shuffled together, for URLs (default: 8)"
    )
    parser.add_argument(
        "--lanes", type=int, default=1, metavar="N", help="parts of an epoch of which a node reads its own (default: 1)"
    )
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N or cpu (default: cuda)")
    parser.add_argument("--seed", type=int, default=0)
    add_recipe(parser)


def _add_check(parser: argparse.ArgumentParser) -> None:
    shards_cli.add_check(parser)


def _run_check(args: argparse.Namespace) -> int:
    from figureground.kernels.guard import inspect_bytes

    return shards_cli.run_check(args, inspect=inspect_bytes)


def _add_masks(parser: argparse.ArgumentParser) -> None:
    from .masks_cli import add_masks

    add_masks(parser)


def _run_masks(args: argparse.Namespace) -> int:
    from .masks_cli import run_masks

    return run_masks(args)


def _add_textures(parser: argparse.ArgumentParser) -> None:
    from .textures_job import add_textures

    add_textures(parser)


def _run_textures(args: argparse.Namespace) -> int:
    from .textures_job import run_textures

    return run_textures(args)


def _add_train_saliency(parser: argparse.ArgumentParser) -> None:
    from .saliency_train import add_train_saliency

    add_train_saliency(parser)


def _run_train_saliency(args: argparse.Namespace) -> int:
    from .saliency_train import run_train_saliency

    return run_train_saliency(args)


def _add_bgsets(parser: argparse.ArgumentParser) -> None:
    from .bgsets import add_bgsets

    add_bgsets(parser)


def _run_bgsets(args: argparse.Namespace) -> int:
    from .bgsets import run_bgsets

    return run_bgsets(args)


def _add_run(parser: argparse.ArgumentParser) -> None:
    add_loading(parser)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--threads", type=int)


def _run_run(args: argparse.Namespace) -> int:
    from .stream import stream_epochs

    return stream_epochs(args, chosen_recipe(args))


def _add_show(parser: argparse.ArgumentParser) -> None:
    from .masks_cli import add_show_masks

    kinds = parser.add_subparsers(dest="what", required=True, metavar="WHAT")
    views = kinds.add_parser("views", help="write a contact sheet of samples and their views")
    add_loading(views)
    views.add_argument("--out", default="views.png", metavar="PNG")
    views.add_argument("--epoch", type=int, default=0)
    views.add_argument("--index", type=int, nargs="+", metavar="ID", help="sample ids (default: --rows spread evenly)")
    views.add_argument("--rows", type=int, default=8, help="samples to show (default: 8)")
    masks = kinds.add_parser("masks", help="write a page to look through masks")
    add_show_masks(masks)


def _run_show(args: argparse.Namespace) -> int:
    if args.what == "masks":
        from .masks_cli import run_show_masks

        return run_show_masks(args)
    from .preview import show_views

    return show_views(args, chosen_recipe(args))


_VERBS: dict[str, tuple[str, Any, Any]] = {
    "pack": ("pack a folder of images and videos into shards", shards_cli.add_pack, shards_cli.run_pack),
    "index": ("write the indexes of shards", shards_cli.add_index, shards_cli.run_index),
    "check": ("look for problems in shards", _add_check, _run_check),
    "masks": ("make masks of all images", _add_masks, _run_masks),
    "textures": ("make a texture of each image", _add_textures, _run_textures),
    "train-saliency": ("train a saliency network without labels", _add_train_saliency, _run_train_saliency),
    "bgsets": ("write background-challenge sets", _add_bgsets, _run_bgsets),
    "show": ("look at views or masks", _add_show, _run_show),
    "run": ("stream epochs and print the throughput", _add_run, _run_run),
}


def make_parser(verb: str | None = None) -> argparse.ArgumentParser:
    """Return the parser of the whole command; only `verb` has its arguments (some of the others would import torch for theirs)."""
    parser = argparse.ArgumentParser(
        "figureground", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name, (summary, add, _) in _VERBS.items():
        sub = verbs.add_parser(name, help=summary, description=summary)
        if name == verb:
            add(sub)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; see the module's text."""
    argv = sys.argv[1:] if argv is None else argv
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # keys and paths may hold letters that a terminal's encoding has not
            stream.reconfigure(errors="backslashreplace")
    args = make_parser(argv[0] if argv else None).parse_args(argv)
    try:
        return int(_VERBS[args.verb][2](args))
    except ShardError as error:
        print(error, file=sys.stderr)
        return 1
    except (ValueError, RuntimeError) as error:
        print(error, file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader, "| head" say, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing is left to flush at the end
        return 1
    except OSError as error:
        known = error.filename and error.strerror
        words = f"{error.filename}: cannot be read or written ({error.strerror}); check the path, or choose another"
        print(words if known else error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
