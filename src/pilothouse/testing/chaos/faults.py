"""Which process is hit when, how, and how long it stays away: planned from a seed, then done for real."""

import asyncio
import random
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from pilothouse.errors import StartupError
from pilothouse.testing.chaos.evidence import Fault
from pilothouse.testing.cluster import Child, Postgres

_DRAIN_SECONDS = 30
_START_SECONDS = 120
_CLUSTER_DECK = ("node",) * 4 + ("worker", "worker", "valkey", "postgres", "pause", "deploy")
_SINGLE_DECK = ("node",) * 9 + ("deploy",)


@dataclass(frozen=True, slots=True)
class PlannedFault:
    """One fault.

    Attributes:
        kind: `kill` (SIGKILL; PostgreSQL: immediate stop), `pause` (SIGSTOP, later SIGCONT), `deploy` (SIGTERM).
        wait: seconds after the last fault, and after the target was there to be hit.
        down: seconds until the process is started again, or goes on.
        detail: as `Fault.detail`.
    """

    kind: str
    target: str
    wait: float
    down: float
    detail: str = ""


class Striker(Protocol):
    """Does faults of some kinds."""

    @property
    def kinds(self) -> frozenset[str]:
        """Of which."""
        ...

    async def strike(self, planned: PlannedFault) -> None:
        """Do it, and undo it.

        Raises:
            StartupError: a process did not come back.
        """
        ...


def plan_faults(*, seed: int, count: int, nodes: int, workers: int, lease_seconds: float) -> list[PlannedFault]:
    """The faults of a seed. A single server without a cluster is one node and no worker, started again at once."""
    rng = random.Random(f"faults {seed}")  # noqa: S311 - a plan, not a secret
    single = nodes == 1 and workers == 0
    planned: list[PlannedFault] = []
    deck: list[str] = []
    while len(planned) < count:
        if not deck:
            deck = list(_SINGLE_DECK if single else _CLUSTER_DECK)
            rng.shuffle(deck)
        card = deck.pop()
        node = f"n{rng.randint(1, nodes)}"
        target = {"worker": f"w{rng.randint(1, max(workers, 1))}", "valkey": "valkey", "postgres": "postgres"}
        down = 0.0 if single else rng.uniform(0.2, 4)
        if card == "pause":
            down = 3 * lease_seconds + rng.uniform(0, 2)
        kind = card if card in ("pause", "deploy") else "kill"
        planned.append(PlannedFault(kind, target.get(card, node), rng.uniform(0.3, 5 if single else 3), down))
    return planned


class Faults:
    """Does what was planned.

    Args:
        targets: the processes by name.
        done: gets each fault when it strikes.
        say: told about each.
        strikers: who does what is not done to a process by a signal.
        missing: kinds that can't be done here, each with the reason.
        skipped: gets the name of each fault that was left out for it.
    """

    def __init__(
        self,
        targets: Mapping[str, Child],
        done: list[Fault],
        say: Callable[[str], None],
        *,
        strikers: Sequence[Striker] = (),
        missing: Mapping[str, str] | None = None,
        skipped: list[str] | None = None,
    ) -> None:
        self._targets = targets
        self._done = done
        self._say = say
        self._strikers = {kind: striker for striker in strikers for kind in striker.kinds}
        self._missing = missing or {}
        self._skipped = skipped if skipped is not None else []
        self._away: set[str] = set()
        self._back = asyncio.Event()

    async def inject(self, planned: list[PlannedFault]) -> None:
        """One fault after the other; returns when every process is back.

        What is done by a signal goes on while the next one strikes; what is half dead is waited for.

        Raises:
            StartupError: a process did not come back.
        """
        async with asyncio.TaskGroup() as returns:
            for number, fault in enumerate(planned, start=1):
                name = f"{number}/{len(planned)} {fault.kind} {fault.target} {fault.detail}".rstrip()
                if fault.kind in self._missing:
                    self._say(f"{name}: left out, {self._missing[fault.kind]}")
                    self._skipped.append(f"{fault.kind}: {self._missing[fault.kind]}")
                    continue
                await self._until_safe(fault.target)
                await asyncio.sleep(fault.wait)
                self._say(name)
                self._away.add(fault.target)
                striking = returns.create_task(self._strike(fault))
                if fault.kind in self._strikers:
                    await striking

    async def _until_safe(self, target: str) -> None:
        """Until the target is there to be hit, and no only node that serves is: an empty house proves little."""
        nodes = {name for name in self._targets if name.startswith("n")}
        while target in self._away or (target in nodes and len(nodes) > 1 and len(nodes - self._away) == 1):
            self._back.clear()
            await self._back.wait()

    async def _strike(self, planned: PlannedFault) -> None:
        fault = Fault(planned.kind, planned.target, time.time(), detail=planned.detail)
        self._done.append(fault)
        striker = self._strikers.get(planned.kind)
        await (self._by_signal(planned) if striker is None else striker.strike(planned))
        fault.until = time.time()
        self._away.discard(planned.target)
        self._back.set()

    async def _by_signal(self, planned: PlannedFault) -> None:
        child = self._targets[planned.target]
        if planned.kind == "pause":
            child.signal(signal.SIGSTOP)
            await asyncio.sleep(planned.down)
            child.signal(signal.SIGCONT)
        else:
            await self._end(planned.kind, child)
            await asyncio.sleep(planned.down)
            await bring_back(child)

    async def _end(self, kind: str, child: Child) -> None:
        if kind == "deploy":
            await child.stop(seconds=_DRAIN_SECONDS)
        elif isinstance(child, Postgres):
            await child.crash()
        else:
            await child.kill()


async def bring_back(child: Child) -> None:
    """Start it as a supervisor would: again, where it gives up because its database is away.

    Raises:
        StartupError: it still did not start after two minutes.
    """
    give_up = time.monotonic() + _START_SECONDS
    while True:
        try:
            return await child.start(seconds=_START_SECONDS)
        except StartupError:
            if time.monotonic() > give_up:
                raise
        await asyncio.sleep(1)
