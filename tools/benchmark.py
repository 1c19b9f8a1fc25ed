#!/usr/bin/env python
"""Measure speed and memory as ratios of runs that take turns, and print them beside their targets."""

from __future__ import annotations

import argparse
import json
import warnings

from ivtuning.config.command_line import ToolParser
from ivtuning.errors import UserError, run_tool

EXAMPLE = """\
tools/benchmark.py step --trunk vitdet_b --depth 3 --repeats 3 --no-1024
  tools/benchmark.py all --threads 2 --json
  tools/benchmark.py growth --trunk vitdet_s --size 384 --plot growth.png
  tools/benchmark.py neighbor --repeats 3
  tools/benchmark.py budget --trunk swin_l_w12 --batch 4 --dtype bf16 --card h200
  tools/benchmark.py model --config-file configs/M3FD/dino_ivtuning_swin_l.py --batch 2 train.compile=true

On a CPU, a round of the whole trunk at 1024 px takes minutes: --depth shortens the trunk, --no-1024 skips
that size. On CUDA, a run that does not fit into memory is skipped, and its rows say so.
"""


def describe(parts) -> str:
    """The parts with their descriptions, a line each."""
    lines = [f"  {name:13}{part.description}" for name, part in parts.items()]
    together = ", ".join(name for name, part in parts.items() if part.in_all)
    return "\n".join(["parts:", *lines, f"  {'all':13}{together}"])


def positive(text: str) -> int:
    """Parse a whole number from 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: give a whole number from 1")
    return int(text)


def parse(argv) -> argparse.Namespace:
    """Read and check the command line.

    Raises:
        UserError: a value out of range, or flags that do not go with the part.
    """
    from ivtuning.benchmark.parts import PARTS

    parser = ToolParser(f"{__doc__}\n\n{describe(PARTS)}", EXAMPLE)
    add = parser.add_argument
    add("part", choices=[*PARTS, "all"], metavar="part", help="what to measure, see above")
    add(
        "--trunk",
        metavar="NAME",
        help="a trunk of tools/analyze_model.py (default: vitdet_b; adapters: vit_l; growth, distributed: "
        "vitdet_t)",
    )
    add(
        "--size",
        nargs="+",
        metavar="PX",
        help="side, or height and width (default: 512, Swin 480 640, model 640)",
    )
    add("--depth", type=positive, metavar="N", help="shorten the trunk to N blocks; the table says so")
    add("--batch", type=positive, default=1, metavar="N", help="pairs in a batch (default: 1)")
    add(
        "--repeats", type=positive, default=5, metavar="N", help="timed rounds after the warm-up (default: 5)"
    )
    add("--threads", type=positive, metavar="N", help="torch's threads on a CPU (default: torch's choice)")
    add("--dtype", choices=("fp32", "bf16"), help="bf16: autocast (default: fp32; model: train.precision)")
    add("--no-1024", action="store_true", help="step: skip the comparison with the reference at 1024 px")
    add("--tokens", type=positive, default=64, metavar="N", help="relpos: side of the map (default: 64)")
    add("--images", type=positive, default=5000, metavar="N", help="eval: number of images (default: 5000)")
    add("--dataset", metavar="NAME", help="data: a paired detection set (default: synthetic pairs)")
    add("--pairs", type=positive, default=64, metavar="N", help="data: pairs read in a round (default: 64)")
    add("--workers", type=int, default=0, metavar="N", help="data: loader processes (default: 0, none)")
    add(
        "--processes",
        type=positive,
        metavar="N",
        help="distributed: how many (default: one for each CUDA device, or 2)",
    )
    add("--plot", metavar="FILE", help="growth: draw the curves into this PNG")
    add(
        "--method",
        nargs="+",
        default=["IVTuning"],
        metavar="NAME",
        help="budget: methods beside Full; step: methods to measure as well (default: IVTuning)",
    )
    add("--card", default="h200", metavar="NAME", help="budget: a card, such as h100 or a100 (default: h200)")
    add("--config-file", metavar="FILE", help="model, predict, export: LazyConfig file under configs/")
    add(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="model, predict, export: changes to the config",
    )
    add("--json", action="store_true", help="print one JSON object, last")
    args = parser.parse_args(argv)
    if args.size:
        # Overrides may stand right behind it.
        args.overrides += [word for word in args.size if "=" in word]
        sides = [word for word in args.size if "=" not in word]
        if not 1 <= len(sides) <= 2 or not all(side.isdecimal() and int(side) for side in sides):
            raise UserError(f"--size {' '.join(sides)}: give one side, or height and width, in pixels")
        args.size = [int(side) for side in sides]
    if args.workers < 0:
        raise UserError(f"--workers {args.workers}: give 0 or more")
    if args.dtype and args.part in ("predict", "export"):
        raise UserError(f"--dtype does not go with {args.part}, which runs in fp32: leave it out")
    if args.part == "model":
        check_model(args)
    elif args.part not in ("predict", "export") and (args.config_file or args.overrides):
        given = args.overrides[0] if args.overrides else f"--config-file {args.config_file}"
        raise UserError(f"{given!r} goes with the parts model, predict and export, not with {args.part}")
    return args


def check_model(args: argparse.Namespace) -> None:
    """Raise UserError unless the flags of the part model go together."""
    if not args.config_file:
        raise UserError("model needs --config-file FILE, such as configs/M3FD/dino_ivtuning_swin_l.py")
    for flag in ("trunk", "depth", "dtype"):
        if getattr(args, flag):
            raise UserError(f"--{flag} does not go with model: change the config, e.g. train.precision=bf16")


def main(argv):
    args = parse(argv)
    warnings.simplefilter("ignore")  # of libraries about each other

    import torch

    from ivtuning.benchmark.options import Options
    from ivtuning.benchmark.parts import PARTS, measure
    from ivtuning.benchmark.report import as_json, machine, table
    from ivtuning.utils.heap import keep_freed_memory

    if args.threads:
        torch.set_num_threads(args.threads)
    keep_freed_memory()  # as tools/train_net.py does
    options = Options(
        trunk=args.trunk,
        size=(args.size[0], args.size[-1]) if args.size else None,
        depth=args.depth,
        batch=args.batch,
        repeats=args.repeats,
        dtype=args.dtype or "fp32",
        large=not args.no_1024,
        tokens=args.tokens,
        images=args.images,
        dataset=args.dataset,
        pairs=args.pairs,
        workers=args.workers,
        processes=args.processes,
        plot=args.plot,
        methods=tuple(args.method),
        card=args.card,
        config=args.config_file,
        overrides=tuple(args.overrides),
    )
    where, results = machine(args.repeats), {}
    together = [name for name, part in PARTS.items() if part.in_all]
    for part in together if args.part == "all" else (args.part,):
        results[part] = measure(part, options)
        # Print at once: the next part may take long.
        print(table(part, results[part], where) + "\n", flush=True)
    if args.json:
        print(json.dumps(as_json(results, where)))


if __name__ == "__main__":
    run_tool(main)
