"""Atomic writing of files."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from ..errors import UserError

# A disk or a quota that is full, and its like.
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike) -> Iterator[Path]:
    """Write a file in one piece: the body writes the yielded path, a temporary file beside `path`.

    It replaces `path` when the body succeeds; whatever goes wrong, `path` stays as it was and the temporary
    file is removed. A full disk stays an OSError, with `path` as its filename.
    """
    path = Path(path)
    temp = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temp
        with open(temp, "rb+") as f:
            os.fsync(f.fileno())
        os.replace(temp, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temp.unlink()
        # torch's zip writer hides the disk's error behind one of its own.
        hidden = error.__context__ if isinstance(error, RuntimeError) else None
        if isinstance(hidden, OSError) and hidden.errno in _DISK:
            error = hidden
        if isinstance(error, (PermissionError, NotADirectoryError, IsADirectoryError, FileExistsError)):
            raise UserError(f"{path} cannot be written ({error.strerror}): choose another place") from error
        if isinstance(error, OSError):
            error.filename = str(path)
        raise error
