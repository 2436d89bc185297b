"""Follow a run's events: from memory where it executes here, from its log otherwise, without a gap or a duplicate."""

from collections.abc import AsyncIterator

from pilothouse.db import Database
from pilothouse.runs import repository
from pilothouse.runs.events import EventPlace, RunEvent, from_rows, merge_deltas
from pilothouse.runs.live import LiveRun, LiveRuns
from pilothouse.runs.states import TERMINAL

_PAGE = 200
_POLL_SECONDS = 0.5


class Follower:
    """Reads event streams. Holds nothing between reads but the reader's place: no connection, no queue."""

    def __init__(self, database: Database, live: LiveRuns) -> None:
        self._database = database
        self._live = live
        self._closing = False

    def close(self) -> None:
        """End the streams of runs that do not execute here any more, once they have shown what the log holds."""
        self._closing = True

    async def follow(self, run_id: str, after: EventPlace) -> AsyncIterator[list[RunEvent]]:
        """Batches of events after a place, each as soon as there is one, until the run's last event.

        Events that have come while the reader was busy come together, deltas merged. The caller has checked whose
        run it is. Ends too when the run no longer exists, and, before the last event, when this process stops: the
        reader goes on from its place at another one.
        """
        place, ended = after, False
        while not ended:
            live = self._live.get(run_id)
            events = live.since(place) if live is not None else None
            if live is None or events is None:
                events, place, ended = await self._from_log(run_id, place, live)
            elif not events:
                await live.wait(place)
            if events:
                place = max(place, events[-1].place)
                yield merge_deltas(events)
                ended = ended or events[-1].final

    async def _from_log(
        self, run_id: str, place: EventPlace, live: LiveRun | None
    ) -> tuple[list[RunEvent], EventPlace, bool]:
        """What the log holds after a place, the place that is known to be complete then, and whether it is the end."""
        in_memory_from = live.place_before() if live is not None else None
        rows = await self._database.read(repository.read_events, run_id, after=place, limit=_PAGE)
        events = from_rows(rows, place)
        if len(rows) == _PAGE:
            return events, place, False
        if in_memory_from is not None:
            return events, max(place, in_memory_from), False
        if events:
            return events, place, False
        if await self._ended(run_id):
            # Its last events may have been written between our two looks.
            rows = await self._database.read(repository.read_events, run_id, after=place, limit=_PAGE)
            return from_rows(rows, place), place, len(rows) < _PAGE
        if not self._closing:
            await self.wait_for_change(run_id)
        return [], place, self._closing

    async def page(self, run_id: str, after: EventPlace, limit: int) -> list[RunEvent]:
        """Events of the log after a place, at once. The caller has checked whose run it is."""
        rows = await self._database.read(repository.read_events, run_id, after=after, limit=limit)
        return from_rows(rows, after)

    async def wait_for_change(self, run_id: str) -> None:
        """Until there may be something new of a run, half a second at most."""
        await self._live.wait_open(run_id, _POLL_SECONDS)

    async def _ended(self, run_id: str) -> bool:
        """Whether there is nothing more to come: the run has ended (and its log was read after that) or is gone."""
        row = await self._database.read(repository.get_run_for_executor, run_id)
        if row is None:
            return True
        return row.state in TERMINAL
