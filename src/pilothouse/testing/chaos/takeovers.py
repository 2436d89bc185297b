"""Runs that were seen to change hands: a caller got the next attempt's events after a process had been killed."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from pilothouse.testing.chaos.evidence import DATABASE_AWAY, ENDS_A_PROCESS, Evidence, Fault, Sent


@dataclass(frozen=True, slots=True)
class Takeover:
    """One process's run in another's hands.

    Attributes:
        fault: what took it from the one.
        seconds: from the kill of the run's process to the first event of its next attempt, as its caller saw it.
        faults: what was done to anything in that time, the kill included.
        database_away: PostgreSQL was down for a part of it, so nobody could take anything over.
    """

    fault: Fault
    run_id: str
    seconds: float
    faults: list[str]
    database_away: bool


def takeovers(evidence: Evidence) -> Iterator[Takeover]:
    """Those that a caller saw."""
    for message in evidence.sent:
        events = message.events
        for before, after in pairwise(events):
            waited = before.type == "approval.requested"
            if after.place[0] > before.place[0] > 0 and not waited:
                hit = _killed_by(evidence, message, since=before.at, until=after.at)
                if hit is not None:
                    yield _takeover(evidence, hit, str(message.run_id), after.at)


def _takeover(evidence: Evidence, hit: Fault, run_id: str, taken: float) -> Takeover:
    meanwhile = [fault for fault in evidence.faults if fault.at <= taken and (fault.until or taken) >= hit.at]
    return Takeover(
        fault=hit,
        run_id=run_id,
        seconds=taken - hit.at,
        faults=[f"{fault.kind} {fault.target} at {fault.at - hit.at:.1f} s" for fault in meanwhile],
        database_away=any(fault.target == "postgres" and fault.kind in DATABASE_AWAY for fault in meanwhile),
    )


def _killed_by(evidence: Evidence, message: Sent, *, since: float, until: float) -> Fault | None:
    """What killed the process that last worked on the run, if that is what happened."""
    work = [(span.started, span.process) for span in evidence.tools if span.run_id == message.run_id]
    work += [(request.started, request.process) for request in evidence.requests if request.key == message.key]
    hits: list[Fault] = []
    for fault in evidence.faults:
        last = max((item for item in work if item[0] <= fault.at), default=None)
        struck = last is not None and last[1] == fault.target and fault.kind in ENDS_A_PROCESS
        if struck and since - 1 <= fault.at <= until:
            hits.append(fault)
    return max(hits, key=lambda fault: fault.at, default=None)
