"""The short way of tokens: from a provider's bytes to the sink at once, and on to the SDK in few large events.

Published is every text an event holds. Merged are only events that hold nothing else and differ in nothing else;
all others pass untouched and in order, so that the SDK builds the same message either way.
"""

import re
from collections.abc import Callable
from operator import itemgetter
from typing import Any, cast

from pydantic_core import from_json, to_json

from pilothouse.llm.deltas import StreamTrace
from pilothouse.llm.sse import EventSplitter, find_data
from pilothouse.llm.wires import VOLATILE, Kind, Piece, Wire

__all__ = ["ShortWay"]

_SAMPLE = "~sample~"
# Text with escapes gives no mould, and a field may begin to vary; a run is left alone after so many tries.
_CASTS = 8
# Events cost the SDK and the agent loop up to a millisecond each; between portions the event loop gets its turn.
_PORTION = 32
_MOST_HIDDEN = 16_384
_TEXT = re.compile(rb'"(?:[^"\\]++|\\.)++"', re.DOTALL).match
_STRING = re.compile(rb'"[^"\\]*+"').match
_NUMBER = re.compile(rb"\d++").match
_VOLATILE_FIELD = re.compile(rb'"(%s)":\s*+("[^"\\]*+"|\d++)' % "|".join(VOLATILE).encode())

_Match = Callable[[bytes, int], "re.Match[bytes] | None"]


class _Mould:
    """The bytes that the events of a run share: an event that has them too holds nothing new but its text.

    It spares parsing the whole of each event, which is most of what a token costs here. Between the shared bytes are
    the text and the volatile fields.
    """

    __slots__ = ("_last", "_steps", "kind")

    def __init__(self, steps: list[tuple[bytes, int, _Match]], last: bytes, kind: Kind | None) -> None:
        self._steps, self._last = steps, last
        self.kind: Kind | None = kind

    def text_of(self, event: bytes) -> str | None:
        """The text of an event, if it is of this mould and may be merged."""
        place, quoted = 0, b""
        for shared, length, match in self._steps:
            if not event.startswith(shared, place):
                return None
            found = match(event, place + length)
            if found is None:
                return None
            place = found.end()
            if match is _TEXT:
                quoted = found.group()
        if event[place:] != self._last:
            return None
        try:
            text: str = from_json(quoted)
        except ValueError:
            return None
        # What may be a tag takes the long look.
        return None if text[0] == "<" else text


def _cast(event: bytes, start: int, *, sample: dict[str, Any], piece: Piece, first: Piece) -> _Mould | None:
    """A mould from an event, proven by pouring a sample into it.

    Args:
        event: its bytes.
        start: where its data begins.
        sample: its data with a sample of a text.
        piece: what it holds.
        first: what the first event of its run holds; volatile fields equal in both are taken for shared bytes.
    """
    quoted = to_json(piece.text)
    place = event.rfind(quoted)
    if place < 0:
        return None
    varying = [name for name in VOLATILE if name in sample and sample[name] != first.event.get(name)]
    holes = [(place, place + len(quoted), _TEXT)]
    holes += [
        (*found.span(2), _STRING if found[2].startswith(b'"') else _NUMBER)
        for found in _VOLATILE_FIELD.finditer(event, start)
        if found[1].decode() in varying
    ]
    holes.sort(key=itemgetter(0))
    steps: list[tuple[bytes, int, _Match]] = []
    poured, done = b"", 0
    for begin, end, match in holes:
        steps.append((event[done:begin], begin - done, match))
        poured += event[done:begin] + _POURED[match]
        done = end
    try:
        cooled = cast("object", from_json((poured + event[done:])[start:]))
    except ValueError:
        return None
    expected = {**sample, **{name: _COOLED.get(type(cast("object", sample[name]))) for name in varying}}
    return _Mould(steps, event[done:], piece.kind) if cooled == expected else None


_POURED: dict[_Match, bytes] = {_TEXT: to_json(_SAMPLE), _STRING: b'"~"', _NUMBER: b"0"}
_COOLED: dict[object, str | int] = {str: "~", int: 0}


class ShortWay:
    """One stream on its way."""

    __slots__ = (
        "_blank",
        "_casts",
        "_first",
        "_head",
        "_hidden",
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
        self._casts = self._hidden = 0

    @property
    def ended(self) -> bool:
        """Whether the stream has said that it is complete."""
        return self._wire.ended

    @property
    def may_stop(self) -> bool:
        """Whether the stream may stop here: it is complete, or can be resumed."""
        return self._wire.ended or self._wire.resumable

    def feed(self, data: bytes) -> list[bytes]:
        """Publish what `data` brings; what the SDK is to be given now, in portions of a few events."""
        self._trace.first_byte()
        pieces = self._splitter.feed(data)
        for index in range(0, len(pieces), 2):
            self._take(pieces[index], pieces[index + 1])
        self._publish()
        return self._given()

    def finish(self) -> list[bytes]:
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
            self._merge(text, mould.kind)
            if mould.kind is not None:
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
            if self._casts < _CASTS:
                self._casts += 1
                sample = self._wire.merged(piece, _SAMPLE)
                self._mould = _cast(event, found[0], sample=sample, piece=piece, first=run) or self._mould
            self._merge(piece.text, piece.kind)
            return
        self._end_run()
        if piece.text.isspace():
            self._out += (event, blank)
            return
        self._run, self._texts = piece, [piece.text]
        self._first, self._head, self._blank = event, event[: found[0]], blank

    def _merge(self, text: str, kind: Kind | None) -> None:
        self._texts.append(text)
        if kind is None:
            # Text is counted when it is shown; arguments by the gateway, which has to see them for that.
            self._hidden += len(text)
            if self._hidden >= _MOST_HIDDEN:
                self._end_run()

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
        self._casts = self._hidden = 0
        if len(texts) == 1:
            self._out += (self._first, self._blank)
            return
        text = "".join(texts)
        # A tag that came in pieces was text; whole, it would be taken for the start of reasoning.
        is_tag = self._wire.reads_tags and text[0] == "<" and text[-1] == ">"
        halves = (text[:1], text[1:]) if is_tag else (text,)
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

    def _given(self) -> list[bytes]:
        out = self._out
        if not out:
            return []
        portions = [b"".join(out[at : at + _PORTION]) for at in range(0, len(out), _PORTION)]
        out.clear()
        return portions
