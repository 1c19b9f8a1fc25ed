#!/usr/bin/env python
"""Make paired scenes, pretrain a tiny trunk, and tune it for boxes, oriented boxes and label maps.

Each task is done in three ways or more. It prints a table of each, and writes results.json, every run's
config, weights and adapter, pictures, and a page that shows them all (index.html). It takes about ten minutes
on two CPU cores.
"""

from __future__ import annotations

import warnings
from pathlib import Path

from ivtuning.config.command_line import ToolParser
from ivtuning.errors import run_tool


def main(argv):
    parser = ToolParser(__doc__, "tools/demo.py --output output/demo train.max_iter=20")
    parser.add_argument(
        "--output", type=Path, default=Path("output/demo"), help="folder (default: output/demo)"
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="changes to every run's config; those of a head apply to the runs that have it",
    )
    args = parser.parse_args(argv)
    warnings.simplefilter("ignore")  # libraries warn about each other

    from ivtuning import demo

    demo.main(args.output, args.overrides)


if __name__ == "__main__":
    run_tool(main)
