"""The simulation can fail: each promise is broken on purpose, and a bounded number of seeds finds it."""

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import false, select
from tests.simulation.play import Simulator

from pilothouse.engine import repository as engine_rows
from pilothouse.engine.leases import Lease
from pilothouse.engine.supervisor import Loop
from pilothouse.engine.tables import leases
from pilothouse.runs import journal, ownership_repository, repository, resume
from pilothouse.runs.active import ActiveRun
from pilothouse.runs.events import RunEvent
from pilothouse.runs.journal import Journal
from pilothouse.runs.service import Runs
from pilothouse.runs.states import TERMINAL

MOST_SEEDS = 400


@pytest.fixture(scope="module")
def simulator() -> Simulator:
    return Simulator()


def fence_always_passes(patch: pytest.MonkeyPatch) -> None:
    def write(connection: Any, run_id: str, attempt: int, values: dict[str, Any], *, state: str = "running") -> bool:
        found = repository.get_run_for_executor(connection, run_id)
        return found is not None and real(connection, run_id, found.attempt, values, state=found.state)

    real = repository.write_fenced
    patch.setattr(repository, "write_fenced", write)


def reaper_ignores_leases(patch: pytest.MonkeyPatch) -> None:
    for module in (engine_rows, ownership_repository):  # whoever looks for orphans, and whoever takes one over
        patch.setattr(module, "alive", lambda _connection: select(leases.c.owner).where(false()))


def lease_does_not_run_out(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Lease, "held", lambda self: self._valid_until > 0)


def journal_writes_again_blindly(patch: pytest.MonkeyPatch) -> None:
    real = journal._write_batch
    patch.setattr(journal, "_write_batch", lambda connection, place, batch, **_kwargs: real(connection, place, batch))


def heartbeat_ends_with_an_error(patch: pytest.MonkeyPatch) -> None:
    async def keep(loop: Loop) -> None:
        while True:
            await loop._work()

    patch.setattr(Loop, "_keep", keep)


def recorded_results_are_forgotten(patch: pytest.MonkeyPatch) -> None:
    real = resume.conversation_rows.load_turn
    patch.setattr(
        resume.conversation_rows, "load_turn", lambda *place: [row for row in real(*place) if row.role != "tool"]
    )


def calls_in_doubt_run_again(patch: pytest.MonkeyPatch) -> None:
    def opened(call: Any, step: Any) -> Any:
        call = real(call, step)
        call.state, call.doubtful = "new" if call.state == "in_doubt" else call.state, False
        return call

    real = resume._open_call
    patch.setattr(resume, "_open_call", opened)


def stopped_calls_get_no_result(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ActiveRun, "settle_open_calls", lambda _self, _reason: None)


def facts_are_shown_before_their_commit(patch: pytest.MonkeyPatch) -> None:
    def state(self: Journal, kind: str, **data: Any) -> None:
        event = self._number(kind, data)
        self._uncommitted.append(event)
        self._live.publish(event)

    patch.setattr(Journal, "state_fact", state)


def what_a_dead_attempt_showed_is_not_withdrawn(patch: pytest.MonkeyPatch) -> None:
    """Another step is: the log has no hole, only its readers are misled."""

    def other_step(event: RunEvent) -> RunEvent:
        return RunEvent(event.attempt, event.number, event.type, {**event.data, "step": 99})

    patch.setattr(
        resume,
        "RunEvent",
        lambda attempt, number, kind, data: other_step(RunEvent(attempt, number, kind, data)),
    )
    real = ActiveRun.begin_model_step

    def begin(self: ActiveRun, model_name: str) -> None:
        self.may_repeat = False
        real(self, model_name)

    patch.setattr(ActiveRun, "begin_model_step", begin)


def cancel_is_acknowledged_at_once(patch: pytest.MonkeyPatch) -> None:
    async def stop(self: Runs, row: Any, reason: str) -> None:
        self._executor.cancel(row.id, reason)

    async def cancelled(self: Runs, principal: Any, run_id: str, *, already_finished: bool) -> Any:
        view = await self.view(principal, run_id)
        return type("Cancelled", (), {"state": "cancelled" if view.row.state not in TERMINAL else view.row.state})

    patch.setattr(Runs, "_stop", stop)
    patch.setattr(Runs, "_cancelled", cancelled)


def orphans_are_left(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ownership_repository, "orphans", lambda *_args, **_kwargs: [])


def queue_is_left(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ownership_repository, "conversations_waiting", lambda *_args, **_kwargs: [])


def keys_are_not_looked_at(patch: pytest.MonkeyPatch) -> None:
    from pilothouse.runs import admit

    patch.setattr(admit, "claim", lambda *_args, **_kwargs: None)


MUTANTS: dict[Callable[[pytest.MonkeyPatch], None], set[str]] = {
    fence_always_passes: {"P4", "P6", "P7"},
    reaper_ignores_leases: {"P6"},
    lease_does_not_run_out: {"P6", "lease"},
    journal_writes_again_blindly: {"error", "P1"},
    heartbeat_ends_with_an_error: {"lease", "unhandled"},
    recorded_results_are_forgotten: {"P2"},
    calls_in_doubt_run_again: {"P3"},
    stopped_calls_get_no_result: {"P7"},
    facts_are_shown_before_their_commit: {"P4"},
    what_a_dead_attempt_showed_is_not_withdrawn: {"P4"},
    cancel_is_acknowledged_at_once: {"P5"},
    orphans_are_left: {"P1"},
    queue_is_left: {"P1"},
    keys_are_not_looked_at: {"P1"},
}
"""Each with the promises one of which must be seen broken."""


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_a_broken_promise_is_found(
    simulator: Simulator, monkeypatch: pytest.MonkeyPatch, mutant: Callable[[pytest.MonkeyPatch], None]
) -> None:
    mutant(monkeypatch)
    found = (simulator.play(seed).violation for seed in range(1, MOST_SEEDS + 1))
    assert any(violation is not None and violation.promise in MUTANTS[mutant] for violation in found)
