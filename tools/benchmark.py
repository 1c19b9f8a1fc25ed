#!/usr/bin/env python
"""Measure speed and memory as ratios, each pair of runs in turns, and print them beside their targets.

step      training steps and saved activations: IV-tuning, full fine-tuning, the plain reference
relpos    attention with decomposed relative positions, against the explicit one
infer     inference, against the frozen trunk alone
data      the paired loader, against decoding alone
eval      COCO evaluation, against pycocotools
adapters  saving and loading an adapter, against the whole checkpoint
startup   a tool's --help, against the import of torch
growth    exponents of a step's time and memory in pixels and in depth
scale     several processes under DDP, against one
profile   the kernels of a training step that take longest, with IV-tuning and full fine-tuning
model     a config's whole model in training and inference, against its full fine-tuning
all       the first seven
"""

from __future__ import annotations

import argparse
import json
import warnings

from ivtuning.errors import UserError, run_tool

ALL = ("step", "relpos", "infer", "data", "eval", "adapters", "startup")
PARTS = (*ALL, "growth", "scale", "profile", "model")

EXAMPLE = """\
example:
  tools/benchmark.py step --trunk vitdet_b --depth 3 --repeats 3 --no-1024
  tools/benchmark.py all --threads 2 --json
  tools/benchmark.py growth --trunk vitdet_s --size 384 --plot growth.png
  tools/benchmark.py model --config-file configs/M3FD/dino_ivtuning_swin_l.py --batch 2 train.compile=true

The full trunk at 1024 px takes minutes a round on a CPU: --depth shortens it, --no-1024 leaves that size out.
On CUDA a run that does not fit into memory is left out, and its figures say so.
"""


def whole(text: str) -> int:
    """A number from 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: give a whole number from 1")
    return int(text)


def parse(argv) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("part", choices=[*PARTS, "all"], help="what to measure")
    add(
        "--trunk",
        metavar="NAME",
        help="as in tools/analyze_model.py (default: vitdet_b; adapters: vit_l; growth, scale: vitdet_t)",
    )
    add(
        "--size",
        nargs="+",
        type=whole,
        metavar="PX",
        help="side, or height and width (default: 512, Swin 480 640, model 640)",
    )
    add("--depth", type=whole, metavar="N", help="shorten the trunk to N blocks, which the table says")
    add("--batch", type=whole, default=1, metavar="N", help="pairs in a batch (default: 1)")
    add("--repeats", type=whole, default=5, metavar="N", help="timed rounds after the first (default: 5)")
    add("--threads", type=whole, metavar="N", help="of torch on a CPU (default: torch's own choice)")
    add("--dtype", choices=("fp32", "bf16"), help="bf16: autocast (default: fp32; model: train.precision)")
    add("--no-1024", action="store_true", help="step: do not compare with the reference at 1024 px")
    add("--tokens", type=whole, default=64, metavar="N", help="relpos: side of the map (default: 64)")
    add("--images", type=whole, default=5000, metavar="N", help="eval: number of images (default: 5000)")
    add("--dataset", metavar="NAME", help="data: a paired detection set (default: synthetic pairs)")
    add("--pairs", type=whole, default=64, metavar="N", help="data: pairs read in a round (default: 64)")
    add("--workers", type=int, default=0, metavar="N", help="data: processes (default: 0, read in this one)")
    add("--processes", type=whole, metavar="N", help="scale: N (default: one a CUDA device, or 2)")
    add("--plot", metavar="FILE", help="growth: draw the curves into this PNG")
    add("--config-file", metavar="FILE", help="model: LazyConfig file under configs/")
    add("overrides", nargs="*", metavar="key=value", help="model: changes to the config, after another flag")
    add("--json", action="store_true", help="print one JSON object, last")
    # Intermixed: overrides may stand behind flags.
    args = parser.parse_intermixed_args(argv)
    if args.size and len(args.size) > 2:
        raise UserError(f"--size {' '.join(map(str, args.size))}: give one side, or height and width")
    if args.workers < 0:
        raise UserError(f"--workers {args.workers}: give 0 or more")
    if args.part == "model":
        check_model(args)
    elif args.config_file or args.overrides:
        given = args.overrides[0] if args.overrides else f"--config-file {args.config_file}"
        raise UserError(f"{given!r} goes with the part model, not with {args.part}")
    return args


def check_model(args: argparse.Namespace) -> None:
    if not args.config_file:
        raise UserError("model needs --config-file FILE, such as configs/M3FD/dino_ivtuning_swin_l.py")
    for flag in ("trunk", "depth", "dtype"):
        if getattr(args, flag):
            raise UserError(f"--{flag} does not go with model: change the config, e.g. train.precision=bf16")


def main(argv):
    args = parse(argv)
    warnings.simplefilter("ignore")  # of libraries about each other

    import importlib

    import torch

    from ivtuning.benchmark.options import Options
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
        config=args.config_file,
        overrides=tuple(args.overrides),
    )
    where, parts = machine(args.repeats), {}
    for part in ALL if args.part == "all" else (args.part,):
        module = importlib.import_module(f"ivtuning.benchmark.parts.{part}")
        parts[part] = module.measure(options)
        # At once: the next part may take long.
        print(table(part, parts[part], where) + "\n", flush=True)
    if args.json:
        print(json.dumps(as_json(parts, where)))


if __name__ == "__main__":
    run_tool(main)
