"""A folder belongs to one process at a time; the operating system takes it back when the process dies."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from filelock import FileLock, Timeout


class FolderLock:
    """The right to write into a folder, which one process has at a time.

    The file `.lock` names the owner's process and host. It is gone after a release; a killed owner leaves it behind,
    and it locks nothing then.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.file = folder, folder / ".lock"
        self._lock = FileLock(self.file, blocking=False, thread_local=False)

    def take(self) -> None:
        """Make the folder and take it; `ValueError`, which names the owner, if another process has it."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OSError(f"cannot make the folder {self.folder}: {error.strerror}") from error
        try:
            self._lock.acquire()
            if type(self._lock) is FileLock:  # on a file system without locks, filelock writes the owner itself
                self.file.write_text(f"{os.getpid()}\n{socket.gethostname()}\n")
        except Timeout:
            raise ValueError(f"{self.folder} is in use by {self._owner()}: wait for its end, or stop it.") from None
        except OSError as error:
            self.release()
            raise OSError(f"cannot lock {self.folder}: {error.strerror or error}") from error

    def is_taken(self) -> bool:
        """Return whether a process has the folder; another one may take it right afterwards."""
        if not self.file.exists():
            return False
        try:
            self.take()
        except ValueError:
            return True
        self.release()
        return False

    def _owner(self) -> str:
        words = self.file.read_text(errors="replace").split() if self.file.exists() else []
        return f"process {words[0]} on {words[1]}" if len(words) > 1 else "another process"

    def release(self) -> None:
        """Give the folder back, if this process has it."""
        if self._lock.is_locked:
            self.file.unlink(missing_ok=True)  # while it is locked: who opened it meanwhile, tries again
            self._lock.release()

    def __enter__(self) -> FolderLock:
        self.take()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
