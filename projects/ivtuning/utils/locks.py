"""A lock on a folder, held by one process of all machines that share it."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import socket
from pathlib import Path

from ..errors import UserError
from .files import is_running

logger = logging.getLogger("ivtuning")
# File systems without locks; the owner's number must then do.
_UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


class FolderLock:
    """The file ".lock" in a folder, with its owner's process number and host; it is gone when released.

    The kernel lets go of the lock when its owner ends, however that happens. Child processes do not have it.

    Args:
        folder: exists.

    Raises:
        UserError: another process, or this one, has the lock.
    """

    _held: set[Path] = set()

    def __init__(self, folder: Path):
        self.path = folder.resolve() / ".lock"
        if self.path in self._held:
            raise UserError(f"{folder} is in use by this process: wait until that run has ended")
        while True:
            self._file = open(self.path, "a+")  # noqa: SIM115 (open as long as the lock is held)
            try:
                before = self._take(folder)
            except BaseException:
                self._file.close()
                raise
            if self._is_current():
                break
            self._file.close()  # its owner has just released it, and removed the file
        if before:
            logger.warning("%s was left locked by %s, which has ended: taking it over", folder, before)
        self._file.truncate(0)
        self._file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        self._file.flush()
        self._held.add(self.path)

    def _take(self, folder: Path) -> str:
        """Lock the file; returns what it says about an owner that did not release it."""
        supported, free = True, True
        try:
            # A record lock: forked children do not inherit it, and it reaches over NFS.
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            supported = error.errno not in _UNSUPPORTED
            free = not supported
        self._file.seek(0)
        owner = self._file.read(300).strip()
        if not supported and owner:
            words = owner.split()
            here = words[-1] == socket.gethostname()
            free = here and not is_running(int(words[1]) if words[1:2] and words[1].isdigit() else 0)
        if not free:
            hint = "" if supported else f", or remove {self.path} if it has ended"
            raise UserError(
                f"{folder} is in use by {owner or 'another process'}: wait until it has ended{hint}, or "
                "choose another folder"
            )
        return owner

    def _is_current(self) -> bool:
        try:
            return os.path.samestat(os.stat(self.path), os.fstat(self._file.fileno()))
        except FileNotFoundError:
            return False

    def release(self) -> None:
        """Remove the file and let go of the lock."""
        self.path.unlink(missing_ok=True)
        self._file.close()
        self._held.discard(self.path)
