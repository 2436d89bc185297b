"""What a caller is told about an exception out of the agent loop."""

from typing import cast

from pydantic_ai.exceptions import ContentFilterError, UnexpectedModelBehavior

from pilothouse.errors import PilothouseError, RunFailure
from pilothouse.observability.logs import get_logger
from pilothouse.runs.errors import arguments_failed, bad_model_output, internal

log = get_logger(__name__)


def failure_of(error: BaseException) -> RunFailure:
    """What a caller is told about an exception out of the agent loop."""
    while (
        isinstance(error, BaseExceptionGroup) and len(cast("BaseExceptionGroup[BaseException]", error).exceptions) == 1
    ):
        error = cast("BaseExceptionGroup[BaseException]", error).exceptions[0]
    if isinstance(error, RunFailure):
        return error
    if isinstance(error, ContentFilterError):
        failure = RunFailure(
            "The provider's content filter stopped the answer. Rephrase the request.",
            category="model",
            code="content_filtered",
            status=422,
        )
    elif isinstance(error, UnexpectedModelBehavior):
        failure = arguments_failed() if "max retries" in str(error) or "retries" in str(error) else bad_model_output()
    elif isinstance(error, PilothouseError):
        failure = RunFailure(error.message, category="logic", code=error.code, status=error.status)
    else:
        log.error("agent_error", exc_info=error)
        failure = internal()
    failure.__cause__ = error
    return failure
