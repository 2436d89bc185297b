"""A process's lease: how the others know that it is alive, and how it knows that it may still act.

A lease that lapsed (the process was paused, the database was away) may be renewed: what others have taken over
meanwhile is fenced run by run. So after a lapse a run must first pass its fence again: `generation` tells it to.
"""

import asyncio
import os
import socket
from collections.abc import Callable
from typing import Protocol

from sqlalchemy import Connection

from pilothouse.db import Database
from pilothouse.engine import repository
from pilothouse.engine.supervisor import Loop, Supervisor
from pilothouse.errors import Unavailable
from pilothouse.kit.clock import steady_seconds
from pilothouse.kit.ids import new_id
from pilothouse.observability.logs import get_logger

log = get_logger(__name__)

_MARGIN_SECONDS = 1.0
_RETRY_SECONDS = 0.5
"""A database that is back before the lease has expired must hear of us before that."""
_FORGET_AFTER_MS = 7 * 24 * 3_600_000


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
        self._entered = False

    def held(self) -> bool:
        """Always."""
        return True

    async def regained(self) -> None:
        """At once."""

    async def leave_sign(self, database: Database, *, lasting_ms: int) -> None:
        """Write that this process is alive: after a crash it tells how long nothing was executed.

        Args:
            lasting_ms: until the next sign.
        """
        if not self._entered:
            await database.write(_enter, self.owner, lasting_ms)
            self._entered = True
            return
        await database.write(repository.renew_lease, self.owner, lasting_ms=lasting_ms)


class Lease:
    """A row that says this process is alive, renewed by a heartbeat.

    Invariants: the heartbeat never ends while the process serves, whatever the database answers; and `held` is true
    only while every other process must see this one as alive.

    Args:
        database: best one of its own, with a short time limit: work that occupies the others must not delay it.
        supervisor: keeps the heartbeat going.
        heartbeat_seconds: between renewals.
        expiry_seconds: after the last renewal the others take this process's runs.
        clock: seconds that never go back, and go on while the machine is suspended: others count them too.
    """

    def __init__(
        self,
        database: Database,
        supervisor: Supervisor,
        *,
        heartbeat_seconds: float,
        expiry_seconds: float,
        clock: Callable[[], float] = steady_seconds,
    ) -> None:
        self._database = database
        self._supervisor = supervisor
        self._heartbeat = heartbeat_seconds
        self._lasting_ms = round(expiry_seconds * 1000)
        self._clock = clock
        self._valid_until = 0.0
        self._next_at = 0.0
        self._regained = asyncio.Event()
        self._loop: Loop | None = None
        self.owner = new_id("node")
        self.generation = 0

    def held(self) -> bool:
        """By this process's own clock, counted from before the last renewal was sent, less a margin."""
        return self._clock() < self._valid_until

    async def regained(self) -> None:
        """Until the heartbeat gets through again."""
        while not self.held():
            self._regained.clear()
            await self._regained.wait()

    async def start(self) -> None:
        """Enter the row and keep renewing it."""
        sent = self._clock()
        await self._enter()
        self._extend(sent)
        self._loop = self._supervisor.start(
            "lease",
            self._renew_when_due,
            stale_seconds=self._lasting_ms / 1000 - _MARGIN_SECONDS,
            longest_wait_seconds=_RETRY_SECONDS,
        )

    async def close(self) -> None:
        """Remove the row: what this process still owned is free at once."""
        if self._loop is not None:
            await self._supervisor.stop(self._loop)
        self._valid_until = 0.0
        try:
            await self._database.write(repository.delete_lease, self.owner)
        except Unavailable as error:
            log.warning("lease_not_removed", reason=error.message)

    async def _renew_when_due(self) -> None:
        await asyncio.sleep(max(0.0, self._next_at - self._clock()))
        await self._renew()

    async def _renew(self) -> None:
        """One heartbeat. It is due again at once if it fails, so the next round does not wait."""
        sent = self._clock()
        lapsed = not self.held()
        was_alive = await self._database.write(repository.renew_lease, self.owner, lasting_ms=self._lasting_ms)
        if was_alive is None:
            await self._enter()
        if lapsed or not was_alive:  # by this process's clock or by the database's: others may have taken its runs
            self.generation += 1
            log.warning("lease_regained", generation=self.generation)
        self._extend(sent)

    async def _enter(self) -> None:
        await self._database.write(_enter, self.owner, self._lasting_ms)

    def _extend(self, sent: float) -> None:
        self._valid_until = sent + self._lasting_ms / 1000 - _MARGIN_SECONDS
        self._next_at = sent + self._heartbeat
        self._regained.set()


def _enter(connection: Connection, owner: str, lasting_ms: int) -> None:
    repository.delete_expired(connection, for_ms=_FORGET_AFTER_MS)
    repository.insert_lease(connection, owner, host=socket.gethostname()[:255], pid=os.getpid(), lasting_ms=lasting_ms)
