#!/usr/bin/env python
"""Train every tuning method on the same trunk and schedule over several seeds; tabulate mean and spread."""

from __future__ import annotations

import warnings
from pathlib import Path

from ivtuning.config import tool_parser
from ivtuning.errors import UserError, run_tool

CONFIG = "configs/synthetic/ivtuning.py"
OUTPUT = Path("output/compare")
EXAMPLE = """\
tools/compare.py --seeds 1 --only IVTuning,Mona,LoRA
  tools/compare.py --config-file configs/MSRS/nano_ivtuning.py --seeds 1 --output output/compare_msrs

Run it again to continue where it was stopped: runs of the same config and trunk are not repeated.
"""


def main(argv):
    parser = tool_parser(__doc__, EXAMPLE, config_required=False)
    parser.add_argument("--output", type=Path, help=f"folder (default: {OUTPUT})")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="seeds 0 to N-1 (default: 3)")
    parser.add_argument("--only", default="", metavar="A,B", help="run only these; a wrong name lists all")
    parser.add_argument(
        "--iterations", type=int, metavar="N", help="iterations of every run (default: the config's)"
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

    warnings.simplefilter("ignore")  # libraries warn about each other
    from ivtuning.comparison import compare, markdown

    output, only = args.output or OUTPUT, [key for key in args.only.split(",") if key]
    results = compare(args.config_file, output, args.overrides, args.seeds, only, args.processes)
    print(f"\n{markdown(results)}\n\n{output / 'results.json'}\n{output / 'table.md'}")
    return 1 if results["failed"] else 0


if __name__ == "__main__":
    run_tool(main)
