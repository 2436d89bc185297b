"""Databases that neither work nor fail: transient errors are repeated or said, and never end the adapter."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

import pytest
from sqlalchemy import Connection, event, make_url, text
from sqlalchemy.exc import DBAPIError, IntegrityError

from pilothouse.db import Database, open_database
from pilothouse.errors import Unavailable
from pilothouse.testing.proxy import BlackHole, Pass, TcpProxy

HANG_SECONDS = 30
REPEATED = {"40001": "serialization", "40P01": "deadlock", "55P03": "lock timeout", "57014": "cancelled"}
SAID = {
    "25006": "read-only",
    "25P03": "idle in transaction",
    "53100": "disk full",
    "53300": "too many connections",
    "57P03": "starting up",
    "58030": "failing I/O",
    "08006": "connection failure",
    "XX000": "internal error",
}


def run(connection: Connection, sql: str) -> object:
    result = connection.execute(text(sql))
    return result.scalar() if result.returns_rows else None


def fail_first(connection: Connection, sqlstate: str, times: int) -> None:
    # A sequence counts on through rollbacks, so the failures do not depend on who tries again.
    run(
        connection,
        f"DO $$ BEGIN IF nextval('tries') <= {times} THEN RAISE EXCEPTION 'on purpose' USING ERRCODE='{sqlstate}'; "
        "END IF; INSERT INTO notes VALUES (1); END $$",
    )


def count(connection: Connection) -> int:
    return connection.execute(text("SELECT count(*) FROM notes")).scalar_one()


@pytest.fixture
async def postgres(empty_postgres_url: str) -> AsyncIterator[Database]:
    database = await open_database(empty_postgres_url, pool_size=2)
    await database.write(run, "CREATE TABLE notes (n integer PRIMARY KEY)")
    await database.write(run, "CREATE SEQUENCE tries")
    yield database
    await database.close()


@pytest.mark.parametrize("sqlstate", REPEATED, ids=REPEATED.values())
async def test_a_unit_the_server_rolled_back_for_a_passing_reason_is_run_again(
    postgres: Database, sqlstate: str
) -> None:
    await postgres.write(fail_first, sqlstate, 2)
    assert await postgres.read(count) == 1


@pytest.mark.parametrize("sqlstate", REPEATED, ids=REPEATED.values())
async def test_a_passing_reason_that_stays_is_said_as_unavailable(postgres: Database, sqlstate: str) -> None:
    async with asyncio.timeout(HANG_SECONDS):
        with pytest.raises(Unavailable) as caught:
            await postgres.write(fail_first, sqlstate, 1_000)
    assert (caught.value.code, caught.value.retryable) == ("database_unavailable", True)
    assert await postgres.read(count) == 0


@pytest.mark.parametrize("sqlstate", SAID, ids=SAID.values())
async def test_other_passing_reasons_are_said_at_once_and_the_next_unit_works(
    postgres: Database, sqlstate: str
) -> None:
    with pytest.raises(Unavailable):
        await postgres.write(fail_first, sqlstate, 1)
    await postgres.write(fail_first, sqlstate, 1)
    assert await postgres.read(count) == 1


@pytest.mark.parametrize("sqlstate", ["22012", "42601", "23514", "P0001"])
async def test_a_fault_of_the_statement_itself_is_raised_as_it_is(postgres: Database, sqlstate: str) -> None:
    with pytest.raises(DBAPIError):
        await postgres.write(fail_first, sqlstate, 1)


async def test_a_statement_that_was_cancelled_by_an_operator_is_run_again(postgres: Database) -> None:
    cancel = (
        "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%' AND state='active'"
    )
    working = asyncio.create_task(postgres.write(run, "SELECT pg_sleep(0.3)"))
    async with asyncio.timeout(HANG_SECONDS):
        while await postgres.read(run, cancel) is not True:
            await asyncio.sleep(0.01)
        await working


async def test_a_storm_of_cancels_leaves_no_connection_behind_that_can_not_be_used(postgres: Database) -> None:
    """Seen before: after a cancelled BEGIN every later transaction failed: SAVEPOINT can only be used in one."""
    cancel = (
        "SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    storm = await open_database(postgres_url_of(postgres), pool_size=1)

    async def work(number: int) -> None:
        for _ in range(150):
            with contextlib.suppress(Unavailable):
                await postgres.write(run, f"UPDATE notes SET n = n WHERE n = {number}")

    async with asyncio.timeout(HANG_SECONDS * 4):
        working = asyncio.gather(*(work(number) for number in range(4)))
        while not working.done():
            await storm.read(run, cancel)
        await working
    for number in range(20):
        await postgres.write(run, f"INSERT INTO notes VALUES ({number})")
    assert await postgres.read(count) == 20
    await storm.close()


async def test_a_connection_that_is_refused_while_it_is_made_is_a_passing_reason(postgres: Database) -> None:
    """Seen in an attack: a cancel that met the first statement of a new connection failed runs as internal_error."""
    error = type("QueryCanceledError", (Exception,), {"sqlstate": "57014", "__module__": "asyncpg.exceptions"})("x")

    @event.listens_for(postgres._engine.sync_engine, "connect")  # type: ignore[attr-defined]
    def refuse(_connection: object, _record: object) -> None:
        event.remove(postgres._engine.sync_engine, "connect", refuse)  # type: ignore[attr-defined]
        raise error

    await postgres._engine.dispose()  # type: ignore[attr-defined]
    assert await postgres.write(run, "SELECT 1") == 1


async def test_a_row_locked_by_somebody_else_is_not_waited_for_without_end(postgres: Database) -> None:
    await postgres.write(run, "INSERT INTO notes VALUES (1)")
    holding, let_go = asyncio.Event(), asyncio.Event()
    holder = await open_database(postgres_url_of(postgres), pool_size=1)

    async def hold() -> None:
        async with holder._engine.begin() as connection:  # type: ignore[attr-defined]
            await connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
            await connection.execute(text("SELECT * FROM notes FOR UPDATE"))
            holding.set()
            await let_go.wait()

    task = asyncio.create_task(hold())
    await holding.wait()
    async with asyncio.timeout(HANG_SECONDS):
        with pytest.raises(Unavailable):
            await postgres.write(run, "UPDATE notes SET n = 2")
    let_go.set()
    await task
    await postgres.write(run, "UPDATE notes SET n = 2")
    await holder.close()


def postgres_url_of(database: Database) -> str:
    return database._engine.url.render_as_string(hide_password=False).replace("+asyncpg", "")  # type: ignore[attr-defined]


async def test_the_server_ends_sessions_that_hold_locks_and_do_nothing(postgres: Database) -> None:
    assert await postgres.read(run, "SHOW idle_in_transaction_session_timeout") == "5s"
    assert await postgres.read(run, "SHOW lock_timeout") == "2s"
    assert await postgres.read(run, "SHOW statement_timeout") == "4s"
    assert await postgres.read(run, "SHOW tcp_keepalives_idle") == "5"


async def test_work_that_takes_long_on_purpose_has_no_time_limit(postgres: Database) -> None:
    assert await postgres.maintain(run, "SHOW statement_timeout") == "0"


async def test_a_unit_that_takes_too_long_is_ended_and_the_next_gets_a_connection(empty_postgres_url: str) -> None:
    database = await open_database(empty_postgres_url, pool_size=1, limit_seconds=1)
    async with asyncio.timeout(HANG_SECONDS):
        with pytest.raises(Unavailable):
            await database.write(run, "SELECT pg_sleep(60)")
        assert await database.read(run, "SELECT 1") == 1
    await database.close()


async def test_a_stale_plan_after_a_change_of_the_schema_is_made_anew(postgres: Database) -> None:
    def names(connection: Connection) -> list[str]:
        return list(connection.execute(text("SELECT * FROM notes")).keys())

    assert await postgres.read(names) == ["n"]
    other = await open_database(postgres_url_of(postgres), pool_size=1)
    await other.write(run, "ALTER TABLE notes ADD COLUMN more integer")
    assert await postgres.read(names) == ["n", "more"]
    await other.close()


async def test_errors_carry_no_values_of_rows(postgres: Database, caplog: pytest.LogCaptureFixture) -> None:
    secret = "hunter2 is what she said"
    await postgres.write(run, "CREATE TABLE words (w text UNIQUE, n integer NOT NULL)")

    def add(connection: Connection, word: str, number: int | None) -> None:
        connection.execute(text("INSERT INTO words VALUES (:w, :n)"), {"w": word, "n": number})

    await postgres.write(add, secret, 1)
    for number in (1, None):
        with pytest.raises(IntegrityError) as caught:
            await postgres.write(add, secret, number)
        logging.getLogger("test").error("failed", exc_info=caught.value)
    assert "IntegrityError" in caplog.text
    assert secret not in caplog.text


@pytest.fixture
async def sqlite(sqlite_url: str) -> AsyncIterator[Database]:
    database = await open_database(sqlite_url)
    await database.write(run, "CREATE TABLE notes (n integer PRIMARY KEY, words text)")
    yield database
    await database.close()


def add_much(connection: Connection, n: int, characters: int) -> None:
    connection.execute(text("INSERT INTO notes VALUES (:n, :words)"), {"n": n, "words": "x" * characters})


def limit_pages(connection: Connection, pages: int) -> None:
    connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")


async def test_a_full_disk_means_unavailable_and_room_is_enough(sqlite: Database) -> None:
    await sqlite.write(limit_pages, 1)  # SQLite takes it for the present size
    with pytest.raises(Unavailable) as caught:
        await sqlite.write(add_much, 1, 1_000_000)
    assert caught.value.code == "database_unavailable"
    results = await asyncio.gather(
        sqlite.write(add_much, 2, 1_000_000), *(sqlite.write(run, "SELECT 1") for _ in range(8)), return_exceptions=True
    )
    assert isinstance(results[0], Unavailable)
    assert all(result == 1 or isinstance(result, Unavailable) for result in results[1:])
    await sqlite.write(limit_pages, 1_000_000)
    await sqlite.write(add_much, 3, 1_000_000)
    assert await sqlite.read(run, "SELECT group_concat(n) FROM notes") == "3"


async def test_a_writer_whose_connection_breaks_opens_another(sqlite: Database) -> None:
    def break_it(connection: Connection) -> None:
        driver = connection.connection.driver_connection
        assert driver is not None
        driver.close()

    with pytest.raises(Exception):  # noqa: B017 - whatever the driver says of it
        await sqlite.write(break_it)
    async with asyncio.timeout(HANG_SECONDS):
        await sqlite.write(add_much, 1, 10)
    assert await sqlite.read(count) == 1


async def test_a_unit_whose_caller_gave_up_before_it_began_is_not_run(sqlite: Database) -> None:
    from threading import Event

    began, go_on = Event(), Event()

    def occupy(_connection: Connection) -> None:
        began.set()
        go_on.wait(HANG_SECONDS)

    occupying = asyncio.create_task(sqlite.write(occupy))
    await asyncio.to_thread(began.wait)
    waiting = asyncio.create_task(sqlite.write(add_much, 1, 10))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    go_on.set()
    await occupying
    assert await sqlite.read(count) == 0


@pytest.fixture
async def proxied(empty_postgres_url: str) -> AsyncIterator[tuple[TcpProxy, Database]]:
    address = make_url(empty_postgres_url)
    async with TcpProxy("127.0.0.1", address.port or 5432) as proxy:
        through = address.set(port=proxy.port).render_as_string(hide_password=False)
        database = await open_database(through, pool_size=2, limit_seconds=1)
        await database.write(run, "CREATE TABLE notes (n integer PRIMARY KEY)")
        yield proxy, database
        proxy.switch(Pass())
        await database.close()


async def test_a_connection_into_a_black_hole_is_cut_and_the_next_unit_gets_another(
    proxied: tuple[TcpProxy, Database],
) -> None:
    proxy, database = proxied
    proxy.switch(BlackHole(), new=False)
    async with asyncio.timeout(HANG_SECONDS):
        with contextlib.suppress(Unavailable):  # or the answer, over a new connection
            await database.write(run, "SELECT 1")
        assert await database.write(run, "SELECT 2") == 2


@pytest.mark.parametrize("count", [1, 2])
async def test_a_black_hole_at_the_rollback_of_a_read_holds_nobody(
    proxied: tuple[TcpProxy, Database], count: int
) -> None:
    proxy, database = proxied

    def unit(connection: Connection) -> object:
        value = run(connection, "SELECT 1")
        proxy.switch(BlackHole(), new=False)
        return value

    loop = asyncio.get_running_loop()
    await asyncio.gather(*(database.read(run, "SELECT pg_sleep(0.05)") for _ in range(2)))
    began = loop.time()
    async with asyncio.timeout(HANG_SECONDS):
        results = await asyncio.gather(*(database.read(unit) for _ in range(count)), return_exceptions=True)
    assert all(result == 1 or isinstance(result, Unavailable) for result in results)
    # Not the machine's speed: without the bound SQLAlchemy's graceful close adds two seconds to each.
    assert loop.time() - began < 3


async def test_a_units_own_error_is_not_hidden_by_a_rollback_that_fails(proxied: tuple[TcpProxy, Database]) -> None:
    proxy, database = proxied

    def unit(connection: Connection) -> None:
        run(connection, "SELECT 1")
        proxy.switch(BlackHole(), new=False)
        raise KeyError("mine")

    async with asyncio.timeout(HANG_SECONDS):
        with pytest.raises(KeyError, match="mine"):
            await database.write(unit)


async def test_a_caller_that_is_cancelled_while_a_rollback_hangs_is_cancelled(
    proxied: tuple[TcpProxy, Database],
) -> None:
    proxy, database = proxied
    held = asyncio.Event()

    def unit(connection: Connection) -> None:
        run(connection, "SELECT 1")
        proxy.switch(BlackHole(), new=False)
        held.set()

    reading = asyncio.create_task(database.read(unit))
    async with asyncio.timeout(HANG_SECONDS):
        await held.wait()
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
    assert reading.cancelled()


async def test_a_file_that_cannot_be_opened_again_does_not_keep_the_process_from_ending(
    sqlite: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_disk() -> None:
        raise OSError("no disk")

    monkeypatch.setattr(sqlite._write_engine, "connect", no_disk)  # type: ignore[attr-defined]
    monkeypatch.setattr("pilothouse.db.sqlite._commit_together", lambda _connection, _batch: False)
    await sqlite.write(run, "SELECT 1")
    waiting = asyncio.create_task(sqlite.maintain(add_much, 1, 10))
    await asyncio.sleep(0)
    async with asyncio.timeout(HANG_SECONDS):
        await sqlite.close()
        with pytest.raises(Unavailable):
            await waiting


async def test_closing_closes_every_connection_also_of_a_unit_that_is_cancelled_in_that_instant(
    postgres: Database,
) -> None:
    others = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    for steps in range(0, 60, 2):
        database = await open_database(postgres_url_of(postgres), pool_size=1)
        unit = asyncio.create_task(database.read(run, "SELECT 1"))
        for _ in range(steps):
            await asyncio.sleep(0.0001)
        unit.cancel()
        await asyncio.wait([unit])
        await database.close()
        async with asyncio.timeout(HANG_SECONDS):
            while await postgres.read(run, others):
                await asyncio.sleep(0.01)


async def test_a_closed_database_says_so(empty_postgres_url: str) -> None:
    database = await open_database(empty_postgres_url, pool_size=1)
    await database.close()

    with pytest.raises(Unavailable, match="closed"):
        await database.read(run, "SELECT 1")
