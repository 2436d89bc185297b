"""What the provider needs to know of a wire."""

from collections.abc import Sequence
from typing import Any, Protocol

from pilothouse.testing.provider.answer import Answer, Usage
from pilothouse.testing.provider.frames import FrozenBody
from pilothouse.testing.provider.prompt import Prompt
from pilothouse.testing.provider.script import ErrorReply


class Wire(Protocol):
    """One provider's protocol: how it is read and how answers are written in it.

    Encoded parts may hold `NUMBER_SLOT`, which is replaced by the request's number.
    """

    name: str

    def read(self, body: dict[str, Any], *, api_key: str, model: str | None) -> Prompt:
        """The prompt in a request's body; `model` is the one named by the path, if any."""
        ...

    def body(self, answer: Answer, model: str) -> FrozenBody:
        """The events between head and tail, which depend on nothing but the arguments."""
        ...

    def head(self, prompt: Prompt, usage: Usage) -> bytes:
        """The events before the first token."""
        ...

    def tail(self, prompt: Prompt, answer: Answer, usage: Usage) -> bytes:
        """The events after the last token."""
        ...

    def whole(self, prompt: Prompt, answer: Answer, usage: Usage) -> bytes:
        """The body of an answer that is not streamed."""
        ...

    def error(self, error: ErrorReply) -> bytes:
        """The body of an error response."""
        ...

    def error_event(self, error: ErrorReply) -> bytes:
        """An error within a stream."""
        ...

    def malformed_event(self) -> bytes:
        """An event whose data is broken JSON."""
        ...

    def models(self, names: Sequence[str]) -> bytes:
        """The list of models."""
        ...
