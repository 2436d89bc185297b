"""The SQLite adapter: units committed together, each on its own."""

import asyncio
import sqlite3
import stat
import subprocess
import sys
import textwrap
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import Connection, event, text

from pilothouse.db import open_database
from pilothouse.db.sqlite import SqliteDatabase
from pilothouse.errors import StartupError, Unavailable


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[SqliteDatabase]:
    opened = SqliteDatabase.open(tmp_path / "notes.db")
    await opened.write(lambda connection: connection.exec_driver_sql("CREATE TABLE notes (n INTEGER PRIMARY KEY)"))
    yield opened
    await opened.close()


def add(connection: Connection, n: int) -> int:
    connection.execute(text("INSERT INTO notes VALUES (:n)"), {"n": n})
    return n


def notes(connection: Connection) -> list[int]:
    return list(connection.execute(text("SELECT n FROM notes ORDER BY n")).scalars())


class Gate:
    """Holds the writer thread, so that units queue up behind it and are committed together."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.leave = threading.Event()

    def unit(self, _connection: Connection) -> None:
        self.entered.set()
        assert self.leave.wait(10)

    async def hold(self, database: SqliteDatabase) -> asyncio.Task[None]:
        task = asyncio.create_task(database.write(self.unit))
        await asyncio.to_thread(self.entered.wait, 10)
        return task


async def test_units_that_wait_are_committed_together(database: SqliteDatabase) -> None:
    gate = Gate()
    holding = await gate.hold(database)
    waiting = [asyncio.create_task(database.write(add, n)) for n in range(10)]
    await asyncio.sleep(0)
    statements: list[str] = []

    @event.listens_for(database._write_engine, "before_cursor_execute")
    def note(connection, cursor, statement, *_) -> None:
        statements.append(statement)

    gate.leave.set()
    await asyncio.gather(holding, *waiting)
    assert statements.count("BEGIN IMMEDIATE") == 1
    assert len([sql for sql in statements if sql.startswith("INSERT")]) == 10
    assert await database.read(notes) == list(range(10))


async def test_an_error_in_one_unit_undoes_that_unit_only(database: SqliteDatabase) -> None:
    gate = Gate()
    holding = await gate.hold(database)

    def half(connection: Connection) -> None:
        add(connection, 100)
        raise KeyError("on purpose")

    def clash(connection: Connection) -> None:
        add(connection, 101)
        add(connection, 1)

    waiting = [
        asyncio.create_task(work)
        for work in (
            database.write(add, 1),
            database.write(half),
            database.write(add, 2),
            database.write(clash),
            database.write(add, 3),
        )
    ]
    await asyncio.sleep(0)
    gate.leave.set()
    await holding
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert [results[0], results[2], results[4]] == [1, 2, 3]
    assert isinstance(results[1], KeyError)
    assert "UNIQUE" in str(results[3])
    assert await database.read(notes) == [1, 2, 3]


async def test_a_failing_unit_alone_rolls_back_and_the_next_one_works(database: SqliteDatabase) -> None:
    def fail(connection: Connection) -> None:
        add(connection, 1)
        raise ValueError("on purpose")

    with pytest.raises(ValueError, match="on purpose"):
        await database.write(fail)
    assert await database.read(notes) == []
    await database.write(add, 1)
    assert await database.read(notes) == [1]


async def test_a_unit_that_ends_the_transaction_by_itself_harms_nobody_after_it(database: SqliteDatabase) -> None:
    def rogue(connection: Connection) -> None:
        add(connection, 1)
        connection.exec_driver_sql("ROLLBACK")

    with pytest.raises(Unavailable):
        await database.write(rogue)
    await database.write(add, 2)
    assert await database.read(notes) == [2]


async def test_what_was_written_is_read_at_once(database: SqliteDatabase) -> None:
    for n in range(20):
        await database.write(add, n)
        assert (await database.read(notes))[-1] == n


async def test_reads_never_write(database: SqliteDatabase) -> None:
    await database.read(add, 1)
    assert await database.read(notes) == []


async def test_reads_run_while_a_write_is_under_way(database: SqliteDatabase) -> None:
    gate = Gate()
    holding = await gate.hold(database)
    assert await asyncio.gather(*(database.read(notes) for _ in range(10))) == [[]] * 10
    gate.leave.set()
    await holding


async def test_close_finishes_accepted_writes_and_refuses_new_ones(tmp_path: Path) -> None:
    database = SqliteDatabase.open(tmp_path / "notes.db")
    await database.write(lambda connection: connection.exec_driver_sql("CREATE TABLE notes (n INTEGER PRIMARY KEY)"))
    gate = Gate()
    holding = await gate.hold(database)
    waiting = [asyncio.create_task(database.write(add, n)) for n in range(200)]
    await asyncio.sleep(0)
    closing = asyncio.create_task(database.close())
    await asyncio.sleep(0)
    with pytest.raises(Unavailable, match="stopping"):
        await database.write(add, 999)
    with pytest.raises(Unavailable, match="stopping"):
        await database.read(notes)
    gate.leave.set()
    await asyncio.gather(holding, closing)
    assert sorted(await asyncio.gather(*waiting)) == list(range(200))
    await database.close()
    with sqlite3.connect(tmp_path / "notes.db") as plain:
        assert plain.execute("SELECT count(*) FROM notes").fetchone() == (200,)
    plain.close()


async def test_a_caller_that_gives_up_takes_nobody_with_it(database: SqliteDatabase) -> None:
    gate = Gate()
    holding = await gate.hold(database)
    gone = asyncio.create_task(database.write(add, 1))
    stays = asyncio.create_task(database.write(add, 2))
    await asyncio.sleep(0)
    gone.cancel()
    gate.leave.set()
    await holding
    assert await stays == 2
    assert 2 in await database.read(notes)


async def test_writers_of_two_processes_wait_for_each_other(database: SqliteDatabase, tmp_path: Path) -> None:
    other = SqliteDatabase.open(tmp_path / "notes.db")
    await asyncio.gather(*((database if n % 2 else other).write(add, n) for n in range(40)))
    assert await other.read(notes) == list(range(40))
    await other.close()


async def test_a_file_another_program_keeps_locked_means_unavailable(database: SqliteDatabase, tmp_path: Path) -> None:
    await database.write(lambda connection: connection.exec_driver_sql("PRAGMA busy_timeout=50"))
    plain = sqlite3.connect(tmp_path / "notes.db", isolation_level=None)
    plain.execute("BEGIN IMMEDIATE")
    with pytest.raises(Unavailable) as caught:
        await database.write(add, 1)
    assert caught.value.code == "database_unavailable"
    plain.execute("ROLLBACK")
    plain.close()
    assert await database.write(add, 1) == 1


def test_p1_a_write_that_was_answered_survives_kill_9(tmp_path: Path) -> None:
    script = textwrap.dedent("""
        import asyncio, os, signal, sys
        from pathlib import Path
        from pilothouse.db.sqlite import SqliteDatabase

        async def main() -> None:
            database = SqliteDatabase.open(Path(sys.argv[1]))
            await database.write(lambda c: c.exec_driver_sql("CREATE TABLE notes (n INTEGER PRIMARY KEY)"))
            for n in range(10):
                await database.write(lambda c: c.exec_driver_sql(f"INSERT INTO notes VALUES ({n})"))
                print(n, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)

        asyncio.run(main())
    """)
    path = tmp_path / "notes.db"
    done = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=False)
    assert done.returncode == -9, done.stderr
    plain = sqlite3.connect(path)
    assert [row[0] for row in plain.execute("SELECT n FROM notes")] == [int(n) for n in done.stdout.split()]
    plain.close()


async def test_any_folder_name_works(tmp_path: Path) -> None:
    path = tmp_path / "a b?c=d#e %41 ü" / "notes.db"
    database = SqliteDatabase.open(path)
    await database.write(lambda connection: connection.exec_driver_sql("CREATE TABLE notes (n INTEGER PRIMARY KEY)"))
    assert await database.read(notes) == []
    await database.close()
    assert path.is_file()


# --- what can't be opened


async def test_a_file_that_is_no_database_is_one_clear_sentence(tmp_path: Path) -> None:
    (tmp_path / "notes.db").write_bytes(b"this is a text, not a database; " * 100)
    with pytest.raises(StartupError, match=r"notes\.db can't be opened .*not a database"):
        await open_database(f"sqlite:///{tmp_path / 'notes.db'}")


async def test_a_folder_that_is_a_file_is_one_clear_sentence(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    with pytest.raises(StartupError, match="data folder"):
        await open_database(f"sqlite:///{tmp_path / 'data' / 'notes.db'}")


async def test_a_path_that_is_a_folder_is_one_clear_sentence(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="can't be opened"):
        await open_database(f"sqlite:///{tmp_path}")


def test_an_unwritable_folder_or_file_is_one_clear_sentence(tmp_path: Path) -> None:
    """In a process without root's power to write anywhere."""
    locked = tmp_path / "locked"
    locked.mkdir()
    sqlite3.connect(locked / "kept.db").close()
    with sqlite3.connect(locked / "kept.db") as plain:
        plain.execute("CREATE TABLE t (n)")
    plain.close()
    (locked / "kept.db").chmod(stat.S_IRUSR | stat.S_IRGRP | stat.S_IROTH)
    locked.chmod(stat.S_IRUSR | stat.S_IXUSR | stat.S_IRGRP | stat.S_IXGRP | stat.S_IROTH | stat.S_IXOTH)
    script = textwrap.dedent("""
        import asyncio, os, sys
        from pilothouse.db import open_database
        from pilothouse.errors import StartupError

        if os.geteuid() == 0:
            os.chdir(sys.argv[1])
            import sqlalchemy.dialects.sqlite.pysqlite, pilothouse.db.sqlite
            os.setgroups([]); os.setgid(65534); os.setuid(65534)
        for path in ("new.db", "kept.db", "sub/new.db"):
            try:
                asyncio.run(open_database("sqlite:///" + path))
            except StartupError as error:
                print(error)
    """)
    done = subprocess.run(
        [sys.executable, "-c", script, locked], cwd=locked, capture_output=True, text=True, check=False
    )
    locked.chmod(0o700)
    lines = done.stdout.splitlines()
    assert len(lines) == 3, done.stdout + done.stderr
    assert "new.db can't be opened for writing" in lines[0]
    assert "kept.db can't be opened for writing" in lines[1]
    assert "The data folder sub can't be created" in lines[2]
    assert all("permission" in line.lower() for line in lines)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "not a database address"),
        ("pilothouse.db", "not a database address"),
        ("sqlite://", "names no file"),
        ("sqlite:///:memory:", "names no file"),
        ("mysql://root@localhost/x", "names mysql"),
        ("postgresql://u:hunter2@127.0.0.1:1/x", "PostgreSQL at"),
    ],
)
async def test_an_address_that_cant_be_used_is_one_clear_sentence(url: str, says: str) -> None:
    with pytest.raises(StartupError, match=says) as caught:
        await open_database(url)
    assert "hunter2" not in str(caught.value)
    assert "PILOTHOUSE_DATABASE_URL" in str(caught.value)
