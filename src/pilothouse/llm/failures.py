"""What went wrong in a model call, in our words: a stable code, a sentence a person can act on, whether trying helps.

Nothing a provider wrote gets into a message; the original error is the cause, for logs.
"""

import httpx2
from pydantic_ai import exceptions as ai

from pilothouse.errors import Category, RunFailure
from pilothouse.llm.deltas import StreamTrace

__all__ = [
    "answer_too_large",
    "classify",
    "content_filtered",
    "empty_answer",
    "falls_back",
    "is_tried_again",
    "provider_failed",
    "provider_timeout",
    "stream_cut",
]

_SENTENCES: dict[str, tuple[Category, str]] = {
    "provider_unavailable": ("transient", "The model provider could not be reached or had an error. Try again later."),
    "provider_rate_limited": ("transient", "The model provider limits how often it is asked. Try again later."),
    "provider_timeout": ("transient", "The model did not answer in time. Try again."),
    "provider_stream_cut": ("transient", "The model's answer broke off before its end. Try again."),
    "provider_auth": ("fatal", "The model provider refused the server's credentials. Check the API key."),
    "provider_quota": ("fatal", "The model provider's account is out of quota or credit. Check its billing."),
    "model_not_found": ("model", "The model provider does not know this model. Check the model's name."),
    "context_too_long": ("model", "The conversation is too long for this model. Shorten it or begin a new one."),
    "content_filtered": ("model", "The model provider's content filter refused this. Change the message."),
    "provider_bad_request": ("model", "The model provider did not accept the request. Check the agent's settings."),
    "provider_bad_response": ("model", "The model provider's answer could not be read. Try again."),
    "empty_answer": ("model", "The model gave an answer without content. Try again or rephrase the request."),
}
# A model's or a gateway's moment of weakness: another try often brings an answer, from the same model or the next.
_PASSING = frozenset({"provider_bad_response", "empty_answer"})
# Worth another try by a person.
_RETRYABLE_LATER = _PASSING
_TOO_LONG = ("prompt is too long", "context window", "context length", "maximum context", "too many tokens")
_STATUS_CODES = {
    402: "provider_quota",
    404: "model_not_found",
    408: "provider_timeout",
    409: "provider_unavailable",
    413: "context_too_long",
    429: "provider_rate_limited",
}
# What a provider says of an error counts more than its status only where it is more exact.
_EXACT_TYPES = {
    "insufficient_quota": "provider_quota",
    "billing_error": "provider_quota",
    "content_filter": "content_filtered",
    "content_policy_violation": "content_filtered",
}
_ERROR_TYPES = {
    "overloaded_error": "provider_unavailable",
    "api_error": "provider_unavailable",
    "server_error": "provider_unavailable",
    "timeout_error": "provider_timeout",
    "rate_limit_error": "provider_rate_limited",
    "rate_limit_exceeded": "provider_rate_limited",
}
# Order matters: a class stands before those it is derived from.
_CLASSES: tuple[tuple[type[Exception], str], ...] = (
    (ai.ModelTimeoutError, "provider_timeout"),
    (ai.ModelRequestTimeout, "provider_timeout"),
    (ai.ModelQuotaExceededError, "provider_quota"),
    (ai.ModelRateLimitError, "provider_rate_limited"),
    (ai.ModelAuthenticationError, "provider_auth"),
    (ai.ModelNotFoundError, "model_not_found"),
    (ai.ModelContextWindowExceededError, "context_too_long"),
    (ai.ModelUnavailableError, "provider_unavailable"),
    (ai.ModelServerError, "provider_unavailable"),
    (ai.ContentFilterError, "content_filtered"),
    (httpx2.TimeoutException, "provider_timeout"),
    (TimeoutError, "provider_timeout"),
)
# What comes out of code that is given an answer of another shape than it expects.
_UNREADABLE = (AssertionError, AttributeError, LookupError, RecursionError, TypeError, ValueError)


def classify(error: Exception, trace: StreamTrace | None = None, *, received: bool = False) -> RunFailure | None:
    """The failure that an error of a model call is; `None` for an error that is no provider's, such as a bug.

    Args:
        error: what the SDK, Pydantic AI or the transport raised.
        trace: of the streamed try that raised it.
        received: our transport had been answered with success before that.
    """
    if (ours := _our_own(error)) is not None:
        return ours
    code = _code(error, trace, received=received)
    if code is None:
        return None
    return _failure(code, retry_after=getattr(error, "retry_after", None))


def provider_timeout() -> RunFailure:
    """A try that took longer than it may."""
    return _failure("provider_timeout")


def stream_cut() -> RunFailure:
    """A stream that ended before the answer did."""
    return _failure("provider_stream_cut")


def provider_failed() -> RunFailure:
    """An answer that the provider itself calls failed, without a word on why."""
    return _failure("provider_unavailable")


def content_filtered() -> RunFailure:
    """An answer that the provider's filter left nothing of."""
    return _failure("content_filtered")


def empty_answer() -> RunFailure:
    """An answer that holds nothing a person or a program can use."""
    return _failure("empty_answer")


def answer_too_large(found: str) -> RunFailure:
    """An answer that was stopped because it passed a bound; `found` says which, such as `more than 100 bytes`."""
    sentence = f"The model's answer was stopped because it was too large: {found}. Ask for less at once."
    return RunFailure(sentence, category="model", code="model_answer_too_large")


def is_tried_again(failure: RunFailure) -> bool:
    """Whether the same model is asked once more."""
    return failure.category == "transient" or failure.code in _PASSING


def falls_back(failure: RunFailure) -> bool:
    """Whether another model may do better: this one is away, does not exist, or brings nothing to read."""
    return is_tried_again(failure) or failure.code == "model_not_found"


def _failure(code: str, *, retry_after: float | None = None) -> RunFailure:
    category, sentence = _SENTENCES[code]
    retryable = category == "transient" or code in _RETRYABLE_LATER
    return RunFailure(sentence, category=category, code=code, retryable=retryable, retry_after=retry_after)


def _our_own(error: BaseException | None) -> RunFailure | None:
    """The failure that an error is or was raised from: SDKs wrap what their transport raises."""
    while error is not None:
        if isinstance(error, RunFailure):
            return error
        error = error.__cause__
    return None


def _code(error: Exception, trace: StreamTrace | None, *, received: bool) -> str | None:
    for kind, code in _CLASSES:
        if isinstance(error, kind):
            return code
    if isinstance(error, ai.ModelConnectionError | httpx2.TransportError):
        return "provider_stream_cut" if trace is not None and trace.answered else "provider_unavailable"
    if isinstance(error, ai.ModelAPIError):
        return _api_code(error)
    # The SDKs and Pydantic AI take much of what they expect of an answer for granted; elsewhere these are bugs, to be
    # seen as such.
    if (received and isinstance(error, _UNREADABLE)) or isinstance(error, ai.UnexpectedModelBehavior):
        return "provider_bad_response"
    return None


def _api_code(error: ai.ModelAPIError) -> str:
    names = (error.provider_error_code or "", error.provider_error_type or "")
    status = error.status_code if isinstance(error, ai.ModelHTTPError) else 0
    said = (
        *(_EXACT_TYPES.get(name) for name in names),
        _STATUS_CODES.get(status),
        *(_ERROR_TYPES.get(name) for name in names),
    )
    known = next((code for code in said if code is not None), None)
    if known is not None:
        return known
    if status >= 500 or (status == 0 and error.in_stream):
        return "provider_unavailable"
    if status == 0:
        # The body is no JSON.
        return "provider_bad_response"
    text = str(error.body).lower()
    if any(phrase in text for phrase in _TOO_LONG):
        return "context_too_long"
    return "content_filtered" if "content_filter" in text else "provider_bad_request"
