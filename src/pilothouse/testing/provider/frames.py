"""Encoded event streams: one block of bytes, cut at token ends, made once and sent many times."""

import json
from bisect import bisect_right
from dataclasses import dataclass
from typing import Any

from pilothouse.testing.provider.answer import NUMBER_SLOT

_SLOT = NUMBER_SLOT.encode()


@dataclass(frozen=True, slots=True)
class Frames:
    """The events of a stream: `head`, a body whose token `i` ends at `ends[i]`, and `tail`."""

    head: bytes
    body: bytes
    ends: tuple[int, ...]
    tail: bytes

    def between(self, start: int, stop: int) -> bytes:
        """The events of the tokens `start` up to but not including `stop`."""
        return self.body[self.offset(start) : self.offset(stop)]

    def offset(self, tokens: int) -> int:
        """Where the body stands after so many tokens."""
        return self.ends[tokens - 1] if tokens else 0

    def tokens_within(self, size: int) -> int:
        """How many whole tokens the first `size` bytes of the body hold."""
        return bisect_right(self.ends, size)


class Body:
    """The part of a stream that is the same for every request, apart from the request's number."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._ends: list[int] = []
        self._size = 0
        self._trailing = b""

    def event(self, data: bytes) -> None:
        """Add an event that travels together with the token after it, or with the tail."""
        self._trailing += data

    def token(self, data: bytes) -> None:
        """Add an event that carries one token."""
        part = self._trailing + data
        self._trailing = b""
        self._parts.append(part)
        self._size += len(part)
        self._ends.append(self._size)

    def freeze(self) -> "FrozenBody":
        """The finished body."""
        return FrozenBody(b"".join(self._parts), tuple(self._ends), self._trailing)


@dataclass(frozen=True, slots=True)
class FrozenBody:
    """An encoded body, kept for all requests that get the same answer."""

    body: bytes
    ends: tuple[int, ...]
    trailing: bytes

    def frames(self, head: bytes, tail: bytes, *, number: int) -> Frames:
        """The stream of one request: the number put in, and the events only this request has."""
        return Frames(
            head=number_in(head, number),
            body=number_in(self.body, number),
            ends=self.ends,
            tail=number_in(self.trailing + tail, number),
        )


def number_in(data: bytes, number: int) -> bytes:
    """Put the request's number where encoded ids leave a slot for it."""
    return data.replace(_SLOT, b"%08d" % number)


def dump(value: Any) -> bytes:
    """Compact UTF-8 JSON; a lone surrogate becomes a question mark."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
