"""The reaper: finds runs that nobody executes any more, or not yet, and continues them here."""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, Select

from pilothouse.db import Database
from pilothouse.engine import repository as engine_rows
from pilothouse.errors import PilothouseError
from pilothouse.kit.clock import now_ms
from pilothouse.observability.logs import get_logger
from pilothouse.runs import repository
from pilothouse.runs.execute import Executor
from pilothouse.runs.resume import SUSPECT_CRASHES

log = get_logger(__name__)

_MOST_AT_ONCE = 64
_BEGUN_WITHIN_MS = 10_000


class Reaper:
    """A background task of every process that executes runs.

    Args:
        alone: no other process can be alive (the data folder is ours), so all runs of others are orphans.
        interval_seconds: how often it looks.
    """

    def __init__(self, database: Database, executor: Executor, *, alone: bool, interval_seconds: float) -> None:
        self._database = database
        self._executor = executor
        self._alone = alone
        self._interval = interval_seconds
        self._look = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to look, every now and then."""
        self._task = asyncio.create_task(self._run(), name="reaper")

    def look(self) -> None:
        """Look at once: a node said that it leaves, or that someone wants a run stopped."""
        self._look.set()

    async def close(self) -> None:
        """Stop looking."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def once(self) -> int:
        """Look now. Returns how many runs were taken up."""
        executor = self._executor
        seen = await self._database.read(_survey, executor.owner, executor.agent_names, alone=self._alone)
        for run_id in seen.to_cancel:
            executor.cancel(run_id, "cancelled by its caller")
        for run_id, attempt in seen.own:
            if executor.task(run_id) is None:
                await executor.resume(run_id, states=("running",), if_attempt=attempt)
        taken = 0
        random.shuffle(seen.orphans)  # nodes that look at the same time begin at different ends
        for run_id, attempt, crashes, cancelled_at in seen.orphans:
            # A run that is only to be stopped executes nothing: it needs not wait for its turn.
            if crashes >= SUSPECT_CRASHES and executor.has_suspect and cancelled_at is None:
                continue
            taken += await executor.resume(run_id, states=("running",), if_attempt=attempt) is not None
        for run_id in seen.answered:
            taken += await executor.resume(run_id, states=("awaiting_input",)) is not None
        for conversation_id in seen.waiting:
            following = await self._database.read(repository.next_queued, conversation_id)
            if following is not None:
                taken += await executor.resume(following, states=("queued",)) is not None
        if taken:
            log.info("runs_taken_up", runs=taken)
        return taken

    async def _run(self) -> None:
        while not self._executor.stopping:
            try:
                await self.once()
            except PilothouseError as error:
                log.warning("reaper_failed", reason=error.message)
            except Exception:
                log.exception("reaper_failed")
            try:
                async with asyncio.timeout(self._interval):
                    await self._look.wait()
                    self._look.clear()
            except TimeoutError:
                continue


@dataclass(frozen=True, slots=True)
class _Seen:
    """What there is to do.

    Attributes:
        to_cancel: runs of this process that somebody wants stopped.
        own: runs that were accepted here a while ago: they may never have begun, where whoever was to begin them was
            stopped in between. With their attempts.
        orphans: runs whose process is gone, with their attempts, crashes and when somebody wanted them stopped.
        answered: runs that rest although nothing waits for a person any more.
        waiting: conversations with a queued run and no active one.
    """

    to_cancel: list[str]
    own: Sequence[Row[str, int]]
    orphans: list[Row[str, int, int, int | None]]
    answered: list[str]
    waiting: list[str]


def _survey(connection: Connection, owner: str, agents: Sequence[str], *, alone: bool) -> _Seen:
    alive: Select[Any] | Sequence[str] = (owner,) if alone else engine_rows.alive(connection)
    return _Seen(
        to_cancel=repository.to_cancel(connection, owner),
        own=repository.owned(connection, owner, since=now_ms() - _BEGUN_WITHIN_MS),
        orphans=list(repository.orphans(connection, alive, agents=agents, limit=_MOST_AT_ONCE)),
        answered=repository.answered(connection, agents),
        waiting=repository.conversations_waiting(connection, agents),
    )
