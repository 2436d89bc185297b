"""The figures of a run of the harness, as a document and as text."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, cast

from pilothouse.testing.chaos.check_work import APART, model_calls, tool_calls
from pilothouse.testing.chaos.evidence import Evidence, Violation
from pilothouse.testing.chaos.recovery import as_table, orphans_after_lease, recovery_table
from pilothouse.testing.chaos.scenarios import key_of
from pilothouse.testing.chaos.takeovers import takeovers


def figures_of(evidence: Evidence, violations: Sequence[Violation], *, seconds: float) -> dict[str, Any]:
    """Counts, and takeovers in seconds.

    Args:
        seconds: how long callers and faults were at it.
    """
    runs = [run for run in evidence.runs.values() if not str(key_of(run["message"])).startswith(APART)]
    states = Counter(run["state"] for run in runs)
    failed = Counter(run["error"]["code"] for run in runs if run["state"] == "failed")
    what = Counter(violation.what.partition(":")[0] for violation in violations)
    seen = sorted(takeovers(evidence), key=lambda takeover: takeover.seconds)
    plain = [takeover.seconds for takeover in seen if not takeover.database_away]
    waited = [takeover.seconds for takeover in seen if takeover.database_away]
    return {
        "seconds": round(seconds),
        "faults": dict(Counter(fault.name for fault in evidence.faults)),
        "messages": len(evidence.sent),
        "refused": dict(Counter(message.refused for message in evidence.sent if message.refused)),
        "accepted": len(runs),
        "taken_over": sum(run["attempt"] > 1 for run in runs),
        "completed": states["completed"],
        "failed": dict(failed),
        "cancelled": states["cancelled"],
        "lost": sum(v.promise == "P1" and v.what.startswith(("accepted and gone", "never ended")) for v in violations),
        "model_calls": len(evidence.requests),
        "model_calls_repeated": sum(v.what.startswith("a recorded response") for v in violations),
        "model_calls_repeated_in_flight": sum(len(calls) - 1 for calls in model_calls(evidence).values()),
        "tool_calls": len(evidence.tools),
        "tool_calls_repeated": sum(v.what.startswith("a tool ran again") for v in violations),
        "tool_calls_repeated_in_flight": sum(len(spans) - 1 for spans in tool_calls(evidence).values()),
        "once_tools_repeated": sum(v.what.startswith("an effect=once") for v in violations),
        "in_doubt": _in_doubt(evidence),
        "streams": sum(bool(message.connections) for message in evidence.sent),
        "reconnects": sum(max(0, len(message.connections) - 1) for message in evidence.sent),
        "gaps": what["a gap"] + what["a fact that is not in the log"],
        "duplicates": what["a duplicate"] + what["a step back"],
        "wrong_texts": sum(v.promise == "P4" and "text" in v.what for v in violations),
        "cancels": sum(message.stop is not None for message in evidence.sent),
        "work_after_cancel": sum(v.promise == "P5" for v in violations),
        "overlaps": sum(v.promise == "P6" for v in violations),
        "conversations": len(evidence.transcripts),
        "invalid_transcripts": sum(v.promise == "P7" for v in violations),
        "takeovers_seen": len(seen),
        "takeover_p50_seconds": _quantile(plain, 0.5),
        "takeover_p99_seconds": _quantile(plain, 0.99),
        "takeovers_with_database_away": len(waited),
        "takeover_with_database_away_p99_seconds": _quantile(waited, 0.99),
        "slowest_takeovers": [f"{takeover.seconds:.1f} s: {', '.join(takeover.faults)}" for takeover in seen[:-6:-1]],
        **(_half_dead(evidence) if evidence.probes else {}),
        "violations": len(violations),
    }


def _half_dead(evidence: Evidence) -> dict[str, Any]:
    codes = Counter(where.partition(" ")[2] for where in evidence.failed_apart if where.startswith("probe"))
    ends = {where.partition(" ")[0]: where.partition(" ")[2] for where in evidence.failed_apart}
    return {
        "skipped": dict(Counter(evidence.skipped)),
        "probes": len(evidence.probes),
        "probes_without_answer": dict(Counter(probe.problem for probe in evidence.probes if probe.problem)),
        "probes_failed": dict(codes),
        "bad_answers_end_as": dict(
            Counter(f"{trouble.scenario}: {ends.get(trouble.key, trouble.status)}" for trouble in evidence.troubles)
        ),
        "orphans_after_lease_seconds": orphans_after_lease(evidence),
        "recovery": recovery_table(evidence),
    }


def _in_doubt(evidence: Evidence) -> int:
    steps = [step for run in evidence.runs.values() for step in run["steps"] if step["kind"] == "tool"]
    asked = {
        (run_id, event.data["call_id"])
        for run_id, log in evidence.logs.items()
        for event in log
        if event.type == "approval.requested" and event.data.get("reason") == "in_doubt"
    }
    return len(asked) + sum(step["error_code"] == "in_doubt" for step in steps)


def _quantile(values: Sequence[float], share: float) -> float | None:
    if not values:
        return None
    return round(values[min(len(values) - 1, int(share * len(values)))], 2)


def as_text(figures: dict[str, Any]) -> str:
    """One line a figure."""
    plain = {name: value for name, value in figures.items() if name != "recovery"}
    lines = [f"{name.replace('_', ' '):>32}  {_shown(value)}" for name, value in plain.items()]
    if "recovery" in figures:
        lines += ["", "seconds: p50/p99/max", as_table(figures["recovery"])]
    return "\n".join(lines)


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        pairs = cast("dict[str, Any]", value)
        return ", ".join(f"{name} {count}" for name, count in sorted(pairs.items())) or "0"
    if isinstance(value, list):
        return ("\n" + 34 * " ").join(cast("list[str]", value)) or "-"
    return "-" if value is None else str(value)
