"""The scenarios. Within a round the servers take turns, in another order each round, so that drift hits all alike."""

import contextlib
import tempfile
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.measure import Rig, job_for, measure, median_of
from benchmarks.processes import Load, Provider, Server
from benchmarks.workload import (
    ASK_PACED,
    ASK_SHORT,
    ASK_STREAM,
    ASK_TOOL,
    FIRST_TOKEN_SECONDS,
    FIRST_WORD,
    IDEAL_PACED_SECONDS,
    SHORT_TOKENS,
    STREAM_TOKENS,
    TOOL_ANSWER_TOKENS,
    last_word,
)

Figures = dict[str, float]
Say = Callable[[str], None]
CLIENTS = 8


@dataclass(frozen=True)
class Plan:
    """How much is done."""

    rounds: int = 3
    turns: int = 300
    tools: int = 150
    streams: int = 120
    lone_streams: int = 30
    paced_seconds: float = 8.0
    levels: tuple[int, ...] = (10, 20, 30, 40, 60, 80, 100, 125, 150, 200)
    lengths: tuple[int, ...] = (10, 500)
    long_each: int = 40
    held: int = 500
    silent_streams: int = 1000
    silent_sockets: int = 1000
    silent_requests: int = 400
    stores: tuple[str, ...] = ("sqlite", "postgres", "postgres+redis")
    servers: tuple[str, ...] = ("a", "b", "c", "d")
    style: str = "handler"


@dataclass(frozen=True)
class Case:
    """A line of a table: what is asked of which server. `job` makes the load's job for a round."""

    scenario: str
    column: str
    server: str
    job: Callable[[Server, int], dict[str, Any]]


@dataclass(frozen=True)
class Results:
    """Figures of every round by scenario and column."""

    rounds: dict[str, dict[str, list[Figures]]]

    def medians(self) -> dict[str, dict[str, Figures]]:
        """The medians over the rounds."""
        return {
            scenario: {column: median_of(figures) for column, figures in columns.items()}
            for scenario, columns in self.rounds.items()
        }


@contextlib.contextmanager
def rig() -> Generator[tuple[Rig, Path]]:
    """Provider and load, and a folder that is removed at the end."""
    cores = machine.pick_cores()
    with tempfile.TemporaryDirectory(prefix="pilothouse-benchmark-") as name:
        folder = Path(name)
        with Provider(folder, cores.load) as provider, Load(folder, cores.load) as load:
            yield Rig(provider, load, cores), folder


@contextlib.contextmanager
def serving(
    made: Rig, folder: Path, kinds: Sequence[str], *, style: str, seed: str = ""
) -> Generator[dict[str, Server]]:
    """The servers, on the server's core, each in a folder of its own that is new."""
    folder = Path(tempfile.mkdtemp(dir=folder))
    with contextlib.ExitStack() as stack:
        servers: dict[str, Server] = {}
        for kind in kinds:
            arguments = ["--style", style] if kind == "c" else ["--seed", seed] if kind == "d" else []
            servers[kind] = stack.enter_context(
                Server(kind, provider=made.provider.url, folder=folder, core=made.cores.server, arguments=arguments)
            )
        yield servers


def turn_cases(plan: Plan) -> list[Case]:
    """Scenario 1: a whole answer."""

    def job(server: Server, _round: int) -> dict[str, Any]:
        return job_for(server, ASK_SHORT, count=plan.turns, clients=CLIENTS, last=last_word(SHORT_TOKENS))

    return [Case("turns", kind, kind, job) for kind in plan.servers]


def tool_cases(plan: Plan) -> list[Case]:
    """Scenario 2: an answer with one tool call. (a) has no loop to call a tool in."""

    def job_of(agent: str) -> Callable[[Server, int], dict[str, Any]]:
        def job(server: Server, _round: int) -> dict[str, Any]:
            last = last_word(TOOL_ANSWER_TOKENS)
            return job_for(server, ASK_TOOL, agent=agent, count=plan.tools, clients=CLIENTS, last=last)

        return job

    cases = [Case("tools", kind, kind, job_of("shop")) for kind in plan.servers if kind != "a"]
    if "d" in plan.servers:
        cases.append(Case("tools", "d (once)", "d", job_of("shop_once")))
    return cases


def stream_cases(plan: Plan) -> list[Case]:
    """Scenario 3: streams as fast as they come."""

    def job_of(clients: int, count: int) -> Callable[[Server, int], dict[str, Any]]:
        def job(server: Server, _round: int) -> dict[str, Any]:
            last = last_word(STREAM_TOKENS)
            return job_for(server, ASK_STREAM, stream=True, count=count, clients=clients, first=FIRST_WORD, last=last)

        return job

    return [
        Case(f"streams x{clients}", kind, kind, job_of(clients, count))
        for clients, count in ((1, plan.lone_streams), (16, plan.streams))
        for kind in plan.servers
    ]


def long_cases(plan: Plan) -> list[Case]:
    """Scenario 5: a turn late in a conversation; each conversation is used once."""

    def job_of(length: int) -> Callable[[Server, int], dict[str, Any]]:
        def job(server: Server, number: int) -> dict[str, Any]:
            ids = server.ready["conversations"][str(length)][number * plan.long_each :][: plan.long_each]
            made = job_for(server, ASK_SHORT, count=len(ids), clients=CLIENTS, last=last_word(SHORT_TOKENS))
            return {**made, "bodies": [{**made["bodies"][0], "conversation_id": one} for one in ids]}

        return job

    return [Case(f"message {length}", "d", "d", job_of(length)) for length in plan.lengths]


def run_cases(made: Rig, servers: dict[str, Server], cases: Sequence[Case], *, rounds: int, say: Say) -> Results:
    """Every case once a round, after one round that only warms up and is not counted."""
    results: dict[str, dict[str, list[Figures]]] = {}
    for case in cases:
        results.setdefault(case.scenario, {})[case.column] = []
    for case in cases:
        job = case.job(servers[case.server], 0)
        made.load.run({**job, "count": min(job["count"], max(2 * job["clients"], job["count"] // 5))})
    for number in range(1, rounds + 1):
        for scenario, columns in results.items():
            mine = [case for case in cases if case.scenario == scenario]
            turned = mine[number % len(mine) :] + mine[: number % len(mine)]
            for case in turned:
                server = servers[case.server]
                figures = measure(made, server, case.job(server, number))
                columns[case.column].append(figures)
                say(
                    f"round {number}: {scenario} {case.column}: {figures['cpu_ms']:.2f} ms CPU each, "
                    f"{figures['per_s']:.0f}/s; others had {figures['others']:.0%} of the core"
                )
    return Results(results)


def run_paced(made: Rig, servers: dict[str, Server], plan: Plan, *, say: Say) -> Results:
    """Scenario 4: streams at the speed of a model. After a round that only warms up,
    a server that has failed two levels in a row is spared the rest.
    """
    results: dict[str, dict[str, list[Figures]]] = {f"paced {level}": {} for level in plan.levels}
    for server in servers.values():
        made.load.run(paced_job(server, 8, min(3.0, plan.paced_seconds)))  # not counted
    for number in range(1, plan.rounds + 1):
        failed = dict.fromkeys(servers, 0)
        for level in plan.levels:
            order = list(servers)
            for kind in order[number % len(order) :] + order[: number % len(order)]:
                if failed[kind] >= 2:
                    continue
                figures = measure(made, servers[kind], paced_job(servers[kind], level, plan.paced_seconds))
                failed[kind] = 0 if at_full_speed(figures) else failed[kind] + 1
                results[f"paced {level}"].setdefault(kind, []).append(figures)
                say(
                    f"round {number}: paced {level} {kind}: {figures['core']:.0%} of the core, "
                    f"{figures['mean'] / 1000 / IDEAL_PACED_SECONDS:.2f} x ideal, first token p99 "
                    f"{figures['first_p99']:.0f} ms, longest gap p99 {figures['gap_p99']:.0f} ms; "
                    f"others had {figures['others']:.0%} of the core"
                )
    return Results(results)


def paced_job(server: Server, level: int, seconds: float) -> dict[str, Any]:
    """`level` streams at once, begun evenly, for so many seconds."""
    return job_for(
        server,
        ASK_PACED,
        stream=True,
        count=1_000_000,
        clients=level,
        seconds=seconds,
        stagger=IDEAL_PACED_SECONDS / level,
        first=FIRST_WORD,
        last=last_word(STREAM_TOKENS),
    )


def at_full_speed(figures: Figures) -> bool:
    """Whether readers noticed nothing: duration at most 1.15 of the ideal, first token within a second of its time."""
    slow = figures["mean"] / 1000 > 1.15 * IDEAL_PACED_SECONDS
    return not slow and figures["first_p99"] / 1000 <= 1 + FIRST_TOKEN_SECONDS
