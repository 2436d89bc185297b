"""Release N+1 finishes the runs of N: each release's fixture of unfinished runs is loaded and brought to its end."""

import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, insert
from tests.compat.recorded import World, agent_for
from tests.support.tables import all_tables

from pilothouse.app import Pilothouse
from pilothouse.conversations.present import message_documents
from pilothouse.db import Database, open_database
from pilothouse.identity.principal import local_principal
from pilothouse.runs.events import START
from pilothouse.runs.states import TERMINAL
from pilothouse.settings import Settings

FIXTURES = sorted((Path(__file__).parent / "fixtures").glob("*.json"))
ME = local_principal()
Rows = dict[str, list[dict[str, Any]]]


def load(connection: Connection, rows: Rows) -> None:
    tables = all_tables().tables
    for name, items in rows.items():
        connection.execute(insert(tables[name]), items)


def recorded(rows: Rows) -> tuple[dict[str, int], set[tuple[str, str]]]:
    """Recorded responses by case, and tool results by run and call."""
    users = {
        row["run_id"]: json.loads(row["payload"])["parts"][0]["content"]
        for row in rows["messages"]
        if row["role"] == "user"
    }
    responses = dict.fromkeys(users.values(), 0)
    for row in rows["messages"]:
        if row["role"] == "assistant":
            responses[users[row["run_id"]]] += 1
    return responses, {(row["run_id"], row["call_id"]) for row in rows["messages"] if row["role"] == "tool"}


async def finish(app: Pilothouse, run_id: str) -> str:
    """Follow a run to its end, and say yes where it waits."""
    runs = app.services.runs
    while True:
        async for _ in runs.follow(ME, run_id, START, until_input=True):
            pass
        view = await runs.view(ME, run_id)
        if view.row.state in TERMINAL:
            return view.row.state
        for step in view.steps:
            if step.state == "waiting":
                await runs.answer(ME, run_id, call_id=step.call_id, approve=True)


def check_whole(messages: list[dict[str, Any]]) -> None:
    calls = [call["call_id"] for message in messages for call in message["tool_calls"]]
    results = [message["call_id"] for message in messages if message["role"] == "tool"]
    assert sorted(calls) == sorted(results)


def test_this_release_has_its_fixture():
    assert FIXTURES


@pytest.mark.parametrize("fixture", FIXTURES, ids=lambda path: path.stem)
async def test_runs_of_an_earlier_release_are_finished(fixture: Path, database_url: str, tmp_path: Path):
    rows: Rows = json.loads(fixture.read_text())["tables"]
    database: Database = await open_database(database_url)
    await database.write(load, rows)
    await database.close()
    responses, results = recorded(rows)
    world = World()
    settings = Settings.model_validate(
        {
            "database": {"url": database_url},
            "models": {"check": False},
            "log": {"level": "error"},
            "data": {"dir": tmp_path},
        }
    )
    app = Pilothouse(settings, local=True, environ={})
    app.agent(agent_for(world))
    async with app.running():
        states = {row["id"]: await finish(app, row["id"]) for row in sorted(rows["runs"], key=lambda row: row["turn"])}
        assert set(states.values()) == {"completed"}, states
        for row in rows["conversations"]:
            messages = await app.services.conversations.messages(ME, row["id"], limit=1000)
            check_whole(message_documents(messages))
            assert messages[-1].role == "assistant"
    assert all(number >= responses[case] for case, number in world.asked), world.asked
    assert all(count == 1 for count in world.asked.values()), world.asked
    assert not results & set(world.executed)
    assert len(set(world.executed)) == len(world.executed)
