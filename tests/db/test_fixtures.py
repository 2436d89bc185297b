"""The fixtures other tests stand on."""

from sqlalchemy import Connection, text
from tests.support.valkey import ValkeyServer

from pilothouse.db import Database
from pilothouse.db.migrate import check_schema, upgrade_schema


async def test_a_test_database_is_migrated_and_empty(database: Database) -> None:
    await check_schema(database)
    before, after = await upgrade_schema(database)
    assert before == after

    def count(connection: Connection) -> int:
        return connection.execute(text("SELECT count(*) FROM runs")).scalar_one()

    assert await database.read(count) == 0


def test_valkey_answers_and_comes_back_on_the_same_address() -> None:
    with ValkeyServer() as server:
        address = server.url
        server.stop()
        server.start()
        server.flush()
        assert server.url == address


def test_redis_url_is_an_address(redis_url: str) -> None:
    assert redis_url.startswith("redis://127.0.0.1:")
