"""Child processes: started, signalled, and never outliving the process that started them."""

import asyncio
import contextlib
import ctypes
import os
import pwd
import random
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pilothouse.errors import StartupError

_PR_SET_PDEATHSIG = 1
_POLL_SECONDS = 0.05
_TAIL_CHARS = 1500
_PORTS = range(20_000, 32_000)
"""Below the ports that systems hand to outgoing connections: nobody takes one while its server is being restarted."""


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listened on a moment ago.

    Raises:
        StartupError: none was found.
    """
    for port in random.SystemRandom().sample(_PORTS, 200):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port
    raise StartupError("No free port was found on 127.0.0.1.")


def unprivileged() -> pwd.struct_passwd | None:
    """Whom to run as where we are root, since PostgreSQL refuses to be root; None where we are not."""
    return pwd.getpwnam("nobody") if os.geteuid() == 0 else None


@dataclass(kw_only=True, eq=False)
class Child:
    """A process that may be started again after it has ended.

    Attributes:
        name: for people.
        command: program and arguments.
        log: gets its output, appended.
        ready_line: what it writes once it can be used.
        environ: its whole environment; None: ours.
        folder: its working directory; None: ours.
        user: whom it runs as; None: as we.
        stop_signal: asks it to end in order.
        death_signal: what the kernel sends it when we are gone (on Linux).
    """

    name: str
    command: Sequence[str | Path]
    log: Path
    ready_line: str
    environ: Mapping[str, str] | None = None
    folder: Path | None = None
    user: pwd.struct_passwd | None = None
    stop_signal: int = signal.SIGTERM
    death_signal: int = signal.SIGTERM
    process: asyncio.subprocess.Process | None = field(default=None, init=False)

    @property
    def pid(self) -> int | None:
        """Its process id while it runs."""
        return self.process.pid if self.process is not None and self.running else None

    @property
    def running(self) -> bool:
        """Whether it has been started and has not ended."""
        return self.process is not None and self.process.returncode is None

    async def start(self, *, seconds: float = 60) -> None:
        """Start it and wait until it says that it is ready.

        Raises:
            StartupError: it ended or was not ready within `seconds`; holds the end of its log.
        """
        offset = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as output:
            self.process = await asyncio.create_subprocess_exec(
                *(str(part) for part in self.command),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=asyncio.subprocess.STDOUT,
                cwd=self.folder,
                env=None if self.environ is None else dict(self.environ),
                user=self.user.pw_uid if self.user else None,
                group=self.user.pw_gid if self.user else None,
                extra_groups=[] if self.user else None,
                start_new_session=True,  # Ctrl-C is for us, who then stop everything in order
                preexec_fn=_die_with_parent(self.death_signal),
            )
        try:
            async with asyncio.timeout(seconds):
                while self.ready_line not in self.said_since(offset):
                    if not self.running:
                        raise StartupError(f"{self.name} did not start: {self.said_since(offset)[-_TAIL_CHARS:]}")
                    await asyncio.sleep(_POLL_SECONDS)
        except TimeoutError:
            said = self.said_since(offset)[-_TAIL_CHARS:]
            raise StartupError(f"{self.name} was not ready within {seconds:g} s: {said}") from None

    def said_since(self, offset: int) -> str:
        """What it has written after a place in its log."""
        with self.log.open("rb") as written:
            written.seek(offset)
            return written.read().decode(errors="replace").strip()

    def signal(self, number: int) -> None:
        """Send it a signal, if it runs."""
        if self.process is not None and self.running:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(number)

    async def kill(self) -> None:
        """End it on the spot (SIGKILL); returns when it is gone."""
        self.signal(signal.SIGKILL)
        await self.ended()

    async def ended(self) -> None:
        """Until it has ended."""
        if self.process is not None:
            await self.process.wait()

    async def stop(self, *, seconds: float = 30) -> None:
        """Ask it to end in order, and end it if it does not within `seconds`."""
        self.signal(signal.SIGCONT)
        self.signal(self.stop_signal)
        try:
            async with asyncio.timeout(seconds):
                await self.ended()
        except TimeoutError:
            await self.kill()


class _die_with_parent:  # noqa: N801 - reads as the function it is used as
    """Runs in the child between fork and exec, so all it needs is looked up before."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._parent = os.getpid()
        self._prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None

    def __call__(self) -> None:
        if self._prctl is not None:
            self._prctl(_PR_SET_PDEATHSIG, self._number)
            if os.getppid() != self._parent:
                os._exit(1)


async def run_once(
    command: Sequence[str | Path], *, user: pwd.struct_passwd | None = None, what: str, seconds: float = 120
) -> None:
    """Run a program to its end.

    Raises:
        StartupError: it failed; holds what it said.
    """
    process = await asyncio.create_subprocess_exec(
        *(str(part) for part in command),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        user=user.pw_uid if user else None,
        group=user.pw_gid if user else None,
        extra_groups=[] if user else None,
        preexec_fn=_die_with_parent(signal.SIGKILL),
    )
    async with asyncio.timeout(seconds):
        said, _ = await process.communicate()
    if process.returncode != 0:
        raise StartupError(f"{what} failed: {said.decode(errors='replace')[-_TAIL_CHARS:]}")
