"""The short way of tokens: from a provider's bytes to the sink at once, and on to the SDK in few large events.

Published is every text an event holds. Merged are only events that hold nothing else and differ in nothing else;
all others pass untouched and in order, so that the SDK builds the same message either way.
"""

from typing import Any, cast

from pydantic_core import from_json, to_json

from pilothouse.llm.deltas import StreamTrace
from pilothouse.llm.sse import EventSplitter, find_data
from pilothouse.llm.wires import Kind, Piece, Wire

__all__ = ["ShortWay"]

_SAMPLE = "~sample~"
# Text with escapes gives no mould; a stream that has no other is left alone after so many deltas.
_CASTS = 8


class _Mould:
    """The bytes around the text in the events of a run: an event that has them too holds nothing new but its text.

    It spares parsing the whole of each event, which is most of what a token costs here.
    """

    __slots__ = ("_after", "_before", "_least", "_start", "_stop", "kind")

    def __init__(self, before: bytes, after: bytes, kind: Kind) -> None:
        self._before, self._after = before, after
        self._least = len(before) + len(after)
        # The text's own quotes are the last byte before it and the first after it.
        self._start, self._stop = len(before) - 1, 1 - len(after)
        self.kind: Kind = kind

    def text_of(self, event: bytes) -> str | None:
        """The text of an event, if it is of this mould and may be merged; quotes within are no valid JSON string."""
        if len(event) <= self._least or not event.startswith(self._before) or not event.endswith(self._after):
            return None
        try:
            text: str = from_json(event[self._start : self._stop or None])
        except ValueError:
            return None
        # What may be a tag takes the long look.
        return None if text[0] == "<" else text


def _cast(event: bytes, start: int, sample: dict[str, Any], text: str, kind: Kind) -> _Mould | None:
    """A mould from an event with this text, proven by pouring the sample into it."""
    quoted = to_json(text)
    place = event.rfind(quoted)
    if place < 0:
        return None
    before, after = event[: place + 1], event[place + len(quoted) - 1 :]
    try:
        poured = cast("object", from_json(before[start:] + _SAMPLE.encode() + after))
    except ValueError:
        return None
    return _Mould(before, after, kind) if poured == sample else None


class ShortWay:
    """One stream on its way."""

    __slots__ = (
        "_blank",
        "_first",
        "_head",
        "_mould",
        "_out",
        "_run",
        "_shown",
        "_splitter",
        "_texts",
        "_trace",
        "_wire",
    )

    def __init__(self, wire: Wire, trace: StreamTrace) -> None:
        self._wire = wire
        self._trace = trace
        self._splitter = EventSplitter()
        self._out: list[bytes] = []
        self._shown: list[tuple[Kind, str]] = []
        # The run of deltas being merged: its first piece, the bytes of that event, and the texts so far.
        self._run: Piece | None = None
        self._first = self._head = self._blank = b""
        self._texts: list[str] = []
        self._mould: _Mould | None = None

    @property
    def ended(self) -> bool:
        """Whether the stream has said that it is complete."""
        return self._wire.ended

    def feed(self, data: bytes) -> bytes:
        """Publish what `data` brings; what the SDK is to be given now, which may be nothing."""
        self._trace.first_byte()
        pieces = self._splitter.feed(data)
        for index in range(0, len(pieces), 2):
            self._take(pieces[index], pieces[index + 1])
        self._publish()
        return self._given()

    def finish(self) -> bytes:
        """The stream is over: what is left for the SDK."""
        self._end_run()
        rest = self._splitter.rest()
        if rest:
            if (found := find_data(rest.rstrip(b"\r\n"))) is not None:
                self._wire.marks_end(rest[found[0] :].lstrip())
            self._out.append(rest)
        return self._given()

    def _take(self, event: bytes, blank: bytes) -> None:
        mould = self._mould
        if mould is not None and (text := mould.text_of(event)):
            self._texts.append(text)
            self._shown.append((mould.kind, text))
            return
        found = find_data(event)
        piece = self._read(event[found[0] : found[1]]) if found is not None else None
        if piece is None or found is None or not found[2] or not self._trace.merge:
            self._end_run()
            self._out += (event, blank)
            return
        run = self._run
        if run is not None and run.field == piece.field and run.rest == piece.rest:
            self._texts.append(piece.text)
            if self._mould is None and len(self._texts) <= _CASTS:
                self._mould = _cast(event, found[0], self._wire.merged(piece, _SAMPLE), piece.text, self._shown[-1][0])
            return
        self._end_run()
        if piece.text.isspace():
            self._out += (event, blank)
            return
        self._run, self._texts = piece, [piece.text]
        self._first, self._head, self._blank = event, event[: found[0]], blank

    def _read(self, data: bytes) -> Piece | None:
        try:
            event = cast("object", from_json(data))
        except ValueError:
            self._wire.marks_end(data.strip())
            return None
        if not isinstance(event, dict):
            return None
        reading = self._wire.read(cast("dict[str, Any]", event))
        self._shown += reading.shown
        return reading.piece

    def _end_run(self) -> None:
        run, texts = self._run, self._texts
        if run is None:
            return
        self._run = self._mould = None
        if len(texts) == 1:
            self._out += (self._first, self._blank)
            return
        text = "".join(texts)
        # A tag that came in pieces was text; whole, it would be taken for the start of reasoning.
        halves = (text[:1], text[1:]) if text[0] == "<" and text[-1] == ">" else (text,)
        for half in halves:
            self._out += (self._head, b" ", to_json(self._wire.merged(run, half)), self._blank)

    def _publish(self) -> None:
        shown = self._shown
        if not shown:
            return
        self._shown = []
        kind = shown[0][0]
        texts: list[str] = []
        for next_kind, text in shown:
            if next_kind != kind:
                self._trace.publish(kind, "".join(texts))
                kind, texts = next_kind, []
            texts.append(text)
        self._trace.publish(kind, "".join(texts))

    def _given(self) -> bytes:
        if not self._out:
            return b""
        out = b"".join(self._out)
        self._out.clear()
        return out
