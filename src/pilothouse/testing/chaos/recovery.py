"""How long each fault was felt: until a new chat was answered, and until the last orphan went on."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pilothouse.testing.chaos.check_work import Work, works_by_run
from pilothouse.testing.chaos.evidence import DATABASE_AWAY, ENDS_A_PROCESS, Document, Evidence, Fault
from pilothouse.testing.chaos.prober import first_answer
from pilothouse.testing.chaos.scenarios import key_of
from pilothouse.testing.chaos.takeovers import takeovers

_EVERYBODY = frozenset({"postgres", "valkey", "model"})


@dataclass(frozen=True, slots=True)
class Answering:
    """When chats were answered again at all nodes.

    Attributes:
        after_begin: seconds from the fault's begin until each node had answered a chat sent after it.
        after_end: seconds from the fault's end until each node had answered a chat sent after that; infinite: never.
        crossed: another fault struck in that time, so the figures are not this one's.
    """

    fault: Fault
    after_begin: float
    after_end: float
    crossed: bool


def answering(evidence: Evidence) -> Iterator[Answering]:
    """One for each fault that ended while probes were sent."""
    nodes = sorted({probe.node for probe in evidence.probes})
    last = max((probe.began for probe in evidence.probes), default=0.0)
    for fault in evidence.faults:
        if fault.until is None or not nodes or fault.until > last:
            continue
        begun = max(_answered(evidence, node, fault.at) for node in nodes)
        ended = max(_answered(evidence, node, fault.until) for node in nodes)
        crossed = any(other is not fault and _touches(other, fault.at, ended) for other in evidence.faults)
        yield Answering(fault, begun - fault.at, ended - fault.until, crossed)


def _answered(evidence: Evidence, node: str, since: float) -> float:
    probe = first_answer(evidence.probes, node, since)
    return float("inf") if probe is None else probe.ended


def _touches(fault: Fault, since: float, until: float) -> bool:
    return fault.at <= until and (fault.until or float("inf")) >= since


@dataclass(frozen=True, slots=True)
class Orphan:
    """A run whose process was taken from it, and went on elsewhere.

    Attributes:
        seconds: from the fault to the first event of the next attempt, as its caller saw it, or else to the first
            model request or tool call of another process, or of a new one.
        database_away: PostgreSQL could not be written to for a part of it.
    """

    fault: Fault
    run_id: str
    seconds: float
    database_away: bool


def orphans(evidence: Evidence) -> Iterator[Orphan]:
    """Those that a caller saw change hands, or whose going on is in the ledgers (if none waits for a person there)."""
    seen = {(id(item.fault), item.run_id): item for item in takeovers(evidence)}
    for item in seen.values():
        yield Orphan(item.fault, item.run_id, item.seconds, item.database_away)
    runs: dict[str, Document] = {
        key: run
        for run in evidence.runs.values()
        if (key := key_of(run["message"])) is not None and " ask" not in run["message"]
    }
    works = works_by_run(evidence, runs)
    known = {run["id"] for run in runs.values()} & works.keys()
    for fault in evidence.faults:
        if not _orphans_runs(fault, evidence.lease_seconds):
            continue
        for run_id in known:
            at = _went_on(sorted(works[run_id], key=lambda work: work.started), fault)
            if at is not None and (id(fault), run_id) not in seen:
                yield Orphan(fault, run_id, at - fault.at, _database_was_away(evidence, fault.at, at))


def _database_was_away(evidence: Evidence, since: float, until: float) -> bool:
    return any(
        fault.target == "postgres" and fault.kind in DATABASE_AWAY and _touches(fault, since, until)
        for fault in evidence.faults
    )


def _orphans_runs(fault: Fault, lease_seconds: float) -> bool:
    if fault.target in _EVERYBODY:
        return False
    cut_off = (fault.kind == "black-hole" and fault.detail == "postgres") or fault.kind == "pause"
    return fault.kind in ENDS_A_PROCESS or (cut_off and (fault.until or 0) - fault.at > lease_seconds)


def _went_on(works: Sequence[Work], fault: Fault) -> float | None:
    before = [work for work in works if work.started <= fault.at]
    if not before or before[-1].process != fault.target:
        return None
    same = fault.kind in ENDS_A_PROCESS  # then whoever goes on under that name is another process
    after = [work.started for work in works if work.started > fault.at and (same or work.process != fault.target)]
    if same and after and after[0] <= fault.at + 0.05:
        return None  # it began in the instant of the kill
    return after[0] if after else None


# --- the table ---


def recovery_table(evidence: Evidence) -> list[dict[str, Any]]:
    """A row for each kind of fault, with seconds as p50, p99 and max."""
    again: dict[str, list[Answering]] = defaultdict(list)
    for item in answering(evidence):
        again[item.fault.name].append(item)
    last: dict[str, dict[int, float]] = defaultdict(dict)
    for orphan in orphans(evidence):
        if not orphan.database_away:
            worst = last[orphan.fault.name]
            worst[id(orphan.fault)] = max(worst.get(id(orphan.fault), 0.0), orphan.seconds)
    rows: list[dict[str, Any]] = []
    for name in sorted({fault.name for fault in evidence.faults}):
        plain = [item for item in again[name] if not item.crossed]
        rows.append(
            {
                "fault": name,
                "count": sum(fault.name == name for fault in evidence.faults),
                "crossed": len(again[name]) - len(plain),
                "answers_after_begin": spread([item.after_begin for item in plain]),
                "answers_after_end": spread([item.after_end for item in plain]),
                "orphaning": len(last[name]),
                "last_orphan_goes_on": spread(list(last[name].values())),
            }
        )
    return rows


def orphans_after_lease(evidence: Evidence) -> dict[str, Any]:
    """Seconds from the end of the lease until an orphan went on, with PostgreSQL up; all kinds together."""
    late = [max(0.0, o.seconds - evidence.lease_seconds) for o in orphans(evidence) if not o.database_away]
    return {"count": len(late), **(spread(late) or {})}


def spread(values: Sequence[float]) -> dict[str, float | str] | None:
    """p50, p99 and max in seconds; None of none. What never happened is `never`."""
    if not values:
        return None
    ordered = sorted(values)
    picked = {"p50": 0.5, "p99": 0.99, "max": 1.0}
    return {name: _shown(ordered[min(len(ordered) - 1, int(share * len(ordered)))]) for name, share in picked.items()}


def _shown(seconds: float) -> float | str:
    return "never" if seconds == float("inf") else round(seconds, 1)


def as_table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as text: p50/p99/max in seconds."""
    head = ("fault", "count", "crossed", "chats answered after begin", "after end", "orphaning", "last orphan goes on")
    lines: list[tuple[Any, ...]] = [head]
    for row in rows:
        spreads = [row[name] for name in ("answers_after_begin", "answers_after_end", "last_orphan_goes_on")]
        begin, end, orphan = ("/".join(str(part) for part in item.values()) if item else "-" for item in spreads)
        lines.append((row["fault"], row["count"], row["crossed"], begin, end, row["orphaning"], orphan))
    texts = [[str(cell) for cell in line] for line in lines]
    widths = [max(len(line[column]) for line in texts) for column in range(len(head))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in texts)
