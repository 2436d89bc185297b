"""How much a model may send in one answer, and the count of what it has sent.

An answer is content of a stranger: without bounds one runaway generation takes the memory of the process and the time
of its event loop from all other runs. Bytes are counted where they arrive (`pilothouse.llm.body`), text, arguments and
parts where they are understood.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic_ai.messages import (
    ModelResponsePart,
    ModelResponseStreamEvent,
    NativeToolCallPart,
    PartDeltaEvent,
    PartStartEvent,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    ToolCallPartDelta,
)

from pilothouse.kit.sizes import json_size
from pilothouse.llm.failures import answer_too_large

__all__ = ["AnswerLimits", "AnswerMeter"]


@dataclass(frozen=True, slots=True)
class AnswerLimits:
    """Bounds of one answer; the settings `models.max_…` describe them and say why they are what they are.

    `stream_bytes` bounds an event stream and `event_bytes` one event of it or an answer in one piece, both as they
    arrive and decompressed. `chars` bounds text and reasoning together, `argument_chars` one call's arguments.
    """

    stream_bytes: int = 67_108_864
    event_bytes: int = 4_194_304
    chars: int = 786_432
    argument_chars: int = 524_288
    parts: int = 1_000


class AnswerMeter:
    """Counts one answer. Every method raises `RunFailure` (`model_answer_too_large`) once a bound is passed."""

    __slots__ = ("_arguments", "_chars", "_limits", "_parts")

    def __init__(self, limits: AnswerLimits | None = None) -> None:
        self._limits = limits or AnswerLimits()
        self._chars = 0
        self._parts = 0
        self._arguments: dict[int, int] = {}

    def text(self, chars: int) -> None:
        """So many more characters of text or reasoning."""
        self._chars += chars
        if self._chars > self._limits.chars:
            raise answer_too_large(f"more than {self._limits.chars} characters of text")

    def event(self, event: ModelResponseStreamEvent) -> None:
        """An event of a stream, but for its text: whoever shows that counts it."""
        match event:
            case PartDeltaEvent(delta=ToolCallPartDelta() as delta):
                self._count_arguments(event.index, delta.args_delta, delta.tool_name_delta)
            case PartStartEvent(part=part):
                self._count_part(event.index, part, with_text=False)
            case _:
                pass

    def whole(self, parts: Sequence[ModelResponsePart]) -> None:
        """An answer that came in one piece."""
        for index, part in enumerate(parts):
            self._count_part(index, part, with_text=True)

    def _count_part(self, index: int, part: ModelResponsePart, *, with_text: bool) -> None:
        self._parts += 1
        if self._parts > self._limits.parts:
            raise answer_too_large(f"more than {self._limits.parts} parts")
        match part:
            case TextPart(content=text) | ThinkingPart(content=text):
                if with_text:
                    self.text(len(text))
            case ToolCallPart() | NativeToolCallPart():
                self._count_arguments(index, part.args, part.tool_name)
            case _:
                pass

    def _count_arguments(self, index: int, arguments: object, name: str | None) -> None:
        most = self._limits.argument_chars
        size = len(arguments) if isinstance(arguments, str) else json_size(arguments, most)
        total = self._arguments.get(index, 0) + size + len(name or "")
        self._arguments[index] = total
        if total > most:
            raise answer_too_large(f"more than {most} characters of arguments in one tool call")
