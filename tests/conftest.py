"""Real servers and fresh databases. Servers start with the first test that needs one and stop with the session."""

import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from tests.support.postgres import PostgresServer, run_apart
from tests.support.valkey import ValkeyServer

from pilothouse.db import Database, open_database
from pilothouse.db.migrate import upgrade_schema


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """The session's PostgreSQL (each xdist worker has its own). A test that stops one makes its own."""
    with PostgresServer() as server:
        yield server


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """Address of a fresh PostgreSQL database with our newest schema."""
    url = postgres_server.new_database()
    yield url
    postgres_server.drop_database(url)


@pytest.fixture
def empty_postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """Address of a fresh PostgreSQL database without any table."""
    url = postgres_server.new_database(migrated=False)
    yield url
    postgres_server.drop_database(url)


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[ValkeyServer]:
    """The session's Valkey. A test that stops one makes its own."""
    with ValkeyServer() as server:
        yield server


@pytest.fixture
def redis_url(valkey_server: ValkeyServer) -> str:
    """Address of a Valkey without keys."""
    valkey_server.flush()
    return valkey_server.url


@pytest.fixture(scope="session")
def _migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sqlite") / "template.db"

    async def make() -> None:
        database = await open_database(f"sqlite:///{path}")
        await upgrade_schema(database)
        await database.close()

    run_apart(make())
    return path


@pytest.fixture
def sqlite_url(tmp_path: Path, _migrated_sqlite: Path) -> str:
    """Address of a fresh SQLite file with our newest schema."""
    path = tmp_path / "pilothouse.db"
    shutil.copyfile(_migrated_sqlite, path)
    return f"sqlite:///{path}"


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest) -> str:
    """Address of a fresh database with our newest schema: the test runs on both kinds."""
    return request.getfixturevalue(f"{request.param}_url")


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """An open, migrated database: the test runs on both kinds."""
    opened = await open_database(database_url)
    yield opened
    await opened.close()
