"""What seeds have found, each told as a story of its own: a seed's play changes with the code, a story stays."""

import asyncio

import pytest
from tests.simulation.callers import Callers
from tests.simulation.plan import SLOTS, Disaster, Plan
from tests.simulation.play import Simulator


@pytest.fixture(scope="module")
def simulator() -> Simulator:
    return Simulator()


def plan(*disasters: Disaster, **values: object) -> Plan:
    """No fault but these, and quiet after 40 s."""
    calm: dict[str, object] = {
        "rates": {},
        "disasters": list(disasters),
        "quiet_at": 40.0,
        "latency": 0.005,
        "model_hangs": 0.0,
        "model_errors": 0.0,
        "tool_hangs": 0.0,
        "wakeups": 0.0,
        "skews": dict.fromkeys(SLOTS, 0.0),
        "clients": 0,
        "messages": 0,
    }
    return Plan(**{**calm, **values})  # type: ignore[arg-type]


async def three_steps_at_b(callers: Callers) -> None:
    await asyncio.sleep(0.9)
    await callers.send("m", "look/look", slot="b", stream=True)


def check(simulator: Simulator, story: Plan, caller: object, *, seed: int = 1) -> None:
    world = simulator.play(seed, story=(story, caller))  # type: ignore[arg-type]
    assert world.violation is None, simulator.readable(world)
    assert len(world.callers.sent) == 1


def test_a_takeover_whose_answer_was_lost_goes_on_however_the_clocks_of_the_nodes_differ(simulator: Simulator) -> None:
    """`started_at` was stamped by another node's clock, an hour ahead: the run must not wait for that hour."""
    lost: list[float] = []

    def script(_now: float, slot: str, name: str) -> str | None:
        if slot == "a" and name == "take_over" and not lost:
            lost.append(_now)
            return "unanswered"
        return None

    crash = Disaster(at=1.0, kind="crash", slot="b", seconds=20, silent=False)
    check(simulator, plan(crash, script=script, skews={"a": 0.0, "b": 3600.0}), three_steps_at_b)


def test_a_run_is_not_taken_from_a_node_that_got_its_lease_back_since_the_reaper_looked(simulator: Simulator) -> None:
    """b sees that a's lease has run out, is paused, goes on: a has it again by then and works."""
    paused: list[float] = []

    def script(now: float, slot: str, name: str) -> str | None:
        if slot == "a" and name == "renew_lease" and 7 < now < 19:
            return "hangs"
        if slot == "b" and name == "survey" and now > 16.03 and not paused:
            paused.append(now)
            return "pause_after"
        return None

    async def caller(callers: Callers) -> None:
        await asyncio.sleep(12)
        await callers.send("m", "look/put/look/put/look/put", slot="a")

    for seed in range(1, 6):
        paused.clear()
        check(simulator, plan(script=script, pauses=(5,)), caller, seed=seed)


def test_a_run_that_was_admitted_while_the_lease_had_lapsed_passes_its_fence_before_it_begins(
    simulator: Simulator,
) -> None:
    """a admits a run without its lease; b takes it; a gets its lease back; only then a hears that it was admitted."""
    pause = Disaster(at=1.0, kind="pause", slot="a", seconds=14, silent=False)
    slow: dict[str, int] = {}

    def script(now: float, slot: str, name: str) -> str | None:
        kind = {"renew_lease": "slow", "admit": "late"}.get(name)
        if slot == "a" and now > 14 and kind is not None and not slow.get(name):
            slow[name] = 1
            return kind
        return None

    async def caller(callers: Callers) -> None:
        await asyncio.sleep(14.9)
        await callers.send("m", "look/look", slot="a")

    check(simulator, plan(pause, script=script, slowness=(3.9, 4.1)), caller)


def test_a_node_whose_machine_was_suspended_begins_nothing_of_what_others_have_taken(simulator: Simulator) -> None:
    """a's machine stands still, clock and all, right after an admission; then its lease seems fresh to it."""
    paused: list[float] = []

    def script(now: float, slot: str, name: str) -> str | None:
        if slot == "a" and name == "admit" and not paused:
            paused.append(now)
            return "pause_after"
        return None

    async def caller(callers: Callers) -> None:
        await asyncio.sleep(1)
        await callers.send("m", "look/look", slot="a")

    check(simulator, plan(script=script, pauses=(14,), suspends=True), caller)
