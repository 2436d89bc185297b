"""What a tool can ask about the call it is serving."""

import hashlib
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ToolCall:
    """The call being served.

    Attributes:
        run_id: the run; None where the tool was called directly, without a model.
        conversation_id: its conversation; None as above.
        tenant: whose data this is about.
        subject: who is calling.
        call_id: the model's id of this call.
        idempotency_key: the same for every attempt of this call, and for no other: hand it to services that take one.
            Of a direct call with an `Idempotency-Key` it is made of that header, the caller and the tool.
        attempt: 1 for the first try of this call, higher after a crash or a retry.
    """

    run_id: str | None
    conversation_id: str | None
    tenant: str
    subject: str
    call_id: str
    idempotency_key: str
    attempt: int = 1


_current: ContextVar[ToolCall | None] = ContextVar("pilothouse_tool_call", default=None)


def current_tool_call() -> ToolCall | None:
    """The call this code runs for; None where the function was called as plain Python. Works in sync tools too."""
    return _current.get()


def hashed_key(text: str) -> str:
    """An idempotency key made of what makes a call that call and no other. Nothing can be read from it."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


@contextmanager
def serving(call: ToolCall) -> Generator[None]:
    """Within the block, and in tasks and threads started from it, `current_tool_call()` is `call`."""
    token = _current.set(call)
    try:
        yield
    finally:
        _current.reset(token)
