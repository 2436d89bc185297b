"""The one look at the database for all who wait: for changes that nobody tells this process of.

What happens in this process is told by who does it, what happens elsewhere by wake-ups. While those work, the look is
only a safety net; without them it is how streams get on, one query twice a second for all of them.
"""

import asyncio
import random
import time
from collections.abc import Callable, Iterable
from typing import Protocol

from pilothouse.db import Database
from pilothouse.engine.supervisor import Supervisor
from pilothouse.observability.logs import get_logger
from pilothouse.runs import log_repository
from pilothouse.runs.log_repository import Waited
from pilothouse.runs.watches import Watch, Watches

log = get_logger(__name__)

_RUNS_A_QUERY = 500
_POLL_SECONDS = 0.5
_SAFETY_SECONDS = 12.0
_JITTER = 0.2
_GRACE_SECONDS = 1.0
_DISTRUST_SECONDS = 60.0
_STALE_SECONDS = 60.0


class Told(Protocol):
    """Whether this process is told of what others do."""

    @property
    def healthy(self) -> bool:
        """As far as is known."""
        ...


class AllTold:
    """No other process can be at work: the database is ours alone."""

    healthy = True


class LogWatcher:
    """A background loop of a process whose streams may follow runs that execute elsewhere.

    Args:
        told: whether wake-ups come. They are distrusted for a minute after one was missed.
        poll_seconds: between looks without wake-ups; also how soon their absence is noticed.
        safety_seconds: between looks with wake-ups, a fifth more or less.
        grace_seconds: a change found by a look counts as missed if nobody has told of it that much later.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        database: Database,
        watches: Watches,
        told: Told,
        *,
        poll_seconds: float = _POLL_SECONDS,
        safety_seconds: float = _SAFETY_SECONDS,
        grace_seconds: float = _GRACE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._watches = watches
        self._told = told
        self._poll = poll_seconds
        self._safety = safety_seconds
        self._grace = grace_seconds
        self._clock = clock
        self._asked = asyncio.Event()
        self._next_safe = 0.0
        self._distrust_until = 0.0
        self.looks = 0

    def start(self, supervisor: Supervisor) -> None:
        """Begin to look, every now and then."""
        supervisor.start("log-watcher", self._round, stale_seconds=_STALE_SECONDS)

    def look(self) -> None:
        """Look at once: wake-ups may have been lost, such as before a connection was made again."""
        self._asked.set()

    async def once(self) -> int:
        """Look now, and wake those for whom there is something new. Returns how many."""
        found = await self._find()
        self._watches.tell(found)
        return len(found)

    @property
    def trusting(self) -> bool:
        """Whether changes are expected to be told."""
        return self._told.healthy and self._clock() >= self._distrust_until

    async def _round(self) -> None:
        try:
            async with asyncio.timeout(self._poll):
                await self._asked.wait()
        except TimeoutError:
            pass
        if self._asked.is_set():
            self._asked.clear()
            try:
                await self.once()
            except BaseException:
                self._asked.set()  # it is still to be done
                raise
        elif not self.trusting:
            await self.once()
        elif self._clock() >= self._next_safe:
            await self._look_for_missed()
        else:
            return
        self._next_safe = self._clock() + self._safety * random.uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311 - spreads nodes

    async def _look_for_missed(self) -> None:
        """Wake those who should have been told and were not, and look often for a while if there are any."""
        found = {watch: watch.armed for watch in await self._find()}
        if not found:
            return
        await asyncio.sleep(self._grace)  # most likely their message is on its way
        missed = [watch for watch, armed in found.items() if watch.waiting and watch.armed == armed]
        if missed:
            self._distrust_until = self._clock() + _DISTRUST_SECONDS
            log.warning("wakeups_missed", streams=len(missed), meaning="the log is looked at often for a minute")
            self._watches.tell(missed)

    async def _find(self) -> list[Watch]:
        """Those who wait though there is something new for them."""
        groups: dict[Waited, list[Watch]] = {}
        for watch in self._watches.waiting():
            groups.setdefault((watch.run_id, *watch.place, watch.state), []).append(watch)
        found: list[Watch] = []
        for keys in _chunks(list(groups)):
            self.looks += 1
            for index in await self._database.read(log_repository.changed, keys):
                found.extend(groups[keys[index]])
            await asyncio.sleep(0)
        return [watch for watch in found if watch.waiting]


def _chunks(keys: list[Waited]) -> Iterable[list[Waited]]:
    return (keys[start : start + _RUNS_A_QUERY] for start in range(0, len(keys), _RUNS_A_QUERY))
