"""Why a tool call of a run is not made, and what the model is told instead of a result."""

from typing import Any

from pilothouse.db.patience import until_available
from pilothouse.observability.logs import get_logger
from pilothouse.runs.active import ActiveRun, OpenCall
from pilothouse.tools.policy import ToolPolicy
from pilothouse.tools.results import tool_error

log = get_logger(__name__)

NOBODY_TO_ASK = "Each call of this tool needs a person's approval: call it by itself."
"""What is told of a call that another tool makes."""

_LAPSED = {"expired": "expired", "revoked": "been revoked"}


def refusal_of(run: ActiveRun, opened: OpenCall, policy: ToolPolicy) -> Any | None:
    """The result of a call that is not made at all, or None."""
    if (missing := _missing_scope(run, policy)) is not None:
        return missing
    if opened.state == "denied" and opened.doubtful:
        return tool_error(
            "in_doubt",
            "This call was started before an interruption; whether it took effect is not known. "
            "A person was asked and said not to make it again.",
        )
    if opened.state == "denied":
        return tool_error("rejected", "A person was asked and said no. Do not try again unless asked to.")
    if opened.state == "in_doubt" and policy.in_doubt == "tell_model":
        return tool_error(
            "in_doubt",
            "This call was started before an interruption; whether it took effect is not known. "
            "Find out before trying again.",
        )
    return None


def _missing_scope(run: ActiveRun, policy: ToolPolicy) -> dict[str, Any] | None:
    missing = next((scope for scope in policy.scopes if not run.principal.has(scope)), None)
    if missing is None:
        return None
    return tool_error("forbidden", f"The user may not do this: the scope {missing} is missing.")


def nested_refusal(run: ActiveRun, policy: ToolPolicy) -> dict[str, Any] | None:
    """The result of a call that another tool makes, if it may not be made: nobody can be asked about it there."""
    if policy.approval:
        return tool_error("forbidden", NOBODY_TO_ASK)
    return _missing_scope(run, policy)


async def lapsed_refusal(run: ActiveRun, opened: OpenCall) -> dict[str, Any] | None:
    """The result of an approved call whose run was started with a credential that is no longer good, or None.

    A database that is away is waited for: an error would stop the response's other calls half-way.
    """
    if opened.state != "approved":
        return None
    lapsed = await until_available(lambda _: run.lapsed(run.principal))
    if lapsed is None:
        return None
    log.warning(
        "approved_call_refused",
        reason=f"credential_{lapsed}",
        tool=opened.call.tool_name,
        call_id=opened.call.tool_call_id,
        key_id=run.principal.key_id,
    )
    return tool_error(
        "credential_expired" if lapsed == "expired" else "forbidden",
        f"A person said yes, but the credential this run was started with has {_LAPSED[lapsed]} since, so the call was "
        "not made. The user has to ask again.",
    )


def needs_a_person(opened: OpenCall, policy: ToolPolicy) -> bool:
    """Whether a person has to be asked before the call is made."""
    if opened.state == "approved":
        return False
    if opened.state in ("in_doubt", "waiting"):
        return opened.state == "waiting" or policy.in_doubt == "ask"
    return policy.approval
