"""Requests that changed nothing, counted: however many there are, only so many records a minute are made of them.

The first of its kind becomes a record of its own at once. Equal ones of the same minute are counted, and become one
record, which holds their number, when the minute is over. Refusals of more kinds than can be told apart in a minute are
counted together.

Invariant: nobody can use up the kinds of another. Callers that could not be recognised (strangers) and each tenant have
kinds of their own, one subject has only a part of its tenant's, and what a stranger claims makes no kind.
"""

from collections import Counter
from dataclasses import dataclass, field, replace

from pilothouse.audit.record import AuditRecord, new_record_id

PERIOD_MS = 60_000
MOST_STRANGER_KINDS = 100
"""Kinds of strangers told apart in a minute. They make at most `2 * MOST_STRANGER_KINDS + 1` records."""
MOST_TENANT_KINDS = 500
"""Kinds of one tenant told apart in a minute."""
MOST_SUBJECT_KINDS = 100
"""How many of its tenant's kinds one subject may take."""

_Kind = tuple[str | None, ...]


@dataclass(slots=True)
class _Group:
    """What the strangers, or one tenant, did within the minute."""

    repeats: dict[_Kind, AuditRecord | None] = field(default_factory=dict[_Kind, AuditRecord | None])
    of_subject: Counter[str | None] = field(default_factory=Counter[str | None])
    others: dict[_Kind, AuditRecord] = field(default_factory=dict[_Kind, AuditRecord])


class Refusals:
    """Counts for one process."""

    def __init__(self) -> None:
        self._began = 0
        self._groups: dict[str | None, _Group] = {}

    def add(self, record: AuditRecord) -> list[AuditRecord]:
        """Count a refusal. Returns the records that are to be written now."""
        ready = self.due(record.at)
        if not self._groups:
            self._began = record.at
        group = self._groups.setdefault(record.tenant, _Group())
        kind = _kind(record)
        if kind in group.repeats:
            group.repeats[kind] = _one_more(group.repeats[kind], record)
        elif (summary := _beyond(group, record)) is not None:
            key = (summary.subject, summary.action, summary.outcome)
            group.others[key] = _one_more(group.others.get(key), summary)
        else:
            group.repeats[kind] = None
            group.of_subject[record.subject] += 1
            return [*ready, record]
        return ready

    def due(self, now: int) -> list[AuditRecord]:
        """What was counted, if its minute is over at `now` (milliseconds), or the clock was set back."""
        return [] if 0 <= now - self._began < PERIOD_MS else self.take()

    def take(self) -> list[AuditRecord]:
        """What was counted so far. Counting begins anew."""
        groups, self._groups = self._groups.values(), {}
        counted = [record for group in groups for record in (*group.repeats.values(), *group.others.values())]
        return [record for record in counted if record is not None]


def _kind(record: AuditRecord) -> _Kind:
    """Of a stranger without its credential: whoever sends one writes what they like."""
    credential = None if record.tenant is None else record.credential
    return (record.action, record.outcome, record.code, record.subject, credential, record.client)


def _beyond(group: _Group, record: AuditRecord) -> AuditRecord | None:
    """What is kept of a record of a kind that can't be told apart any more; None if it still can."""
    if record.tenant is None:
        if len(group.repeats) < MOST_STRANGER_KINDS:
            return None
        return _summary(replace(record, action="request.refused", outcome="refused"))
    if group.of_subject[record.subject] >= MOST_SUBJECT_KINDS:
        return _summary(record)
    return _summary(replace(record, subject=None)) if len(group.repeats) >= MOST_TENANT_KINDS else None


def _summary(record: AuditRecord) -> AuditRecord:
    return replace(record, credential=None, code="too_many_kinds", object_kind=None, client=None, user_agent=None)


def _one_more(counted: AuditRecord | None, record: AuditRecord) -> AuditRecord:
    """Several as one record: it says what is true of all of them."""
    if counted is None:
        return replace(record, id=new_record_id(), object_id=None, detail=None, request_id=None)
    return replace(
        counted,
        count=counted.count + 1,
        last_at=record.at,
        credential=counted.credential if counted.credential == record.credential else None,
        user_agent=counted.user_agent if counted.user_agent == record.user_agent else None,
    )
