"""The live tail of runs that execute in this process.

Events are kept in one list per run, shared by all its readers; a reader holds only its place. What is durable may be
let go from memory at any time: a reader that has fallen behind finds it in the log. So a slow reader costs nothing.
"""

import asyncio
from collections import deque
from collections.abc import Callable

from pilothouse.runs.events import START, EventPlace, RunEvent
from pilothouse.runs.watches import Watches

_KEPT_BEHIND = 512
"""Durable events kept in memory for readers a little behind."""


class LiveRun:
    """The events of one attempt that may not be in the log yet, and who waits for more."""

    def __init__(
        self, run_id: str, *, attempt: int, first_number: int, announce: Callable[[str], None] | None = None
    ) -> None:
        self.run_id = run_id
        self._announce = announce
        self.attempt = attempt
        self.first_number = first_number
        self.durable = first_number - 1
        self.closed = False
        self._events: deque[RunEvent] = deque()
        self._waiters: list[asyncio.Future[None]] = []

    @property
    def last_number(self) -> int:
        """The number of the newest event; one less than the first where there is none."""
        return self.first_number + len(self._events) - 1

    def publish(self, event: RunEvent) -> None:
        """Append the next event and wake the readers."""
        self._events.append(event)
        self._wake()

    def mark_durable(self, number: int) -> None:
        """Everything up to this number is in the log; old events may go from memory."""
        self.durable = max(self.durable, number)
        if self._announce is not None:
            self._announce(self.run_id)
        spare = min(self.durable, self.last_number - _KEPT_BEHIND) - self.first_number + 1
        for _ in range(spare):
            self._events.popleft()
            self.first_number += 1

    def close(self) -> None:
        """No more events here: readers go on from the log."""
        self.closed = True
        self._wake()

    def place_before(self) -> EventPlace:
        """The place just before the oldest event in memory."""
        return (self.attempt, self.first_number - 1)

    def since(self, place: EventPlace) -> list[RunEvent] | None:
        """Events after a place; None where memory does not reach back that far."""
        if place == START and self.attempt == 1 and self.first_number == 1:
            place = (1, 0)
        if place < self.place_before():
            return None
        if place[0] > self.attempt:
            return []
        skip = place[1] - self.first_number + 1
        return [self._events[index] for index in range(skip, len(self._events))]

    async def wait(self, place: EventPlace) -> None:
        """Until there is an event after this place, or the run is closed here."""
        while not self.closed and (self.attempt, self.last_number) <= place:
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            try:
                await waiter
            finally:
                if waiter in self._waiters:
                    self._waiters.remove(waiter)

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)


class LiveRuns:
    """All runs that execute in this process, and who waits for those that do not.

    Args:
        announce: called with a run's id when its log or state has changed here, to tell other nodes.
    """

    def __init__(self, *, announce: Callable[[str], None] | None = None) -> None:
        self._announce = announce
        self._runs: dict[str, LiveRun] = {}
        self.watches = Watches()

    def open(self, run_id: str, *, attempt: int, first_number: int) -> LiveRun:
        """Begin the live tail of an attempt."""
        live = LiveRun(run_id, attempt=attempt, first_number=first_number, announce=self._announce)
        self._runs[run_id] = live
        self.watches.changed(run_id)
        return live

    def look(self, run_id: str) -> None:
        """Wake those who wait for this run: its log or state has changed elsewhere."""
        self.watches.changed(run_id)

    def changed(self, run_id: str) -> None:
        """This process has committed a change of a run's log or state: wake who waits for it, here and elsewhere."""
        self.watches.changed(run_id)
        if self._announce is not None:
            self._announce(run_id)

    def get(self, run_id: str) -> LiveRun | None:
        """The live tail of a run, if it executes here."""
        return self._runs.get(run_id)

    def close(self, live: LiveRun) -> None:
        """End a live tail; its readers go on from the log."""
        live.close()
        if self._runs.get(live.run_id) is live:
            del self._runs[live.run_id]
        self.changed(live.run_id)  # it may have come to rest without an event

    def __len__(self) -> int:
        return len(self._runs)
