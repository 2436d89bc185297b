"""A ledger outside the system: one JSON line a fact, on the disk before the fact is acted on.

A process whose own writes are made to fail writes into a pipe instead, which another one empties into the file.
"""

import json
import os
import stat
import threading
from pathlib import Path
from typing import Any


class Ledger:
    """Appends lines; several processes may share the file."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        self._is_file = stat.S_ISREG(os.fstat(self._file).st_mode)

    def write(self, **line: Any) -> None:
        """Append a line; returns when it is on the disk, or in the pipe, where its writer's death does not reach it."""
        os.write(self._file, json.dumps(line).encode() + b"\n")  # one call: lines of several writers are not mixed
        if self._is_file:
            os.fsync(self._file)


class PipedLedger:
    """A named pipe whose lines go into a file, as long as the block lasts and writers are left.

    Args:
        pipe: made anew.
        file: what comes is appended.
    """

    def __init__(self, pipe: Path, file: Path) -> None:
        os.mkfifo(pipe)
        self._reading = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        os.set_blocking(self._reading, True)
        self._held = os.open(pipe, os.O_WRONLY | os.O_CLOEXEC)  # so that there is no end between two writers
        self._file = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        self._thread = threading.Thread(target=self._copy, name="piped-ledger", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Returns when all that its writers wrote is in the file; they must have ended."""
        os.close(self._held)
        self._thread.join(timeout=10)
        os.close(self._reading)
        os.close(self._file)

    def _copy(self) -> None:
        while lines := os.read(self._reading, 65_536):
            os.write(self._file, lines)


def read_ledger(path: Path) -> list[dict[str, Any]]:
    """All whole lines of a ledger; none where there is no file."""
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")
    return [json.loads(line) for line in lines[:-1] if line]
