#!/usr/bin/env python
"""Train tuning methods on one trunk and data set, each at its best rate, with several sizes and seeds."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ivtuning.config import tool_parser
from ivtuning.errors import UserError, run_tool

CONFIG = "configs/synthetic/ivtuning.py"
OUTPUT = Path("output/compare")
EXAMPLE = """\
tools/compare.py --seeds 1 --only IVTuning,Mona,LoRA
  tools/compare.py --config-file configs/MSRS/vit_t_ivtuning.py --output output/compare_msrs \\
      --search 0.3,1,3 --hold-out 0.2
  tools/compare.py --config-file configs/FLIR_crops/ivtuning_vit_t.py --output output/compare_flir \\
      --search 0.1,0.3,1,3 --hold-out 2000 --search-size 1000 --sizes 300,1000,3000
  tools/compare.py --only IVTuning --against IVTuning --variant "GN: model.backbone.net.tuner.norm=GN"

Run it again to continue where it was stopped, or with more rows, rates, sizes or seeds.
"""


def main(argv):
    parser = tool_parser(__doc__, EXAMPLE, config_required=False)
    parser.add_argument("--output", type=Path, help=f"folder (default: {OUTPUT})")
    parser.add_argument(
        "--only", default="", metavar="A,B", help="run only these rows; a wrong name lists all"
    )
    parser.add_argument(
        "--variant",
        action="append",
        default=[],
        metavar="'NAME: K=V K=V'",
        help="a further row: IV-tuning, or method=<name>, with other changes; several times for several rows",
    )
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="seeds 0 to N-1 (default: 3)")
    parser.add_argument(
        "--iterations", type=int, metavar="N", help="iterations of every run (default: the config's)"
    )
    parser.add_argument(
        "--sizes",
        default="",
        metavar="N,M",
        help="numbers of training pairs, nested (default: all pairs, or those of earlier calls)",
    )
    parser.add_argument(
        "--search",
        default="",
        metavar="F,G",
        help="try these factors of each row's rates on pairs held back from training, and use the best",
    )
    parser.add_argument(
        "--search-size", type=int, metavar="N", help="training pairs of these runs (default: all but those)"
    )
    parser.add_argument(
        "--hold-out",
        type=float,
        default=0.2,
        metavar="X",
        help="pairs held back for the search: a share, or a number (default: 0.2)",
    )
    parser.add_argument(
        "--missing",
        action="store_true",
        help="evaluate models of pairs without each image in turn as well",
    )
    parser.add_argument(
        "--against",
        default="Full",
        metavar="ROW",
        help="row that the others are compared with (default: Full)",
    )
    parser.add_argument(
        "--processes",
        type=int,
        metavar="N",
        help="runs at a time, each with one thread (default: one for each core)",
    )
    parser.set_defaults(config_file=CONFIG)
    args = parser.parse_args(argv)
    if args.output is None and Path(args.config_file) != Path(CONFIG):
        raise UserError(f"--config-file {args.config_file} needs --output DIR: {OUTPUT} is for {CONFIG}")
    if args.iterations is not None:
        if args.iterations < 1:
            raise UserError(f"--iterations {args.iterations}: give 1 or more")
        args.overrides.append(f"train.max_iter={args.iterations}")
    sizes, search = _numbers("--sizes", args.sizes, int), _numbers("--search", args.search, float)

    warnings.simplefilter("ignore")  # libraries warn about each other
    from ivtuning.comparison import Options, compare, markdown

    options = Options(
        only=[key for key in args.only.split(",") if key],
        variants=args.variant,
        seeds=args.seeds,
        sizes=sizes,
        search=search,
        search_size=args.search_size,
        hold_out=args.hold_out,
        missing=args.missing,
        against=args.against,
        processes=args.processes,
    )
    output = args.output or OUTPUT
    results = compare(args.config_file, output, args.overrides, options)
    print(f"\n{markdown(results)}\n\n{output / 'results.json'}\n{output / 'table.md'}")
    return 1 if results["failed"] else 0


def _numbers(flag: str, text: str, kind: Callable[[str], Any]) -> list:
    try:
        return sorted({kind(part) for part in text.split(",") if part.strip()})
    except ValueError as error:
        raise UserError(f"{flag} {text}: give numbers with commas between them") from error


if __name__ == "__main__":
    run_tool(main)
