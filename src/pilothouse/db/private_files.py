"""Files that only the user of the process may read: how they are made, and how older ones are tightened.

Permissions are given to each file and folder when it is made. The umask belongs to the whole process, tools included,
and is not changed.
"""

import errno
import os
import stat
import sys
from pathlib import Path

from pilothouse.observability.logs import get_logger

log = get_logger(__name__)

_FOLDER_MODE = 0o700
_FILE_MODE = 0o600
_OTHERS = 0o077
_HAS_MODES = os.name == "posix"
_DESCRIPTORS = Path("/proc/self/fd")
_MEANING = "other users of this machine may be able to read it"


def make_private_folder(folder: Path) -> None:
    """Make the folder with mode 0700 if it is missing; missing parents get the usual mode. An existing one stays.

    Raises:
        OSError: it can't be made, or something else has its name.
    """
    folder.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)


def make_private_file(path: Path) -> None:
    """Make an empty file with mode 0600 if it is missing; tighten it if it is there.

    An existing file is never opened: closing it again would release the locks that SQLite holds on it in this process.

    Raises:
        OSError: it can't be made, or is a symbolic link that leads to nothing: who left it chose what we would make.
    """
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _FILE_MODE))
    except FileExistsError:
        real = Path(os.path.realpath(path))
        if real.is_file():  # else opening it says what is wrong with it
            tighten(real)
        elif path.is_symlink() and not real.exists():
            raise OSError(errno.ELOOP, "it is a symbolic link to a file that does not exist") from None


def make_private_database(path: Path) -> None:
    """As `make_private_file`, for a SQLite file and what lies beside it, which SQLite makes with the database's mode.

    Raises:
        OSError: it can't be made, or one of those beside it is a symbolic link: SQLite would write to what it leads to.
    """
    make_private_file(path)
    for suffix in ("-wal", "-shm", "-journal"):
        beside = Path(f"{os.path.realpath(path)}{suffix}")
        if beside.is_symlink():
            raise OSError(errno.ELOOP, f"{beside.name} is a symbolic link: remove it")
        tighten(beside)


def tighten(path: Path) -> None:
    """Take all permissions on a file or folder from everybody but its owner, and log that.

    What is missing or a symbolic link is left alone. What can't be changed, because another user owns it or the file
    system does not let us, is logged as a warning and left as it is.
    """
    try:
        found = path.lstat()
    except OSError:
        return
    mode = stat.S_IMODE(found.st_mode)
    if not _HAS_MODES or stat.S_ISLNK(found.st_mode) or not mode & _OTHERS:
        return
    wanted = mode & ~_OTHERS
    reason = _refusal(path, found, wanted)
    if reason is None:
        log.info("permissions_tightened", path=str(path), before=f"{mode:04o}", now=f"{wanted:04o}")
    else:
        log.warning("permissions_too_wide", path=str(path), mode=f"{mode:04o}", reason=reason, meaning=_MEANING)


def _refusal(path: Path, found: os.stat_result, wanted: int) -> str | None:
    """Set the mode. Returns why that was not possible, if it was not."""
    if found.st_uid != os.geteuid():
        return "it belongs to another user"
    try:
        _set_mode(path, found, wanted)
        now = stat.S_IMODE(path.lstat().st_mode)
    except OSError as error:
        return error.strerror or type(error).__name__
    return None if now == wanted else "the file system keeps no permissions"


def _set_mode(path: Path, found: os.stat_result, wanted: int) -> None:
    """Change the file that was looked at, not one that took its name since: `chmod` follows links.

    A descriptor of O_PATH opens nothing, so closing it releases no locks.
    """
    if sys.platform != "linux" or not _DESCRIPTORS.is_dir():
        path.chmod(wanted)
        return
    descriptor = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if not os.path.samestat(os.fstat(descriptor), found):
            raise OSError(errno.ESTALE, "it was replaced meanwhile")
        (_DESCRIPTORS / str(descriptor)).chmod(wanted)
    finally:
        os.close(descriptor)
