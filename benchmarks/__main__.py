"""`python -m benchmarks`: Pilothouse against three other ways to serve the same agent, on this machine."""

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks import idle, journal, lag, machine, report, scenarios, silent
from benchmarks.measure import Rig, measure
from benchmarks.processes import Server
from benchmarks.scenarios import CLIENTS, Plan, Results

COMMANDS = ("all", "turns", "tools", "streams", "paced", "long", "idle", "postgres", "silent", "journal", "lag")
_PARTS: dict[str, str] = {"turns": "answers", "tools": "answers", "streams": "answers"}
QUICK = Plan(rounds=1, turns=120, tools=60, streams=48, lone_streams=8, paced_seconds=4, levels=(20, 60),
             long_each=16, held=100, silent_streams=200, silent_sockets=200, silent_requests=100)  # fmt: skip
TINY = Plan(rounds=1, turns=16, tools=8, streams=16, lone_streams=2, paced_seconds=0.5, levels=(2,),
            long_each=8, held=5, silent_streams=5, silent_sockets=5, silent_requests=8)  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """Run what is asked for; 0 when every answer was right, and no bar was missed."""
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, _stop)
    plan = _plan(options)
    try:
        if options.profile:
            print(_profile(options.profile, plan, kind=options.profiler, level=options.level, seconds=options.seconds))
            return 0
        if options.command == "journal":
            with tempfile.TemporaryDirectory(prefix="pilothouse-benchmark-") as folder:
                print(report.journal(journal.journal_on_sqlite(Path(folder), plan.turns)))
            return 0
        if options.command == "lag":
            return _lag(options, plan)
        _run(options, plan)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    return 0


def _stop(_number: int, _frame: object) -> None:
    """As Ctrl-C: everything that was started is stopped on the way out."""
    raise KeyboardInterrupt


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("command", nargs="?", choices=COMMANDS, default="all", help="what to measure")
    parser.add_argument("--rounds", type=int, help="medians over so many rounds (3)")
    parser.add_argument("--servers", help="only these, as in cd")
    parser.add_argument("--quick", action="store_true", help="a first look in about a minute")
    parser.add_argument("--tiny", action="store_true", help="only whether everything runs")
    parser.add_argument("--levels", help="levels of paced streams, as 10,20,40")
    parser.add_argument("--stores", help="where silent streams are measured, as sqlite,postgres,postgres+redis")
    parser.add_argument("--silent", help="silent streams and WebSockets, as 1000,1000")
    parser.add_argument("--style", choices=("handler", "events", "text"), default="handler", help="how (c) streams")
    parser.add_argument("--json", type=Path, help="write all rounds there")
    parser.add_argument(
        "--profile", metavar="SERVER:SCENARIO", help="profile one server: d:turns, d:tools, d:streams, d:paced, d:long"
    )
    parser.add_argument("--profiler", choices=("pyinstrument", "cprofile"), default="pyinstrument")
    parser.add_argument("--level", type=int, default=60, help="streams at once when d:paced is profiled")
    parser.add_argument("--seconds", type=float, default=10, help="how long is profiled")
    return parser


def _plan(options: argparse.Namespace) -> Plan:
    plan = TINY if options.tiny else QUICK if options.quick else Plan()
    changes: dict[str, Any] = {"style": options.style}
    if options.rounds:
        changes["rounds"] = options.rounds
    if options.servers:
        changes["servers"] = tuple(options.servers)
    if options.stores:
        changes["stores"] = tuple(options.stores.split(","))
    if options.silent:
        changes["silent_streams"], changes["silent_sockets"] = (int(count) for count in options.silent.split(","))
    if options.levels:
        changes["levels"] = tuple(int(level) for level in options.levels.split(","))
    return replace(plan, **changes)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _lag(options: argparse.Namespace, plan: Plan) -> int:
    """1 if a piece of work is over the bar."""
    with tempfile.TemporaryDirectory(prefix="pilothouse-benchmark-") as folder:
        names = ["tool result: text of 50 MB", "attachment of 5 MB"] if options.tiny else None
        results = lag.run_lag(Path(folder), plan, say=_say, names=names)
    print(report.lag(results))
    if options.json:
        options.json.write_text(json.dumps(results.rounds, indent=1))
    return 0 if lag.is_free(results) else 1


def _run(options: argparse.Namespace, plan: Plan) -> None:
    command: str = options.command
    began = time.perf_counter()
    wanted: tuple[str, ...] = (_PARTS.get(command, command),)
    if command == "all":
        wanted = ("answers", "paced", "long", "idle")
    printed: list[str] = []
    raw: dict[str, Any] = {"cores": os.cpu_count(), "load_average": os.getloadavg(), "plan": vars(plan)}
    with scenarios.rig() as (rig, folder):
        if rig.cores.shared:
            rig.warnings.add("There is one core only: server, provider and load take it from each other.")
        for part in wanted:
            results, text = _part(part, command, rig, folder, plan)
            raw[part] = results.rounds
            printed.append(text)
        printed += [f"warning: {warning}" for warning in sorted(rig.warnings)]
    raw["seconds"] = time.perf_counter() - began
    if options.json:
        options.json.write_text(json.dumps(raw, indent=1))
    print("\n\n".join(printed))


def _part(part: str, command: str, rig: Rig, folder: Path, plan: Plan) -> tuple[Results, str]:
    """One table and the figures behind it."""
    if part == "idle":
        results = idle.run_idle(rig, folder, plan, say=_say)
        return results, report.idle(results)
    if part == "postgres":
        results = idle.run_postgres(rig, folder, plan, say=_say)
        return results, report.postgres(results)
    if part == "silent":
        results = silent.run_silent(rig, folder, plan, say=_say)
        return results, report.silent(results)
    if part == "paced":
        kinds = [kind for kind in plan.servers if kind in "cd"]
        with scenarios.serving(rig, folder, kinds, style=plan.style) as servers:
            results = scenarios.run_paced(rig, servers, plan, say=_say)
        return results, report.paced(results)
    if part == "long":
        seed = f"{','.join(map(str, plan.lengths))}x{plan.long_each * (plan.rounds + 1)}"
        with scenarios.serving(rig, folder, ["d"], style=plan.style, seed=seed) as servers:
            results = scenarios.run_cases(rig, servers, scenarios.long_cases(plan), rounds=plan.rounds, say=_say)
        return results, report.long(results)
    with scenarios.serving(rig, folder, plan.servers, style=plan.style) as servers:
        results = scenarios.run_cases(rig, servers, _cases(command, plan), rounds=plan.rounds, say=_say)
    return results, report.answers(results)


def _cases(command: str, plan: Plan) -> list[scenarios.Case]:
    made = {"turns": scenarios.turn_cases, "tools": scenarios.tool_cases, "streams": scenarios.stream_cases}
    wanted = made if command == "all" else {command: made[command]} if command in made else {}
    return [case for make in wanted.values() for case in make(plan)]


def _profile(target: str, plan: Plan, *, kind: str, level: int, seconds: float) -> str:
    """Load one server for a while under a profiler; what it says, and what each thread spent."""
    server_kind, _, scenario = target.partition(":")
    with scenarios.rig() as (rig, folder):
        arguments = ["--profile", kind]
        if server_kind == "c":
            arguments += ["--style", plan.style]
        if scenario == "long":
            arguments += ["--seed", f"{plan.lengths[-1]}x{plan.long_each * 2}"]
        server = Server(
            server_kind, provider=rig.provider.url, folder=folder, core=rig.cores.server, arguments=arguments
        )
        with server:
            warm, job = _profile_jobs(server, scenario, plan, level=level, seconds=seconds)
            rig.load.run(warm)
            before = machine.thread_seconds(server.pid)
            os.kill(server.pid, signal.SIGUSR1)
            figures = measure(rig, server, job)
            after = machine.thread_seconds(server.pid)
        profile = (server.folder / "profile.txt").read_text()
    spent = ", ".join(f"{name} {after[name] - before.get(name, 0.0):.2f} s" for name in after)
    head = (
        f"{target}: {figures['count']:.0f} answers, {figures['cpu_ms']:.2f} ms CPU each with the profiler's own; "
        f"threads: {spent}"
    )
    return f"{head}\n{profile}"


def _profile_jobs(
    server: Server, scenario: str, plan: Plan, *, level: int, seconds: float
) -> tuple[dict[str, Any], dict[str, Any]]:
    """A job to warm up with, and the one to profile."""
    if scenario == "paced":
        job = scenarios.paced_job(server, level, seconds)
    elif scenario == "long":
        case = scenarios.long_cases(replace(plan, lengths=plan.lengths[-1:], long_each=plan.long_each * 2))[0]
        whole = case.job(server, 0)
        job = {**whole, "count": plan.long_each * 2 - CLIENTS, "bodies": whole["bodies"][CLIENTS:], "seconds": seconds}
        return {**whole, "count": CLIENTS}, job
    else:
        endless = replace(plan, turns=1_000_000, tools=1_000_000, streams=1_000_000, servers=(server.kind,))
        cases = [case for case in _cases(scenario, endless) if case.column == server.kind]
        job = {**cases[-1].job(server, 1), "seconds": seconds}
    return {**job, "seconds": min(2.0, seconds)}, job


if __name__ == "__main__":
    sys.exit(main())
