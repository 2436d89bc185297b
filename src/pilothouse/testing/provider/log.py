"""What the provider was asked and how each answer ended."""

import asyncio
import json
import os
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pilothouse.testing.provider.changes import Changes

_LOOK_SECONDS = 0.1
_STALL_SECONDS = 0.5
_SECRET_HEADERS = frozenset({"authorization", "api-key", "x-api-key"})


@dataclass(slots=True)
class RequestRecord:
    """One request.

    `started_at` and `ended_at` are Unix seconds; `headers` have lower-case names and keys cut to
    their last four characters; `messages_hash` is equal for equal system prompts and messages;
    `served_by` is the place in the script (`rules[0]`, `turns[3]`).

    `outcome` is `None` while the answer goes on, then `completed`, `client_disconnected`, `cut`,
    `malformed`, `error <status>` or `server_stopped`. `tokens_sent` counts the tokens handed to the
    socket.
    """

    index: int
    started_at: float
    method: str
    path: str
    wire: str
    model: str
    stream: bool
    headers: dict[str, str] = field(default_factory=dict[str, str])
    body: dict[str, Any] | None = None
    messages_hash: str = ""
    served_by: str = ""
    ended_at: float | None = None
    outcome: str | None = None
    tokens_sent: int = 0

    def as_json(self) -> dict[str, Any]:
        """The record as JSON values."""
        return asdict(self)


class RequestLog:
    """The records of a provider in the order of arrival, and optionally a ledger on disk.

    The ledger gets one JSON line when a request has arrived, before it is answered, and one when the
    answer has ended. Each is fsynced at once, in the event loop: it is for fault tests, not for speed. It gets one too
    when the process stood still, as on a machine with too much to do: what it reads then was sent long before.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.records: list[RequestRecord] = []
        self.started = 0
        self.finished = 0
        self._first_index = 1
        self._changes = Changes()
        self._ledger = None if path is None else path.open("ab", buffering=0)

    @property
    def on_disk(self) -> bool:
        """Whether there is a ledger."""
        return self._ledger is not None

    def start(self, record: RequestRecord, *, keep: bool) -> None:
        """Take in a request that has arrived."""
        if keep:
            self.records.append(record)
            self._write_start(record)
        self.started += 1
        self._changes.notify()

    def finish(self, record: RequestRecord, *, keep: bool) -> None:
        """Note that an answer has ended."""
        record.ended_at = time.time()
        record.outcome = record.outcome or "failed"
        if keep:
            self._write_end(record)
        if record.index >= self._first_index:
            self.finished += 1
        self._changes.notify()

    async def watch_stalls(self) -> None:
        """Note in the ledger when this process stood still, until cancelled."""
        while True:
            before = time.time()
            await asyncio.sleep(_LOOK_SECONDS)
            now = time.time()
            if now - before > _STALL_SECONDS:
                self._write({"event": "stall", "from": before, "until": now})

    def clear(self, *, next_index: int) -> None:
        """Forget all records in memory and count from zero; the ledger stays."""
        self.records.clear()
        self.started = self.finished = 0
        self._first_index = next_index

    def close(self) -> None:
        """Close the ledger."""
        if self._ledger is not None:
            self._ledger.close()
            self._ledger = None

    async def wait_started(self, count: int, *, timeout: float) -> None:
        """Return once `count` requests have arrived."""
        what = f"arrival of request {count}"
        await self._changes.wait_until(lambda: self.started >= count, what=what, timeout=timeout)

    async def wait_finished(self, count: int, *, timeout: float) -> None:
        """Return once `count` answers have ended."""
        what = f"end of answer {count}"
        await self._changes.wait_until(lambda: self.finished >= count, what=what, timeout=timeout)

    def _write_start(self, record: RequestRecord) -> None:
        if self._ledger is not None:
            started = record.as_json()
            for name in ("ended_at", "outcome", "tokens_sent"):
                del started[name]
            self._write({"event": "start", **started})

    def _write_end(self, record: RequestRecord) -> None:
        if self._ledger is not None:
            ended = {name: getattr(record, name) for name in ("index", "ended_at", "outcome", "tokens_sent")}
            self._write({"event": "end", **ended})

    def _write(self, line: dict[str, Any]) -> None:
        if self._ledger is not None:
            self._ledger.write(json.dumps(line).encode() + b"\n")
            os.fsync(self._ledger.fileno())


def redact(name: str, value: str) -> str:
    """A header's value, all but the last four characters hidden when it is a key."""
    return f"***{value[-4:]}" if name in _SECRET_HEADERS else value
