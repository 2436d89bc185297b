"""A process's lease: how the others know that it is alive, and how it knows that it may still act.

A lease that lapsed (the process was paused, the database was away) may be renewed: what others have taken over
meanwhile is fenced run by run. So after a lapse a run must first pass its fence again: `generation` tells it to.
"""

import asyncio
import os
import socket
import time
from typing import Protocol

from pilothouse.db import Database
from pilothouse.engine import repository
from pilothouse.errors import Unavailable
from pilothouse.kit.ids import new_id
from pilothouse.observability.logs import get_logger

log = get_logger(__name__)

_MARGIN_SECONDS = 1.0
_FORGET_AFTER_MS = 3_600_000


class Ownership(Protocol):
    """What an executor asks of its process's standing."""

    @property
    def owner(self) -> str:
        """Stamped on the runs this process executes."""
        ...

    @property
    def generation(self) -> int:
        """Changes each time the standing lapsed and was regained."""
        ...

    def held(self) -> bool:
        """Whether this process is surely seen as alive by the others."""
        ...

    async def regained(self) -> None:
        """Until `held`."""
        ...


class SoleOwner:
    """The standing of a process that holds the data folder: there are no others."""

    generation = 0

    def __init__(self) -> None:
        self.owner = new_id("node")

    def held(self) -> bool:
        """Always."""
        return True

    async def regained(self) -> None:
        """At once."""


class Lease:
    """A row that says this process is alive, renewed by a heartbeat.

    Args:
        heartbeat_seconds: between renewals.
        expiry_seconds: after the last renewal the others take this process's runs.
    """

    def __init__(self, database: Database, *, heartbeat_seconds: float, expiry_seconds: float) -> None:
        self._database = database
        self._heartbeat = heartbeat_seconds
        self._lasting_ms = round(expiry_seconds * 1000)
        self._valid_until = 0.0
        self._regained = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.owner = new_id("node")
        self.generation = 0

    def held(self) -> bool:
        """By this process's own clock, counted from before the last renewal was sent, less a margin."""
        return time.monotonic() < self._valid_until

    async def regained(self) -> None:
        """Until the heartbeat gets through again."""
        while not self.held():
            self._regained.clear()
            await self._regained.wait()

    async def start(self) -> None:
        """Enter the row and keep renewing it."""
        sent = time.monotonic()
        await self._database.write(
            repository.insert_lease,
            self.owner,
            host=socket.gethostname()[:255],
            pid=os.getpid(),
            lasting_ms=self._lasting_ms,
        )
        self._extend(sent)
        await self._database.write(repository.delete_expired, for_ms=_FORGET_AFTER_MS)
        self._task = asyncio.create_task(self._beat(), name="lease")

    async def close(self) -> None:
        """Remove the row: what this process still owned is free at once."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._valid_until = 0.0
        try:
            await self._database.write(repository.delete_lease, self.owner)
        except Unavailable as error:
            log.warning("lease_not_removed", reason=error.message)

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(self._heartbeat if self.held() else min(1.0, self._heartbeat))
            sent = time.monotonic()
            lapsed = not self.held()
            try:
                renewed = await self._database.write(repository.renew_lease, self.owner, lasting_ms=self._lasting_ms)
                if not renewed:
                    await self._reenter()
            except Unavailable as error:
                log.warning("lease_not_renewed", reason=error.message, held=self.held())
                continue
            if lapsed or not renewed:
                self.generation += 1
                log.warning("lease_regained", generation=self.generation)
            self._extend(sent)

    async def _reenter(self) -> None:
        await self._database.write(
            repository.insert_lease,
            self.owner,
            host=socket.gethostname()[:255],
            pid=os.getpid(),
            lasting_ms=self._lasting_ms,
        )

    def _extend(self, sent: float) -> None:
        self._valid_until = sent + self._lasting_ms / 1000 - _MARGIN_SECONDS
        self._regained.set()
