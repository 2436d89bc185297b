"""What a person is asked about a call, who may answer, and what they said.

A decision is about one call: the step it was asked for, with the arguments that were shown. A call's id names none,
since models use ids again in later responses. Who decides needs the tool's scopes. A tool with `four_eyes` is decided
by another subject of the tenant than the one who started the run: who holds `approvals:decide` sees of somebody else's
run these calls and nothing else.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic_ai.messages import ToolCallPart
from sqlalchemy import Connection
from sqlalchemy.engine import Row

from pilothouse.db.values import column_text
from pilothouse.errors import Conflict, Forbidden, NotFound
from pilothouse.identity.principal import Principal
from pilothouse.kit.clock import now_ms
from pilothouse.kit.jsons import dumps, loads
from pilothouse.runs import repository
from pilothouse.tools.policy import ToolPolicy
from pilothouse.tools.toolsets import default_policy

DECIDE = "approvals:decide"
"""The scope of those who decide about other subjects' calls of tools with `four_eyes`."""

_UNDECIDED = ("waiting", "approved", "denied")

Policies = Callable[[str, str], ToolPolicy]
"""The policy of a tool, given the agent and the tool by name, as far as it is known without a run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """A person's answer. `step` and `arguments_hash` say which call they saw; None: not told."""

    call_id: str
    approve: bool
    step: int | None = None
    arguments_hash: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedCall:
    """A call that a person was asked about: its step, and on what terms it is decided."""

    step: Row[Any]
    arguments_hash: str
    doubt: int | None
    reason: str
    scopes: tuple[str, ...]
    four_eyes: bool

    @property
    def terms(self) -> dict[str, Any]:
        """The question as its step keeps it, and as people are shown it."""
        return {
            "arguments_hash": self.arguments_hash,
            "reason": self.reason,
            "scopes": list(self.scopes),
            "four_eyes": self.four_eyes,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """What became of a decision.

    Attributes:
        run: as it was before.
        step: the number of the call's step.
        goes_on: the run rests, and nothing waits any more.
        own: the run is the decider's own.
    """

    run: Row[Any]
    step: int
    goes_on: bool
    own: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """What of a run waits for a person, as far as the caller may see and decide it."""

    run: Row[Any]
    calls: list[AskedCall]


def arguments_text(call: ToolCallPart) -> str:
    """A call's arguments as its step holds them."""
    return column_text(call.args if isinstance(call.args, str) else dumps(call.args))


def arguments_hash(text: str | None, *, doubt: int | None = None) -> str:
    """SHA-256 in hex of a call's arguments as its step holds them.

    Args:
        doubt: the attempt that asks whether to make the call again. That is another question than the first, which a
            late yes to the first must not answer.
    """
    asked = text or "" if doubt is None else f"{doubt}:{text or ''}"
    return hashlib.sha256(asked.encode("utf-8", "surrogatepass")).hexdigest()


def question(call: ToolCallPart, policy: ToolPolicy, *, doubt: int | None) -> dict[str, Any]:
    """What a call's step keeps of the question: which arguments were shown, and on what terms it is decided.

    Args:
        doubt: as in `arguments_hash`; None: the call was never started.
    """
    return {
        "arguments_hash": arguments_hash(arguments_text(call), doubt=doubt),
        "reason": "approval" if doubt is None else "in_doubt",
        "doubt": doubt,
        "scopes": list(policy.scopes),
        "four_eyes": policy.four_eyes,
    }


def holds(stored: str | None, call: ToolCallPart, policy: ToolPolicy, *, owner: str) -> bool:
    """Whether a recorded yes is a yes to this call on the terms of today.

    Args:
        stored: the approval of the call's step; None: it was given under a release that kept none.
        owner: the subject who started the run.
    """
    document: dict[str, Any] = loads(stored) if stored else {}
    if policy.four_eyes and document.get("decided_by") in (None, owner):
        return False
    return not stored or document["arguments_hash"] == arguments_hash(arguments_text(call), doubt=document.get("doubt"))


def asked_call(step: Row[Any], policy: ToolPolicy) -> AskedCall:
    """A step whose call a person was asked about. The terms are those it was asked on and those of today together."""
    document: dict[str, Any] = loads(step.approval) if step.approval else {}
    return AskedCall(
        step=step,
        arguments_hash=document.get("arguments_hash") or arguments_hash(step.arguments),
        doubt=document.get("doubt"),
        reason=document.get("reason") or ("in_doubt" if step.error_code == "in_doubt" else "approval"),
        scopes=tuple(dict.fromkeys((*document.get("scopes", ()), *policy.scopes))),
        four_eyes=bool(document.get("four_eyes")) or policy.four_eyes,
    )


def waiting_calls(steps: Sequence[Row[Any]]) -> list[AskedCall]:
    """The calls of a run that wait for a person, on the terms they were asked on."""
    return [asked_call(step, default_policy(step.name)) for step in steps if step.state == "waiting"]


def load_waiting(connection: Connection, principal: Principal, run_id: str, *, policies: Policies) -> Waiting:
    """What waits for a person in a run: of the caller's own everything, of another's what the caller may decide.

    Raises:
        NotFound: the caller has no such run, and may decide nothing of it.
        Forbidden: the run is the caller's own, who lacks `runs:read`.
    """
    run, own = _run(connection, principal, run_id)
    calls = _asked(connection, principal, run, own=own, policies=policies)
    waiting = [call for call in calls if call.step.state == "waiting"]
    if own:
        principal.require("runs:read")
    elif not waiting:
        raise no_run()
    return Waiting(run=run, calls=waiting)


def decide(
    connection: Connection, principal: Principal, run_id: str, decision: Decision, *, policies: Policies
) -> Decided:
    """Record a decision.

    Raises:
        NotFound: the caller has no such run and may decide nothing of it, or no such call waits.
        Forbidden: the caller lacks a scope, or another person has to decide.
        Conflict: it was answered the other way already, or is not the call that the decision names.
    """
    run, own = _run(connection, principal, run_id)
    if own:
        principal.require("runs:write")
    state = repository.lock_run(connection, run.id)  # against the run coming to rest in this same instant
    call = _named(_asked(connection, principal, run, own=own, policies=policies), decision, run_id)
    if own:
        _check_own(principal, call)
    wanted = "approved" if decision.approve else "denied"
    if call.step.state not in ("waiting", wanted):
        raise Conflict(f"This call was {call.step.state} before.", code="already_answered")
    if call.step.state == "waiting":
        answer = {"decided_by": principal.subject, "decided_at": now_ms()}
        approval = dumps({"doubt": call.doubt, **call.terms, **answer})
        repository.decide_step(connection, run.id, call.step.number, state=wanted, approval=approval)
    goes_on = state == "awaiting_input" and not repository.anything_waits(connection, run.id)
    return Decided(run=run, step=call.step.number, goes_on=goes_on, own=own)


def no_run() -> NotFound:
    """The error of a run that is not the caller's, or not there: the two are not told apart."""
    return NotFound("You have no run with this id.", code="run_not_found")


def _run(connection: Connection, principal: Principal, run_id: str) -> tuple[Row[Any], bool]:
    """The run, and whether it is the caller's own. Of another's the caller still has to be shown to see a call."""
    row = repository.get_run(connection, principal.tenant, principal.subject, run_id)
    if row is not None:
        return row, True
    if principal.has(DECIDE):
        row = repository.get_run_of_tenant(connection, principal.tenant, run_id)
    if row is None:
        raise no_run()
    return row, False


def _asked(
    connection: Connection, principal: Principal, run: Row[Any], *, own: bool, policies: Policies
) -> list[AskedCall]:
    """The calls that a person was asked about; of another's run those that the caller may decide now."""
    calls = [
        asked_call(step, policies(run.agent, step.name))
        for step in repository.load_steps(connection, run.id)
        if step.kind == "tool" and (step.approval or step.state in _UNDECIDED)
    ]
    if own:
        return calls
    mine = [
        call
        for call in calls
        if call.four_eyes and call.step.state in _UNDECIDED and all(principal.has(scope) for scope in call.scopes)
    ]
    if not mine:
        raise no_run()
    return mine


def _named(calls: Sequence[AskedCall], decision: Decision, run_id: str) -> AskedCall:
    """The one call that a decision is about."""
    same_id = [call for call in calls if call.step.call_id == decision.call_id]
    found = [call for call in same_id if decision.step in (None, call.step.number)]
    if not found and same_id:
        raise _mismatch(
            f"Step {decision.step} of run {run_id} is not a call of that id which a person was asked about."
        )
    if len(found) > 1:
        raise Conflict(
            f"A person was asked about several calls of run {run_id} with this id. Say which one: send step and "
            f"arguments_hash, as GET /v1/runs/{run_id}/input gives them.",
            code="step_required",
        )
    if not found or (decision.step is None and found[0].step.state not in _UNDECIDED):
        raise NotFound(
            f"Run {run_id} has no call {decision.call_id[:64]!r} that waits for a person.", code="call_not_found"
        )
    [call] = found
    if decision.arguments_hash not in (None, call.arguments_hash):
        raise _mismatch("The call has other arguments than those you decided about.")
    if call.step.state not in _UNDECIDED:
        raise Conflict("This call was answered before, and has ended.", code="already_answered")
    return call


def _check_own(principal: Principal, call: AskedCall) -> None:
    for scope in call.scopes:
        principal.require(scope)
    if call.four_eyes:
        raise Forbidden(
            f"Another person has to decide about {call.step.name}: somebody of your tenant who holds {DECIDE} and the "
            "tool's scopes.",
            code="four_eyes",
        )


def _mismatch(sentence: str) -> Conflict:
    return Conflict(f"{sentence} Look again at what waits, and decide about that.", code="approval_mismatch")
