"""The common writer of streamed text: every quarter of a second, all runs of the process in one transaction."""

import asyncio

from pilothouse.db import Database
from pilothouse.errors import Unavailable
from pilothouse.kit.clock import now_ms
from pilothouse.observability.logs import get_logger
from pilothouse.runs import repository
from pilothouse.runs.errors import Fenced
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
        self._something = asyncio.Event()
        self._finding_out: dict[Journal, asyncio.Task[None]] = {}

    def mark(self, journal: Journal) -> None:
        """This journal has shown something."""
        self._dirty.add(journal)
        self._something.set()

    async def round(self) -> None:
        """One round of the background loop: sleeps until there is something to write."""
        await self._something.wait()
        await asyncio.sleep(self._interval)
        await self.write_all()

    async def write_all(self) -> None:
        """Write what was shown and not written yet.

        Raises:
            Unavailable: the database is away; the next round tries again.
        """
        self._something.clear()
        journals, self._dirty = self._dirty, set()
        taken: list[tuple[Journal, list[RunEvent]]] = []
        rows: list[tuple[str, EventRow]] = []
        written: set[str] = set()
        try:
            for journal in journals:
                if journal.unsure:
                    self._find_out(journal)
                    continue
                events = await journal.begin_delta_write()
                if not events:
                    continue
                taken.append((journal, events))
                try:
                    rows.extend([(journal.place.run_id, row) for row in to_rows(events)])
                except ValueError:  # text that no encoding knows: its commit will fail, which ends that run alone
                    log.exception("streamed_text_not_written", run_id=journal.place.run_id)
            if rows:
                written = await self._database.write(repository.insert_deltas, rows, now_ms())
        finally:
            for journal, events in taken:
                wrote = journal.place.run_id in written
                journal.end_delta_write(events, written=wrote)
                if not wrote:
                    self.mark(journal)

    def _find_out(self, journal: Journal) -> None:
        """Write the deltas of a journal that does not know which of them are written, behind the others' backs."""
        if journal not in self._finding_out:
            task = asyncio.create_task(self._commit(journal), name="deltas-of-one")
            self._finding_out[journal] = task
            task.add_done_callback(lambda _: self._finding_out.pop(journal, None))

    async def _commit(self, journal: Journal) -> None:
        try:
            await journal.commit()
        except (Fenced, Unavailable) as error:
            log.info("streamed_text_not_written", run_id=journal.place.run_id, reason=error.message)
        except Exception:
            log.exception("streamed_text_not_written", run_id=journal.place.run_id)
