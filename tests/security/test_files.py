"""Nobody but the server's user reads its files: how they are made, and what happens to older ones."""

import asyncio
import os
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from tests.support.commands import ran, started
from tests.support.logs import logged_by
from tests.support.server import running

from pilothouse.db import open_database, private_files
from pilothouse.db.migrate import upgrade_schema
from pilothouse.demo import Shop
from pilothouse.engine import folder as data_folder
from pilothouse.engine.folder import FolderLock, protect_data_folder
from pilothouse.errors import StartupError
from pilothouse.identity.demo import ensure_local_key
from pilothouse.testing.provider import Script

pytestmark = pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX")

OTHERS = 0o077


@pytest.fixture(autouse=True)
def usual_umask():
    """What most machines have: others may read."""
    before = os.umask(0o022)
    yield
    os.umask(before)


def mode(path: Path) -> str:
    return f"{stat.S_IMODE(path.lstat().st_mode):04o}"


def modes(folder: Path) -> dict[str, str]:
    return {path.name: mode(path) for path in folder.iterdir()}


def open_to_others(folder: Path) -> list[str]:
    return [str(path) for path in (folder, *folder.rglob("*")) if path.lstat().st_mode & OTHERS]


async def test_everything_a_server_makes_is_its_users_own(tmp_path):
    folder = tmp_path / "made" / "data"
    async with running(f"sqlite:///{folder}/pilothouse.db", Script(turns=["Hello."]), data={"dir": folder}) as server:
        await server.chat("hi")
        assert {"pilothouse.db", "pilothouse.db-wal", "pilothouse.db-shm", "lock"} <= set(modes(folder))
        assert open_to_others(folder) == []
        assert mode(folder) == "0700"
    assert open_to_others(folder) == []
    assert mode(folder.parent) != "0700"  # only the data folder is ours


async def test_what_the_demo_makes_is_its_users_own(tmp_path):
    folder = tmp_path / "data"
    await Shop(folder / "shop.db").order("1042")
    database = await open_database(f"sqlite:///{folder}/pilothouse.db")
    await upgrade_schema(database)
    await ensure_local_key(database, folder)
    assert set(modes(folder)) >= {"shop.db", "demo.key", "pilothouse.db"}
    assert open_to_others(folder) == []
    await database.close()


async def test_a_command_that_makes_the_folder_makes_it_its_users_own(tmp_path):
    code, _, err = await ran("keys", "create", "first", "--subject", "ada", cwd=tmp_path)
    assert code == 0, err
    assert open_to_others(tmp_path / ".pilothouse") == []


async def test_files_of_an_earlier_release_are_tightened_at_start_and_the_log_says_so(tmp_path):
    folder = tmp_path / "data"
    url = f"sqlite:///{folder}/pilothouse.db"
    async with running(url, Script(turns=["Hello."]), data={"dir": folder}) as server:
        await server.chat("hi")
        kept = await open_database(url)  # keeps -wal and -shm
    await kept.read(lambda connection: None)
    folder.chmod(0o755)
    for path in folder.iterdir():
        path.chmod(0o644)
    with logged_by(private_files) as lines:
        async with running(url, data={"dir": folder}):
            assert open_to_others(folder) == []
    await kept.close()
    told = {Path(line["path"]).name: (line["log_level"], line["before"], line["now"]) for line in lines}
    assert told["data"] == ("info", "0755", "0700")
    for name in ("pilothouse.db", "pilothouse.db-wal", "pilothouse.db-shm", "lock"):
        assert told[name] == ("info", "0644", "0600"), name
    with logged_by(private_files) as lines:
        async with running(url, data={"dir": folder}):
            pass
    assert lines == []  # once is enough


def test_whatever_lies_beside_a_database_of_an_earlier_release_is_tightened(tmp_path):
    path = tmp_path / "pilothouse.db"
    files = [path, *(tmp_path / f"pilothouse.db{suffix}" for suffix in ("-wal", "-shm", "-journal"))]
    for file in files:
        file.touch(0o644)
    private_files.make_private_database(path)
    assert [mode(file) for file in files] == ["0600"] * 4


async def test_a_demo_key_of_an_earlier_release_is_tightened_when_it_is_used(tmp_path):
    database = await open_database(f"sqlite:///{tmp_path}/pilothouse.db")
    await upgrade_schema(database)
    token = await ensure_local_key(database, tmp_path)
    (tmp_path / "demo.key").chmod(0o644)
    assert await ensure_local_key(database, tmp_path) == token
    assert mode(tmp_path / "demo.key") == "0600"
    await database.close()


async def test_tightening_does_not_release_the_locks_that_sqlite_holds(tmp_path):
    """Closing any descriptor of a file ends all POSIX locks a process holds on it."""
    path = tmp_path / "pilothouse.db"
    other = (
        "import sqlite3, sys; sqlite3.connect(sys.argv[1], timeout=0, isolation_level=None).execute('BEGIN IMMEDIATE')"
    )
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("CREATE TABLE t (x)")
        connection.execute("BEGIN EXCLUSIVE")
        path.chmod(0o644)
        private_files.make_private_database(path)
        assert mode(path) == "0600"
        tried = await asyncio.to_thread(
            subprocess.run, [sys.executable, "-c", other, str(path)], capture_output=True, text=True, timeout=60
        )
    assert "database is locked" in tried.stderr


def test_what_belongs_to_somebody_else_is_a_warning_and_not_an_end(tmp_path, monkeypatch):
    file = tmp_path / "pilothouse.db"
    file.touch()
    file.chmod(0o644)
    monkeypatch.setattr(os, "geteuid", lambda: file.stat().st_uid + 1)
    with logged_by(private_files) as lines:
        private_files.make_private_file(file)
    (line,) = lines
    assert (line["log_level"], line["reason"], line["mode"]) == ("warning", "it belongs to another user", "0644")
    assert mode(file) == "0644"


@pytest.mark.parametrize(
    ("refuse", "reason"),
    [(OSError(30, "Read-only file system"), "Read-only file system"), (None, "the file system keeps no permissions")],
)
def test_a_file_system_that_refuses_is_a_warning_and_not_an_end(tmp_path, monkeypatch, refuse, reason):
    file = tmp_path / "lock"
    file.touch()
    file.chmod(0o664)

    def chmod(*args, **kwargs):
        if refuse is not None:
            raise refuse

    monkeypatch.setattr(Path, "chmod", chmod)
    with logged_by(private_files) as lines:
        FolderLock.acquire(tmp_path).release()
    assert [(line["log_level"], line["reason"]) for line in lines] == [("warning", reason)]


def test_a_link_is_followed_for_the_database_and_never_changed_itself(tmp_path):
    (tmp_path / "disk").mkdir()
    real = tmp_path / "disk" / "real.db"
    real.touch()
    link = tmp_path / "pilothouse.db"
    link.symlink_to(real)
    real.chmod(0o644)
    private_files.make_private_database(link)
    assert mode(real) == "0600"


async def test_a_planted_link_beside_the_database_changes_nothing_elsewhere(tmp_path):
    target = tmp_path / "elsewhere"
    target.touch()
    target.chmod(0o644)
    (tmp_path / "pilothouse.db-wal").symlink_to(target)
    with pytest.raises(StartupError, match=r"pilothouse\.db-wal is a symbolic link: remove it"):
        await open_database(f"sqlite:///{tmp_path}/pilothouse.db")
    assert (mode(target), target.read_bytes()) == ("0644", b"")


async def test_a_database_link_that_leads_to_nothing_makes_no_file_there(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    (tmp_path / "pilothouse.db").symlink_to(elsewhere)
    with pytest.raises(StartupError, match="symbolic link to a file that does not exist"):
        await open_database(f"sqlite:///{tmp_path}/pilothouse.db")
    assert not elsewhere.exists()


@pytest.mark.parametrize("make", [Path.symlink_to, Path.hardlink_to])
def test_a_lock_that_is_a_link_is_refused_and_the_other_file_keeps_what_it_holds(tmp_path, make):
    precious = tmp_path / "precious"
    precious.write_text("not ours")
    precious.chmod(0o644)
    folder = tmp_path / "data"
    folder.mkdir()
    make(folder / "lock", precious)
    with pytest.raises(StartupError, match=r"lock is a link.*Remove it"):
        FolderLock.acquire(folder)
    assert (precious.read_text(), mode(precious)) == ("not ours", "0644")


def test_a_lock_link_that_leads_to_nothing_makes_no_file_there(tmp_path):
    (tmp_path / "lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StartupError, match=r"lock is a link.*Remove it"):
        FolderLock.acquire(tmp_path)
    assert not (tmp_path / "elsewhere").exists()


def test_a_lock_that_is_no_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "lock")
    with pytest.raises(StartupError, match="lock is no regular file"):
        FolderLock.acquire(tmp_path)


def test_a_link_that_takes_a_files_place_is_not_followed_when_it_is_tightened(tmp_path, monkeypatch):
    target, file = tmp_path / "elsewhere", tmp_path / "demo.key"
    for path in (target, file):
        path.touch()
        path.chmod(0o644)
    looked = os.geteuid

    def replaced_meanwhile():
        file.unlink()
        file.symlink_to(target)
        return looked()

    monkeypatch.setattr(os, "geteuid", replaced_meanwhile)
    private_files.tighten(file)
    assert mode(target) == "0644"


async def test_a_folder_where_the_database_should_be_keeps_its_mode(tmp_path):
    (tmp_path / "pilothouse.db").mkdir(mode=0o755)
    with pytest.raises(StartupError, match="can't be opened"):
        await open_database(f"sqlite:///{tmp_path}/pilothouse.db")
    assert mode(tmp_path / "pilothouse.db") == "0755"


@pytest.mark.parametrize("kind", ["working directory", "above it", "home", "written by everybody"])
def test_a_folder_that_holds_more_than_our_data_keeps_its_mode_and_a_warning_says_so(tmp_path, monkeypatch, kind):
    folder = tmp_path / "shared"
    (folder / "below").mkdir(parents=True)
    folder.chmod(0o1777 if kind == "written by everybody" else 0o755)
    if kind == "home":
        monkeypatch.setenv("HOME", str(folder))
    elif kind != "written by everybody":
        monkeypatch.chdir(folder if kind == "working directory" else folder / "below")
    before = mode(folder)
    with logged_by(data_folder) as lines:
        protect_data_folder(folder)
    assert [line["event"] for line in lines] == ["data_folder_is_shared"]
    assert mode(folder) == before


async def test_a_database_elsewhere_does_not_close_the_folder_it_lies_in(tmp_path):
    """`PILOTHOUSE_DATABASE_URL=sqlite:////srv/app/app.db`: the folder is the application's, the file is ours."""
    application = tmp_path / "application"
    application.mkdir(mode=0o755)
    async with running(f"sqlite:///{application}/app.db", data={"dir": tmp_path / "data"}):
        assert mode(application) == "0755"
        assert {name: given for name, given in modes(application).items() if name != "lock"}.keys() >= {"app.db"}
        assert set(modes(application).values()) == {"0600"}


async def test_the_umask_of_the_process_stays_what_it_was(tmp_path):
    async with running(f"sqlite:///{tmp_path}/data/pilothouse.db", data={"dir": tmp_path / "data"}):
        assert os.umask(0o022) == 0o022


async def test_the_demo_as_a_process_leaves_nothing_open(tmp_path):
    async with started("demo", "--port", "0", cwd=tmp_path) as server:
        await server.wait_for("Ctrl-C stops it")
        assert open_to_others(tmp_path / ".pilothouse") == []
