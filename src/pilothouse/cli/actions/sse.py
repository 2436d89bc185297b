"""Read server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html)."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, cast

from pilothouse.kit.jsons import loads

FINAL = frozenset({"run.completed", "run.failed", "run.cancelled"})


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a run."""

    id: str
    type: str
    data: dict[str, Any]

    @property
    def final(self) -> bool:
        """Nothing follows this event."""
        return self.type in FINAL


async def read_events(chunks: AsyncIterator[bytes]) -> AsyncIterator[Event]:
    """The events of a byte stream, each as soon as it is whole; one that is cut off is left out."""
    pending: list[bytes] = []  # of a line without its end: joined once, however many chunks it takes
    fields: dict[str, list[str]] = {}
    async for chunk in chunks:
        *lines, rest = chunk.split(b"\n")
        if lines:
            lines[0] = b"".join([*pending, lines[0]])
            pending.clear()
        pending.append(rest)
        for raw in lines:
            line = raw.rstrip(b"\r").decode("utf-8", "replace")
            if line:
                _take(line, fields)
            elif fields:
                event = _made(fields)
                fields = {}
                if event is not None:
                    yield event


def _take(line: str, fields: dict[str, list[str]]) -> None:
    name, _, value = line.partition(":")
    value = value.removeprefix(" ")
    if name == "data":
        fields.setdefault(name, []).append(value)
    elif name in {"id", "event"}:  # a line that begins with a colon is a heartbeat
        fields[name] = [value]


def _made(fields: dict[str, list[str]]) -> Event | None:
    try:
        data = loads("\n".join(fields["data"]))
    except (KeyError, ValueError):
        return None
    if not isinstance(data, dict):
        return None
    return Event("".join(fields.get("id", [])), "".join(fields.get("event", [])), cast("dict[str, Any]", data))
