"""A cluster on one machine until a signal."""

import asyncio
import os
import signal
from pathlib import Path

from pilothouse.app import Pilothouse
from pilothouse.cli.actions.demo import create_demo_app
from pilothouse.cli.output import say, show
from pilothouse.settings import load_settings
from pilothouse.testing.cluster import Child, Cluster, ClusterPlan

_DEMO = "pilothouse.cli.actions.cluster:demo_node"


def demo_node() -> Pilothouse:
    """The demo, as one of many nodes."""
    return create_demo_app(load_settings(), os.environ)


def run_cluster(*, nodes: int, workers: int, data_dir: Path, app: str | None) -> None:
    """Start it, say where it is, and stop it at a signal.

    Raises:
        StartupError: something does not start; the message says what.
    """
    environ = {"PILOTHOUSE_LOG_LEVEL": "info", **os.environ}
    plan = ClusterPlan(app=app or _DEMO, folder=data_dir, nodes=nodes, workers=workers, environ=environ)
    asyncio.run(_run(Cluster(plan), data_dir))


async def _run(cluster: Cluster, data_dir: Path) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    starting = asyncio.create_task(cluster.__aenter__())
    asked = asyncio.create_task(stopping.wait())
    await asyncio.wait({starting, asked}, return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        return
    await starting
    try:
        _welcome(cluster, data_dir)
        watchers = [asyncio.create_task(_tell(child)) for child in cluster.processes]
        await asked
        for watcher in watchers:
            watcher.cancel()
        say("Stopping nodes and workers, then the databases.")
    finally:
        await cluster.stop()


async def _tell(child: Child) -> None:
    """Say when a process ends: somebody killed it, or it failed."""
    await child.ended()
    code = child.process.returncode if child.process is not None else None
    how = f"by signal {-code}" if code is not None and code < 0 else f"with code {code}"
    say(f"{child.name} has ended {how}. Its log: {child.log}")


def _welcome(cluster: Cluster, data_dir: Path) -> None:
    for node in cluster.nodes:
        show(f"{node.name}: {node.url}  (pid {node.pid})")
    for worker in cluster.workers:
        show(f"{worker.name}: executes only  (pid {worker.pid})")
    first = cluster.nodes[0].url
    show(
        f"PostgreSQL: {cluster.postgres.url}  (pid {cluster.postgres.pid})\n"
        f"Valkey: {cluster.valkey.url}  (pid {cluster.valkey.pid})\n"
        f"token: {cluster.token}\n\n"
        f"Chat here:  pilothouse chat --url {first} --token {cluster.token}\n"
        f"Console:    {first}/console/#token={cluster.token}\n"
        f"Ctrl-C stops it. Data and logs are in {data_dir.absolute()}"
    )
