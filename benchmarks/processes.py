"""The processes of a benchmark: provider, load and servers. All end with the harness, however it ends."""

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from benchmarks import machine
from benchmarks.workload import script

_ROOT = Path(__file__).resolve().parent.parent
_START_SECONDS = 60
_STOP_SECONDS = 10
_PR_SET_PDEATHSIG = 1
# In the parent already: nothing may be loaded between fork and exec.
_LIBC = ctypes.CDLL(None)


class Process:
    """A child of ours on one core, with its output in a file."""

    def __init__(
        self, name: str, arguments: Sequence[str], *, folder: Path, core: int, pipe: bool = False, extra: Any = None
    ) -> None:
        self.name = name
        self.folder = folder
        self._log: IO[bytes] = (folder / f"{name}.log").open("wb")
        self.began = time.perf_counter()
        self.popen = subprocess.Popen(
            [sys.executable, "-m", *arguments],
            cwd=_ROOT,
            env={**_environment(), **(extra or {})},
            stdin=subprocess.PIPE if pipe else subprocess.DEVNULL,
            stdout=subprocess.PIPE if pipe else self._log,
            stderr=self._log,
            start_new_session=True,  # Ctrl-C is for the harness, which stops them in order
            preexec_fn=_on_core(core),  # noqa: PLW1509 - the harness has one thread
        )

    @property
    def pid(self) -> int:
        """The process's number."""
        return self.popen.pid

    def cpu_seconds(self) -> float:
        """What it has spent so far, children included."""
        return machine.cpu_seconds(self.pid)

    def tail(self) -> str:
        """The end of its output, for an error."""
        self._log.flush()
        return (self.folder / f"{self.name}.log").read_text(errors="replace")[-2000:]

    def wait_for(self, ready: Callable[[], Any]) -> Any:
        """What `ready` returns once that is something.

        Raises:
            RuntimeError: the process ended instead, or takes too long.
        """
        until = time.perf_counter() + _START_SECONDS
        while time.perf_counter() < until:
            if (found := ready()) is not None:
                return found
            if self.popen.poll() is not None:
                raise RuntimeError(f"{self.name} ended with {self.popen.returncode}:\n{self.tail()}")
            time.sleep(0.002)
        raise RuntimeError(f"{self.name} did not start in {_START_SECONDS} s:\n{self.tail()}")

    def stop(self) -> None:
        """Ask it to end, and make it."""
        if self.popen.poll() is None:
            self.popen.terminate()
            try:
                self.popen.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.popen.kill()
                self.popen.wait()
        for stream in (self.popen.stdin, self.popen.stdout, self._log):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class Provider(Process):
    """The scripted model provider."""

    def __init__(self, folder: Path, core: int) -> None:
        path = folder / "script.json"
        path.write_text(json.dumps(script()))
        super().__init__("provider", ["pilothouse.testing.provider", "--script", str(path)], folder=folder, core=core)
        self.url: str = self.wait_for(self._address)

    def _address(self) -> str | None:
        text = (self.folder / "provider.log").read_text()
        return text.split()[-1] if text.endswith("\n") else None

    def hold(self, gate: str) -> None:
        """Close a gate of the script."""
        self._control("DELETE", gate)

    def release(self, gate: str) -> None:
        """Open a gate of the script."""
        self._control("POST", gate)

    def _control(self, method: str, gate: str) -> None:
        request = urllib.request.Request(f"{self.url}/_gates/{gate}", method=method)
        with urllib.request.urlopen(request, timeout=10) as response:
            response.read()


class Load(Process):
    """The process that makes the requests."""

    def __init__(self, folder: Path, core: int) -> None:
        super().__init__("load", ["benchmarks.load"], folder=folder, core=core, pipe=True)

    def run(self, job: dict[str, Any]) -> dict[str, Any]:
        """Do a job and return what was measured.

        Raises:
            RuntimeError: the load process ended.
        """
        stdin, stdout = self.popen.stdin, self.popen.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(json.dumps(job).encode() + b"\n")
        stdin.flush()
        line = stdout.readline()
        if not line:
            raise RuntimeError(f"The load ended:\n{self.tail()}")
        return json.loads(line)


class Server(Process):
    """One of the servers under test."""

    def __init__(
        self, kind: str, *, provider: str, folder: Path, core: int, arguments: Sequence[str] = (), name: str = ""
    ) -> None:
        own = folder / (name or kind)
        own.mkdir()
        self.kind = kind
        super().__init__(
            name or kind,
            ["benchmarks.serve", kind, "--provider", provider, "--folder", str(own), *arguments],
            folder=own,
            core=core,
        )
        self.ready: dict[str, Any] = self.wait_for(self._ready)
        self.url = f"http://127.0.0.1:{self.ready['port']}"
        self.headers = {"Authorization": f"Bearer {self.ready['token']}"} if "token" in self.ready else {}

    def _ready(self) -> dict[str, Any] | None:
        path = self.folder / "ready.json"
        return json.loads(path.read_text()) if path.exists() else None


def _environment() -> dict[str, str]:
    """Ours without settings and keys of whoever runs this."""
    ours = ("PILOTHOUSE_", "OPENAI_", "ANTHROPIC_", "AZURE_")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}


def _on_core(core: int) -> Callable[[], None]:
    def prepare() -> None:
        os.sched_setaffinity(0, {core})
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

    return prepare
