"""What a seed decides before anything runs: which kinds of fault there are, how often, and when the disasters come.

Each seed leaves most kinds out (swarm testing, Groce et al. 2012): faults that all happen at once hide each other.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

HEARTBEAT_SECONDS = 3.0
EXPIRY_SECONDS = 10.0
REAP_SECONDS = 2.0
CALL_LIMIT_SECONDS = 5.0
"""How long a call of the database may take before its adapter gives up."""

SLOTS = ("a", "b")
CALL_FAULTS = (
    "slow",  # done late
    "late",  # done at once, but answered late
    "refused",  # Unavailable, nothing was written
    "unanswered",  # Unavailable, but written
    "hangs",  # nothing written; Unavailable when the adapter gives up
    "hangs_written",  # written; Unavailable when the adapter gives up
    "crash_before",
    "crash_after",
    "pause_before",
    "pause_after",
)
_RATES = (0.01, 0.03, 0.1, 0.3)
_DISASTERS = ("crash", "pause", "deploy", "outage", "partition", "both_crash")


Script = Callable[[float, str, str], str | None]
"""From the time, the slot of the caller and the name of the unit of work to a fault, or None."""


@dataclass(frozen=True)
class Disaster:
    """Something that happens at an instant rather than at a call."""

    at: float
    kind: str
    slot: str
    seconds: float
    silent: bool
    """Of an outage or partition: calls hang instead of being refused."""


@dataclass
class Plan:
    """What one seed brings."""

    rates: dict[str, float]
    disasters: list[Disaster]
    quiet_at: float
    """From then on nothing is at fault any more."""
    latency: float
    model_hangs: float
    model_errors: float
    tool_hangs: float
    wakeups: float
    """Share of wake-ups that arrive."""
    skews: dict[str, float]
    clients: int
    messages: int
    most_deaths: int = 4
    pauses: tuple[float, ...] = (2, 9, 11, 13, 30)
    suspends: bool = False
    """A pause stops the monotonic clock too, as that of a virtual machine that is suspended does."""
    slowness: tuple[float, float] = (0.5, 4)
    script: Script | None = None
    """Decides before the rates do; for tests of one story."""


def make_plan(rng: random.Random) -> Plan:
    """The plan of a seed."""
    kinds = rng.sample(CALL_FAULTS, rng.choice((0, 1, 1, 2, 3)))
    rates = {kind: rng.choice(_RATES[:2] if kind.startswith(("crash", "pause")) else _RATES) for kind in kinds}
    quiet_at = rng.uniform(2, 22)
    disasters = [_disaster(rng, quiet_at) for _ in range(rng.choice((0, 1, 1, 2, 3)))]
    return Plan(
        rates=rates,
        disasters=sorted(disasters, key=lambda disaster: disaster.at),
        quiet_at=quiet_at,
        latency=rng.choice((0.001, 0.005, 0.05)),
        model_hangs=rng.choice((0, 0, 0, 0.1)),
        model_errors=rng.choice((0, 0, 0.1)),
        tool_hangs=rng.choice((0, 0, 0.1)),
        wakeups=rng.choice((0, 0.5, 1, 1)),
        skews={slot: rng.choice((0, 0, -3600, 3600, 30)) for slot in SLOTS},
        clients=rng.choice((1, 1, 2, 2, 3)),
        messages=rng.choice((1, 2, 2, 3)),
    )


def _disaster(rng: random.Random, quiet_at: float) -> Disaster:
    kind = rng.choice(_DISASTERS)
    seconds = {
        "crash": rng.choice((0.3, 2, 20)),
        "both_crash": rng.choice((0.3, 2)),
        "deploy": rng.choice((0.3, 2)),
        "pause": rng.choice((2, 9, 11, 13, 30)),
    }.get(kind) or rng.choice((1, 4, 8, 12, 20))
    return Disaster(rng.uniform(0, quiet_at * 0.9), kind, rng.choice(SLOTS), seconds, rng.random() < 0.4)


def without(plan: Plan, kinds: set[str]) -> Plan:
    """The same plan, less some kinds of fault: to look behind a defect that is known."""
    plan.rates = {kind: rate for kind, rate in plan.rates.items() if kind not in kinds}
    plan.disasters = [disaster for disaster in plan.disasters if disaster.kind not in kinds]
    if "skew" in kinds:
        plan.skews = dict.fromkeys(SLOTS, 0.0)
    return plan
