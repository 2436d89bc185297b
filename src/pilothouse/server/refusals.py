"""What a client is told whose connection or request is refused before an application sees it."""

from pilothouse.errors import CallerError, PilothouseError, Unavailable
from pilothouse.http.openapi import PROBLEM_JSON
from pilothouse.http.problems import encode_problem, problem_document, title_of
from pilothouse.kit.ids import new_id


def headers_too_large(most_bytes: int, most_headers: int) -> PilothouseError:
    """More bytes or more headers than allowed; also trailers, and extensions of chunks."""
    return CallerError(
        f"Request line and headers may have {most_bytes} bytes and {most_headers} headers; send fewer.",
        code="headers_too_large",
        status=431,
    )


def uri_too_long(most_bytes: int) -> PilothouseError:
    """A request line that does not end."""
    return CallerError(
        f"Request line and headers may have {most_bytes} bytes; use a shorter address.",
        code="uri_too_long",
        status=414,
    )


def request_timeout(what: str) -> PilothouseError:
    """`what` came too slowly."""
    return CallerError(
        f"{what} took too long to arrive. Send the request again, faster.",
        code="request_timeout",
        status=408,
        retryable=True,
    )


def malformed_request() -> PilothouseError:
    """It is not HTTP, or could be read in two ways."""
    return CallerError("This is not a valid HTTP/1.1 request.", code="malformed_request", status=400)


def pipeline_too_long() -> PilothouseError:
    """Too many requests wait on one connection. It is only counted: an earlier request is being answered."""
    return CallerError("Too many requests wait on this connection.", code="pipeline_too_long", status=400)


def version_not_supported() -> PilothouseError:
    """Another version of HTTP than 1.0 and 1.1."""
    return CallerError("This server speaks HTTP/1.1 only.", code="http_version_not_supported", status=505)


def too_many_connections() -> PilothouseError:
    """The server, or the client's address, has as many connections as it may."""
    return Unavailable(
        "The server has as many connections as it can take. Try again in a few seconds.",
        code="too_many_connections",
        headers={"Retry-After": "5"},
    )


def answer(error: PilothouseError) -> bytes:
    """A whole HTTP response with the problem document of `error`; the connection ends with it."""
    request_id = new_id("req")
    body = encode_problem(problem_document(error, request_id))
    headers = {
        "Content-Type": PROBLEM_JSON,
        "Content-Length": str(len(body)),
        "X-Request-ID": request_id,
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "no-store",
        "Connection": "close",
        **error.headers,
    }
    lines = [f"HTTP/1.1 {error.status} {title_of(error.status)}", *(f"{name}: {headers[name]}" for name in headers)]
    return "\r\n".join([*lines, "", ""]).encode("ascii") + body
