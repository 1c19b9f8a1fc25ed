"""The command line that all tools share."""

from __future__ import annotations

import argparse

from ..errors import UserError


def tool_parser(description: str, example: str, config_required: bool = True) -> argparse.ArgumentParser:
    """A parser for ``--config-file FILE`` and ``key=value`` overrides, to which a tool adds its flags.

    Flags may stand before, between or after the overrides. A wrong command line raises
    :class:`.errors.UserError`. `example` is shown at the end of ``--help``.
    """
    parser = _ToolParser(
        description=description,
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--config-file", required=config_required, metavar="FILE", help="LazyConfig file under configs/"
    )
    parser.add_argument("--traceback", action="store_true", help="show the whole stack of an error")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="changes to the config, e.g. train.max_iter=100 or method=Full",
    )
    return parser


class _ToolParser(argparse.ArgumentParser):
    def parse_args(self, args=None, namespace=None):
        # Intermixed, because plain parse_args refuses overrides on both sides of a flag.
        return self.parse_intermixed_args(args, namespace)

    def error(self, message):
        raise UserError(f"{message}; see {self.prog} --help")
