"""Errors that a user can mend, told in one clear line."""

from __future__ import annotations

import difflib
import errno
import sys
from collections.abc import Callable, Iterable, Sequence

from .utils.threads import set_thread_defaults


class UserError(ValueError):
    """Bad input. The message is one line: what is wrong, where, and how to mend it."""


def nearest(word: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'a' or 'b'?"`` for the names closest to `word`, or ``""``."""
    close = difflib.get_close_matches(word, list(known), n=2, cutoff=0.5)
    return f"; did you mean {' or '.join(map(repr, close))}?" if close else ""


def mendable(error: BaseException) -> str | None:
    """The line that an error which a user can mend ends with; None where only a traceback helps."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        where = f" while writing {error.filename}" if error.filename else ""
        return f"the disk is full{where}: free some room and run the command again"
    return None


def run_tool(main: Callable[[Sequence[str]], int | None], argv: Sequence[str] | None = None):
    """Run a tool's `main(argv)` and leave the process with its exit code.

    Mendable errors (:class:`UserError`, a full disk) end with one line on stderr and exit code 1;
    ``--traceback`` anywhere in `argv` shows the whole stack as well.
    """
    set_thread_defaults()  # before the tool imports torch
    argv = list(sys.argv[1:] if argv is None else argv)
    show = "--traceback" in argv
    argv = [a for a in argv if a != "--traceback"]
    try:
        sys.exit(main(argv) or 0)
    except Exception as error:
        line = mendable(error)
        if show or line is None:
            raise
        print(f"error: {line}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("error: stopped from the keyboard", file=sys.stderr)
        sys.exit(130)
