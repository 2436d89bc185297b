"""The whole play: set up, let people use it while faults strike, settle, read back, check."""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, time
from typing import Any, Literal

from pilothouse.errors import StartupError
from pilothouse.testing.chaos.api import Api, GaveUp
from pilothouse.testing.chaos.callers import Caller
from pilothouse.testing.chaos.check import Violation, check
from pilothouse.testing.chaos.collect import model_requests, model_stalls, read_back, settle, tool_spans, try_next_turns
from pilothouse.testing.chaos.evidence import Evidence
from pilothouse.testing.chaos.faults import Faults, PlannedFault, plan_faults
from pilothouse.testing.chaos.figures import figures_of
from pilothouse.testing.chaos.half_dead import HALF_DEAD, plan_all, plan_half_dead
from pilothouse.testing.chaos.prober import ModelFaults, Prober, until_all_answer
from pilothouse.testing.chaos.stage import Stage, StagePlan, set_up

_SETTLE_SECONDS = 90
_ANSWER_SECONDS = 60
FaultKinds = Literal["dead", "half-dead", "all"]


def _silent(_text: str) -> None:
    return


@dataclass(frozen=True, kw_only=True)
class ChaosPlan:
    """What to try.

    Attributes:
        app: `MODULE:APP` that serves the chaos agent.
        folder: for data, logs and ledgers; a new one for each time.
        kills: how many faults.
        faults: `dead`: processes are killed, stopped and paused; `half-dead`: networks, databases, disks, clocks and
            models neither work nor fail; `all`: half of each.
        only: of the half-dead, only these kinds; empty: all.
        clients: callers at the same time.
        lease_seconds: in a cluster, silence after which runs are taken over.
        say: told what happens, line by line.
    """

    app: str
    folder: Path
    kills: int
    seed: int
    cluster: bool = False
    nodes: int = 3
    workers: int = 2
    clients: int = 6
    lease_seconds: float = 10
    faults: FaultKinds = "all"
    only: frozenset[str] = frozenset()
    say: Callable[[str], None] = _silent

    def planned(self) -> list[PlannedFault]:
        """The faults, in order. Those of `dead` are the same in each release."""
        nodes, workers = (self.nodes, self.workers) if self.cluster else (1, 0)
        share = {"dead": 0, "half-dead": self.kills, "all": self.kills - self.kills // 2}[self.faults]
        common = {"seed": self.seed, "nodes": nodes, "workers": workers}
        dead = plan_faults(**common, count=self.kills - share, lease_seconds=self.lease_seconds)
        half_dead = plan_half_dead(**common, count=share, lease_seconds=self.lease_seconds, only=self.only)
        return plan_all(dead, half_dead, seed=self.seed)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of it: figures, broken promises, and the evidence they rest on."""

    figures: dict[str, Any]
    violations: list[Violation]
    evidence: Evidence = field(repr=False)


async def run_chaos(plan: ChaosPlan) -> Outcome:
    """Do it.

    Raises:
        StartupError: something does not start, or does not come back after a fault.
    """
    if (plan.folder / "ledgers").exists():
        raise StartupError(f"{plan.folder} holds an earlier run. Choose a new folder.")
    evidence = Evidence(lease_seconds=plan.lease_seconds if plan.cluster else 0)
    began = monotonic()
    planned = plan.planned()
    stage_of = set_up(
        StagePlan(
            app=plan.app,
            folder=plan.folder.absolute(),
            nodes=plan.nodes if plan.cluster else 1,
            workers=plan.workers,
            lease_seconds=plan.lease_seconds,
            cluster=plan.cluster,
            half_dead=[fault for fault in planned if fault.kind in HALF_DEAD],
        )
    )
    async with stage_of as stage:
        plan.say(f"ready after {monotonic() - began:.0f} s; {plan.clients} callers begin")
        began = monotonic()
        await _play(plan, planned, stage, evidence)
        lasted = monotonic() - began
        plan.say("faults are over; every run has to end now")
        await _gather(plan, stage, evidence)
        if not stage.model.running:
            raise StartupError("The model's process was ended by somebody else, so nothing was proven. Try again.")
    evidence.requests = model_requests(stage.model_ledger)
    evidence.stalls = model_stalls(stage.model_ledger)
    evidence.tools = tool_spans(stage.tool_ledger)
    violations = check(evidence)
    return Outcome(figures_of(evidence, violations, seconds=lasted), violations, evidence)


async def _play(plan: ChaosPlan, planned: list[PlannedFault], stage: Stage, evidence: Evidence) -> None:
    """Callers and faults at the same time; returns when the last fault is over and callers have seen their ends."""
    stop = asyncio.Event()
    rngs = [random.Random(f"caller {plan.seed} {number}") for number in range(plan.clients)]  # noqa: S311 - a plan
    urls = list(stage.urls.values())
    apis = [Api(urls, stage.token, rng) for rng in rngs]
    apart = Api(urls, stage.token, random.Random(f"apart {plan.seed}"))  # noqa: S311 - a plan
    strikers = [*stage.strikers, ModelFaults(apart, random.Random(plan.seed), evidence)]  # noqa: S311 - a plan
    probers = [Prober(node, url, apart, evidence) for node, url in stage.urls.items()] if plan.faults != "dead" else []
    faults = Faults(
        stage.processes,
        evidence.faults,
        plan.say,
        strikers=strikers,
        missing=stage.missing,
        skipped=evidence.skipped,
    )
    try:
        async with asyncio.TaskGroup() as group:
            for number, (api, rng) in enumerate(zip(apis, rngs, strict=True)):
                group.create_task(Caller(f"c{number}", api, rng, evidence.sent).until(stop))
            for prober in probers:
                group.create_task(prober.until(stop))
            await faults.inject(planned)
            evidence.faults_over = time()
            await until_all_answer(probers, since=evidence.faults_over, seconds=_ANSWER_SECONDS)
            stop.set()
    except* StartupError as errors:
        raise _first(errors) from None
    finally:
        for api in [*apis, apart]:
            evidence.odd += api.odd
            await api.close()


def _first(group: BaseExceptionGroup[StartupError]) -> StartupError:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error


async def _gather(plan: ChaosPlan, stage: Stage, evidence: Evidence) -> None:
    api = Api(list(stage.urls.values()), stage.token, random.Random(plan.seed))  # noqa: S311 - which node is asked
    try:
        runs = await settle(api, seconds=_SETTLE_SECONDS + 4 * evidence.lease_seconds)
        plan.say(f"reading back {len(runs)} runs")
        await read_back(api, evidence, runs)
        plan.say(f"one more turn in each of {len(evidence.transcripts)} conversations")
        await try_next_turns(api, evidence)
    except GaveUp as error:
        evidence.unread = str(error)
    finally:
        evidence.odd += api.odd
        await api.close()
