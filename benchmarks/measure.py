"""One measurement: a job for the load, and what server, provider, load and others spent meanwhile."""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks import machine
from benchmarks.processes import Load, Provider, Server
from benchmarks.workload import INSTRUCTIONS, MODEL

# Longer than Pilothouse takes to write the last streamed text to its log: that is its work too.
_SETTLE_SECONDS = 0.6
_SATURATED = 0.9


@dataclass
class Rig:
    """What measurements are made with."""

    provider: Provider
    load: Load
    cores: machine.Cores
    warnings: set[str] = field(default_factory=set[str])


def body_for(kind: str, message: str, *, agent: str = "plain", stream: bool = False) -> dict[str, Any]:
    """What a server of this kind is sent."""
    if kind != "a":
        return {"message": message} if agent == "plain" else {"message": message, "agent": agent}
    messages = [{"role": "system", "content": INSTRUCTIONS}, {"role": "user", "content": message}]
    options = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
    return {"model": MODEL, "messages": messages, **options}


def path_for(kind: str, *, stream: bool = False) -> str:
    """Where a server of this kind takes it."""
    if kind == "a":
        return "/v1/chat/completions"
    return ("/v1" if kind in ("d", "demo") else "") + ("/chat/stream" if stream else "/chat")


def job_for(server: Server, message: str, *, agent: str = "plain", stream: bool = False, **job: Any) -> dict[str, Any]:
    """A job for the load: `count`, `clients`, `seconds`, `last`, and for streams `first` and `stagger`."""
    return {
        "kind": "streams" if stream else "turns",
        "url": server.url + path_for(server.kind, stream=stream),
        "headers": server.headers,
        "bodies": [body_for(server.kind, message, agent=agent, stream=stream)],
        "seconds": 60,
        **job,
    }


def measure(rig: Rig, server: Server, job: dict[str, Any]) -> dict[str, float]:
    """Do the job once and return figures: times in ms, `cpu_ms` of the server per answer, shares of cores.

    `others` is the share of the server's core that neither the server nor idleness had: the higher, the less the
    wall times mean.

    Raises:
        RuntimeError: an answer was wrong, or none came.
    """
    time.sleep(_SETTLE_SECONDS)
    cores = rig.cores
    before = (server.cpu_seconds(), rig.provider.cpu_seconds(), machine.busy_seconds(cores.server))
    loop_before = machine.thread_seconds(server.pid)["event loop"]
    began = time.perf_counter()
    result = rig.load.run(job)
    elapsed = time.perf_counter() - began
    busy = machine.busy_seconds(cores.server) - before[2]
    in_time = server.cpu_seconds() - before[0]
    time.sleep(_SETTLE_SECONDS)
    spent = server.cpu_seconds() - before[0]
    loop = machine.thread_seconds(server.pid)["event loop"] - loop_before
    provider = rig.provider.cpu_seconds() - before[1]
    count, wall = result["count"], result["wall"]
    if result["errors"] or not count:
        raise RuntimeError(f"{server.name}: {result['errors']} of {count} answers were wrong, first: {result['error']}")
    load_core = (provider + result["load_cpu"]) / wall
    if load_core > _SATURATED:
        rig.warnings.add(
            f"{server.name} at {job['clients']} clients: provider and load took {load_core:.0%} of their core, "
            "so wall times are theirs, not the server's"
        )
    figures = {
        "per_s": count / wall,
        "p50": percentile(result["durations"], 50),
        "p99": percentile(result["durations"], 99),
        "mean": statistics.fmean(result["durations"]),
        "cpu_ms": spent / count * 1000,
        "threads_ms": max(0.0, spent - loop) / count * 1000,
        "count": float(count),
        "core": in_time / wall,
        "provider_core": provider / wall,
        "load_core": result["load_cpu"] / wall,
        "others": max(0.0, (busy - in_time) / elapsed),
    }
    if result["first"]:
        figures["first_p50"] = percentile(result["first"], 50)
        figures["first_p99"] = percentile(result["first"], 99)
        figures["gap_p99"] = percentile(result["gaps"], 99)
    return figures


def percentile(values: Sequence[float], percent: float) -> float:
    """The value that `percent` of the values do not exceed (nearest rank)."""
    ordered = sorted(values)
    rank = max(1, -(-len(ordered) * percent // 100))
    return ordered[int(rank) - 1]


def median_of(rounds: Sequence[dict[str, float]]) -> dict[str, float]:
    """Each figure's median over the rounds that have it."""
    names = dict.fromkeys(name for one in rounds for name in one)
    return {name: statistics.median(one[name] for one in rounds if name in one) for name in names}
