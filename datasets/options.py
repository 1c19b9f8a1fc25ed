"""Options of the prepare scripts. This file imports nothing heavy, so that --help answers at once."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path


def prepare_parser(description: str, example: str, output: str) -> argparse.ArgumentParser:
    """A parser with the options that all prepare scripts have; `output` names the set's default folder."""
    parser = argparse.ArgumentParser(
        description=description,
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--source",
        type=Path,
        help="folder of the unpacked release, which may be read-only (default: the output folder)",
    )
    add("--output", type=Path, help=f"folder of the set (default: $DETECTRON2_DATASETS/{output})")
    add("--dry-run", action="store_true", help="print what would be written, but write nothing")
    return parser


def run(parser: argparse.ArgumentParser, main: Callable) -> None:
    """Run `main(argv)` as a tool; `parser` answers --help first, before ivtuning is imported."""
    parser.parse_known_args()
    from ivtuning.errors import run_tool

    run_tool(main)
