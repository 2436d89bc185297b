"""Commands as a person starts them: real processes, with pipes or in a terminal, watched by what they print."""

import asyncio
import os
import pty
import re
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

WAIT_SECONDS = 90
"""A process compiles or reads half of PyPI before its first line; machines that test are busy."""

MAIN = """
from pydantic_ai import Agent
from pilothouse import Pilothouse

app = Pilothouse()
app.agent(Agent(name="helper"), model="openai:scripted")
"""
"""The `main.py` of a project with one agent."""

_DROPPED = ("PILOTHOUSE_", "OPENAI_", "ANTHROPIC_", "AZURE_", "PYTHONDONTWRITEBYTECODE", "NO_COLOR")


def environment(**extra: str) -> dict[str, str]:
    """This environment without settings and keys; compiled files are kept beside, so only the first start is slow."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_DROPPED)}
    cache = str(Path(tempfile.gettempdir()) / f"pilothouse-test-bytecode-{os.getuid()}")
    return {**kept, "PYTHONPYCACHEPREFIX": cache, "TERM": "xterm", "COLUMNS": "200", **extra}


class Command:
    """A started `pilothouse ...`. `out` and `err` are what it wrote so far; a terminal has only `out`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.out = self.err = ""
        self._changed = asyncio.Condition()
        self._pumps: list[asyncio.Task[None]] = []
        self.terminal: int | None = None

    def pump(self, reader: asyncio.StreamReader, name: str) -> None:
        self._pumps.append(asyncio.create_task(self._pump(reader, name)))

    async def _pump(self, reader: asyncio.StreamReader, name: str) -> None:
        while True:
            try:
                chunk = await reader.read(65536)
            except OSError:  # the other end of a terminal has closed
                chunk = b""
            async with self._changed:
                setattr(self, name, getattr(self, name) + chunk.decode(errors="replace"))
                self._changed.notify_all()
            if not chunk:
                return

    async def wait_for(self, pattern: str, *, count: int = 1) -> re.Match[str]:
        """Until stdout or the terminal shows the pattern so often. Fails with all there is where it ends first."""

        def found() -> bool:
            return len(re.findall(pattern, self.out)) >= count or all(pump.done() for pump in self._pumps)

        try:
            async with asyncio.timeout(WAIT_SECONDS), self._changed:
                await self._changed.wait_for(found)
        except TimeoutError:
            raise AssertionError(f"no {pattern!r} in time:\n{self.out}\n{self.err}") from None
        matches = list(re.finditer(pattern, self.out))
        assert len(matches) >= count, f"no {pattern!r}:\n{self.out}\n{self.err}"
        return matches[count - 1]

    def type(self, text: str) -> None:
        """Press these keys in the terminal."""
        assert self.terminal is not None
        os.write(self.terminal, text.encode())

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    async def ended(self) -> int:
        """Its exit code, once it has ended and all is read."""
        async with asyncio.timeout(WAIT_SECONDS):
            code = await self.process.wait()
            await asyncio.gather(*self._pumps)
        return code

    async def url(self) -> str:
        return (await self.wait_for(r"istening on (http://\S+)"))[1]


@asynccontextmanager
async def started(
    *arguments: str, cwd: Path, env: dict[str, str] | None = None, tty: bool = False
) -> AsyncIterator[Command]:
    """`pilothouse <arguments>` until the end of the block; then it is killed."""
    master, slave = pty.openpty() if tty else (None, None)
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pilothouse", *arguments),
        cwd=cwd,
        env=environment() if env is None else env,
        stdin=slave if tty else asyncio.subprocess.DEVNULL,
        stdout=slave if tty else pipe,
        stderr=slave if tty else pipe,
        start_new_session=True,
        preexec_fn=_take_terminal if tty else None,
    )
    command = Command(process)
    transport = None
    if master is not None and slave is not None:
        os.close(slave)
        command.terminal = master
        reader = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(os.dup(master), "rb", 0)
        )
        command.pump(reader, "out")
    elif process.stdout is not None and process.stderr is not None:
        command.pump(process.stdout, "out")
        command.pump(process.stderr, "err")
    try:
        yield command
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)  # with the children of one that reloads
        await command.ended()
        if transport is not None:
            transport.close()
        if master is not None:
            os.close(master)


async def ran(*arguments: str, cwd: Path, env: dict[str, str] | None = None, stdin: str = "") -> tuple[int, str, str]:
    """Exit code, stdout and stderr of `pilothouse <arguments>`."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pilothouse", *arguments),
        cwd=cwd,
        env=environment() if env is None else env,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(WAIT_SECONDS):
        out, err = await process.communicate(stdin.encode())
    return process.returncode or 0, out.decode(), err.decode()


def _take_terminal() -> None:
    """In the child: make the terminal it was given its own, so that Ctrl-C reaches it as a signal."""
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
