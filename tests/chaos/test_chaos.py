"""Short plays of the fault harness with real processes, one for each mode, and what a person sees of it."""

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pilothouse.cli.actions.chaos import APP
from pilothouse.errors import StartupError
from pilothouse.testing.chaos import ChaosPlan, Outcome, run_chaos
from pilothouse.testing.chaos.faults import PlannedFault, plan_faults
from pilothouse.testing.cluster import Child, Postgres


def _short_plan(seed: int) -> list[PlannedFault]:
    return plan_faults(seed=seed, count=4, nodes=2, workers=1, lease_seconds=4)


CLUSTER_SEED = next(
    seed
    for seed in range(1000)
    if {f"{fault.kind} {fault.target[0]}" for fault in _short_plan(seed)} == {"kill n", "kill p", "deploy n", "pause n"}
)
"""A seed whose four faults are one of each kind that matters most."""


def in_words(outcome: Outcome) -> str:
    return "\n".join(str(violation) for violation in outcome.violations)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """One that PostgreSQL's user can enter, too, where we are root."""
    with tempfile.TemporaryDirectory(prefix="pilothouse-chaos-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.mark.slow
async def test_one_server_keeps_its_promises_while_it_is_killed(tmp_path: Path) -> None:
    outcome = await run_chaos(ChaosPlan(app=APP, folder=tmp_path / "chaos", kills=4, seed=11, clients=4, faults="dead"))
    assert not outcome.violations, in_words(outcome)
    assert outcome.figures["accepted"] > 5
    assert outcome.figures["taken_over"] > 0
    assert outcome.figures["completed"] > 0


@pytest.mark.slow
async def test_a_cluster_keeps_its_promises_while_its_processes_are_killed(open_folder: Path) -> None:
    plan = ChaosPlan(
        app=APP,
        folder=open_folder,
        kills=4,
        seed=CLUSTER_SEED,
        cluster=True,
        nodes=2,
        workers=1,
        clients=4,
        lease_seconds=4,
        faults="dead",
    )
    outcome = await run_chaos(plan)
    assert not outcome.violations, in_words(outcome)
    assert outcome.figures["accepted"] > 5
    assert outcome.figures["completed"] > 0


def _half_dead(folder: Path, names: set[str], **values: Any) -> ChaosPlan:
    """A short play of just these half-dead faults, each once, as some seed plans it."""
    kinds = frozenset(name.split()[0] for name in names)
    common = {"app": APP, "folder": folder, "clients": 3, "lease_seconds": 4, "faults": "half-dead", "only": kinds}
    for seed in range(5000):
        plan = ChaosPlan(seed=seed, kills=len(names), **common, **values)
        if {f"{fault.kind} {fault.detail}".strip() for fault in plan.planned()} == names:
            return plan
    raise AssertionError("no seed plans that")


@pytest.mark.slow
async def test_one_server_keeps_its_promises_while_things_are_half_dead(tmp_path: Path) -> None:
    plan = _half_dead(tmp_path / "chaos", {"no-writes", "host-death", "model nojson", "reset model"})
    outcome = await run_chaos(plan)
    assert not outcome.violations, in_words(outcome)
    assert outcome.figures["completed"] > 0
    assert sum(row["count"] for row in outcome.figures["recovery"]) == 4


@pytest.mark.slow
async def test_a_cluster_keeps_its_promises_while_things_are_half_dead(open_folder: Path) -> None:
    names = {"black-hole postgres", "host-death", "read-only", "cancel"}
    outcome = await run_chaos(_half_dead(open_folder, names, cluster=True, nodes=2, workers=1))
    assert not outcome.violations, in_words(outcome)
    assert outcome.figures["completed"] > 0
    assert sum(row["count"] for row in outcome.figures["recovery"]) == 4


def test_the_same_seed_plans_the_same_faults() -> None:
    def plan(seed: int) -> object:
        return plan_faults(seed=seed, count=40, nodes=3, workers=2, lease_seconds=10)

    assert plan(1) == plan(1)
    assert plan(1) != plan(2)


def test_forty_faults_of_a_cluster_are_of_every_kind() -> None:
    planned = plan_faults(seed=5, count=40, nodes=3, workers=2, lease_seconds=10)
    kinds = {f"{fault.kind} {fault.target.rstrip('0123456789')}" for fault in planned}
    assert kinds == {"kill n", "kill w", "kill valkey", "kill postgres", "pause n", "deploy n"}
    assert all(fault.down >= 30 for fault in planned if fault.kind == "pause")


async def test_a_child_that_does_not_come_up_says_what_it_wrote(tmp_path: Path) -> None:
    child = Child(name="shy", command=["sh", "-c", "echo no luck; exit 3"], log=tmp_path / "log", ready_line="ready")
    with pytest.raises(StartupError, match="shy did not start: no luck"):
        await child.start()


async def test_a_child_is_started_again_after_it_was_killed(tmp_path: Path) -> None:
    command = ["sh", "-c", "echo ready; exec sleep 60"]
    child = Child(name="sleeper", command=command, log=tmp_path / "log", ready_line="ready")
    await child.start()
    first = child.pid
    await child.kill()
    assert not child.running
    await child.start()
    assert child.pid not in (None, first)
    os.kill(child.pid or 0, signal.SIGTERM)
    await child.ended()
    assert child.pid is None


async def test_an_old_folder_is_not_played_in_again(tmp_path: Path) -> None:
    (tmp_path / "ledgers").mkdir()
    with pytest.raises(StartupError, match="holds an earlier run"):
        await run_chaos(ChaosPlan(app=APP, folder=tmp_path, kills=1, seed=1))


@pytest.mark.skipif(os.geteuid() != 0, reason="PostgreSQL runs as somebody else only where we are root")
async def test_a_folder_that_postgres_cannot_enter_is_said(open_folder: Path) -> None:
    shut = open_folder / "shut"
    shut.mkdir(mode=0o700)
    with pytest.raises(StartupError, match=r"it can't enter .*shut\. Choose a data folder elsewhere"):
        await Postgres.at(shut / "data").create()
