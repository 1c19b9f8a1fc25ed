"""The command line that all tools share."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from ..errors import UserError


def tool_parser(description: str, example: str, config_required: bool = True) -> argparse.ArgumentParser:
    """A parser for ``--config-file FILE`` and ``key=value`` overrides, to which a tool adds its flags.

    See :class:`ToolParser`.
    """
    parser = ToolParser(description, example)
    parser.add_argument(
        "--config-file", required=config_required, metavar="FILE", help="LazyConfig file under configs/"
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="changes to the config, e.g. train.max_iter=100 or method=Full",
    )
    return parser


class ToolParser(argparse.ArgumentParser):
    """The parser of a tool, with ``--traceback`` and an `example` at the end of ``--help``.

    Flags may stand before, between or after other arguments. A wrong command line raises
    :class:`.errors.UserError`, so that it ends like every other error, with exit code 1.
    """

    def __init__(self, description: str, example: str):
        super().__init__(
            description=description,
            epilog=f"example:\n  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        self.add_argument("--traceback", action="store_true", help="show the whole stack of an error")

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        # Intermixed, because plain parse_args refuses overrides on both sides of a flag.
        parsed = self.parse_intermixed_args(args, namespace)
        for key, value in vars(parsed).items():
            # A shell leaves ~ as it is in --output=~/x.
            if isinstance(value, Path) or (key == "output" and isinstance(value, str)):
                setattr(parsed, key, type(value)(os.path.expanduser(value)))
        return parsed

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help")
