"""The command `train-saliency`: a small network from a folder of shards, without labels.

    --kind refine   corrects the map of the first teacher (default)
    --kind alone    sees the image alone, and learns the teachers' consensus; can begin with a self-supervised encoder (--init)

    figureground train-saliency "shards/*.tar" --out model.pt --minutes 15
    figureground masks "shards/*.tar" --out masks --method net:model.pt

A run that was stopped is continued by the same command: it finds `model.pt.checkpoint`, written after each epoch. `model.pt.png`
shows the losses. Equal images, options and threads give equal bytes on a CPU.
"""

from __future__ import annotations

import argparse
import sys

from figureground.shards.cli import SHARDS_HELP
from figureground.shards.errors import ShardError

from .masks_cli import show_text
from .processors import own_processors
from .saliency_targets import KINDS, TrainPlan


def add_train_saliency(parser: argparse.ArgumentParser) -> None:
    """Give a parser the arguments of `train-saliency`."""
    show_text(parser, __doc__)
    plan = TrainPlan()
    parser.add_argument("shards", nargs="+", metavar="SHARDS", help=SHARDS_HELP)
    parser.add_argument("--out", required=True, metavar="FILE", help="the network, for --method net:FILE")
    parser.add_argument(
        "--method-teachers",
        default=",".join(plan.teachers),
        metavar="A,B",
        help="saliency methods (default: %(default)s)",
    )
    parser.add_argument(
        "--kind", choices=tuple(KINDS), default=plan.kind,
        help="a network that corrects the first teacher's map, or one that sees the image alone (default: %(default)s)",
    )  # fmt: skip
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--epochs", type=int, default=plan.epochs, metavar="N", help="default: %(default)s")
    length.add_argument("--minutes", type=float, metavar="X", help="as many epochs as fit instead")
    sizes, widths = (", ".join(f"{values[i]} for {kind}" for kind, values in KINDS.items()) for i in (0, 1))
    parser.add_argument("--size", type=int, metavar="PX", help=f"of the crops (default: {sizes})")
    parser.add_argument("--limit", type=int, default=2000, metavar="N", help="images, spread evenly (default: 2000)")
    parser.add_argument("--batch-size", type=int, default=plan.batch_size, metavar="N", help="default: %(default)s")
    parser.add_argument("--width", type=int, metavar="N", help=f"channels (default: {widths}, as ResNet-18)")
    parser.add_argument("--seed", type=int, default=plan.seed)
    parser.add_argument(
        "--init",
        metavar="CKPT",
        help="for alone: a self-supervised ResNet-18 whose first stages the encoder takes over",
    )
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N or cpu (default: cuda)")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: all that this process may use)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def run_train_saliency(args: argparse.Namespace) -> int:
    """Train; 0 done, 2 wrong usage, 130 interrupted."""
    from .saliency_job import train_saliency  # torch: quick verbs should not pay for it

    size, width = (KINDS[args.kind][i] if given is None else given for i, given in enumerate((args.size, args.width)))
    plan = TrainPlan(
        tuple(args.method_teachers.split(",")), args.epochs, size, args.seed, args.batch_size, width, args.kind
    )  # fmt: skip
    threads = own_processors() if args.threads is None else args.threads
    try:
        report = train_saliency(
            args.shards, args.out, plan, minutes=args.minutes, init=args.init, limit=args.limit, device=args.device,
            threads=threads, progress=not args.quiet,
        )  # fmt: skip
    except KeyboardInterrupt:
        print("interrupted: finished epochs are kept, the same command goes on", file=sys.stderr)
        return 130
    except (ShardError, ValueError, RuntimeError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    print(report)
    return 0
