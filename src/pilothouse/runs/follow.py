"""Follow a run's events: from memory where it executes here, from its log otherwise, without a gap or a duplicate."""

import asyncio
from collections.abc import AsyncIterator, Container
from typing import Final

from pilothouse.db import Database
from pilothouse.db.values import MOST_INTEGER
from pilothouse.runs import repository
from pilothouse.runs.events import EventPlace, RunEvent, from_rows, merge_deltas
from pilothouse.runs.live import LiveRun, LiveRuns
from pilothouse.runs.log_reader import LogReader
from pilothouse.runs.states import TERMINAL
from pilothouse.runs.watches import Watch

_END: Final = (MOST_INTEGER, MOST_INTEGER)
"""The place behind every event: whoever looks from there reads no log."""

_LONGEST_WAIT_SECONDS = 2.0


class Follower:
    """Reads event streams. Holds nothing between reads but the reader's place: no connection, no queue, no timer."""

    def __init__(self, database: Database, live: LiveRuns) -> None:
        self._database = database
        self._live = live
        self._reader = LogReader(database)

    def close(self) -> None:
        """End the streams of runs that do not execute here any more, once they have shown what the log holds."""
        self._live.watches.close()

    async def follow(self, run_id: str, after: EventPlace) -> AsyncIterator[list[RunEvent]]:
        """Batches of events after a place, each as soon as there is one, until the run's last event.

        Events that have come while the reader was busy come together, deltas merged. The caller has checked whose
        run it is. Ends too when the run no longer exists, and, before the last event, when this process stops: the
        reader goes on from its place at another one.
        """
        place, ended = after, False
        watch = self._live.watches.add(run_id)
        try:
            while not ended:
                live = self._live.get(run_id)
                if live is not None and place[0] > live.attempt:
                    live = None  # another process has taken the run over, and this one does not know it yet
                events = live.since(place) if live is not None else None
                if live is None or events is None:
                    events, place, ended = await self._from_log(watch, place, live)
                elif not events:
                    await live.wait(place)
                if events:
                    place = max(place, events[-1].place)
                    ended = ended or events[-1].final
                    yield merge_deltas(events)
        finally:
            watch.close()

    async def _from_log(
        self, watch: Watch, place: EventPlace, live: LiveRun | None
    ) -> tuple[list[RunEvent], EventPlace, bool]:
        """What the log holds after a place, the place that is known to be complete then, and whether it is the end."""
        in_memory_from = live.place_before() if live is not None else None
        watch.arm(place)
        look = await self._reader.read(watch.run_id, place)
        if look.complete and in_memory_from is not None:
            return look.events, max(place, in_memory_from), False
        if look.events or look.ended:
            return look.events, place, look.ended
        if self._live.watches.closed:
            return [], place, True
        await watch.wait()
        return [], place, False

    async def page(self, run_id: str, after: EventPlace, limit: int) -> list[RunEvent]:
        """Events of the log after a place, at once. The caller has checked whose run it is."""
        rows = await self._database.read(repository.read_events, run_id, after=after, limit=limit)
        return from_rows(rows, after)

    async def until(self, run_id: str, states: Container[str]) -> str | None:
        """Wait until a run is in one of these states or has ended. Its log is not read.

        Returns:
            Its state; None if it is gone. Another one than asked for if this process stops before.
        """
        watch = self._live.watches.add(run_id)
        try:
            while True:
                watch.arm(_END)
                state = (await self._reader.read(run_id, _END)).state
                if state is None or state in states or state in TERMINAL or self._live.watches.closed:
                    return state
                watch.state = state
                await watch.wait()
        finally:
            watch.close()

    def changed(self, run_id: str) -> None:
        """A run's log or state was changed by this process, outside of an attempt: tell everyone."""
        self._live.changed(run_id)

    async def wait_for_change(self, run_id: str) -> None:
        """Until there may be something new of a run that has not ended, two seconds at most."""
        watch = self._live.watches.add(run_id)
        try:
            watch.arm(_END)
            state = (await self._reader.read(run_id, _END)).state
            if state is None or state in TERMINAL:
                return
            watch.state = state
            async with asyncio.timeout(_LONGEST_WAIT_SECONDS):
                await watch.wait()
        except TimeoutError:
            return
        finally:
            watch.close()
