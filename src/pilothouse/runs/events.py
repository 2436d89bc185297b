"""Events: the lines of a run's log, in memory, in the database and on the wire."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pilothouse.db.values import MOST_INTEGER
from pilothouse.errors import InvalidRequest
from pilothouse.kit.jsons import dumps, loads

DELTA_TYPES: Final = frozenset({"text.delta", "reasoning.delta"})
TERMINAL_TYPES: Final = frozenset({"run.completed", "run.failed", "run.cancelled"})

START: Final = (0, 0)
"""The place before every event."""

EventPlace = tuple[int, int]
"""Attempt, number: places are compared as pairs and only grow."""


@dataclass(frozen=True, slots=True)
class RunEvent:
    """One line of a run's log. `data` holds the fields of its type (docs/http.md)."""

    attempt: int
    number: int
    type: str
    data: dict[str, Any]

    @property
    def place(self) -> EventPlace:
        """What orders events of one run."""
        return (self.attempt, self.number)

    @property
    def id(self) -> str:
        """The id on the wire, `<attempt>-<number>`."""
        return f"{self.attempt}-{self.number}"

    @property
    def final(self) -> bool:
        """Nothing follows this event."""
        return self.type in TERMINAL_TYPES

    def to_json(self, run_id: str) -> str:
        """The JSON of `data` on the wire: the fields with `type` and `run_id`."""
        return dumps({"type": self.type, "run_id": run_id, **self.data})


@dataclass(frozen=True, slots=True)
class EventRow:
    """One row of the log: an event, or consecutive deltas of one step with `number` that of the last."""

    attempt: int
    number: int
    type: str
    data: str


def parse_event_id(text: str) -> EventPlace:
    """The place an event id names.

    Raises:
        InvalidRequest: it is not `<attempt>-<number>`.
    """
    attempt, dash, number = text.partition("-")
    if (
        dash
        and len(text) <= 40
        and attempt.isascii()
        and number.isascii()
        and attempt.isdecimal()
        and number.isdecimal()
    ):
        place = (int(attempt), int(number))
        if max(place) <= MOST_INTEGER:
            return place
    raise InvalidRequest(
        "An event id is <attempt>-<number>, such as 1-57: send the id of the last event you have.",
        code="bad_event_id",
    )


def to_rows(events: Sequence[RunEvent]) -> list[EventRow]:
    """Rows for consecutive events: runs of deltas of one type and step become one row."""
    rows: list[EventRow] = []
    texts: list[str] = []
    for index, event in enumerate(events):
        if event.type not in DELTA_TYPES:
            rows.append(EventRow(event.attempt, event.number, event.type, dumps(event.data)))
            continue
        texts.append(event.data["text"])
        following = events[index + 1] if index + 1 < len(events) else None
        if following is None or following.type != event.type or following.data["step"] != event.data["step"]:
            data = dumps({"step": event.data["step"], "texts": texts})
            rows.append(EventRow(event.attempt, event.number, event.type, data))
            texts = []
    return rows


def from_rows(rows: Iterable[EventRow], after: EventPlace) -> list[RunEvent]:
    """The events of log rows that come after a place."""
    events: list[RunEvent] = []
    for row in rows:
        data = loads(row.data)
        if row.type not in DELTA_TYPES:
            events.append(RunEvent(row.attempt, row.number, row.type, data))
            continue
        texts: list[str] = data["texts"]
        first = row.number - len(texts) + 1
        skip = max(0, after[1] - first + 1) if row.attempt == after[0] else 0
        if rest := texts[skip:]:
            events.append(RunEvent(row.attempt, row.number, row.type, {"step": data["step"], "text": "".join(rest)}))
    return [event for event in events if event.place > after]


def merge_deltas(events: Sequence[RunEvent]) -> list[RunEvent]:
    """The same events with consecutive deltas of one type and step made one, under the id of the last."""
    if len(events) < 2:
        return list(events)
    merged: list[RunEvent] = []
    texts: list[str] = []
    for index, event in enumerate(events):
        if event.type not in DELTA_TYPES:
            merged.append(event)
            continue
        texts.append(event.data["text"])
        following = events[index + 1] if index + 1 < len(events) else None
        if following is None or following.type != event.type or following.data["step"] != event.data["step"]:
            data = {"step": event.data["step"], "text": "".join(texts)}
            merged.append(RunEvent(event.attempt, event.number, event.type, data))
            texts = []
    return merged
