"""Where streamed text goes while a model answers."""

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Protocol

__all__ = ["DeltaSink", "ResponseNote", "StreamTrace", "current_note", "current_sink", "current_trace"]


class DeltaSink(Protocol):
    """Takes a model's text as it arrives. Its methods return at once and are called on the event loop."""

    def text(self, text: str) -> None:
        """More of the answer; several tokens may come as one piece."""
        ...

    def reasoning(self, text: str) -> None:
        """More of the reasoning."""
        ...

    def restarted(self, reason: str) -> None:
        """Forget what this model call has given so far: it begins again. `reason` is an error code."""
        ...

    def first_byte(self) -> None:
        """The provider has begun to answer; once per try."""
        ...


current_sink: ContextVar[DeltaSink | None] = ContextVar("pilothouse_delta_sink", default=None)
"""The sink of the run that is executing; `None` where nobody watches."""


@dataclass(slots=True)
class StreamTrace:
    """What one try of a streamed model call has done; the gateway and the transport share it.

    `short_way` is set by the transport once it publishes the deltas itself, so that nobody publishes them twice.
    `count` is given the characters of each delta before it is shown, and raises if they are too many.
    """

    sink: DeltaSink
    merge: bool = True
    count: Callable[[int], None] | None = None
    short_way: bool = False
    answered: bool = False
    published: bool = False

    def first_byte(self) -> None:
        """Tell the sink, the first time."""
        if not self.answered:
            self.answered = True
            self.sink.first_byte()

    def publish(self, kind: str, text: str) -> None:
        """Give a delta to the sink; `kind` is `text` or `reasoning`."""
        if not text:
            return
        if self.count is not None:
            self.count(len(text))
        self.published = True
        if kind == "text":
            self.sink.text(text)
        else:
            self.sink.reasoning(text)


@dataclass(slots=True)
class ResponseNote:
    """Whether the provider has begun to answer a try with success; the transport sets it, streamed or not."""

    received: bool = False


current_note: ContextVar[ResponseNote | None] = ContextVar("pilothouse_response_note", default=None)
"""Set by the gateway around each try."""

current_trace: ContextVar[StreamTrace | None] = ContextVar("pilothouse_stream_trace", default=None)
"""Set by the gateway around each streamed try; the transport takes the short way only where it is set."""
