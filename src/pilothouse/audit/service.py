"""Writes the audit log, and reads it.

An act is recorded after it was done and before its caller is answered. While the database is away, records wait in
memory (and stand in the log) and are written when it is back: an act that was done is not undone because its record
could not be written.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from dataclasses import asdict

from pilothouse.audit import repository
from pilothouse.audit.record import Action, AuditRecord, bounded
from pilothouse.audit.refusals import Refusals
from pilothouse.audit.repository import Wanted
from pilothouse.db import Database
from pilothouse.errors import Unavailable
from pilothouse.identity.principal import Principal
from pilothouse.kit.clock import now_ms
from pilothouse.observability.logs import get_logger

__all__ = ["Audit", "Wanted", "operator_record"]

log = get_logger(__name__)

MOST_WAITING = 10_000
"""Records kept in memory while the database is away, some 10 MB. Further ones are only counted, and in the log."""

_AT_ONCE = 500
_LOOK_SECONDS = 5.0
_UPKEEP_MS = 600_000
_DAY_MS = 24 * 3600 * 1000


class Audit:
    """The audit log of one database.

    Args:
        retention_days: how long records are kept.
        clock: milliseconds since the Unix epoch.
    """

    def __init__(self, database: Database, *, retention_days: int = 400, clock: Callable[[], int] = now_ms) -> None:
        self._database = database
        self._retention_ms = retention_days * _DAY_MS
        self._clock = clock
        self._waiting: deque[AuditRecord] = deque()
        self._lost = 0
        self._refusals = Refusals()
        self._wanted = asyncio.Event()
        self._cleared_at = 0

    def now(self) -> int:
        """The time to put on a record, milliseconds since the Unix epoch."""
        return self._clock()

    async def record(self, record: AuditRecord) -> None:
        """Write an act. On return it is durable, or waits in memory for the database to be back."""
        _tell(record)
        try:
            await self._database.write(repository.insert_records, [record])
        except Unavailable as error:
            log.warning("audit_record_waits", record_id=record.id, reason=error.message)
            self._keep(record)
        except Exception:  # what was done is done: its caller is told so
            log.exception("audit_record_not_written", record_id=record.id)
            self._lost += 1
        except BaseException:  # cancelled, and it may be written or not: writing it twice changes nothing
            self._keep(record)
            raise

    def note(self, record: AuditRecord) -> None:
        """Write an act soon, for those who can't wait."""
        _tell(record)
        self._keep(record)

    def count(self, record: AuditRecord) -> None:
        """A request that changed nothing: written soon, or counted with those like it. See `Refusals`."""
        for ready in self._refusals.add(record):
            self.note(ready)

    async def page(
        self, principal: Principal, *, wanted: Wanted, limit: int, before: tuple[int, str] | None = None
    ) -> list[AuditRecord]:
        """The records of the caller's tenant, newest first, at most `limit`, after the (at, id) of the last one seen.

        Needs `audit:read`.
        """
        principal.require("audit:read")
        return await self._database.read(repository.page, principal.tenant, wanted=wanted, limit=limit, before=before)

    async def page_of_everything(
        self, *, wanted: Wanted, limit: int, before: tuple[int, str] | None = None
    ) -> list[AuditRecord]:
        """As `page`, of all tenants and of nobody's. For commands of operators, who can open the database anyway."""
        return await self._database.read(repository.page_of_everything, wanted=wanted, limit=limit, before=before)

    async def round(self) -> None:
        """One round of the background loop: write what waits, and now and then drop what is too old.

        Raises:
            Unavailable: the database is away; everything is kept.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LOOK_SECONDS):
                await self._wanted.wait()
        self._wanted.clear()
        for record in self._refusals.due(self._clock()):
            self.note(record)
        await self.flush()
        if self._clock() - self._cleared_at >= _UPKEEP_MS:
            await self.drop_old()
            self._cleared_at = self._clock()

    async def flush(self) -> None:
        """Write what waits.

        Raises:
            Unavailable: the database is away; what is not written is kept.
        """
        self._confess()
        while self._waiting:
            batch = [self._waiting[index] for index in range(min(_AT_ONCE, len(self._waiting)))]
            await self._write(batch)
            written = {record.id for record in batch}
            while self._waiting and self._waiting[0].id in written:
                self._waiting.popleft()

    async def drop_old(self) -> int:
        """Drop the records that are older than the retention, in batches. Returns how many."""
        before, dropped = self._clock() - self._retention_ms, 0
        while True:
            count = await self._database.maintain(repository.drop_old, before=before, most=_AT_ONCE)
            dropped += count
            if count < _AT_ONCE:
                return dropped

    async def close(self) -> None:
        """Write what waits and what was counted, as far as the database is there."""
        for record in self._refusals.take():
            self.note(record)
        try:
            await self.flush()
        except Unavailable as error:
            log.warning("audit_records_lost", count=len(self._waiting), reason=error.message)

    def _keep(self, record: AuditRecord) -> None:
        if len(self._waiting) < MOST_WAITING:
            self._waiting.append(record)
        else:
            self._lost += 1
        self._wanted.set()

    def _confess(self) -> None:
        """Say in the log how many records it lacks."""
        if not self._lost or len(self._waiting) >= MOST_WAITING:
            return
        lost, self._lost = self._lost, 0
        now = self._clock()
        self.note(AuditRecord(at=now, last_at=now, action="audit.lost", outcome="failed", count=lost))

    async def _write(self, batch: list[AuditRecord]) -> None:
        try:
            await self._database.write(repository.insert_records, batch)
        except Unavailable:
            raise
        except Exception:
            if len(batch) == 1:
                log.exception("audit_record_not_written", record_id=batch[0].id)
                self._lost += 1
                return
            for record in batch:  # one that can't be stored must not hold up the others
                await self._write([record])


def operator_record(action: Action, *, tenant: str, object_kind: str, object_id: str, user: str) -> AuditRecord:
    """The record of what an operator did with a command, on the database itself.

    Args:
        action: what was done.
        tenant: whose thing it was.
        object_kind: of the thing.
        object_id: of the thing.
        user: the operator's name on the machine.
    """
    now = now_ms()
    return AuditRecord(
        at=now,
        last_at=now,
        tenant=tenant,
        subject="cli",
        credential="cli",
        action=action,
        outcome="ok",
        object_kind=object_kind,
        object_id=object_id,
        detail={"user": bounded(user, 64)},
    )


def _tell(record: AuditRecord) -> None:
    """The record as a line of the log, for those who collect it elsewhere."""
    fields = {name: value for name, value in asdict(record).items() if value is not None}
    fields["record_id"], fields["by"] = fields.pop("id"), fields.pop("credential", None)
    log.info("audit", **fields)
