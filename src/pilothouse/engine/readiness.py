"""Whether this process can execute runs: not only whether the database answers, but all that execution needs."""

import asyncio
import time
from collections.abc import Callable

from pilothouse.db import Database
from pilothouse.db.migrate import newest_schema, stored_schema
from pilothouse.engine.supervisor import LoopReport, Supervisor
from pilothouse.errors import PilothouseError, Unavailable
from pilothouse.kit.health import Check, Health
from pilothouse.observability.logs import get_logger

log = get_logger(__name__)

_VITAL = frozenset({"lease", "reaper"})
_FRESH_SECONDS = 1.0
_LIMIT_SECONDS = 2.0


class Readiness:
    """Asks the database at most once a second, however often it is asked: anybody may ask.

    Args:
        refusal: why no run can begin here now, if none can.
        others: what else is to be reported.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        database: Database,
        supervisor: Supervisor,
        *,
        refusal: Callable[[], Unavailable | None],
        others: Callable[[], list[Check]] = list,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._supervisor = supervisor
        self._refusal = refusal
        self._others = others
        self._clock = clock
        self._good_at = clock()
        self._asked_at = float("-inf")
        self._stored: list[Check] = []
        self._lock = asyncio.Lock()

    async def report(self) -> Health:
        """How everything is now. Returns within some two seconds."""
        loops = map(_check_of, self._supervisor.reports())
        checks = [*await self._database_checks(), *self._others(), *loops]
        refusal = self._refusal()
        if refusal is not None:
            return Health(refusal.message, checks)
        wrong = next((check for check in checks if check.vital and not check.ok), None)
        return Health(None if wrong is None else wrong.reason or f"{wrong.name} is late", checks)

    async def _database_checks(self) -> list[Check]:
        async with self._lock:
            if self._clock() - self._asked_at >= _FRESH_SECONDS:
                self._stored = await self._ask()
                self._asked_at = self._clock()
        return self._stored

    async def _ask(self) -> list[Check]:
        try:
            async with asyncio.timeout(_LIMIT_SECONDS):
                # On SQLite through the writer, which a lock of somebody else's may hold; it writes nothing.
                ask = self._database.write if self._database.dialect == "sqlite" else self._database.read
                schema = await ask(stored_schema)
        except TimeoutError:
            return [self._away(f"The database can't be reached, or did not answer within {_LIMIT_SECONDS:g} s.")]
        except PilothouseError as error:
            return [self._away(error.message)]
        except Exception:
            log.exception("readiness_failed")
            return [self._away("The database can't be used as it is. The log holds the details.")]
        self._good_at = self._clock()
        # A newer schema is that of a release that is being rolled out: it only adds.
        older = schema is None or schema < newest_schema()
        reason = "The database schema is older than this release. Run: pilothouse db upgrade" if older else None
        return [
            Check("database", ok=True, age_seconds=0.0, vital=True),
            Check("schema", ok=not older, age_seconds=0.0, reason=reason, vital=True),
        ]

    def _away(self, reason: str) -> Check:
        return Check("database", ok=False, age_seconds=self._clock() - self._good_at, reason=reason, vital=True)


def _check_of(loop: LoopReport) -> Check:
    reason = loop.reason
    if reason is None and loop.stale:
        reason = f"{loop.name} had no good round for {loop.age_seconds:.0f} s."
    vital = loop.name in _VITAL
    # One failed round of a vital loop is a reason to look, its lateness a reason to take no work.
    ok = not loop.stale if vital else loop.ok
    return Check(loop.name, ok=ok, age_seconds=loop.age_seconds, reason=reason, vital=vital)
