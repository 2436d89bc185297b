"""Schema versions, on both databases."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, inspect, text
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from tests.support.logs import logged_by
from tests.support.tables import all_tables

from pilothouse.db import Database, migrate, open_database
from pilothouse.db.migrate import LockWait, check_schema, schema_versions, upgrade_schema
from pilothouse.errors import StartupError


@pytest.fixture(params=["sqlite", "postgres"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'empty.db'}"
    return request.getfixturevalue("empty_postgres_url")


@pytest.fixture
async def empty(empty_url: str) -> AsyncIterator[Database]:
    opened = await open_database(empty_url)
    yield opened
    await opened.close()


def run(connection: Connection, sql: str) -> None:
    connection.execute(text(sql))


def tables(connection: Connection) -> set[str]:
    return set(inspect(connection).get_table_names())


async def test_an_empty_database_is_brought_to_the_newest_schema_once(empty: Database) -> None:
    before, after = await upgrade_schema(empty)
    assert before is None
    assert await upgrade_schema(empty) == (after, after)
    assert {"runs", "api_keys", "pilothouse_version"} <= await empty.read(tables)
    await check_schema(empty)


async def test_the_migrations_make_exactly_the_tables_the_code_declares(database: Database) -> None:
    metadata = all_tables()

    def differences(connection: Connection) -> list[object]:
        context = MigrationContext.configure(
            connection, opts={"version_table": "pilothouse_version", "compare_type": True}
        )
        return compare_metadata(context, metadata)

    assert await database.read(differences) == []
    assert await database.read(tables) == {*metadata.tables, "pilothouse_version"}


async def test_foreign_keys_hold_on_both(database: Database) -> None:
    """Deleting a conversation deletes what hangs on it."""

    def fill(connection: Connection) -> None:
        run(
            connection,
            "INSERT INTO conversations (id, tenant, owner, agent, title, turns, created_at, updated_at) "
            "VALUES ('c', 't', 'o', 'a', '', 0, 1, 1)",
        )
        run(
            connection,
            "INSERT INTO messages (conversation_id, turn, seq, run_id, step, role, payload, tokens, created_at) "
            "VALUES ('c', 1, 1, 'r', 1, 'user', '{}', 1, 1)",
        )

    def messages(connection: Connection) -> int:
        return connection.execute(text("SELECT count(*) FROM messages")).scalar_one()

    await database.write(fill)
    assert await database.read(messages) == 1
    await database.write(run, "DELETE FROM conversations")
    assert await database.read(messages) == 0


async def test_two_nodes_that_upgrade_at_once_take_turns(empty: Database, empty_url: str) -> None:
    others = [await open_database(empty_url) for _ in range(3)]
    results = await asyncio.gather(*(upgrade_schema(node) for node in (empty, *others)))
    assert [before for before, _ in results].count(None) == 1
    assert len({after for _, after in results}) == 1
    for other in others:
        await other.close()


async def test_an_older_schema_says_how_to_upgrade(empty: Database) -> None:
    with pytest.raises(StartupError, match="pilothouse db upgrade"):
        await check_schema(empty)
    assert await empty.read(tables) == set()


async def test_a_newer_schema_is_refused_and_left_alone(database: Database) -> None:
    await database.write(run, "UPDATE pilothouse_version SET version_num = '9999'")
    for look in (upgrade_schema, check_schema):
        with pytest.raises(StartupError, match=r"\(9999\) is newer than this release"):
            await look(database)


@pytest.mark.parametrize("name", ["runs", "messages", "steps"])
async def test_tables_of_others_under_our_names_are_refused_and_left_alone(empty: Database, name: str) -> None:
    await empty.write(run, f"CREATE TABLE {name} (theirs integer)")
    with pytest.raises(StartupError, match=rf"did not make \({name}\)"):
        await upgrade_schema(empty)
    assert await empty.read(tables) == {name}


async def test_a_database_may_be_shared_with_an_app_that_uses_alembic_too(empty: Database) -> None:
    await empty.write(run, "CREATE TABLE customers (id integer)")
    await empty.write(run, "CREATE TABLE alembic_version (version_num varchar(32))")
    await empty.write(run, "INSERT INTO alembic_version VALUES ('their_revision')")
    await upgrade_schema(empty)
    await check_schema(empty)
    assert {"customers", "runs"} <= await empty.read(tables)


async def test_an_upgrade_that_fails_half_way_leaves_nothing_behind(
    empty: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pilothouse.db.migrate._OURS", frozenset())
    await empty.write(run, "CREATE TABLE steps (theirs integer)")  # the last table the first migration makes
    with pytest.raises(Exception, match="steps"):
        await upgrade_schema(empty)
    assert await empty.read(tables) == {"steps"}


def upgrade_to(connection: Connection, revision: str) -> None:
    """What an earlier release made."""
    config = Config()
    config.set_main_option("script_location", str(Path(migrate.__file__).with_name("migrations")))
    config.attributes["connection"] = connection
    config.attributes["version_table"] = "pilothouse_version"
    command.upgrade(config, revision)


@pytest.fixture
async def held(empty_postgres_url: str) -> AsyncIterator[AsyncConnection]:
    """A session in a transaction that has read the tables of an earlier release, as pg_dump does."""
    engine = create_async_engine(empty_postgres_url.replace("postgresql://", "postgresql+asyncpg://"))
    database = await open_database(empty_postgres_url)
    await database.maintain(upgrade_to, "0001")
    await database.close()
    async with engine.connect() as connection:
        for table in ("runs", "steps"):
            await connection.execute(text(f"SELECT count(*) FROM {table}"))
        yield connection
    await engine.dispose()


async def test_an_upgrade_that_waits_for_a_lock_holds_nobody_up_and_ends_with_a_sentence(
    held: AsyncConnection, empty_postgres_url: str
) -> None:
    database = await open_database(empty_postgres_url)
    with pytest.raises(StartupError, match=r"holds a lock.*pg_stat_activity.*pilothouse db upgrade"):
        await upgrade_schema(database, wait=LockWait(seconds=0.05, attempts=2, pause_seconds=0.01))
    await database.close()


async def test_an_upgrade_is_tried_again_when_the_lock_is_gone(held: AsyncConnection, empty_postgres_url: str) -> None:
    database = await open_database(empty_postgres_url)
    with logged_by(migrate) as lines:
        upgrade = asyncio.create_task(
            upgrade_schema(database, wait=LockWait(seconds=0.05, attempts=1_000, pause_seconds=0.01))
        )
        async with asyncio.timeout(60):
            while not lines:
                await asyncio.sleep(0.01)
        await held.rollback()
        _, after = await upgrade
    assert lines[0]["event"] == "schema_upgrade_waits_for_lock"
    assert await schema_versions(database) == (after, after)
    await database.close()
