"""What the events of a model's stream say, for the wires we know.

Shapes: https://platform.openai.com/docs/api-reference/chat-streaming,
https://platform.openai.com/docs/api-reference/responses-streaming and
https://platform.claude.com/docs/en/build-with-claude/streaming.
"""

from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, cast

__all__ = [
    "VOLATILE",
    "AnthropicMessages",
    "OpenAIChat",
    "OpenAIResponses",
    "Piece",
    "Reading",
    "Wire",
    "wire_for_path",
]

Kind = Literal["text", "reasoning"]
_REASONING_FIELDS = ("reasoning", "reasoning_content")
_TEXT_FIELDS = frozenset({"content", *_REASONING_FIELDS})
VOLATILE = ("created", "obfuscation", "sequence_number")
"""Fields that differ from event to event; a merged one keeps those of the first, which leaves numbers ascending."""
_RESPONSES_DELTAS: dict[Any, Kind | None] = {
    "response.function_call_arguments.delta": None,
    "response.output_text.delta": "text",
    "response.reasoning_summary_text.delta": "reasoning",
    "response.reasoning_text.delta": "reasoning",
}
_RESPONSES_ENDS = frozenset({"response.completed", "response.failed", "response.incomplete", "error"})
_ARGUMENTS = "arguments"
_ANTHROPIC_DELTAS: dict[Any, tuple[str, Kind | None]] = {
    "text_delta": ("text", "text"),
    "input_json_delta": ("partial_json", None),
    "thinking_delta": ("thinking", "reasoning"),
}
_EMPTY: tuple[Any, ...] = (None, "", [])


@dataclass(slots=True)
class Piece:
    """A delta that may be merged with others whose `field` and `rest` are equal.

    `kind` says as what its text is shown; `None` for arguments of a tool call, which are not.
    """

    field: str
    text: str
    rest: Any
    event: dict[str, Any]
    kind: Kind | None


@dataclass(slots=True)
class Reading:
    """What one event holds: `shown` is for people, `piece` is set when that is all there is in it."""

    shown: list[tuple[Kind, str]] = field(default_factory=list[tuple[Kind, str]])
    piece: Piece | None = None


_NOTHING = Reading()


class Wire(Protocol):
    """Reads the events of one stream.

    `ended` once the stream has said that it is complete; `resumable` if the agent loop can go on where it stopped;
    `reads_tags` if a text that is a tag means more to the agent loop than its letters.
    """

    ended: bool
    resumable: bool
    reads_tags: bool

    def read(self, event: dict[str, Any]) -> Reading:
        """What an event holds. The event is the reader's own from then on."""
        ...

    def marks_end(self, data: bytes) -> None:
        """Take note of data that is no JSON object."""
        ...

    def merged(self, piece: Piece, text: str) -> dict[str, Any]:
        """The event of a piece with another text."""
        ...


class OpenAIChat:
    """Chat completions of OpenAI and those compatible with it."""

    reads_tags = True

    def __init__(self) -> None:
        self.ended = self.resumable = False
        self._thinks_in_text = False

    def read(self, event: dict[str, Any]) -> Reading:
        if event.get("error"):
            self.ended = True
        choices: Any = event.get("choices")
        choice = _mapping(choices[0]) if isinstance(choices, list) and choices else None
        if choice is None:
            return _NOTHING
        delta = _mapping(choice.get("delta"))
        if choice.get("finish_reason"):
            self.ended = True
        if not delta or delta.get("refusal"):
            return _NOTHING
        reading = Reading(self._shown(delta))
        if len(cast("list[Any]", choices)) == 1:
            read_piece = _openai_piece if reading.shown else _openai_arguments
            reading.piece = read_piece(event, choice, delta)
        return reading

    def marks_end(self, data: bytes) -> None:
        if data.startswith(b"[DONE]"):
            self.ended = True

    def merged(self, piece: Piece, text: str) -> dict[str, Any]:
        choice = piece.event["choices"][0]
        value: Any = text
        if piece.kind is None:
            call = choice["delta"][piece.field][0]
            value = [{**call, "function": {**call["function"], _ARGUMENTS: text}}]
        return {**piece.event, "choices": [{**choice, "delta": {**choice["delta"], piece.field: value}}]}

    def _shown(self, delta: dict[str, Any]) -> list[tuple[Kind, str]]:
        shown: list[tuple[Kind, str]] = []
        for name in _REASONING_FIELDS:
            reasoning = delta.get(name)
            if reasoning and isinstance(reasoning, str):
                shown.append(("reasoning", reasoning))
                break
        content = delta.get("content")
        if content:
            text = content if isinstance(content, str) else _joined_parts(content)
            # Some servers put reasoning between tags that are tokens of their own; the agent loop reads them so too.
            if text in {"<think>", "</think>"}:
                self._thinks_in_text = text == "<think>"
                shown.append(("text", ""))
            else:
                shown.append(("reasoning" if self._thinks_in_text else "text", text))
        return shown


class AnthropicMessages:
    """Messages of Anthropic."""

    reads_tags = False

    def __init__(self) -> None:
        self.ended = self.resumable = False

    def read(self, event: dict[str, Any]) -> Reading:
        kind = event.get("type")
        if kind == "content_block_delta":
            return _anthropic_delta(event)
        if kind == "content_block_start":
            text: Any = (_mapping(event.get("content_block")) or {}).get("text")
            if text and isinstance(text, str):
                return Reading([("text", text)])
        elif kind in {"message_stop", "error"}:
            self.ended = True
        return _NOTHING

    def marks_end(self, data: bytes) -> None:
        pass

    def merged(self, piece: Piece, text: str) -> dict[str, Any]:
        return {**piece.event, "delta": {**piece.event["delta"], piece.field: text}}


class OpenAIResponses:
    """Responses of OpenAI and those compatible with it."""

    reads_tags = False

    def __init__(self) -> None:
        self.ended = self.resumable = False

    def read(self, event: dict[str, Any]) -> Reading:
        kind = event.get("type")
        if kind in _RESPONSES_ENDS or event.get("error"):
            self.ended = True
        elif kind in _RESPONSES_DELTAS:
            return self._delta(event, _RESPONSES_DELTAS[kind])
        elif kind == "response.reasoning_summary_part.added":
            text: Any = (_mapping(event.get("part")) or {}).get("text")
            if text and isinstance(text, str):
                return Reading([("reasoning", text)])
        elif (_mapping(event.get("response")) or {}).get("background"):
            self.resumable = True
        return _NOTHING

    def marks_end(self, data: bytes) -> None:
        pass

    def merged(self, piece: Piece, text: str) -> dict[str, Any]:
        return {**piece.event, piece.field: text}

    def _delta(self, event: dict[str, Any], kind: Kind | None) -> Reading:
        text = event.get("delta")
        if not isinstance(text, str) or not text:
            return _NOTHING
        reading = _reading(kind, text)
        # What is resumed goes on after the last event's number.
        if not self.resumable and not event.get("logprobs"):
            rest = [(name, value) for name, value in event.items() if name != "delta" and name not in VOLATILE]
            reading.piece = Piece("delta", text, rest, event, kind)
        return reading


def wire_for_path(path: str) -> Wire | None:
    """A reader for the stream that a request to this path is answered with, if its wire is known."""
    if path.endswith("/chat/completions"):
        return OpenAIChat()
    if path.endswith("/responses"):
        return OpenAIResponses()
    if path.endswith("/messages"):
        return AnthropicMessages()
    return None


def _openai_piece(event: dict[str, Any], choice: dict[str, Any], delta: dict[str, Any]) -> Piece | None:
    if not _is_plain(event, choice):
        return None
    found: str | None = None
    for name, value in delta.items():
        if name == "role" or value in _EMPTY:
            continue
        if name not in _TEXT_FIELDS or found is not None or not isinstance(value, str):
            return None
        found = name
    if found is None:
        return None
    text: str = delta[found]
    # The agent loop drops white space before the first text, and takes a lone tag as the start of reasoning.
    if text[0] == "<" and text[-1] == ">":
        return None
    return Piece(found, text, _openai_rest(event, choice), event, "text" if found == "content" else "reasoning")


def _openai_arguments(event: dict[str, Any], choice: dict[str, Any], delta: dict[str, Any]) -> Piece | None:
    """More of the arguments of a call that has begun."""
    calls: Any = delta.get("tool_calls")
    if not _is_plain(event, choice) or not isinstance(calls, list) or len(cast("list[Any]", calls)) != 1:
        return None
    if any(value not in _EMPTY for name, value in delta.items() if name not in {"role", "tool_calls"}):
        return None
    call = _mapping(calls[0])
    function = _mapping((call or {}).get("function"))
    if call is None or function is None or function.get("name"):
        return None
    text = function.get(_ARGUMENTS)
    if not isinstance(text, str) or not text:
        return None
    others = [(name, value) for name, value in call.items() if name != "function"]
    more = [(name, value) for name, value in function.items() if name != _ARGUMENTS]
    return Piece("tool_calls", text, (_openai_rest(event, choice), others, more), event, None)


def _is_plain(event: dict[str, Any], choice: dict[str, Any]) -> bool:
    """Whether nothing but a delta is said, of the first choice."""
    beside = choice.get("finish_reason") or choice.get("logprobs") or event.get("usage") or event.get("error")
    return choice.get("index") == 0 and not beside


def _openai_rest(event: dict[str, Any], choice: dict[str, Any]) -> Any:
    rest = [(name, value) for name, value in event.items() if name != "choices" and name not in VOLATILE]
    return rest, [(name, value) for name, value in choice.items() if name != "delta"]


def _joined_parts(content: Any) -> str:
    parts = cast("list[Any]", content) if isinstance(content, list) else []
    texts: list[Any] = [(_mapping(part) or {}).get("text") for part in parts]
    return "".join(text for text in texts if isinstance(text, str))


def _anthropic_delta(event: dict[str, Any]) -> Reading:
    delta = _mapping(event.get("delta")) or {}
    kind = delta.get("type")
    if kind not in _ANTHROPIC_DELTAS:
        return _NOTHING
    name, shown = _ANTHROPIC_DELTAS[kind]
    text = delta.get(name)
    if not isinstance(text, str) or not text:
        return _NOTHING
    reading = _reading(shown, text)
    if len(event) == 3 and len(delta) == 2:
        reading.piece = Piece(name, text, event.get("index"), event, shown)
    return reading


def _reading(kind: Kind | None, text: str) -> Reading:
    return Reading([] if kind is None else [(kind, text)])


def _mapping(value: Any) -> dict[str, Any] | None:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else None
