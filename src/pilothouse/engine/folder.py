"""The data folder: nobody else's to read, and one process's at a time.

The lock is exclusive and ends with the process, however it ends.
"""

import contextlib
import os
import stat
from pathlib import Path
from typing import Self

from pilothouse.db.private_files import make_private_folder, tighten
from pilothouse.errors import StartupError
from pilothouse.observability.logs import get_logger

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

log = get_logger(__name__)


class FolderLock:
    """Held from `acquire` until `release` or the end of the process."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor: int | None = descriptor

    @classmethod
    def acquire(cls, folder: Path) -> Self:
        """Take the folder.

        Raises:
            StartupError: another process has it, it can't be written, or its lock is a link to another file.
        """
        path = folder / "lock"
        try:
            make_private_folder(folder)
            descriptor = _open_lock(path)
        except OSError as error:
            raise StartupError(f"The data folder {folder} can't be written: {error.strerror}.") from error
        if fcntl is not None:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                holder = os.pread(descriptor, 20, 0).decode(errors="replace").strip()
                os.close(descriptor)
                raise StartupError(
                    f"Another Pilothouse process{f' ({holder})' if holder else ''} uses the data folder {folder}. "
                    "Stop it, or give this one another folder with PILOTHOUSE_DATA_DIR. "
                    "For several processes use PostgreSQL: PILOTHOUSE_DATABASE_URL."
                ) from None
        tighten(path)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"pid {os.getpid()}".encode(), 0)
        return cls(descriptor)

    def release(self) -> None:
        """Let another process have the folder."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def protect_data_folder(folder: Path) -> None:
    """Keep other users of the machine out of an existing data folder, and log it if they could get in before.

    A folder that is obviously not ours alone (the working directory, the home directory or one above them, or one such
    as /tmp that everybody writes to) is left alone, with a warning: the files in it are protected one by one.
    """
    try:
        real = folder.resolve()
        mode = real.stat().st_mode
    except OSError:
        return
    if not stat.S_ISDIR(mode) or not mode & 0o077:
        return
    if mode & stat.S_ISVTX or _holds_more(real):
        log.warning(
            "data_folder_is_shared",
            path=str(real),
            mode=f"{stat.S_IMODE(mode):04o}",
            meaning="set PILOTHOUSE_DATA_DIR to a folder of its own",
        )
        return
    tighten(real)


def _open_lock(path: Path) -> int:
    """The lock, made if it is missing. What is written to it must reach no other file, so it is no link to one."""
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)
    try:
        descriptor = os.open(path, flags, 0o600)
    except OSError:
        if path.is_symlink():
            raise _unusable(path, "is a link to another file") from None
        raise
    found = os.fstat(descriptor)
    if stat.S_ISREG(found.st_mode) and found.st_nlink <= 1:
        return descriptor
    os.close(descriptor)
    raise _unusable(path, "is a link to another file" if stat.S_ISREG(found.st_mode) else "is no regular file")


def _unusable(path: Path, reason: str) -> StartupError:
    return StartupError(f"{path} {reason}. Remove it while no server uses the folder; a new one is made at start.")


def _holds_more(folder: Path) -> bool:
    """Whether this is a place where people keep other things."""
    places = [Path.cwd()]
    with contextlib.suppress(RuntimeError):  # a user without a home directory
        places.append(Path.home())
    return any(folder == place or folder in place.parents for place in places)
