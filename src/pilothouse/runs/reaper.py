"""The reaper: finds runs that nobody executes any more, or not yet, and continues them here.

Invariant: what can't be taken up, for whatever reason, keeps nothing else from being taken up in the same round.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, Select

from pilothouse.db import Database
from pilothouse.engine import repository as engine_rows
from pilothouse.errors import PilothouseError
from pilothouse.observability.logs import get_logger
from pilothouse.runs import ownership_repository
from pilothouse.runs.execute import CANCELLED_BY_CALLER, Executor
from pilothouse.runs.resume import SUSPECT_CRASHES

log = get_logger(__name__)

_MOST_A_ROUND = 64
_MOST_AT_ONCE = 8
_BEGUN_WITHIN_MS = 10_000
_PATIENCE_SECONDS = 60.0

Orphan = Row[str, int, int, int | None]


class Reaper:
    """A background loop of every process that executes runs.

    Args:
        alone: no other process can be alive (the data folder is ours), so all runs of others are orphans.
        interval_seconds: how often it looks.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        database: Database,
        executor: Executor,
        *,
        alone: bool,
        interval_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._executor = executor
        self._alone = alone
        self._interval = interval_seconds
        self._clock = clock
        self._look = asyncio.Event()
        self._suspects_since: dict[str, float] = {}
        self._suspect_was_last = False
        executor.isolation.on_end = self.look

    def look(self) -> None:
        """Look at once: a node said that it leaves, or that someone wants a run stopped."""
        self._look.set()

    async def round(self) -> None:
        """One round of the background loop."""
        if not self._executor.stopping:
            await self.once()
        try:
            async with asyncio.timeout(self._interval):
                await self._look.wait()
        except TimeoutError:
            return
        self._look.clear()

    async def once(self) -> int:
        """Look now. Returns how many runs were taken up."""
        executor = self._executor
        seen = await self._database.read(_survey, executor.owner, executor.agent_names, alone=self._alone)
        for run_id, reason in seen.to_cancel:
            executor.cancel(run_id, reason or CANCELLED_BY_CALLER)
        own = [run for run in seen.own if executor.task(run.id) is None]
        work = [self._resume(run.id, "running", if_attempt=run.attempt) for run in own]
        work += [self._resume(run_id, "awaiting_input") for run_id in seen.answered]
        work += [self._begin_next(conversation_id) for conversation_id in seen.waiting]
        work += [self._resume(run.id, "running", **how) for run, how in self._choose(seen.orphans)]
        taken = sum(await _at_most(_MOST_AT_ONCE, work))
        if taken:
            log.info("runs_taken_up", runs=taken)
        return taken

    def _choose(self, orphans: Sequence[Orphan]) -> list[tuple[Orphan, dict[str, Any]]]:
        """The orphans to take up now, and how.

        A suspect is taken up alone, while nothing else executes here, in turns with all others; one that has waited for
        that in vain is taken up beside them, where its end proves nothing.
        """
        # A run that is only to be stopped executes nothing: it need not be watched.
        suspects = [run for run in orphans if run.crashes >= SUSPECT_CRASHES and run.cancel_requested_at is None]
        others = [run for run in orphans if run not in suspects]
        random.shuffle(others)  # nodes that look at the same time begin at different ends
        now = self._clock()
        self._suspects_since = {run.id: self._suspects_since.get(run.id, now) for run in suspects}
        if self._executor.isolation.run_id is not None:
            return [(run, self._how(run)) for run in others if run.cancel_requested_at is not None]
        suspects.sort(key=lambda run: run.crashes, reverse=True)
        first_alone = suspects[:1] if not len(self._executor) and not (others and self._suspect_was_last) else []
        self._suspect_was_last = bool(first_alone)
        if first_alone:
            return [(run, {**self._how(run), "isolate": True}) for run in first_alone]
        patient = [run for run in suspects if now - self._suspects_since[run.id] > _PATIENCE_SECONDS]
        return [(run, self._how(run)) for run in [*others, *patient]]

    def _how(self, run: Orphan) -> dict[str, Any]:
        # Since the look its process may have got its lease back, or somebody else the run.
        return {"if_attempt": run.attempt, "if_dead": not self._alone}

    async def _resume(self, run_id: str, state: str, **how: Any) -> bool:
        try:
            return await self._executor.resume(run_id, states=(state,), **how) is not None
        except PilothouseError as error:
            log.warning("run_not_taken_up", run_id=run_id, reason=error.message)
        except Exception:
            log.exception("run_not_taken_up", run_id=run_id)
        return False

    async def _begin_next(self, conversation_id: str) -> bool:
        following = await self._database.read(ownership_repository.next_queued, conversation_id)
        return following is not None and await self._resume(following, "queued")


async def _at_most(most: int, work: Sequence[Awaitable[bool]]) -> list[bool]:
    """Await everything, so many at a time.

    Raises:
        PilothouseError: the first one that was raised, after all have ended.
    """
    gate = asyncio.Semaphore(most)

    async def one(item: Awaitable[bool]) -> bool:
        async with gate:
            return await item

    results = await asyncio.gather(*(one(item) for item in work), return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return [result for result in results if isinstance(result, bool)]


@dataclass(frozen=True, slots=True)
class _Seen:
    """What there is to do.

    Attributes:
        to_cancel: runs of this process that somebody wants stopped, and why.
        own: runs that were accepted here a while ago: they may never have begun, if whoever was to begin them was
            stopped in between. With their attempts.
        orphans: runs whose process is gone, with their attempts, crashes and when somebody wanted them stopped.
        answered: runs that rest although nothing waits for a person any more.
        waiting: conversations with a queued run and no active one.
    """

    to_cancel: Sequence[Row[str, str | None]]
    own: Sequence[Row[str, int]]
    orphans: Sequence[Orphan]
    answered: list[str]
    waiting: list[str]


def _survey(connection: Connection, owner: str, agents: Sequence[str], *, alone: bool) -> _Seen:
    alive: Select[Any] | Sequence[str] = (owner,) if alone else engine_rows.alive(connection)
    return _Seen(
        to_cancel=ownership_repository.to_cancel(connection, owner),
        own=ownership_repository.owned(connection, owner, for_ms=_BEGUN_WITHIN_MS),
        orphans=ownership_repository.orphans(
            connection, owner, alive, agents=agents, suspect_from=SUSPECT_CRASHES, limit=_MOST_A_ROUND
        ),
        answered=ownership_repository.answered(connection, agents),
        waiting=ownership_repository.conversations_waiting(connection, agents),
    )
