"""Answers that hold nothing: gateways and models send them now and then, and another try mostly brings a better one."""

from contextvars import ContextVar

from pydantic_ai.messages import ModelResponse, TextPart, ThinkingPart

__all__ = ["is_empty", "may_be_empty"]

may_be_empty: ContextVar[bool] = ContextVar("pilothouse_may_be_empty", default=False)
"""Set if the agent that asks takes an answer without content for one: if `None` is one of its output types."""

# The model was stopped before it came to its answer: that has reasons and names of its own.
_STOPPED = frozenset({"length", "content_filter"})


def is_empty(response: ModelResponse) -> bool:
    """Whether a complete answer has neither text nor a call, file or anything else but reasoning and blanks."""
    if response.finish_reason in _STOPPED or response.state != "complete":
        return False
    return all(
        isinstance(part, ThinkingPart) or (isinstance(part, TextPart) and not part.content.strip())
        for part in response.parts
    )
