"""Nodes and workers: our own processes."""

import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from pilothouse.testing.cluster.processes import Child, free_port


class Node(Child):
    """A process that serves an application over HTTP, always on the same port."""

    port: int

    @classmethod
    def of(cls, app: str, *, name: str, folder: Path, environ: Mapping[str, str], port: int | None = None) -> Self:
        """A node that is not started yet.

        Args:
            app: `MODULE:APP`.
            folder: where its log is kept.
            environ: its environment, with its settings.
            port: by default a free one.
        """
        chosen = port or free_port()
        node = cls(
            name=name,
            command=[sys.executable, "-m", "pilothouse", "serve", app, "--port", str(chosen)],
            log=folder / f"{name}.log",
            ready_line="Listening on http",
            environ={**environ, "PYTHONUNBUFFERED": "1"},
            death_signal=signal.SIGTERM,
        )
        node.port = chosen
        return node

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"


class Worker(Child):
    """A process that executes runs and serves nothing."""

    @classmethod
    def of(cls, app: str, *, name: str, folder: Path, environ: Mapping[str, str]) -> Self:
        """A worker that is not started yet. Arguments as of `Node.of`."""
        return cls(
            name=name,
            command=[sys.executable, "-m", "pilothouse", "worker", app],
            log=folder / f"{name}.log",
            ready_line="Working",
            environ={**environ, "PYTHONUNBUFFERED": "1"},
            death_signal=signal.SIGTERM,
        )
