"""The reaper: finds runs that nobody executes any more, or not yet, and continues them here."""

import asyncio
import random
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Select

from pilothouse.db import Database
from pilothouse.engine import repository as engine_rows
from pilothouse.errors import PilothouseError
from pilothouse.kit.clock import now_ms
from pilothouse.observability.logs import get_logger
from pilothouse.runs import repository
from pilothouse.runs.execute import SUSPECT_CRASHES, Executor

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
        for run_id in await self._database.read(repository.to_cancel, self._executor.owner):
            self._executor.cancel(run_id, "cancelled by its caller")
        taken = 0
        await self._look_at_own()
        agents = self._executor.agent_names
        only_alive = self._executor.owner if self._alone else None
        orphans = list(await self._database.read(_orphans, only_alive, agents))
        random.shuffle(orphans)  # nodes that look at the same time begin at different ends
        for run_id, attempt, crashes in orphans:
            if crashes >= SUSPECT_CRASHES and self._executor.has_suspect:
                continue
            taken += await self._executor.resume(run_id, states=("running",), if_attempt=attempt) is not None
        for run_id in await self._database.read(repository.answered, agents):
            taken += await self._executor.resume(run_id, states=("awaiting_input",)) is not None
        for conversation_id in await self._database.read(repository.conversations_waiting, agents):
            following = await self._database.read(repository.next_queued, conversation_id)
            if following is not None:
                taken += await self._executor.resume(following, states=("queued",)) is not None
        if taken:
            log.info("runs_taken_up", runs=taken)
        return taken

    async def _look_at_own(self) -> None:
        """Runs that were accepted here but never begun, because whoever was to begin them was stopped in between."""
        since = now_ms() - _BEGUN_WITHIN_MS
        for run_id, attempt in await self._database.read(repository.owned, self._executor.owner, since=since):
            if self._executor.task(run_id) is None:
                await self._executor.resume(run_id, states=("running",), if_attempt=attempt)

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


def _orphans(connection: Connection, only_alive: str | None, agents: Sequence[str]) -> Sequence[Any]:
    alive: Select[Any] | Sequence[str] = engine_rows.alive(connection) if only_alive is None else (only_alive,)
    return repository.orphans(connection, alive, agents=agents, limit=_MOST_AT_ONCE)
