"""The errors of each wire, and the text in them that must never reach an end user."""

from typing import Any

from pilothouse.testing.provider.frames import dump
from pilothouse.testing.provider.script import ErrorReply

FAKE_SECRET = "sk-scripted-0000-do-not-leak"  # noqa: S105 - it exists to be searched for
"""Part of the text of every error and broken chunk: a test that finds it elsewhere found a leak."""

_OPENAI = {
    400: ("invalid_request_error", None),
    401: ("invalid_request_error", "invalid_api_key"),
    403: ("invalid_request_error", "unsupported_country_region_territory"),
    404: ("invalid_request_error", "model_not_found"),
    429: ("requests", "rate_limit_exceeded"),
}
_ANTHROPIC = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    422: "invalid_request_error",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}


def openai_error(error: ErrorReply) -> bytes:
    """The body of an error as OpenAI sends it; within a stream it is the data of an event."""
    kind, code = _openai_kind(error)
    return dump({"error": {"message": _message(error), "type": kind, "param": None, "code": code}})


def responses_error(error: ErrorReply) -> bytes:
    """The data of an error event within a stream of OpenAI's Responses."""
    kind, code = _openai_kind(error)
    return dump(
        {"type": "error", "code": code or kind, "message": _message(error), "param": None, "sequence_number": 0}
    )


def anthropic_error(error: ErrorReply) -> bytes:
    """The body of an error as Anthropic sends it; within a stream it is the data of an event."""
    kind = error.type or _ANTHROPIC.get(error.status, "api_error")
    content: dict[str, Any] = {"type": kind, "message": _message(error)}
    return dump({"type": "error", "error": content, "request_id": "req_scripted"})


def _openai_kind(error: ErrorReply) -> tuple[str, str | None]:
    usual = "server_error" if error.status >= 500 else "invalid_request_error"
    kind, code = _OPENAI.get(error.status, (usual, None))
    return error.type or kind, error.code or code


def _message(error: ErrorReply) -> str:
    return error.message or f"Scripted error {error.status} for key {FAKE_SECRET} on host internal-7.example"
