"""Server-sent events cut from raw bytes, without changing a byte of them."""

import re

__all__ = ["EventMeter", "EventSplitter", "find_data"]

# Atomic, so that CRLF is never read as two line ends.
_BLANK = re.compile(rb"((?>\r\n|\n|\r)(?>\r\n|\n|\r))")


class EventSplitter:
    """Collects bytes as they arrive and gives back whole events with the blank line that ended each."""

    __slots__ = ("_pending", "_tail")

    def __init__(self) -> None:
        self._pending: list[bytes] = []
        self._tail = b""

    def feed(self, data: bytes) -> list[bytes]:
        """The events completed by `data`, as `[event, blank line, event, blank line, ...]`."""
        if self._pending:
            # Looking only around the seam keeps an event of many reads linear.
            seam = self._tail + data
            self._pending.append(data)
            if _BLANK.search(seam) is None:
                self._tail = seam[-3:]
                return []
            data = b"".join(self._pending)
            self._pending.clear()
        if b"\r" in data:
            return self._split_any(data)
        pieces = data.split(b"\n\n")
        self._keep(pieces.pop())
        events = [b"\n\n"] * (2 * len(pieces))
        events[::2] = pieces
        return events

    def rest(self) -> bytes:
        """What has arrived of an event that is not complete."""
        return b"".join(self._pending)

    def _split_any(self, data: bytes) -> list[bytes]:
        # A CR at the end may be half of a CRLF.
        held = b"\r" if data.endswith(b"\r") else b""
        pieces = _BLANK.split(data[: len(data) - len(held)])
        self._keep(pieces.pop() + held)
        return pieces

    def _keep(self, rest: bytes) -> None:
        if rest:
            self._pending.append(rest)
        self._tail = rest[-3:]


class EventMeter:
    """Counts the bytes of the event that is not complete yet, without keeping them."""

    __slots__ = ("_pending", "_tail")

    def __init__(self) -> None:
        self._pending = 0
        self._tail = b""

    def feed(self, data: bytes) -> int:
        """Bytes since the last blank line, with those of `data`."""
        seam = self._tail + data
        # However lines end, one of these is in each blank line.
        blank = max(seam.rfind(b"\n\n"), seam.rfind(b"\n\r"), seam.rfind(b"\r\r"))
        self._pending = self._pending + len(data) if blank < 0 else len(seam) - blank - 2
        self._tail = seam[-1:]
        return self._pending


def find_data(event: bytes) -> tuple[int, int, bool] | None:
    """Where the data of an event begins and ends, and whether it is plain: one data line, and a name before it at most.

    `None` for an event without data, or with more than one line of it.
    """
    if event.startswith(b"data:") and b"\n" not in event and b"\r" not in event:
        return 5, len(event), True
    found: tuple[int, int] | None = None
    plain = True
    position = 0
    for line in event.splitlines(keepends=True):
        if line.startswith(b"data:"):
            if found is not None:
                return None
            found = position + 5, position + len(line.rstrip(b"\r\n"))
            # What follows the data line would be lost by a merge.
            plain = plain and found[1] == len(event)
        elif not line.startswith(b"event:"):
            plain = False
        position += len(line)
    return None if found is None else (*found, plain)
