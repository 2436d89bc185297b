"""One process per data folder: an exclusive lock that ends with the process, however it ends."""

import os
from pathlib import Path
from typing import Self

from pilothouse.errors import StartupError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


class FolderLock:
    """Held from `acquire` until `release` or the end of the process."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor: int | None = descriptor

    @classmethod
    def acquire(cls, folder: Path) -> Self:
        """Take the folder.

        Raises:
            StartupError: another process has it, or it can't be written.
        """
        path = folder / "lock"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
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
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"pid {os.getpid()}".encode(), 0)
        return cls(descriptor)

    def release(self) -> None:
        """Let another process have the folder."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
