"""The heartbeat goes on whatever the database answers, and `held` is true only while others must see us as alive."""

import asyncio

import pytest
from sqlalchemy import Connection, select, text
from sqlalchemy.ext.asyncio import create_async_engine

from pilothouse.db import open_database
from pilothouse.engine import repository
from pilothouse.engine.leases import Lease
from pilothouse.engine.supervisor import Supervisor
from pilothouse.engine.tables import leases
from pilothouse.errors import Unavailable

HANG_SECONDS = 60


class Failing:
    """A database whose next writes raise what they are given."""

    def __init__(self, inner):
        self.inner = inner
        self.errors = []
        self.writes = 0

    async def write(self, unit, *args, **kwargs):
        self.writes += 1
        if self.errors:
            raise self.errors.pop(0)
        return await self.inner.write(unit, *args, **kwargs)


async def lease_on(database, supervisor, **values):
    lease = Lease(database, supervisor, **{"heartbeat_seconds": 0.01, "expiry_seconds": 10, **values})
    await lease.start()
    return lease


async def beats(database, count):
    async with asyncio.timeout(HANG_SECONDS):
        before = database.writes
        while database.writes < before + count:
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("error", [Unavailable("away"), ValueError("a bug"), asyncio.CancelledError(), OSError(5)])
async def test_no_error_ends_the_heartbeat(database, error):
    failing, supervisor = Failing(database), Supervisor()
    lease = await lease_on(failing, supervisor)
    failing.errors = [error]
    await beats(failing, 3)
    assert not failing.errors
    assert lease.held()
    await lease.close()
    await supervisor.close()


async def test_a_heartbeat_that_an_operator_cancels_is_only_one_heartbeat(postgres_url):
    """Seen before: one cancelled statement, and the node hung every chat until it was restarted."""
    database, supervisor = await open_database(postgres_url, pool_size=1, limit_seconds=2), Supervisor()
    other = create_async_engine(postgres_url.replace("postgresql:", "postgresql+asyncpg:"))
    lease = await lease_on(database, supervisor)
    async with other.connect() as connection:
        for _ in range(50):
            await connection.execute(
                text(
                    "SELECT pg_cancel_backend(pid) FROM pg_stat_activity "
                    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
            )
            await asyncio.sleep(0.005)
        await connection.rollback()
        expires = await until_renewed(connection)
    assert expires
    assert lease.held()
    await lease.close()
    await supervisor.close()
    await other.dispose()
    await database.close()


async def until_renewed(connection) -> bool:
    async with asyncio.timeout(HANG_SECONDS):
        first = (await connection.execute(select(leases.c.expires_at))).scalar_one()
        while (await connection.execute(select(leases.c.expires_at))).scalar_one() <= first:
            await connection.rollback()
            await asyncio.sleep(0.01)
    return True


async def test_a_read_only_database_lapses_the_lease_and_its_return_is_enough(postgres_url):
    """A failover is read-only for some seconds."""
    database, supervisor = await open_database(postgres_url, pool_size=1, limit_seconds=1), Supervisor()
    other = create_async_engine(
        postgres_url.replace("postgresql:", "postgresql+asyncpg:"), isolation_level="AUTOCOMMIT"
    )
    name = postgres_url.rpartition("/")[2]
    lease = await lease_on(database, supervisor, expiry_seconds=1.2)
    async with other.connect() as connection:
        await connection.execute(text(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on'))
        await connection.execute(
            text(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        )
        async with asyncio.timeout(HANG_SECONDS):
            while lease.held():
                await asyncio.sleep(0.01)
        [report] = supervisor.reports()
        assert not report.ok
        await connection.execute(text("SET default_transaction_read_only = off"))
        await connection.execute(text(f'ALTER DATABASE "{name}" RESET default_transaction_read_only'))
        async with asyncio.timeout(HANG_SECONDS):
            await lease.regained()
    assert lease.held()
    assert lease.generation >= 1
    await lease.close()
    await supervisor.close()
    await other.dispose()
    await database.close()


async def test_a_lease_whose_row_was_removed_is_entered_again_under_a_new_generation(database):
    failing, supervisor = Failing(database), Supervisor()
    lease = await lease_on(failing, supervisor)
    await database.write(repository.delete_lease, lease.owner)
    await beats(failing, 4)
    assert lease.generation == 1

    def alive(connection: Connection) -> int:
        return len(connection.execute(repository.alive(connection)).all())

    assert await database.read(alive) == 1
    await lease.close()
    await supervisor.close()


async def test_a_lease_is_not_held_by_the_time_others_may_see_it_as_dead(database):
    now = [100.0]
    supervisor = Supervisor()
    lease = Lease(database, supervisor, heartbeat_seconds=3, expiry_seconds=10, clock=lambda: now[0])
    await lease.start()
    now[0] = 108.9
    assert lease.held()
    now[0] = 109.1
    assert not lease.held()
    await supervisor.close()
