"""What a request asks, read from the body of either wire: the part that rules look at."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, cast

_TEXT_PARTS = frozenset({"text", "input_text", "output_text"})
_CONVERSATION_FIELDS = ("system", "messages", "instructions", "input")


@dataclass(slots=True)
class ToolResult:
    """One result of a tool as the client sent it back."""

    tool: str
    text: str


@dataclass(slots=True)
class Prompt:
    """A request as the script sees it, whatever the wire.

    `tool_results` are those after the last user text; `answered_tool` is the tool whose result is the
    last message, `None` when the last message is no result.
    """

    model: str
    stream: bool
    include_usage: bool = False
    api_key: str = ""
    user: str = ""
    system: str = ""
    tool_results: list[ToolResult] = field(default_factory=list[ToolResult])
    last_tool_result: str = ""
    answered_tool: str | None = None
    offered_tools: frozenset[str] = frozenset()
    input_tokens: int = 1


class PromptReader:
    """Walks the messages of one request in order and ends up with its `Prompt`."""

    def __init__(self, prompt: Prompt) -> None:
        self.prompt = prompt
        self._characters = 0
        self._tool_names: dict[str, str] = {}

    def system(self, text: str) -> None:
        self.prompt.system = f"{self.prompt.system}\n{text}" if self.prompt.system else text
        self._characters += len(text)

    def user(self, text: str) -> None:
        self.prompt.user = text
        self.prompt.tool_results = []
        self.prompt.answered_tool = None
        self._characters += len(text)

    def assistant(self, text: str) -> None:
        self.prompt.answered_tool = None
        self._characters += len(text)

    def tool_call(self, call_id: str, name: str, arguments: str) -> None:
        self._tool_names[call_id] = name
        self._characters += len(name) + len(arguments)

    def tool_result(self, call_id: str, text: str) -> None:
        self.prompt.answered_tool = self._tool_names.get(call_id, "")
        self.prompt.tool_results.append(ToolResult(self.prompt.answered_tool, text))
        self.prompt.last_tool_result = text
        self._characters += len(text)

    def finish(self) -> Prompt:
        """The prompt, its input estimated at one token for four characters and at least one."""
        self.prompt.input_tokens = max(1, self._characters // 4)
        return self.prompt


def text_of(content: Any) -> str:
    """The text of a message's content, which is a string or a list of parts."""
    if isinstance(content, str):
        return content
    return "\n".join(str(part.get("text", "")) for part in mappings(content) if part.get("type") in _TEXT_PARTS)


def mappings(value: Any) -> Iterator[dict[str, Any]]:
    """The objects of a JSON list; nothing when it is no list."""
    if isinstance(value, list):
        items = cast("Iterable[Any]", value)
        yield from (cast("dict[str, Any]", item) for item in items if isinstance(item, dict))


def messages_hash(body: dict[str, Any]) -> str:
    """Sixteen hex digits that are equal exactly when system prompt and messages are equal."""
    content = json.dumps({name: body.get(name) for name in _CONVERSATION_FIELDS}, sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]
