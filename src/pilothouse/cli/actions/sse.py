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
    rest = b""
    fields: dict[str, str] = {}
    async for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        for raw in lines:
            line = raw.rstrip(b"\r").decode("utf-8", "replace")
            if line:
                _take(line, fields)
            elif fields:
                event = _made(fields)
                fields = {}
                if event is not None:
                    yield event


def _take(line: str, fields: dict[str, str]) -> None:
    name, _, value = line.partition(":")
    value = value.removeprefix(" ")
    if name == "data" and "data" in fields:
        fields["data"] += "\n" + value
    elif name:  # a line that begins with a colon is a heartbeat
        fields[name] = value


def _made(fields: dict[str, str]) -> Event | None:
    try:
        data = loads(fields["data"])
    except (KeyError, ValueError):
        return None
    if not isinstance(data, dict):
        return None
    return Event(fields.get("id", ""), fields.get("event", ""), cast("dict[str, Any]", data))
