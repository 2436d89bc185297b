"""A process whose surroundings lie or fail: its clock is stepped, its files take no more."""

import asyncio
import resource
import sys
from collections.abc import Mapping
from pathlib import Path

from pilothouse.testing.chaos.faults import PlannedFault
from pilothouse.testing.cluster import Child

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
    """Files that take no more, as on a full disk, for one process: writes beyond their first bytes fail."""

    kinds = frozenset({"no-writes"})
    _bytes = 4096

    def __init__(self, targets: Mapping[str, Child]) -> None:
        self._targets = targets

    async def strike(self, planned: PlannedFault) -> None:
        """Let a process's writes fail with EFBIG (Python ignores the signal), and work again after a while."""
        child = self._targets[planned.target]
        pid = child.pid
        if pid is None:
            return
        soft, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (self._bytes, hard))
        try:
            await asyncio.sleep(planned.down)
        finally:
            if child.pid == pid:
                resource.prlimit(pid, resource.RLIMIT_FSIZE, (soft, hard))


CAN_LIMIT_OTHERS = sys.platform == "linux"
"""Whether limits of another process can be changed."""
