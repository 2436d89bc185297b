"""What is half dead, when, and for how long: planned from a seed."""

import random
from dataclasses import replace

from pilothouse.errors import StartupError
from pilothouse.testing.chaos.faults import PlannedFault
from pilothouse.testing.chaos.scenarios import TROUBLES

_LINKS = ("postgres", "valkey", "model")
_LOCKS = ("runs", "leases", "table", "idle")
_CLUSTER_DECK = (
    *(("black-hole", link) for link in ("postgres", "postgres", "valkey", "model")),
    *((kind, "") for kind in ("delay", "throttle", "reset", "half-close")),
    *(("host-death", "") for _ in range(3)),
    *(("locks", "") for _ in range(2)),
    *(("cancel", ""), ("cancel", ""), ("read-only", ""), ("terminate", ""), ("full-disk", ""), ("clock", "")),
    *(("model", "") for _ in range(3)),
)
_SINGLE_DECK = (
    *((kind, "model") for kind in ("black-hole", "delay", "throttle", "reset", "half-close")),
    *(("host-death", "") for _ in range(2)),
    *(("no-writes", "") for _ in range(2)),
    ("clock", ""),
    *(("model", "") for _ in range(3)),
)
HALF_DEAD = frozenset(kind for kind, _ in (*_CLUSTER_DECK, *_SINGLE_DECK))
"""All kinds."""
_ON_POSTGRES = frozenset({"locks", "cancel", "read-only", "terminate", "full-disk"})


def kinds(*, single: bool) -> list[str]:
    """All kinds that there are on one server, or in a cluster."""
    return sorted({kind for kind, _ in (_SINGLE_DECK if single else _CLUSTER_DECK)})


def plan_half_dead(
    *, seed: int, count: int, nodes: int, workers: int, lease_seconds: float, only: frozenset[str] = frozenset()
) -> list[PlannedFault]:
    """The half-dead of a seed. A single server without a cluster is one node and no worker.

    Args:
        only: kinds; empty: all that there are in this mode.

    Raises:
        StartupError: there is none of these kinds in this mode.
    """
    rng = random.Random(f"half-dead {seed}")  # noqa: S311 - a plan, not a secret
    single = nodes == 1 and workers == 0
    processes = [f"n{number}" for number in range(1, nodes + 1)] + [f"w{number}" for number in range(1, workers + 1)]
    cards = [card for card in (_SINGLE_DECK if single else _CLUSTER_DECK) if not only or card[0] in only]
    if not cards:
        there = ", ".join(kinds(single=single))
        raise StartupError(f"{', '.join(sorted(only))}: no fault of this kind here. There are {there}.")
    planned: list[PlannedFault] = []
    deck: list[tuple[str, str]] = []
    while len(planned) < count:
        if not deck:
            deck = list(cards)
            rng.shuffle(deck)
        kind, detail = deck.pop()
        fault = PlannedFault(
            kind, rng.choice(processes), rng.uniform(2, 6), rng.uniform(2, 1.6 * lease_seconds), detail
        )
        planned.append(_detailed(fault, rng, single=single))
    return planned


def _detailed(fault: PlannedFault, rng: random.Random, *, single: bool) -> PlannedFault:
    if fault.kind in _ON_POSTGRES:
        detail = rng.choice(_LOCKS) if fault.kind == "locks" else ""
        return replace(fault, target="postgres", detail=detail, down=rng.uniform(2, 8))
    match fault.kind:
        case "model":
            return replace(fault, target="model", detail=rng.choice(TROUBLES), down=0)
        case "host-death":
            return replace(fault, down=0.0 if single else rng.uniform(0.2, 4))
        case "clock":
            return replace(fault, detail=rng.choice(("-3600", "+3600")))
        case "no-writes":
            return replace(fault, down=rng.uniform(2, 6))
        case _:
            return fault if fault.detail else replace(fault, detail=rng.choice(_LINKS))


def plan_all(dead: list[PlannedFault], half_dead: list[PlannedFault], *, seed: int) -> list[PlannedFault]:
    """Both, each in its own order, shuffled into one another."""
    rng = random.Random(f"all {seed}")  # noqa: S311 - a plan, not a secret
    turns = [True] * len(dead) + [False] * len(half_dead)
    rng.shuffle(turns)
    sources = {True: iter(dead), False: iter(half_dead)}
    return [next(sources[turn]) for turn in turns]
