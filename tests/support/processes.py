"""Child processes that never outlive the test session."""

import ctypes
import os
import pwd
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_POLL_SECONDS = 0.02


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def unprivileged() -> pwd.struct_passwd | None:
    """Whom to run as when we are root (PostgreSQL refuses to be root); None when we are not."""
    return pwd.getpwnam("nobody") if os.geteuid() == 0 else None


def spawn(
    command: Sequence[str | Path], log: Path, *, user: pwd.struct_passwd | None = None, die: int = signal.SIGTERM
) -> subprocess.Popen[bytes]:
    """Start a process with its output in `log`; the kernel sends it `die` if we are killed."""
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None

    def follow_parent() -> None:
        if libc is not None:
            libc.prctl(_PR_SET_PDEATHSIG, die)

    with log.open("ab") as output:
        return subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            user=user.pw_uid if user else None,
            group=user.pw_gid if user else None,
            extra_groups=[] if user else None,
            start_new_session=True,  # Ctrl+C is for pytest, which then stops the server in order
            preexec_fn=follow_parent,  # noqa: PLW1509 - runs before any thread of ours matters
        )


def wait_until(ready: Callable[[], bool], process: subprocess.Popen[bytes], log: Path, *, seconds: float = 30) -> None:
    """Wait for a server to answer.

    Raises:
        RuntimeError: it ended or did not answer in time; holds the end of its log.
    """
    end = time.monotonic() + seconds
    while not ready():
        if process.poll() is not None or time.monotonic() > end:
            tail = log.read_text(errors="replace")[-2000:]
            raise RuntimeError(f"{process.args!r} did not come up (exit {process.poll()}):\n{tail}")
        time.sleep(_POLL_SECONDS)


def stop(process: subprocess.Popen[bytes], how: int = signal.SIGTERM, *, seconds: float = 10) -> None:
    """Ask a process to end with signal `how`; kill it if it does not in time. Returns when it is gone."""
    if process.poll() is None:
        process.send_signal(how)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
