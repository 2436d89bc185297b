"""Background loops that never end: started together, watched, started again when they fail, reported by readiness.

Invariant: whatever a loop's work raises, the loop goes on. Only the supervisor ends it, or the end of the process.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from pilothouse.errors import PilothouseError
from pilothouse.observability.logs import get_logger

log = get_logger(__name__)

Work = Callable[[], Awaitable[None]]
"""One round of a loop: it waits for what it needs, does it once, and returns."""

_FIRST_WAIT_SECONDS = 0.25
_LONGEST_WAIT_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class LoopReport:
    """How a background loop is.

    Attributes:
        age_seconds: since its last good round, or since its start if there was none.
        failures: failed rounds in a row; 0 if the last one was good.
        reason: of the last failed round, in words that may be shown; None if the last round was good.
        stale: it has had no good round for longer than it may.
    """

    name: str
    age_seconds: float
    failures: int
    reason: str | None
    stale: bool

    @property
    def ok(self) -> bool:
        """Whether nothing is known against it."""
        return not self.failures and not self.stale


class Loop:
    """One background loop. Made by `Supervisor.start`.

    Args:
        work: one round; called again and again.
        stale_seconds: longest time without a good round before the loop counts as stale; None: it may wait for ever.
        first_wait_seconds: after one failed round; doubles with each further one.
        longest_wait_seconds: after a failed round.
    """

    def __init__(
        self,
        name: str,
        work: Work,
        *,
        stale_seconds: float | None,
        first_wait_seconds: float,
        longest_wait_seconds: float,
        clock: Callable[[], float],
    ) -> None:
        self.name = name
        self._work = work
        self._stale_seconds = stale_seconds
        self._first_wait = first_wait_seconds
        self._longest_wait = longest_wait_seconds
        self._clock = clock
        self._good_at = clock()
        self._failures = 0
        self._reason: str | None = None
        self._closing = False
        self.task = asyncio.create_task(self._keep(), name=name)

    def succeeded(self) -> None:
        """A round went well. Called by the supervisor; work whose round has no end calls it when it gets on."""
        self._good_at = self._clock()
        if self._failures:
            log.info("loop_recovered", loop=self.name, failures=self._failures)
        self._failures, self._reason = 0, None

    def report(self) -> LoopReport:
        """How it is now."""
        age = self._clock() - self._good_at
        stale = self._stale_seconds is not None and age > self._stale_seconds
        return LoopReport(self.name, age, self._failures, self._reason, stale)

    async def close(self) -> None:
        """End it; returns when its work has stopped."""
        self._closing = True
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)

    async def _keep(self) -> None:
        while not self._closing:
            try:
                await self._work()
            except (KeyboardInterrupt, SystemExit):
                raise
            except asyncio.CancelledError:
                # Not ours: something the work waited for was cancelled. That must not end the loop.
                if self._closing or _cancelled_from_outside():
                    raise
                self._failed("something it waited for was cancelled")
            except PilothouseError as error:
                self._failed(error.message, cause=error.__cause__)
            except BaseException as error:  # noqa: BLE001 - no error of any kind may end the loop
                self._failed(type(error).__name__, error)
            else:
                self.succeeded()
                await asyncio.sleep(0)  # work that never waits must not take the event loop
                continue
            await asyncio.sleep(min(self._first_wait * 2 ** min(self._failures - 1, 10), self._longest_wait))

    def _failed(self, reason: str, error: BaseException | None = None, *, cause: BaseException | None = None) -> None:
        self._failures += 1
        self._reason = reason
        if error is None:
            named = {} if cause is None else {"cause": type(getattr(cause, "orig", None) or cause).__name__}
            log.warning("loop_failed", loop=self.name, reason=reason, failures=self._failures, **named)
        else:
            log.error("loop_failed", loop=self.name, reason=reason, failures=self._failures, exc_info=error)


class Supervisor:
    """Keeps the background loops of a process.

    Args:
        clock: seconds that never go back.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._loops: list[Loop] = []

    def start(
        self,
        name: str,
        work: Work,
        *,
        stale_seconds: float | None = None,
        first_wait_seconds: float = _FIRST_WAIT_SECONDS,
        longest_wait_seconds: float = _LONGEST_WAIT_SECONDS,
    ) -> Loop:
        """Begin a loop. See `Loop` for the arguments."""
        loop = Loop(
            name,
            work,
            stale_seconds=stale_seconds,
            first_wait_seconds=first_wait_seconds,
            longest_wait_seconds=longest_wait_seconds,
            clock=self._clock,
        )
        self._loops.append(loop)
        return loop

    def reports(self) -> list[LoopReport]:
        """How each loop is, in the order they were started."""
        return [loop.report() for loop in self._loops]

    async def stop(self, loop: Loop) -> None:
        """End one loop before the others."""
        await loop.close()
        self._loops = [other for other in self._loops if other is not loop]

    async def close(self) -> None:
        """End all loops, the last one started first."""
        for loop in reversed(self._loops):
            await loop.close()
        self._loops = []


def _cancelled_from_outside() -> bool:
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0
