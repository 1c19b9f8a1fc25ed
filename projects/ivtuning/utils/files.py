"""Atomic writing of one file, of several files, and of a folder."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import os
import re
import shutil
import tempfile
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

from ..errors import UserError

# Errors of a path that cannot be written, whatever room there is on the disk.
_UNWRITABLE = {
    errno.EACCES,
    errno.EEXIST,
    errno.EISDIR,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.ENOTDIR,
    errno.EPERM,
    errno.EROFS,
}


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike) -> Iterator[Path]:
    """Write the file `path` completely or not at all.

    The body writes to the yielded path, a temporary file in the same folder, which replaces `path` when the
    body succeeds. If anything fails, `path` stays as it was and the temporary file is removed. The folder is
    created if it does not exist.

    Raises:
        UserError: `path` cannot be written.
        OSError: the disk is full; `path` is its filename.
    """
    path = Path(path)
    temp = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temp
        with open(temp, "rb+") as f:
            os.fsync(f.fileno())
        os.replace(temp, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temp.unlink()
        # torch's zip writer replaces the error of the disk, or of the keyboard, by one of its own.
        hidden = error.__context__ if isinstance(error, RuntimeError) else None
        if isinstance(hidden, (OSError, KeyboardInterrupt)):
            error = hidden
        if isinstance(error, OSError):
            if error.errno in _UNWRITABLE:
                raise UserError(
                    f"{path} cannot be written ({error.strerror}): choose another place"
                ) from error
            error.filename = str(path)
        raise error


def remove_temporaries(folder: Path) -> None:
    """Remove the temporary files of :func:`atomic_write` in `folder` whose process has ended."""
    for file in folder.glob(".*.tmp"):
        owner = re.search(r"\.(\d+)\.tmp$", file.name)
        if not (owner and is_running(int(owner[1]))):
            file.unlink(missing_ok=True)


def file_sha256(path: str | os.PathLike) -> str:
    """The SHA-256 of a file's content, in hexadecimal digits."""
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def is_running(process: int) -> bool:
    """Whether this machine has a process with that number, except for the calling one."""
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # it is another user's
        return True
    return process != os.getpid()


def make_folder(path: Path) -> list[Path]:
    """Create a folder in which files can be written; returns those that did not exist, inner ones first.

    Raises:
        UserError: it cannot be created, or no file can be made in it.
    """
    new = [folder for folder in (path, *path.parents) if not os.path.exists(folder)]  # never raises
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        remove_empty(new)
        reason = error.strerror if error.errno != errno.EEXIST else "it is a file"
        raise UserError(f"{path} cannot be written ({reason}): choose another folder") from error
    return new


def remove_empty(folders: Iterable[Path]) -> None:
    """Remove those of `folders` that exist and are empty, in their order."""
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()


class StagedFiles:
    """Writes several files, all or none: they wait in temporary folders until :meth:`commit`.

    As a context manager it removes at its end what was not committed. A temporary folder lies in the nearest
    existing folder above a file, so that on commit every file is a rename within one file system. Methods may
    be called by several threads.

    Args:
        dry_run: only find out what would be written.
        advice: ends the message about a path that cannot be written.
    """

    def __init__(self, dry_run: bool = False, advice: str = "choose another place"):
        self.dry_run = dry_run
        self.advice = advice
        self._waiting: dict[Path, Path] = {}
        self._folders: dict[Path, Path] = {}
        self._numbers = itertools.count()
        self._lock = threading.Lock()

    def __enter__(self) -> StagedFiles:
        return self

    def __exit__(self, *_) -> None:
        for folder in self._folders.values():
            shutil.rmtree(folder, ignore_errors=True)

    def write(self, path: Path, data: bytes) -> str:
        """Have `data` written to `path`; returns what that is: "create", "replace" or "unchanged".

        Raises:
            UserError: no file can be made there.
        """
        if path.is_dir():  # found out before anything else is committed
            raise UserError(f"cannot write {path} (it is a folder): {self.advice}")
        exists = path.is_file()
        if exists and path.read_bytes() == data:
            return "unchanged"
        if not self.dry_run:
            with self._writing(path):
                with self._lock:
                    above = next(folder for folder in path.absolute().parents if folder.is_dir())
                    if above not in self._folders:
                        self._folders[above] = Path(tempfile.mkdtemp(prefix=".staged-", dir=above))
                    waiting = self._waiting[path] = self._folders[above] / str(next(self._numbers))
                waiting.write_bytes(data)
        return "replace" if exists else "create"

    def commit(self) -> None:
        """Move all files to their places. UserError if one cannot be put there."""
        for path, waiting in self._waiting.items():
            with self._writing(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                os.replace(waiting, path)
        self._waiting.clear()

    @contextlib.contextmanager
    def _writing(self, path: Path) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno in _UNWRITABLE:
                raise UserError(f"cannot write {path} ({error.strerror}): {self.advice}") from error
            error.filename = str(path)  # for the message about a full disk
            raise


@contextlib.contextmanager
def atomic_folder(path: str | os.PathLike) -> Iterator[Path]:
    """Write a folder in one piece: the body fills the yielded folder, a temporary one beside `path`.

    It replaces `path`, with all that `path` holds, when the body succeeds; whatever goes wrong, `path` stays
    as it was and the temporary folder is removed.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    new, old = work / "new", work / "old"
    try:
        new.mkdir()
        yield new
        if path.exists():
            os.rename(path, old)
        try:
            os.rename(new, path)
        except OSError:
            if old.exists():
                os.rename(old, path)
            raise
    finally:
        shutil.rmtree(work, ignore_errors=True)


def file_identity(file: str | None) -> list | None:
    """A file's name, bytes and time, which tell another one of the same name; anything else as [name]."""
    if not file or not os.path.isfile(file):
        return [file] if file else None
    facts = os.stat(file)
    return [os.path.basename(file), facts.st_size, facts.st_mtime_ns]
