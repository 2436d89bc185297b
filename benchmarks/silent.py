"""What streams and WebSockets cost that are open and silent, and how soon they are woken. See docs/benchmarks.md."""

import contextlib
import importlib
import os
import resource
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.idle import postgres
from benchmarks.measure import Rig, job_for, measure, percentile
from benchmarks.processes import Server
from benchmarks.scenarios import Figures, Plan, Results, Say
from benchmarks.workload import ASK_PERSON, ASK_SHORT, SHORT_TOKENS, last_word

STORES = ("sqlite", "postgres", "postgres+redis")
_QUIET_SECONDS = 10.0
_SHARED_RUNS = 5
_OPENING_AT_ONCE = 16
_CANCELLING_AT_ONCE = 8


def run_silent(made: Rig, folder: Path, plan: Plan, *, say: Say) -> Results:
    """Scenario 8: others' requests alone and beside open, silent streams, on each kind of storage.

    In a cluster a second server, on the load's core, cancels the runs, so that the first has to learn of it.
    """
    _raise_open_files()
    columns: dict[str, dict[str, list[Figures]]] = {}
    for store in plan.stores:
        for number in range(1, plan.rounds + 1):
            with _serving(made, folder, f"{store}-{number}", store) as (server, canceller):
                for name, figures in _round(made, server, canceller, plan):
                    columns.setdefault(store, {}).setdefault(name, []).append(figures)
                    say(f"round {number}: silent {store} {name}: {_line(figures)}")
    return Results(columns)


def _round(made: Rig, server: Server, canceller: Server, plan: Plan) -> Generator[tuple[str, Figures]]:
    for job in (_list_job(server, plan), _turn_job(server, plan)):
        made.load.run(job)
    if canceller is not server:
        made.load.run(_turn_job(canceller, plan))
    alone = _others(made, server, plan)
    yield "alone", alone
    for name, runs in (("few runs", _SHARED_RUNS), ("a run each", plan.silent_streams + plan.silent_sockets)):
        run_ids = _make_runs(made, server, runs)
        before = machine.memory_mb(server.pid)
        _open(made, server, plan, run_ids)
        time.sleep(1)
        count = plan.silent_streams + plan.silent_sockets
        held = {"stream_kb": (machine.memory_mb(server.pid) - before) * 1000 / count}
        cpu, began = server.cpu_seconds(), time.perf_counter()
        time.sleep(_QUIET_SECONDS)
        held["idle_core"] = (server.cpu_seconds() - cpu) / (time.perf_counter() - began)
        beside = _others(made, server, plan)
        ratios = {f"{kind}_ratio": beside[kind] / alone[kind] for kind in ("list_p99", "turn_p99")}
        yield name, {**beside, **ratios, **held, **_wake(made, canceller, run_ids)}
        made.load.run({"kind": "silent_end"})


def _others(made: Rig, server: Server, plan: Plan) -> Figures:
    """What other callers see meanwhile."""
    figures: Figures = {}
    for kind, job in (("list", _list_job(server, plan)), ("turn", _turn_job(server, plan))):
        one = measure(made, server, job)
        figures |= {f"{kind}_p50": one["p50"], f"{kind}_p99": one["p99"], f"{kind}_others": one["others"]}
    return figures


def _list_job(server: Server, plan: Plan) -> dict[str, Any]:
    job = job_for(server, "", count=plan.silent_requests, clients=4, last='"items"')
    return {**job, "method": "GET", "url": f"{server.url}/v1/runs?limit=20", "bodies": [None]}


def _turn_job(server: Server, plan: Plan) -> dict[str, Any]:
    return job_for(server, ASK_SHORT, count=plan.silent_requests, clients=4, last=last_word(SHORT_TOKENS))


def _make_runs(made: Rig, server: Server, count: int) -> list[str]:
    body = {"message": ASK_PERSON, "agent": "asker"}
    job = {"kind": "silent_runs", "url": server.url, "headers": server.headers, "body": body, "count": count}
    return made.load.run({**job, "clients": 8})["run_ids"]


def _open(made: Rig, server: Server, plan: Plan, run_ids: list[str]) -> None:
    result = made.load.run(
        {
            "kind": "silent_open",
            "url": server.url,
            "headers": server.headers,
            "run_ids": run_ids,
            "streams": plan.silent_streams,
            "sockets": plan.silent_sockets,
            "clients": _OPENING_AT_ONCE,
        }
    )
    if result["errors"]:
        raise RuntimeError(f"{server.name}: {result['errors']} streams were not opened, first: {result['error']}")


def _wake(made: Rig, server: Server, run_ids: list[str]) -> Figures:
    job = {"kind": "silent_wake", "url": server.url, "headers": server.headers, "run_ids": run_ids, "seconds": 60}
    result = made.load.run({**job, "clients": _CANCELLING_AT_ONCE})
    if result["errors"] or not result["durations"]:
        raise RuntimeError(f"{server.name}: {result['errors']} streams were not woken, first: {result['error']}")
    return {
        "woken_p50": percentile(result["durations"], 50),
        "woken_max": max(result["durations"]),
        "all_ms": result["all_ms"],
        "cancels_ms": result["cancels_ms"],
    }


@contextlib.contextmanager
def _serving(made: Rig, folder: Path, name: str, store: str) -> Generator[tuple[Server, Server]]:
    """The server under test, and the one that cancels."""
    with contextlib.ExitStack() as stack:

        def start(name: str, core: int, arguments: list[str]) -> Server:
            return stack.enter_context(
                Server("d", provider=made.provider.url, folder=folder, core=core, arguments=arguments, name=name)
            )

        if store == "sqlite":
            server = start(name, made.cores.server, [])
            yield server, server
            return
        arguments = ["--database", stack.enter_context(postgres(made.cores.load))]
        if store.endswith("redis"):
            arguments += ["--redis", stack.enter_context(_redis(made.cores.load))]
        server = start(name, made.cores.server, arguments)
        yield server, start(f"{name}-other", made.cores.load, arguments)


@contextlib.contextmanager
def _redis(core: int) -> Generator[str]:
    support = importlib.import_module("tests.support.valkey")
    usable = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        with support.ValkeyServer() as server:
            os.sched_setaffinity(0, usable)
            yield server.url
    finally:
        os.sched_setaffinity(0, usable)


def _raise_open_files() -> None:
    """Each stream is a file here, in the server and in the load, which inherit the limit."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _line(figures: Figures) -> str:
    return ", ".join(f"{name} {value:.2f}" for name, value in figures.items())


def silent_rows(results: Results) -> tuple[list[str], list[list[str]]]:
    """Header and lines of the table."""
    cell: dict[str, Callable[[Figures], str]] = {
        "list p50 ms": lambda one: f"{one['list_p50']:.1f}",
        "p99": lambda one: f"{one['list_p99']:.1f}",
        "/ alone": lambda one: f"{one['list_p99_ratio']:.2f}" if "list_p99_ratio" in one else "",
        "turn p50 ms": lambda one: f"{one['turn_p50']:.1f}",
        "p99 ": lambda one: f"{one['turn_p99']:.1f}",
        "/ alone ": lambda one: f"{one['turn_p99_ratio']:.2f}" if "turn_p99_ratio" in one else "",
        "core when idle": lambda one: f"{one['idle_core']:.1%}" if "idle_core" in one else "",
        "KB each": lambda one: f"{one['stream_kb']:.0f}" if "stream_kb" in one else "",
        "woken p50 ms": lambda one: f"{one['woken_p50']:.0f}" if "woken_p50" in one else "",
        "last": lambda one: f"{one['woken_max']:.0f}" if "woken_max" in one else "",
        "all after ms": lambda one: f"{one['all_ms']:.0f}" if "all_ms" in one else "",
        "cancels took": lambda one: f"{one['cancels_ms']:.0f}" if "cancels_ms" in one else "",
    }
    rows = [
        [f"{store}, {name}", *(make(one) for make in cell.values())]
        for store, columns in results.medians().items()
        for name, one in columns.items()
    ]
    return ["silent streams on", *cell], rows
