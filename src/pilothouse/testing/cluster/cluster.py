"""The cluster as a whole: what is started in which order, and how it ends."""

import asyncio
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from pilothouse.db import open_database
from pilothouse.db.migrate import upgrade_schema
from pilothouse.errors import StartupError
from pilothouse.identity.demo import ensure_local_key
from pilothouse.testing.cluster.postgres import Postgres
from pilothouse.testing.cluster.processes import Child
from pilothouse.testing.cluster.servers import Node, Worker
from pilothouse.testing.cluster.valkey import Valkey

_STOP_SECONDS = 45


def no_additions(_name: str) -> Mapping[str, str]:
    """The environment of every process is the same."""
    return {}


@dataclass(frozen=True, kw_only=True)
class ClusterPlan:
    """What a cluster consists of.

    Attributes:
        app: `MODULE:APP` of the application all nodes and workers run.
        folder: where its data and logs are kept.
        environ: the environment of nodes and workers; by default ours. Addresses are added.
        for_process: additions to it for one process, by its name (`n1`, `w1`); they win over the addresses.
        postgres_port: by default a free one.
        valkey_port: by default a free one.
        durable: whether PostgreSQL waits for the disk at each commit.
    """

    app: str
    folder: Path
    nodes: int = 3
    workers: int = 2
    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    for_process: Callable[[str], Mapping[str, str]] = no_additions
    postgres_port: int | None = None
    valkey_port: int | None = None
    durable: bool = True

    def __post_init__(self) -> None:
        if self.nodes < 1 or self.workers < 0:
            raise StartupError("A cluster has at least one node, and no fewer than no workers.")


class Cluster:
    """PostgreSQL, Valkey, nodes and workers, as long as the `async with` block lasts.

    Attributes:
        token: may do everything, as tenant `local`; known once started.

    Raises:
        StartupError: when entered: something is missing or does not start; what was started is stopped again.
    """

    def __init__(self, plan: ClusterPlan) -> None:
        folder = plan.folder.absolute()
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self.token = ""
        self.postgres = Postgres.at(folder, port=plan.postgres_port, durable=plan.durable)
        self.valkey = Valkey.at(folder, port=plan.valkey_port)
        if self.postgres.user is not None:
            folder.chmod(folder.stat().st_mode | 0o011)  # PostgreSQL runs as somebody else and has to get in
        common = {
            **plan.environ,
            # A server keeps others out of its data folder, and PostgreSQL may run as another user.
            "PILOTHOUSE_DATA_DIR": str(folder / "data"),
            "PILOTHOUSE_DATABASE_URL": self.postgres.url,
            "PILOTHOUSE_REDIS_URL": self.valkey.url,
            "PILOTHOUSE_SERVER_HOST": "127.0.0.1",
        }
        names = [f"n{number}" for number in range(1, plan.nodes + 1)]
        self.nodes = [
            Node.of(plan.app, name=name, folder=folder, environ={**common, **plan.for_process(name)}) for name in names
        ]
        names = [f"w{number}" for number in range(1, plan.workers + 1)]
        self.workers = [
            Worker.of(plan.app, name=name, folder=folder, environ={**common, **plan.for_process(name)})
            for name in names
        ]

    @property
    def processes(self) -> list[Child]:
        """All of them, the databases first."""
        return [self.postgres, self.valkey, *self.nodes, *self.workers]

    async def __aenter__(self) -> Self:
        try:
            await asyncio.gather(self.postgres.create(), self.valkey.start())
            self.token = await self._prepare()
            await asyncio.gather(*(child.start(seconds=120) for child in [*self.nodes, *self.workers]))
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Stop nodes and workers in order, then the databases."""
        await asyncio.gather(*(child.stop(seconds=_STOP_SECONDS) for child in [*self.nodes, *self.workers]))
        await asyncio.gather(self.valkey.stop(), self.postgres.stop())

    async def any_ended(self) -> Child:
        """Until one of the processes has ended; which."""
        waits = {asyncio.create_task(child.ended()): child for child in self.processes}
        try:
            done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            return waits[done.pop()]
        finally:
            for wait in waits:
                wait.cancel()

    async def _prepare(self) -> str:
        """Bring the schema up to date once, before many processes want to, and make a key for callers."""
        database = await open_database(self.postgres.url, pool_size=1)
        try:
            await upgrade_schema(database)
            return await ensure_local_key(database, self._folder)
        finally:
            await database.close()
