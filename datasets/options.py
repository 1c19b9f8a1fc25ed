"""Command lines of the scripts here. This file imports nothing heavy, so that --help answers at once."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn


class ScriptParser(argparse.ArgumentParser):
    """A parser that reports a wrong command line as all tools report errors: one line, exit code 1."""

    def __init__(self, description: str, example: str):
        super().__init__(
            description=description,
            epilog=f"example:\n  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        self.add_argument("--traceback", action="store_true", help="show the whole stack of an error")

    def parse_args(self, args=None, namespace=None):
        parsed = super().parse_args(args, namespace)
        for key, value in vars(parsed).items():
            if isinstance(value, Path):  # a shell leaves ~ as it is in --source=~/x
                setattr(parsed, key, value.expanduser())
        return parsed

    def error(self, message: str) -> NoReturn:
        print(f"error: {message}; see {self.prog} --help", file=sys.stderr)
        sys.exit(1)


def prepare_parser(
    description: str,
    example: str,
    output: str,
    source: str = "folder of the unpacked release, which may be read-only (default: the output folder)",
) -> ScriptParser:
    """A parser with the options that all prepare scripts have.

    Args:
        output: the set's default folder.
        source: what ``--help`` says of ``--source``.
    """
    parser = ScriptParser(description, example)
    add = parser.add_argument
    add(
        "--source",
        type=Path,
        help=source,
    )
    add("--output", type=Path, help=f"folder of the set (default: $DETECTRON2_DATASETS/{output})")
    add("--dry-run", action="store_true", help="print what would be written, but write nothing")
    return parser


def own_pairs_parser(description: str, example: str) -> ScriptParser:
    """A parser with the options of the scripts that make a set of any two folders of images."""
    source = "folder that the others are relative to (default: the current folder)"
    parser = prepare_parser(description, example, "<set>", source)
    add = parser.add_argument
    add("--set", required=True, help="name of the set, such as mine")
    add("--vis", required=True, help="visible images: a folder, or a pattern")
    add("--ir", required=True, help="infrared images")
    add("--gray-visible", action="store_true", help="accept gray visible images, of a camera without color")
    return parser


def run(parser: argparse.ArgumentParser, main: Callable) -> None:
    """Run `main(argv)` as a tool; `parser` checks the command line first, before ivtuning is imported."""
    parser.parse_args()
    try:
        from ivtuning.errors import run_tool

        run_tool(main)
    except ModuleNotFoundError as error:
        print(
            f"error: {error.name} is not installed for {sys.executable}: run `make setup`, then "
            "`source .venv/bin/activate`",
            file=sys.stderr,
        )
        sys.exit(1)
