"""Readiness looks at all that execution needs, and answers soon."""

import asyncio
import sqlite3
from contextlib import closing

import pytest
from pydantic_ai import Agent
from sqlalchemy import text
from tests.support.postgres import PostgresServer
from tests.support.server import running

from pilothouse.db import open_database
from pilothouse.db.migrate import upgrade_schema
from pilothouse.engine.readiness import Readiness
from pilothouse.engine.supervisor import Supervisor
from pilothouse.errors import Unavailable
from pilothouse.testing.provider import Script

HANG_SECONDS = 60


def none():
    return None


async def test_a_ready_server_says_how_each_part_is(database_url):
    async with running(database_url, Script(turns=["Hello."]), agents=[Agent(name="helper")]) as server:
        answer = await server.get("/health/ready")
        assert answer.status_code == 200
        document = answer.json()
        assert document["status"] == "ready"
        expected = {"database", "schema", "reaper", "upkeep", "delta-writer"}
        expected |= {"lease"} if database_url.startswith("postgresql") else {"alive"}
        assert expected <= document["checks"].keys()
        for check in document["checks"].values():
            assert check["ok"] is True
            assert check["age_seconds"] >= 0


async def test_a_database_that_is_away_makes_a_server_not_ready_and_its_return_ready():
    with PostgresServer() as postgres:
        url = postgres.new_database()
        async with running(url, Script(turns=["Hello."]), agents=[Agent(name="helper")]) as server:
            await asyncio.to_thread(postgres.stop)
            async with asyncio.timeout(HANG_SECONDS):
                while (answer := await server.get("/health/ready")).status_code == 200:
                    await asyncio.sleep(0.1)
                assert answer.json()["checks"]["database"]["ok"] is False
                assert answer.headers["Retry-After"] == "1"
                while "lease" not in answer.json()["reason"] and answer.json()["checks"]["lease"]["ok"]:
                    answer = await server.get("/health/ready")
                    await asyncio.sleep(0.1)
                refused = await server.send("Hello?")
                assert (refused.status_code, refused.json()["code"]) == (503, "database_unavailable")
                await asyncio.to_thread(postgres.start)
                while (answer := await server.get("/health/ready")).status_code != 200:
                    await asyncio.sleep(0.1)
                assert (await server.send("Hello?")).status_code == 200


@pytest.mark.parametrize(("name", "reason"), [("lease", "lease had no good round for 6 s."), ("upkeep", None)])
async def test_only_loops_that_execution_needs_keep_a_server_from_taking_work(database, name, reason):
    now = [0.0]
    supervisor = Supervisor(clock=lambda: now[0])
    supervisor.start(name, asyncio.Event().wait, stale_seconds=5)
    readiness = Readiness(database, supervisor, refusal=none, clock=lambda: now[0])
    assert (await readiness.report()).reason is None
    now[0] = 6.0
    health = await readiness.report()
    assert health.reason == reason
    [check] = [check for check in health.checks if check.name == name]
    assert (check.ok, check.age_seconds) == (False, 6.0)
    await supervisor.close()


async def test_what_refuses_runs_is_the_reason(database):
    readiness = Readiness(database, Supervisor(), refusal=lambda: Unavailable("The server is stopping."))
    assert (await readiness.report()).reason == "The server is stopping."


async def test_an_older_schema_is_not_ready_and_a_newer_one_is(database):
    def set_version(connection, version):
        connection.execute(text("UPDATE pilothouse_version SET version_num = :version"), {"version": version})

    now = [0.0]
    readiness = Readiness(database, Supervisor(), refusal=none, clock=lambda: now[0])
    await database.write(set_version, "0001")
    assert "pilothouse db upgrade" in str((await readiness.report()).reason)
    await database.write(set_version, "9999")
    now[0] = 10.0
    assert (await readiness.report()).reason is None


async def test_however_often_it_is_asked_it_asks_the_database_once_a_second(sqlite_url):
    class Counting:
        dialect = "postgresql"
        count = 0

        async def read(self, unit):
            self.count += 1
            return await database.read(unit)

    database, counting = await open_database(sqlite_url), Counting()
    await upgrade_schema(database)
    readiness = Readiness(counting, Supervisor(), refusal=none, clock=lambda: 5.0)
    await asyncio.gather(*(readiness.report() for _ in range(20)))
    assert counting.count == 1
    await database.close()


async def test_a_database_that_never_answers_is_said_soon():
    class Hanging:
        dialect = "postgresql"

        async def read(self, _unit):
            await asyncio.Event().wait()

    readiness = Readiness(Hanging(), Supervisor(), refusal=none)
    async with asyncio.timeout(HANG_SECONDS):
        assert "did not answer" in str((await readiness.report()).reason)


async def test_a_file_that_somebody_else_holds_locked_is_not_ready(sqlite_url):
    database = await open_database(sqlite_url)
    readiness = Readiness(database, Supervisor(), refusal=none)
    with closing(sqlite3.connect(sqlite_url.removeprefix("sqlite:///"), isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        async with asyncio.timeout(HANG_SECONDS):
            assert (await readiness.report()).reason is not None
        other.execute("ROLLBACK")
    await database.close()
