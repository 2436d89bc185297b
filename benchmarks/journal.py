"""What the journal costs: the writes of a whole turn, without model, agent loop and HTTP.

A turn is admission, one model answer of 100 tokens and the end, recorded by the code that records real ones.
"""

import asyncio
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic_ai import Agent
from pydantic_ai.messages import ModelResponse, TextPart
from pydantic_ai.models.test import TestModel
from pydantic_ai.usage import RequestUsage

from pilothouse.agents.registry import AgentRegistry, ServedAgent
from pilothouse.db import Database, open_database
from pilothouse.db.migrate import upgrade_schema
from pilothouse.engine.leases import SoleOwner
from pilothouse.identity.principal import local_principal
from pilothouse.runs import ownership_repository
from pilothouse.runs.active import ActiveRun
from pilothouse.runs.admit import NewRun, admit
from pilothouse.runs.journal import Journal, RunPlace
from pilothouse.runs.live import LiveRuns
from pilothouse.settings import Settings

_TEXT = " ".join(f"word{number}" for number in range(100))


@dataclass(frozen=True)
class JournalCost:
    """Of one turn. `write_ms` is what a caller waits for both transactions, one turn at a time."""

    cpu_ms: float
    write_ms: float
    kilobytes: float


async def measure_journal(url: str, *, turns: int, size: Callable[[], int]) -> JournalCost:
    """Record so many turns in new conversations, after some that only warm up.

    Args:
        url: an empty database.
        turns: how many.
        size: its bytes on disk.
    """
    database = await open_database(url)
    try:
        await upgrade_schema(database)
        agent = AgentRegistry(Settings().runs).add(Agent(TestModel(), name="bench"))
        for _ in range(turns // 5):
            await _turn(database, agent)
        before, cpu, wall = size(), time.process_time(), time.perf_counter()
        for _ in range(turns):
            await _turn(database, agent)
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        return JournalCost(cpu / turns * 1000, wall / turns * 1000, (size() - before) / turns / 1000)
    finally:
        await database.close()


async def _turn(database: Database, agent: ServedAgent) -> None:
    new = NewRun(principal=local_principal(), agent=agent, message="How is it going?")
    owner = SoleOwner()
    admitted = await admit(database, new, owner=owner.owner, queue_length=1)
    live = LiveRuns().open(admitted.run_id, attempt=1, first_number=1)
    for event in admitted.events:
        live.publish(event)
    journal = Journal(
        database,
        live,
        RunPlace(admitted.run_id, admitted.conversation_id, 1, 1),
        next_seq=2,
        next_step=1,
        next_event=len(admitted.events) + 1,
        ownership=owner,
    )
    run = ActiveRun(
        run_id=admitted.run_id,
        conversation_id=admitted.conversation_id,
        agent=agent,
        principal=new.principal,
        journal=journal,
        ownership=owner,
        policy=_no_tools,
        stream=False,
        context={},
    )
    run.begin_model_step("bench")
    usage = RequestUsage(input_tokens=12, output_tokens=100)
    response = ModelResponse(parts=[TextPart(_TEXT)], usage=usage, model_name="bench")
    run.record_response(response, told={}, started_at=0, started=0.0)
    await run.finish(
        "completed",
        values={"output": run.text},
        event=("run.completed", {"text": run.text}),
        after=lambda connection: ownership_repository.next_queued(connection, run.conversation_id),
    )


def _no_tools(name: str) -> Any:
    raise KeyError(name)


def journal_on_sqlite(folder: Path, turns: int) -> JournalCost:
    """On SQLite with full sync, as the server has it."""
    path = folder / "journal.db"

    def size() -> int:
        with sqlite3.connect(path) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return path.stat().st_size

    return asyncio.run(measure_journal(f"sqlite:///{path}", turns=turns, size=size))
