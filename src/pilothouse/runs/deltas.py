"""The common writer of streamed text: every quarter of a second, all runs of the process in one transaction."""

import asyncio

from pilothouse.db import Database
from pilothouse.errors import Unavailable
from pilothouse.kit.clock import now_ms
from pilothouse.observability.logs import get_logger
from pilothouse.runs import repository
from pilothouse.runs.events import EventRow, RunEvent, to_rows
from pilothouse.runs.journal import Journal

log = get_logger(__name__)


class DeltaWriter:
    """Writes what runs have shown but not committed, so that other nodes and slow readers can follow.

    Args:
        interval_seconds: how long shown text may stay unwritten.
    """

    def __init__(self, database: Database, *, interval_seconds: float) -> None:
        self._database = database
        self._interval = interval_seconds
        self._dirty: set[Journal] = set()
        self._task: asyncio.Task[None] | None = None

    def mark(self, journal: Journal) -> None:
        """This journal has shown something."""
        self._dirty.add(journal)
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="delta-writer")

    async def close(self) -> None:
        """Write what is left and stop."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._write_all()

    async def _run(self) -> None:
        # Ends when there is nothing to write: an idle server does no work.
        while self._dirty:
            await asyncio.sleep(self._interval)
            try:
                await self._write_all()
            except Exception:
                log.exception("streamed_text_not_written")
        self._task = None

    async def _write_all(self) -> None:
        journals, self._dirty = self._dirty, set()
        taken: list[tuple[Journal, list[RunEvent]]] = []
        rows: list[tuple[str, EventRow]] = []
        for journal in journals:
            events = await journal.begin_delta_write()
            if events:
                taken.append((journal, events))
                rows.extend((journal.place.run_id, row) for row in to_rows(events))
        if not rows:
            return
        written: set[str] = set()
        failed = True
        try:
            written = await self._database.write(repository.insert_deltas, rows, now_ms())
            failed = False
        except Unavailable as error:
            log.warning("streamed_text_not_written", reason=error.message, runs=len(taken))
        finally:
            for journal, events in taken:
                journal.end_delta_write(events, written=journal.place.run_id in written)
                if failed:
                    self._dirty.add(journal)
