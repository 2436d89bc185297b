"""A ledger outside the system: one JSON line a fact, on the disk before the fact is acted on."""

import json
import os
from pathlib import Path
from typing import Any


class Ledger:
    """Appends lines; several processes may share the file."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)

    def write(self, **line: Any) -> None:
        """Append a line; returns when it is on the disk."""
        os.write(self._file, json.dumps(line).encode() + b"\n")
        os.fsync(self._file)


def read_ledger(path: Path) -> list[dict[str, Any]]:
    """All whole lines of a ledger; none where there is no file."""
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")
    return [json.loads(line) for line in lines[:-1] if line]
