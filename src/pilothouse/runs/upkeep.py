"""What has to be done now and then: forget streamed text whose message holds it, forget old idempotency keys."""

import asyncio

from pilothouse.db import Database
from pilothouse.errors import PilothouseError
from pilothouse.idempotency.repository import drop_old
from pilothouse.kit.clock import now_ms
from pilothouse.observability.logs import get_logger
from pilothouse.runs import repository

log = get_logger(__name__)

_EVERY_SECONDS = 60
_KEYS_KEPT_MS = 7 * 24 * 3600 * 1000
_RUNS_AT_ONCE = 500


class Upkeep:
    """A background task of the process.

    Args:
        delta_retention_seconds: how long streamed text stays in the log after its run has ended.
    """

    def __init__(self, database: Database, *, delta_retention_seconds: float) -> None:
        self._database = database
        self._retention_ms = round(delta_retention_seconds * 1000)
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin."""
        self._task = asyncio.create_task(self._run(), name="upkeep")

    async def close(self) -> None:
        """Stop."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def once(self) -> int:
        """Do what is due. Returns rows removed."""
        now = now_ms()
        removed = await self._database.write(
            repository.drop_deltas, finished_before=now - self._retention_ms, most_runs=_RUNS_AT_ONCE
        )
        return removed + await self._database.write(drop_old, created_before=now - _KEYS_KEPT_MS)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(_EVERY_SECONDS)
            try:
                await self.once()
            except PilothouseError as error:
                log.warning("upkeep_failed", reason=error.message)
