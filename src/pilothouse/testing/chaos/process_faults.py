"""A process whose surroundings lie or fail: its clock is stepped, its files take no more."""

import asyncio
import os
import pwd
import resource
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic

from pilothouse.testing.chaos.faults import PlannedFault, bring_back
from pilothouse.testing.cluster import Child

_FEW_BYTES = 4096
_LOOK_SECONDS = 0.2
_FAKETIME_PLACES = ("/usr/lib/*/faketime/libfaketimeMT.so.1", "/usr/lib*/faketime/libfaketimeMT.so.1")


def faketime() -> Path | None:
    """The library that lies about the time, where it is installed (Debian's `libfaketime`)."""
    return next((path for place in _FAKETIME_PLACES for path in sorted(Path("/").glob(place[1:]))), None)


class Clocks:
    """Clocks that can be stepped, one for each process.

    Args:
        folder: keeps a file for each process, which holds how far its clock is off.
    """

    kinds = frozenset({"clock"})

    def __init__(self, folder: Path, library: Path) -> None:
        self._folder = folder
        self._library = library
        folder.mkdir(parents=True, exist_ok=True)

    def environment(self, process: str) -> dict[str, str]:
        """What a process needs to be lied to from now on. Its monotonic clock stays true."""
        self._set(process, "+0")
        return {
            "LD_PRELOAD": str(self._library),
            "FAKETIME_TIMESTAMP_FILE": str(self._file(process)),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }

    async def strike(self, planned: PlannedFault) -> None:
        """Step a process's clock by `planned.detail` seconds, and back after `planned.down`."""
        self._set(planned.target, planned.detail)
        try:
            await asyncio.sleep(planned.down)
        finally:
            self._set(planned.target, "+0")

    def _set(self, process: str, offset: str) -> None:
        new = self._folder / f"{process}.new"
        new.write_text(f"{offset}\n")
        new.replace(self._file(process))  # nobody ever reads half of it

    def _file(self, process: str) -> Path:
        return self._folder / f"{process}.offset"


class FailingWrites:
    """Files that take no more, as on a full disk, for one of our processes: writes beyond their first bytes fail."""

    kinds = frozenset({"no-writes"})

    def __init__(self, targets: Mapping[str, Child]) -> None:
        self._targets = targets

    async def strike(self, planned: PlannedFault) -> None:
        """Let a process's writes fail with EFBIG (Python ignores the signal), and work again after a while."""
        pid = self._targets[planned.target].pid
        if pid is None:
            return
        _limit(pid, _FEW_BYTES)
        try:
            await asyncio.sleep(planned.down)
        finally:
            _limit(pid, resource.RLIM_INFINITY)


class FullDisk:
    """The same for the sessions of PostgreSQL. One that can't write its log takes all down, as on a full disk."""

    kinds = frozenset({"full-disk"})

    def __init__(self, postgres: Child) -> None:
        self._postgres = postgres

    async def strike(self, planned: PlannedFault) -> None:
        """Let writes of all sessions fail, those to come too, and work again after a while.

        Raises:
            StartupError: PostgreSQL did not come back.
        """
        give_up = monotonic() + planned.down
        while monotonic() < give_up and self._postgres.pid is not None:
            self._limit_sessions(_FEW_BYTES)
            await asyncio.sleep(_LOOK_SECONDS)
        self._limit_sessions(resource.RLIM_INFINITY)
        if not self._postgres.running:
            await bring_back(self._postgres)

    def _limit_sessions(self, size: int) -> None:
        with _really(self._postgres.user):
            for pid in _sessions(self._postgres.pid or 0):
                _limit(pid, size)


@contextmanager
def _really(user: pwd.struct_passwd | None) -> Generator[None]:
    """Be this user by our real ids: whose limits one may change is asked of those. What we may do else stays."""
    if user is None:
        yield
        return
    (uid, _, _), (gid, _, _) = os.getresuid(), os.getresgid()
    os.setresgid(user.pw_gid, -1, -1)
    os.setresuid(user.pw_uid, -1, -1)
    try:
        yield
    finally:
        os.setresuid(uid, -1, -1)
        os.setresgid(gid, -1, -1)


def _sessions(server: int) -> list[int]:
    """Processes of PostgreSQL that serve a client."""
    try:
        children = Path(f"/proc/{server}/task/{server}/children").read_text().split()
        titles = {int(pid): Path(f"/proc/{pid}/cmdline").read_bytes() for pid in children}
    except OSError:
        return []  # one of them has just ended; there is a next look
    return [pid for pid, title in titles.items() if b" pilothouse " in title]


def _limit(pid: int, size: int) -> None:
    """Bound the size of files that a process may write, unless it has ended."""
    with suppress(ProcessLookupError):
        _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (size if size != resource.RLIM_INFINITY else hard, hard))


CAN_LIMIT_OTHERS = sys.platform == "linux"
"""Whether limits of another process can be changed."""
