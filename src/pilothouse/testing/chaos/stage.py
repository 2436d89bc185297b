"""The stage: the scripted model in a process of its own, and one server or a cluster that asks it."""

import os
import sys
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, time

from pilothouse.db import open_database
from pilothouse.db.migrate import upgrade_schema
from pilothouse.identity.demo import ensure_local_key
from pilothouse.testing.chaos.faults import PlannedFault, Striker
from pilothouse.testing.chaos.ledger import PipedLedger
from pilothouse.testing.chaos.network import Network, NetworkFaults
from pilothouse.testing.chaos.postgres_faults import PostgresFaults
from pilothouse.testing.chaos.process_faults import CAN_LIMIT_OTHERS, Clocks, FailingWrites, FullDisk, faketime
from pilothouse.testing.chaos.scenarios import script
from pilothouse.testing.cluster import Child, Cluster, ClusterPlan, Node, Postgres, Valkey, free_port

LEDGER_VARIABLE = "CHAOS_LEDGER"
PROCESS_VARIABLE = "CHAOS_PROCESS"
CLOCK_VARIABLE = "CHAOS_CLOCK"
"""What to add to the monotonic clock, which all processes share, to get Unix seconds."""
_KEY = "sk-chaos-{:->4}"
_SHORT_LIMITS = {
    "PILOTHOUSE_MODELS_FIRST_BYTE_SECONDS": "8",
    "PILOTHOUSE_MODELS_STALL_SECONDS": "8",
    "PILOTHOUSE_RUNS_MODEL_TIMEOUT_SECONDS": "30",
}
"""So that a silent or endless model is not waited for longer than everything else."""
_ENDINGS = 4  # of a key, as the model's ledger keeps it


@dataclass(frozen=True, kw_only=True)
class StagePlan:
    """What to set up.

    Attributes:
        app: `MODULE:APP` that serves the chaos agent.
        folder: for data, logs and ledgers.
        half_dead: the faults that need more than a signal; empty: processes speak to each other without a proxy.
    """

    app: str
    folder: Path
    nodes: int
    workers: int
    lease_seconds: float
    cluster: bool
    half_dead: list[PlannedFault] = field(default_factory=list[PlannedFault])

    @property
    def processes(self) -> list[str]:
        """Names of nodes and workers."""
        workers = range(1, self.workers + 1) if self.cluster else ()
        return [*(f"n{number}" for number in range(1, self.nodes + 1)), *(f"w{number}" for number in workers)]


@dataclass(frozen=True, slots=True)
class Stage:
    """What is running: addresses, a token, the processes by name, and where the ledgers are.

    Attributes:
        strikers: do the faults that need more than a signal.
        missing: kinds of faults that can't be done here, with the reason.
    """

    urls: dict[str, str]
    token: str
    processes: Mapping[str, Child]
    model: Child
    model_ledger: Path
    tool_ledger: Path
    strikers: list[Striker] = field(default_factory=list[Striker])
    missing: Mapping[str, str] = field(default_factory=dict[str, str])


@asynccontextmanager
async def set_up(plan: StagePlan) -> AsyncGenerator[Stage]:
    """Everything, until the block ends.

    Raises:
        StartupError: something is missing or does not start.
    """
    ledgers = plan.folder / "ledgers"
    ledgers.mkdir(parents=True, exist_ok=True)
    async with AsyncExitStack() as stack:
        provider, model_port = _provider(plan.folder, ledgers / "model.jsonl")
        await provider.start()
        stack.push_async_callback(provider.stop)
        surroundings = await _surround(plan, stack, model_port, ledgers)
        environ = _environment(plan, model_port, surroundings.tool_ledger)
        if plan.cluster:
            processes, urls, token = await _cluster(plan, stack, environ, surroundings)
        else:
            node, token = await _single(plan, {**environ, **surroundings.for_process("n1")})
            await node.start(seconds=120)
            stack.push_async_callback(node.stop)
            processes, urls = {node.name: node}, {node.name: node.url}
        yield Stage(
            urls=urls,
            token=token,
            processes=processes,
            model=provider,
            model_ledger=ledgers / "model.jsonl",
            tool_ledger=ledgers / "tools.jsonl",
            strikers=_strikers(plan, stack, processes, surroundings),
            missing=surroundings.missing,
        )


async def _cluster(
    plan: StagePlan, stack: AsyncExitStack, environ: Mapping[str, str], surroundings: "_Surroundings"
) -> tuple[dict[str, Child], dict[str, str], str]:
    cluster = ClusterPlan(
        app=plan.app,
        folder=plan.folder,
        nodes=plan.nodes,
        workers=plan.workers,
        environ=environ,
        for_process=surroundings.for_process,
        postgres_port=surroundings.ports["postgres"],
        valkey_port=surroundings.ports["valkey"],
    )
    running = await stack.enter_async_context(Cluster(cluster))
    processes: dict[str, Child] = {child.name: child for child in [*running.nodes, *running.workers]}
    processes |= {"postgres": running.postgres, "valkey": running.valkey}
    return processes, {node.name: node.url for node in running.nodes}, running.token


# --- what the half-dead need ---


@dataclass(frozen=True, slots=True)
class _Surroundings:
    """Proxies, clocks and pipes around the processes, and how each process is told of them."""

    ports: Mapping[str, int]
    for_process: Callable[[str], Mapping[str, str]]
    tool_ledger: Path
    network: Network | None = None
    clocks: Clocks | None = None
    missing: Mapping[str, str] = field(default_factory=dict[str, str])


async def _surround(plan: StagePlan, stack: AsyncExitStack, model_port: int, ledgers: Path) -> _Surroundings:
    ports = {"postgres": free_port(), "valkey": free_port(), "model": model_port}
    tools = ledgers / "tools.jsonl"
    if not plan.half_dead:
        return _Surroundings(ports, _own_key, tools)
    network = Network(ports if plan.cluster else {"model": model_port})
    stack.push_async_callback(network.stop)
    await network.connect(plan.processes)
    library = faketime()
    clocks = Clocks(plan.folder / "clocks", library) if library is not None else None
    stepped = {fault.target for fault in plan.half_dead if fault.kind == "clock"} if clocks is not None else set[str]()
    if not plan.cluster:  # its files will be full, and ledgers are not to suffer
        piped = PipedLedger(ledgers / "tools.pipe", tools)
        stack.callback(piped.close)
        tools = ledgers / "tools.pipe"

    def for_process(name: str) -> dict[str, str]:
        told = {**_own_key(name), "PILOTHOUSE_OPENAI_BASE_URL": _model_url(network.port(name, "model"))}
        if plan.cluster:
            told["PILOTHOUSE_DATABASE_URL"] = Postgres.url_at(network.port(name, "postgres"))
            told["PILOTHOUSE_REDIS_URL"] = Valkey.url_at(network.port(name, "valkey"))
        return {**told, **(clocks.environment(name) if clocks is not None and name in stepped else {})}

    return _Surroundings(ports, for_process, tools, network, clocks, _missing(clocks))


def _missing(clocks: Clocks | None) -> dict[str, str]:
    missing = {} if clocks is not None else {"clock": "libfaketime is not installed"}
    if not CAN_LIMIT_OTHERS:
        missing |= dict.fromkeys(("no-writes", "full-disk"), "limits of another process are changed on Linux only")
    return missing


def _strikers(
    plan: StagePlan, stack: AsyncExitStack, processes: Mapping[str, Child], surroundings: _Surroundings
) -> list[Striker]:
    if surroundings.network is None:
        return []
    found: list[Striker] = [NetworkFaults(surroundings.network, processes), FailingWrites(processes)]
    if surroundings.clocks is not None:
        found.append(surroundings.clocks)
    if plan.cluster:
        postgres = PostgresFaults(Postgres.url_at(surroundings.ports["postgres"]))
        stack.push_async_callback(postgres.close)
        found += [postgres, FullDisk(processes["postgres"])]
    return found


# --- processes ---


async def _single(plan: StagePlan, environ: Mapping[str, str]) -> tuple[Node, str]:
    data = plan.folder / "data"
    data.mkdir(exist_ok=True)
    database = await open_database(f"sqlite:///{data / 'pilothouse.db'}")
    try:
        await upgrade_schema(database)
        token = await ensure_local_key(database, data)
    finally:
        await database.close()
    own = {**environ, "PILOTHOUSE_DATA_DIR": str(data)}
    return Node.of(plan.app, name="n1", folder=plan.folder, environ=own), token


def _provider(folder: Path, ledger: Path) -> tuple[Child, int]:
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
    return child, port


def _model_url(port: int) -> str:
    return f"http://127.0.0.1:{port}/v1"


def _environment(plan: StagePlan, model_port: int, tool_ledger: Path) -> dict[str, str]:
    """Ours without any setting of a server, so that what runs is the same everywhere."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PILOTHOUSE_", "OPENAI_"))}
    return {
        **clean,
        "PILOTHOUSE_OPENAI_BASE_URL": _model_url(model_port),
        "PILOTHOUSE_MODELS_DEFAULT": "openai:scripted",
        "PILOTHOUSE_MODELS_CHECK": "false",
        "PILOTHOUSE_SERVER_HEARTBEAT_SECONDS": "2",
        "PILOTHOUSE_SERVER_SHUTDOWN_SECONDS": "2",
        "PILOTHOUSE_SERVER_CONSOLE": "false",
        "PILOTHOUSE_LOG_LEVEL": "info",
        "PILOTHOUSE_LOG_FORMAT": "json",
        "PILOTHOUSE_LEASE_EXPIRY_SECONDS": f"{plan.lease_seconds:g}",
        "PILOTHOUSE_LEASE_HEARTBEAT_SECONDS": f"{plan.lease_seconds * 0.3:g}",
        **(_SHORT_LIMITS if plan.half_dead else {}),
        LEDGER_VARIABLE: str(tool_ledger),
        CLOCK_VARIABLE: repr(time() - monotonic()),
    }


def _own_key(process: str) -> dict[str, str]:
    """Each process asks the model with a key of its own, so that the model's ledger knows them apart."""
    return {"PILOTHOUSE_OPENAI_API_KEY": _KEY.format(process), PROCESS_VARIABLE: process}


def process_of(authorization: str) -> str:
    """The process that sent a request with this header, as the model's ledger keeps it."""
    return authorization[-_ENDINGS:].lstrip("-")
