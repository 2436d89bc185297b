"""Problem documents in OpenAPI."""

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field

PROBLEM_JSON = "application/problem+json"
TYPE_BASE = "https://pilothouse.dev/problems/"

_SCHEMA = {"$ref": "#/components/schemas/Problem"}
_EXAMPLES: dict[int, tuple[str, str, str, bool]] = {
    400: ("Bad Request", "invalid_json", "The body is not valid JSON: Expecting value at character 12.", False),
    401: ("Unauthorized", "unauthenticated", "Send a token: Authorization: Bearer <token>.", False),
    403: ("Forbidden", "forbidden", "This needs the scope runs:write, which your key does not have.", False),
    404: ("Not Found", "not_found", "There is no such run, or it is not yours.", False),
    409: ("Conflict", "conflict", "The thing is in a state that does not allow this now.", False),
    413: ("Content Too Large", "too_large", "The body is larger than the 1048576 bytes allowed.", False),
    415: ("Unsupported Media Type", "unsupported_media_type", "This media type is not accepted here.", False),
    422: ("Unprocessable Content", "invalid_request", "limit is wrong: input should be 100 or less.", False),
    429: ("Too Many Requests", "too_many", "Too many requests. Try again after the seconds in Retry-After.", True),
    500: ("Internal Server Error", "internal_error", "Something went wrong on our side.", False),
    502: ("Bad Gateway", "run_failed", "The model's provider failed. Try again.", True),
    504: ("Gateway Timeout", "run_timeout", "The run took longer than its limit of 300 seconds.", True),
    503: ("Service Unavailable", "unavailable", "The server is stopping. Try again.", True),
}


class FieldError(BaseModel):
    """What is wrong with one field of a request."""

    field: str = Field(description="Path of the field, dotted.", examples=["attachments.0.media_type"])
    message: str = Field(description="What is allowed.", examples=["Field required"])


class Problem(BaseModel):
    """An error, as RFC 9457 describes. `code` is stable; further members depend on it."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(description="Address that names the kind of problem.", examples=[TYPE_BASE + "not_found"])
    title: str = Field(description="The status in words.", examples=["Not Found"])
    status: int = Field(description="The HTTP status.", examples=[404])
    code: str = Field(description="Stable name of the problem, for programs.", examples=["not_found"])
    detail: str = Field(description="A sentence a person can act on.", examples=["There is no such run."])
    retryable: bool = Field(description="Whether the same request may succeed later.", examples=[False])
    request_id: str = Field(description="The id to report; also in X-Request-ID.", examples=["req_01k9x2"])
    errors: list[FieldError] | None = Field(default=None, description="Every wrong field, with 422.")


def problem_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Entries for FastAPI's `responses=`: `responses=problem_responses(404, 409)`.

    They refer to the schema that `install_problem_handlers` adds to the app's document.
    """
    return {status: _response(status) for status in statuses}


def describe_problems(app: FastAPI) -> None:
    """Make the app's OpenAPI document say that every error is a problem document."""
    original = app.openapi

    def openapi() -> dict[str, Any]:
        fresh = app.openapi_schema is None
        document = original()
        if fresh:
            _rewrite(document)
        return document

    app.openapi = openapi


def _response(status: int) -> dict[str, Any]:
    title, code, detail, retryable = _EXAMPLES.get(status, ("Error", "error", "What went wrong.", False))
    example = {
        "type": TYPE_BASE + code,
        "title": title,
        "status": status,
        "code": code,
        "detail": detail,
        "retryable": retryable,
        "request_id": "req_01k9x2m4c8t6v0qh3zj5b7nswd",
    }
    response: dict[str, Any] = {
        "description": title,
        "content": {PROBLEM_JSON: {"schema": _SCHEMA, "example": example}},
    }
    if status in {429, 503}:
        response["headers"] = {
            "Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer", "minimum": 0}}
        }
    return response


def _rewrite(document: dict[str, Any]) -> None:
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    problem = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas.update(problem.pop("$defs", {}))
    schemas["Problem"] = problem
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    paths: dict[str, dict[str, dict[str, Any]]] = document.get("paths", {})
    for path in paths.values():
        for operation in path.values():
            responses: dict[str, Any] = operation.setdefault("responses", {})
            if "HTTPValidationError" in str(responses.get("422")):
                responses["422"] = _response(422)
            responses.setdefault("400", _response(400))  # what no address and no body may hold
            if "requestBody" in operation:
                responses.setdefault("413", _response(413))
            responses.setdefault(
                "default", {"description": "Any other error", "content": {PROBLEM_JSON: {"schema": _SCHEMA}}}
            )
