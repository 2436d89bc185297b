"""What a caller is told about an exception out of the agent loop."""

from typing import cast

from pydantic_ai.exceptions import ContentFilterError, OutputTokenLimitExceeded, UnexpectedModelBehavior
from pydantic_ai.messages import RetryFeedbackPart

from pilothouse.errors import PilothouseError, RunFailure
from pilothouse.llm.failures import empty_answer
from pilothouse.observability.logs import get_logger
from pilothouse.runs.errors import arguments_failed, bad_model_output, internal, output_limit_reached

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
        failure = _of_the_model(error)
    elif isinstance(error, PilothouseError):
        failure = RunFailure(error.message, category="logic", code=error.code, status=error.status)
    else:
        log.error("agent_error", exc_info=error)
        failure = internal()
    failure.__cause__ = error
    return failure


def _of_the_model(error: UnexpectedModelBehavior) -> RunFailure:
    if isinstance(error, OutputTokenLimitExceeded):
        return output_limit_reached()
    # Raised from the last thing the agent loop told the model to try again for.
    feedback = getattr(error.__cause__, "tool_retry", None)
    if isinstance(feedback, RetryFeedbackPart) and feedback.retry.cause == "no_output":
        return empty_answer()
    return arguments_failed() if "retries" in str(error) else bad_model_output()
