"""What has to be done now and then: forget streamed text whose message holds it, forget old idempotency keys."""

import asyncio

from pilothouse.db import Database
from pilothouse.idempotency.repository import drop_old
from pilothouse.kit.clock import now_ms
from pilothouse.runs import repository

_EVERY_SECONDS = 60
_KEYS_KEPT_MS = 7 * 24 * 3600 * 1000
_RUNS_AT_ONCE = 500


class Upkeep:
    """A background loop of the process.

    Args:
        delta_retention_seconds: how long streamed text stays in the log after its run has ended.
    """

    def __init__(self, database: Database, *, delta_retention_seconds: float) -> None:
        self._database = database
        self._retention_ms = round(delta_retention_seconds * 1000)

    async def round(self) -> None:
        """One round of the background loop."""
        await asyncio.sleep(_EVERY_SECONDS)
        await self.once()

    async def once(self) -> int:
        """Do what is due. Returns rows removed."""
        now = now_ms()
        removed = await self._database.maintain(
            repository.drop_deltas, finished_before=now - self._retention_ms, most_runs=_RUNS_AT_ONCE
        )
        return removed + await self._database.maintain(drop_old, created_before=now - _KEYS_KEPT_MS)
