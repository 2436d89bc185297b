"""The stage: the scripted model in a process of its own, and one server or a cluster that asks it."""

import os
import sys
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from pilothouse.db import open_database
from pilothouse.db.migrate import upgrade_schema
from pilothouse.identity.demo import ensure_local_key
from pilothouse.testing.chaos.scenarios import script
from pilothouse.testing.cluster import Child, Cluster, ClusterPlan, Node, free_port

LEDGER_VARIABLE = "CHAOS_LEDGER"
PROCESS_VARIABLE = "CHAOS_PROCESS"
_KEY = "sk-chaos-{:->4}"
_ENDINGS = 4  # of a key, as the model's ledger keeps it


@dataclass(frozen=True, slots=True)
class Stage:
    """What is running: addresses, a token, the processes by name, and where the ledgers are."""

    urls: list[str]
    token: str
    processes: Mapping[str, Child]
    model: Child
    model_ledger: Path
    tool_ledger: Path


@asynccontextmanager
async def set_up(
    *, app: str, folder: Path, nodes: int, workers: int, lease_seconds: float, cluster: bool
) -> AsyncGenerator[Stage]:
    """Everything, until the block ends.

    Args:
        app: `MODULE:APP` that serves the chaos agent.
        folder: for data, logs and ledgers.

    Raises:
        StartupError: something is missing or does not start.
    """
    ledgers = folder / "ledgers"
    ledgers.mkdir(parents=True, exist_ok=True)
    async with AsyncExitStack() as stack:
        provider, url = _provider(folder, ledgers / "model.jsonl")
        await provider.start()
        stack.push_async_callback(provider.stop)
        environ = _environment(url, ledgers / "tools.jsonl", lease_seconds=lease_seconds)
        if cluster:
            plan = ClusterPlan(
                app=app, folder=folder, nodes=nodes, workers=workers, environ=environ, for_process=_own_key
            )
            running = await stack.enter_async_context(Cluster(plan))
            processes: dict[str, Child] = {child.name: child for child in [*running.nodes, *running.workers]}
            processes |= {"postgres": running.postgres, "valkey": running.valkey}
            urls, token = [node.url for node in running.nodes], running.token
        else:
            node, token = await _single(app, folder, environ)
            await node.start(seconds=120)
            stack.push_async_callback(node.stop)
            processes = {node.name: node}
            urls = [node.url]
        yield Stage(urls, token, processes, provider, ledgers / "model.jsonl", ledgers / "tools.jsonl")


async def _single(app: str, folder: Path, environ: Mapping[str, str]) -> tuple[Node, str]:
    data = folder / "data"
    data.mkdir(exist_ok=True)
    database = await open_database(f"sqlite:///{data / 'pilothouse.db'}")
    try:
        await upgrade_schema(database)
        token = await ensure_local_key(database, data)
    finally:
        await database.close()
    own = {**environ, **_own_key("n1"), "PILOTHOUSE_DATA_DIR": str(data)}
    return Node.of(app, name="n1", folder=folder, environ=own), token


def _provider(folder: Path, ledger: Path) -> tuple[Child, str]:
    written = folder / "script.json"
    written.write_text(script().model_dump_json())
    port = free_port()
    command = [sys.executable, "-m", "pilothouse.testing.provider", "--script", str(written), "--port", str(port)]
    child = Child(
        name="model",
        command=[*command, "--log", str(ledger)],
        log=folder / "model.log",
        ready_line="listening on",
    )
    return child, f"http://127.0.0.1:{port}/v1"


def _environment(model_url: str, tool_ledger: Path, *, lease_seconds: float) -> dict[str, str]:
    """Ours without any setting of a server, so that what runs is the same everywhere."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PILOTHOUSE_", "OPENAI_"))}
    return {
        **clean,
        "PILOTHOUSE_OPENAI_BASE_URL": model_url,
        "PILOTHOUSE_MODELS_DEFAULT": "openai:scripted",
        "PILOTHOUSE_MODELS_CHECK": "false",
        "PILOTHOUSE_SERVER_HEARTBEAT_SECONDS": "2",
        "PILOTHOUSE_SERVER_SHUTDOWN_SECONDS": "2",
        "PILOTHOUSE_SERVER_CONSOLE": "false",
        "PILOTHOUSE_LOG_LEVEL": "info",
        "PILOTHOUSE_LOG_FORMAT": "json",
        "PILOTHOUSE_LEASE_EXPIRY_SECONDS": f"{lease_seconds:g}",
        "PILOTHOUSE_LEASE_HEARTBEAT_SECONDS": f"{lease_seconds * 0.3:g}",
        LEDGER_VARIABLE: str(tool_ledger),
    }


def _own_key(process: str) -> dict[str, str]:
    """Each process asks the model with a key of its own, so that the model's ledger knows them apart."""
    return {"PILOTHOUSE_OPENAI_API_KEY": _KEY.format(process), PROCESS_VARIABLE: process}


def process_of(authorization: str) -> str:
    """The process that sent a request with this header, as the model's ledger keeps it."""
    return authorization[-_ENDINGS:].lstrip("-")
