"""The machine: which core for whom, and what processes and cores have spent."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

# The clock of another process's CPU time, as clock_getcpuclockid(3) makes it: to the nanosecond, where /proc/PID/stat
# counts hundredths of a second.
_SCHEDULED = 2
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Cores:
    """The server under test has a core of its own; provider and load share another."""

    server: int
    load: int

    @property
    def shared(self) -> bool:
        """Whether there is only one core, so that nothing here means much."""
        return self.server == self.load


def pick_cores() -> Cores:
    """The last core this process may use for the server, the first for the rest."""
    usable = sorted(os.sched_getaffinity(0))
    return Cores(server=usable[-1], load=usable[0])


def process_tree(process_id: int) -> list[int]:
    """A process and its children, theirs too."""
    found = [process_id]
    for parent in found:
        for children in Path(f"/proc/{parent}/task").glob("*/children"):
            try:
                found += [int(child) for child in children.read_text().split()]
            except OSError:
                continue
    return found


def cpu_seconds(process_id: int) -> float:
    """User and system time of a process and its living children, with all their threads, those that have ended too."""
    spent = 0.0
    for one in process_tree(process_id):
        try:
            spent += time.clock_gettime((~one << 3) | _SCHEDULED)
        except OSError:
            continue
    return spent


def memory_mb(process_id: int) -> float:
    """Resident memory of a process and its children, MB (10^6 bytes)."""
    pages = 0
    for one in process_tree(process_id):
        try:
            pages += int(Path(f"/proc/{one}/statm").read_text().split()[1])
        except OSError:
            continue
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def busy_seconds(core: int) -> float:
    """How long a core has worked for anybody since the machine started, steal of the hypervisor included."""
    for line in Path("/proc/stat").read_text().splitlines():
        name, *fields = line.split()
        if name == f"cpu{core}":
            user, nice, system, _idle, _iowait, irq, softirq, steal, *_ = (int(field) for field in fields)
            return (user + nice + system + irq + softirq + steal) / _TICKS
    return 0.0


def thread_seconds(process_id: int) -> dict[str, float]:
    """CPU seconds of a process's first thread, which runs the event loop, and of all its others together."""
    spent: dict[str, float] = {}
    for stat in Path(f"/proc/{process_id}/task").glob("*/schedstat"):
        try:
            nanoseconds = int(stat.read_text().split()[0])
        except OSError:
            continue
        name = "event loop" if int(stat.parent.name) == process_id else "other threads"
        spent[name] = spent.get(name, 0.0) + nanoseconds / 1e9
    return spent
