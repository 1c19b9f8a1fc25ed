"""User-facing errors, reported as one line."""

from __future__ import annotations

import difflib
import errno
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import NoReturn

from .threads import set_thread_defaults


class UserError(ValueError):
    """Bad input. The message is one line that says what is wrong, where, and how to fix it."""


def nearest(word: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'a' or 'b'?"`` with the one or two names closest to `word`, or ``""``.

    Case does not matter: "Lora" is closest to "LoRA".
    """
    spellings: dict[str, list[str]] = {}
    for name in known:
        spellings.setdefault(name.lower(), []).append(name)
    matches = difflib.get_close_matches(word.lower(), spellings, n=2, cutoff=0.5)
    names = [name for match in matches for name in spellings[match]][:2]
    return f"; did you mean {' or '.join(map(repr, names))}?" if names else ""


def user_message(error: BaseException) -> str | None:
    """The line to show a user who can fix the cause of `error`; None where only a traceback helps."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        where = f" while writing {error.filename}" if error.filename else ""
        return f"the disk is full{where}: free some space and run the command again"
    return None


def run_tool(main: Callable[[Sequence[str]], int | None], argv: Sequence[str] | None = None) -> NoReturn:
    """Run a tool's `main(argv)` and exit the process with its exit code.

    Errors that a user can fix (see :func:`user_message`) end with one line on stderr and exit code 1;
    ``--traceback`` anywhere in `argv` shows the whole stack instead.
    """
    set_thread_defaults()  # before the tool imports torch
    # fvcore, which detectron2 imports, scripts a loss; torch warns about that once a process.
    warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning)
    argv = list(sys.argv[1:] if argv is None else argv)
    show_stack = "--traceback" in argv
    argv = [a for a in argv if a != "--traceback"]
    try:
        sys.exit(main(argv) or 0)
    except Exception as error:
        line = user_message(error)
        if show_stack or line is None:
            raise
        print(f"error: {line}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("error: stopped from the keyboard", file=sys.stderr)
        sys.exit(130)
