"""Who in this process waits for a run to get on, and how they are woken.

Invariant: no change is missed by who follows the order *arm, look, wait*. A change that comes after `arm` either is
seen by the look or ends the wait, since whoever makes or learns of a change calls `changed` after its commit.
"""

import asyncio
from collections import deque
from collections.abc import Iterable

from pilothouse.runs.events import START, EventPlace

_WOKEN_AT_ONCE = 64


class Watch:
    """One waiter for one run, made by `Watches.add`.

    Attributes:
        place: the log is known up to here.
        state: the run's state that is known; empty if only its end matters.
        armed: how often it was armed: tells whether two looks found the same wait.
    """

    __slots__ = ("_changed", "_future", "_watches", "armed", "place", "run_id", "state")

    def __init__(self, watches: "Watches", run_id: str) -> None:
        self._watches = watches
        self._changed = False
        self._future: asyncio.Future[None] | None = None
        self.run_id = run_id
        self.place: EventPlace = START
        self.state = ""
        self.armed = 0

    def arm(self, place: EventPlace, state: str = "") -> None:
        """Note changes from now on. Comes before the look at the database."""
        self._changed = self._watches.closed
        self.place = place
        self.state = state
        self.armed += 1

    async def wait(self) -> None:
        """Until something may have changed since `arm`. Has no timer: see `LogWatcher` for what is not told."""
        if self._changed:
            return
        self._future = asyncio.get_running_loop().create_future()
        try:
            await self._future
        finally:
            self._future = None

    @property
    def waiting(self) -> bool:
        """Somebody waits, and has not been told of a change."""
        return self._future is not None and not self._changed

    def note(self) -> bool:
        """There is a change. Returns whether somebody has to be woken for it."""
        wake = self.waiting
        self._changed = True
        return wake

    def wake(self) -> None:
        """End the wait."""
        if self._future is not None and not self._future.done():
            self._future.set_result(None)

    def close(self) -> None:
        """It is not needed any more."""
        self._watches.remove(self)


class Watches:
    """All watches of a process. Costs an idle stream one entry and one future."""

    def __init__(self) -> None:
        self._by_run: dict[str, set[Watch]] = {}
        self._to_wake: deque[Watch] = deque()
        self.closed = False

    def add(self, run_id: str) -> Watch:
        """A watch on a run, not yet armed. Close it."""
        watch = Watch(self, run_id)
        self._by_run.setdefault(run_id, set()).add(watch)
        return watch

    def remove(self, watch: Watch) -> None:
        """Forget a watch."""
        mine = self._by_run.get(watch.run_id)
        if mine is not None:
            mine.discard(watch)
            if not mine:
                del self._by_run[watch.run_id]

    def changed(self, run_id: str) -> None:
        """There may be something new of this run."""
        self.tell(self._by_run.get(run_id, ()))

    def tell(self, watches: Iterable[Watch]) -> None:
        """There may be something new for these. They are woken some at a time, so that the event loop stays free."""
        idle = not self._to_wake
        self._to_wake.extend([watch for watch in watches if watch.note()])
        if idle and self._to_wake:
            self._wake_some()

    def close(self) -> None:
        """Wake all; nobody waits any more."""
        self.closed = True
        for watches in self._by_run.values():
            self.tell(watches)

    def waiting(self) -> list[Watch]:
        """Those that wait now."""
        return [watch for watches in self._by_run.values() for watch in watches if watch.waiting]

    def __len__(self) -> int:
        return sum(map(len, self._by_run.values()))

    def _wake_some(self) -> None:
        for _ in range(min(_WOKEN_AT_ONCE, len(self._to_wake))):
            self._to_wake.popleft().wake()
        if self._to_wake:
            asyncio.get_running_loop().call_soon(self._wake_some)
