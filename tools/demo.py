#!/usr/bin/env python
"""Make paired scenes, pretrain a tiny trunk, tune it four ways, print the table and draw the pictures."""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

from ivtuning.errors import run_tool


def main(argv):
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="example:\n  tools/demo.py --output output/demo train.max_iter=20",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--output", type=Path, default=Path("output/demo"), help="folder (default: output/demo)"
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes to every run's config")
    args = parser.parse_args(argv)
    warnings.simplefilter("ignore")  # of libraries about each other; nothing a user of the demo can act on

    from ivtuning import demo

    demo.main(args.output, args.overrides)


if __name__ == "__main__":
    run_tool(main)
