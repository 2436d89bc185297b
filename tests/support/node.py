"""The run machinery of one process without HTTP, and a database that dies under it at a chosen write."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

from pydantic_ai import Agent

from pilothouse.agents.registry import AgentRegistry, ServedAgent
from pilothouse.conversations.service import Conversations
from pilothouse.db import Database
from pilothouse.engine.leases import Ownership, SoleOwner
from pilothouse.engine.supervisor import Supervisor
from pilothouse.identity.principal import Principal, local_principal
from pilothouse.llm.gateway import ModelGateway
from pilothouse.runs.active import Lapsed, never_lapsed
from pilothouse.runs.admit import NewRun
from pilothouse.runs.attempt import Outcome
from pilothouse.runs.deltas import DeltaWriter
from pilothouse.runs.events import START, EventPlace, RunEvent
from pilothouse.runs.execute import Executor
from pilothouse.runs.follow import Follower
from pilothouse.runs.live import LiveRuns
from pilothouse.runs.service import Accepted, Runs
from pilothouse.runs.wakeups import NoWakeups
from pilothouse.settings import Settings


class Crash(BaseException):
    """The process has died: nothing below may catch this."""


class CutDatabase:
    """The database of a process that dies at its n-th write: with it (`lost`) or right after it.

    `writes` counts; without `at` nothing ever dies.
    """

    def __init__(self, inner: Database, *, at: int | None = None, lost: bool = False) -> None:
        self._inner = inner
        self._at = at
        self._lost = lost
        self.writes = 0
        self.dead = asyncio.Event()

    @property
    def dialect(self) -> str:
        return self._inner.dialect

    async def read(self, unit: Any, *args: Any, **kwargs: Any) -> Any:
        self._alive()
        result = await self._inner.read(unit, *args, **kwargs)
        self._alive()
        return result

    async def write(self, unit: Any, *args: Any, **kwargs: Any) -> Any:
        self._alive()
        self.writes += 1
        last = self.writes == self._at
        if last and self._lost:
            self._die()
        result = await self._inner.write(unit, *args, **kwargs)
        if last:
            self._die()
        self._alive()
        return result

    async def close(self) -> None:
        await self._inner.close()

    def _alive(self) -> None:
        if self.dead.is_set():
            raise Crash

    def _die(self) -> None:
        self.dead.set()
        raise Crash


@dataclass(frozen=True)
class Seen:
    """What a client that followed a run has."""

    events: list[RunEvent]

    @property
    def place(self) -> EventPlace:
        return self.events[-1].place if self.events else START


class Node:
    """One process. `agent` is the only one it serves."""

    def __init__(
        self,
        database: Database,
        agent: Agent[Any, Any],
        *,
        settings: Settings | None = None,
        ownership: Ownership | None = None,
        lapsed: Lapsed = never_lapsed,
        **served: Any,
    ):
        settings = settings or Settings()
        self.database = database
        self.registry = AgentRegistry(settings.runs)
        self.agent: ServedAgent = self.registry.add(agent, **served)
        self.gateway = ModelGateway(settings, {})
        self.live = LiveRuns()
        self.deltas = DeltaWriter(database, interval_seconds=settings.runs.delta_flush_seconds)
        self.executor = Executor(
            database=database,
            agents=self.registry,
            gateway=self.gateway,
            live=self.live,
            deltas=self.deltas,
            ownership=ownership or SoleOwner(),
            default_model=settings.models.default,
            lapsed=lapsed,
        )
        self.supervisor = Supervisor()
        self.supervisor.start("delta-writer", self.deltas.round)
        self.follower = Follower(database, self.live)
        self.runs = Runs(database, self.executor, self.follower, NoWakeups(), queue_length=settings.runs.queue_length)
        self.conversations = Conversations(database)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.executor.close(grace_seconds=0)
        await self.supervisor.close()
        await self.deltas.write_all()
        await self.gateway.close()

    async def abandon(self, tasks: Iterable[asyncio.Task[Any] | None] = ()) -> None:
        """Let go of a dead process's tasks, as its end would."""
        await self.supervisor.close()
        for task in tasks:
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        await self.gateway.close()

    def new(self, message: str, *, principal: Principal | None = None, **values: Any) -> NewRun:
        return NewRun(principal=principal or local_principal(), agent=self.agent, message=message, **values)

    async def start(self, message: str, **values: Any) -> Accepted:
        return await self.runs.start(self.new(message, **values))

    async def finish(self, message: str, **values: Any) -> Outcome:
        """Run a message to its end (or pause)."""
        accepted = await self.start(message, **values)
        assert accepted.task is not None
        outcome = await accepted.task
        assert outcome is not None
        return outcome

    async def resume(self, run_id: str) -> Outcome:
        """Continue a run as the process that found it."""
        task = await self.executor.resume(run_id)
        assert task is not None
        outcome = await task
        assert outcome is not None
        return outcome

    async def watch(self, run_id: str, seen: list[RunEvent], after: EventPlace = START) -> None:
        """Follow a run into `seen` to its end."""
        async for batch in self.follower.follow(run_id, after):
            seen.extend(batch)
