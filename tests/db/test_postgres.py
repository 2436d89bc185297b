"""The PostgreSQL adapter, against a real server that goes away and comes back."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from sqlalchemy import Connection, text
from sqlalchemy.exc import IntegrityError
from tests.support.postgres import PostgresServer

from pilothouse.db import Database, open_database
from pilothouse.errors import StartupError, Unavailable


@pytest.fixture
async def database(empty_postgres_url: str) -> AsyncIterator[Database]:
    opened = await open_database(empty_postgres_url, pool_size=2)
    await opened.write(run, "CREATE TABLE notes (n integer PRIMARY KEY)")
    yield opened
    await opened.close()


def run(connection: Connection, sql: str) -> None:
    connection.execute(text(sql))


def add(connection: Connection, n: int) -> int:
    connection.execute(text("INSERT INTO notes VALUES (:n)"), {"n": n})
    return n


def notes(connection: Connection) -> list[int]:
    return list(connection.execute(text("SELECT n FROM notes ORDER BY n")).scalars())


async def test_more_units_than_connections_all_finish(database: Database) -> None:
    assert await asyncio.gather(*(database.write(add, n) for n in range(30))) == list(range(30))
    assert await database.read(notes) == list(range(30))


async def test_an_error_undoes_its_unit_only_and_is_raised_as_it_is(database: Database) -> None:
    def half(connection: Connection) -> None:
        add(connection, 1)
        raise KeyError("on purpose")

    await database.write(add, 7)
    with pytest.raises(KeyError, match="on purpose"):
        await database.write(half)
    with pytest.raises(IntegrityError):
        await database.write(add, 7)
    assert await database.read(notes) == [7]


async def test_reads_never_write(database: Database) -> None:
    await database.read(add, 1)
    assert await database.read(notes) == []


async def test_a_caller_that_gives_up_leaves_the_pool_whole(database: Database) -> None:
    for _ in range(4):  # twice as often as there are connections
        waiting = asyncio.create_task(database.write(run, "SELECT pg_sleep(30)"))
        done, _ = await asyncio.wait([waiting], timeout=0.05)
        assert not done
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    assert await asyncio.gather(*(database.write(add, n) for n in range(4))) == [0, 1, 2, 3]


@pytest.mark.parametrize("how", ["stop", "kill"])
async def test_a_server_that_is_away_means_unavailable_and_its_return_is_enough(how: str) -> None:
    with PostgresServer(durable=True) as server:
        database = await open_database(server.new_database(migrated=False), pool_size=2)
        await database.write(run, "CREATE TABLE notes (n integer PRIMARY KEY)")
        await asyncio.gather(*(database.write(add, n) for n in range(10)))
        await asyncio.to_thread(getattr(server, how))
        for _ in range(3):
            for work in (database.read(notes), database.write(add, 100)):
                with pytest.raises(Unavailable) as caught:
                    await work
                assert (caught.value.code, caught.value.retryable) == ("database_unavailable", True)
        await asyncio.to_thread(server.start)
        assert await database.read(notes) == list(range(10))
        await database.write(add, 100)
        await database.close()


async def test_a_connection_the_server_ends_means_unavailable_once(database: Database) -> None:
    with pytest.raises(Unavailable):
        await database.write(run, "SELECT pg_terminate_backend(pg_backend_pid())")
    assert await database.write(add, 1) == 1


async def test_a_server_that_is_away_at_start_is_one_clear_sentence() -> None:
    with pytest.raises(StartupError, match="PILOTHOUSE_DATABASE_URL") as caught:
        await open_database("postgresql://ada:hunter2@127.0.0.1:1/pilothouse")
    assert "hunter2" not in str(caught.value)


async def test_a_database_that_does_not_exist_is_one_clear_sentence(postgres_server: PostgresServer) -> None:
    with pytest.raises(StartupError, match="can't be used"):
        await open_database(postgres_server.url("nothing_of_this_name"))
