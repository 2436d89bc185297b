"""Requests that changed nothing, counted: however many there are, only so many records a minute are made of them.

The first of its kind becomes a record of its own at once. Equal ones of the same minute are counted, and become one
record, which holds their number, when the minute is over. Refusals of more kinds than can be told apart in a minute are
counted together.
"""

from dataclasses import replace

from pilothouse.audit.record import AuditRecord, new_record_id

PERIOD_MS = 60_000
MOST_KINDS = 500
"""Kinds told apart in a minute. They make at most `2 * MOST_KINDS + 1` records."""

_Kind = tuple[str | None, ...]


class Refusals:
    """Counts for one process."""

    def __init__(self) -> None:
        self._began = 0
        self._repeats: dict[_Kind, AuditRecord | None] = {}
        self._others: AuditRecord | None = None

    def add(self, record: AuditRecord) -> list[AuditRecord]:
        """Count a refusal. Returns the records that are to be written now."""
        ready = self.due(record.at)
        if not self._repeats and self._others is None:
            self._began = record.at
        kind = _kind(record)
        if kind in self._repeats:
            self._repeats[kind] = _one_more(self._repeats[kind], record)
            return ready
        if len(self._repeats) >= MOST_KINDS:
            self._others = _one_more(self._others, _anonymous(record))
            return ready
        self._repeats[kind] = None
        return [*ready, record]

    def due(self, now: int) -> list[AuditRecord]:
        """What was counted, if its minute is over at `now` (milliseconds), or the clock was set back."""
        return [] if 0 <= now - self._began < PERIOD_MS else self.take()

    def take(self) -> list[AuditRecord]:
        """What was counted so far. Counting begins anew."""
        counted = [*self._repeats.values(), self._others]
        self._repeats, self._others = {}, None
        return [record for record in counted if record is not None]


def _kind(record: AuditRecord) -> _Kind:
    return (
        record.action,
        record.outcome,
        record.code,
        record.tenant,
        record.subject,
        record.credential,
        record.client,
    )


def _one_more(counted: AuditRecord | None, record: AuditRecord) -> AuditRecord:
    if counted is not None:
        return replace(counted, count=counted.count + 1, last_at=record.at)
    return replace(record, id=new_record_id(), object_id=None, detail=None, request_id=None)


def _anonymous(record: AuditRecord) -> AuditRecord:
    return replace(
        record,
        action="request.refused",
        tenant=None,
        subject=None,
        credential=None,
        code="too_many_kinds",
        object_kind=None,
        client=None,
        user_agent=None,
    )
