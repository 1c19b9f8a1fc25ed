"""User-facing errors, reported as one line."""

from __future__ import annotations

import difflib
import errno
import os
import re
import signal
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from types import FrameType
from typing import NoReturn

from .threads import set_thread_defaults


class UserError(ValueError):
    """Bad input. The message is one line that says what is wrong, where, and how to fix it."""


class Stopped(KeyboardInterrupt):
    """A signal ended the work; the message is one line that says how to go on.

    Attributes:
        number (int): the signal's.
    """

    def __init__(self, number: int, message: str):
        super().__init__(message)
        self.number = number


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


# What is wrong with a place, and what helps, by the error's number.
_PLACES = {
    errno.ENOSPC: ("the disk is full", "free some space and run the command again"),
    errno.EDQUOT: ("the disk quota is used up", "free some space and run the command again"),
    errno.EFBIG: ("the file would exceed the largest size allowed", "raise the limit (`ulimit -f`)"),
    errno.EROFS: ("the file system is read-only", "choose another place"),
    errno.EACCES: ("permission denied", "change the permissions or choose another place"),
    errno.EPERM: ("permission denied", "change the permissions or choose another place"),
    errno.ENOTDIR: ("a part of the path is a file, not a folder", "choose another place"),
    errno.EISDIR: ("it is a folder, not a file", "name a file"),
    errno.EEXIST: ("something else has this name", "remove it or choose another place"),
    errno.ENOTEMPTY: ("the folder is not empty", "empty it or choose another place"),
    errno.ENAMETOOLONG: ("the name is too long", "choose a shorter one"),
    errno.ELOOP: ("its links form a circle", "choose another place"),
    errno.ENOENT: ("no such file or folder", "check the path"),
    errno.EMFILE: ("too many open files", "raise the limit (`ulimit -n`)"),
}
SHARED_MEMORY = (
    "the shared memory (/dev/shm) is full: enlarge it (docker run --shm-size=8g), or lower num_workers of "
    "dataloader.train and dataloader.test (0 needs none)"
)


def user_message(error: BaseException) -> str | None:
    """The line to show a user who can fix the cause of `error`; None where only a traceback helps."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError):
        return _place_message(error)
    if isinstance(error, RuntimeError):
        return _process_message(str(error))
    return None


def _place_message(error: OSError) -> str | None:
    """A line about a place that cannot be read or written; None if the error names none."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    if error.errno is None or not (error.filename or full):
        return None
    place = os.fsdecode(error.filename) if isinstance(error.filename, (str, bytes, os.PathLike)) else ""
    if full and place.startswith("/dev/shm/"):
        return SHARED_MEMORY
    what, remedy = _PLACES.get(error.errno, (error.strerror, "check the path and its disk"))
    if full:
        return f"{what}{f' while writing {place}' if place else ''}: {remedy}"
    return f"{place}: {what}: {remedy}"


def _process_message(text: str) -> str | None:
    """A line about another process that died, or about torch's shared memory; None for other errors.

    torch reports them by a RuntimeError, wherever this process is when it hears of them.
    """
    if re.search(r"gloo.*(by peer|Broken pipe)|NCCL.*(remote process|peer)", text, re.DOTALL):
        return (
            "another process of this run has ended; if it printed nothing, it was killed, mostly because the "
            "memory was full: --resume goes on from the last checkpoint"
        )
    if re.search(r"DataLoader worker.*Bus error|allocate shared memory\(shm\)|</?torch_\d+", text):
        return SHARED_MEMORY
    died = re.search(
        r"DataLoader worker \(pid(?:\(s\))? [^)]*\) (is killed by signal: \w+|exited unexpectedly)", text
    )
    if not died:
        return None
    return (
        f"a process of the data loader {died[1].replace('is killed', 'was killed')}: most often the memory "
        "is full: lower num_workers of dataloader.train and dataloader.test, or the batch; 0 workers show "
        "an error of the data itself"
    )


def run_tool(main: Callable[[Sequence[str]], int | None], argv: Sequence[str] | None = None) -> NoReturn:
    """Run a tool's `main(argv)` and exit the process with its exit code.

    Errors that a user can fix (see :func:`user_message`) end with one line on stderr and exit code 1;
    ``--traceback`` anywhere in `argv` shows the whole stack instead. A signal ends with a line as well, and
    with 128 plus its number. Of several processes that torchrun started, one prints the line.
    """
    set_thread_defaults()  # before the tool imports torch
    # Libraries warn each other of what torch will change; a user can do nothing about it.
    warnings.simplefilter("ignore", FutureWarning)
    warnings.filterwarnings(
        "ignore", "TypedStorage is deprecated|torch.meshgrid: in an upcoming", UserWarning
    )
    if signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _end_at_once)
    argv = list(sys.argv[1:] if argv is None else argv)
    show_stack = "--traceback" in argv
    argv = [a for a in argv if a != "--traceback"]
    try:
        sys.exit(main(argv) or 0)
    except Exception as error:
        line = user_message(error)
        if show_stack or (line is None and not _another_reported()):
            raise
        code = 1
    except KeyboardInterrupt as error:
        line = str(error) if isinstance(error, Stopped) else "stopped from the keyboard"
        code = 128 + getattr(error, "number", signal.SIGINT)
    if line is not None and _reports_first():
        print(f"error: {line}", file=sys.stderr)
    sys.exit(code)


def _end_at_once(number: int, frame: FrameType | None) -> None:
    """Handle SIGTERM: what is half-written is removed on the way out."""
    if os.getpid() != _PROCESS:  # a child that inherited the handler
        os._exit(128 + number)
    raise Stopped(number, "stopped by SIGTERM")


_PROCESS = os.getpid()


def _reports() -> Callable[[int], int] | None:
    """Adds to the number of errors that the processes of torchrun have reported, and returns it."""
    distributed = sys.modules.get("torch.distributed")
    if os.environ.get("WORLD_SIZE", "1") == "1" or not (distributed and distributed.is_initialized()):
        return None
    store = distributed.distributed_c10d._get_default_store()
    return lambda more: store.add("ivtuning/errors", more)


def _reports_first() -> bool:
    """Whether this process is to print the error that ends it."""
    try:
        count = _reports()
        # Before they meet, all processes have the same config and the same errors.
        return os.environ.get("RANK", "0") == "0" if count is None else count(1) == 1
    except RuntimeError:  # the store is gone, with the process that held it
        return False


def _another_reported() -> bool:
    """Whether another process has ended with an error, of which this one's is a mere consequence."""
    try:
        count = _reports()
        return count is not None and count(0) > 0
    except RuntimeError:
        return True
