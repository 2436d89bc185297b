"""A client of any Pilothouse server, for commands."""

import os
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import httpx2

from pilothouse.cli.actions.sse import Event, read_events
from pilothouse.cli.output import plain, say
from pilothouse.errors import PilothouseError, Unavailable
from pilothouse.kit.jsons import dumps, loads

DEMO_KEY = "demo.key"
_LOCAL = frozenset({"127.0.0.1", "localhost", "::1"})
_SILENCE_SECONDS = 45  # three heartbeats
_TIMES = httpx2.Timeout(60, connect=5)


class Refused(PilothouseError):
    """The server said no; its own sentence."""


class Dropped(PilothouseError):
    """The connection broke; what was asked may have happened."""

    retryable = True


class EventStream:
    """An open stream of a run's events."""

    def __init__(self, response: httpx2.Response) -> None:
        self._response = response
        self.run_id = response.headers.get("X-Run-ID")
        self.conversation_id = response.headers.get("X-Conversation-ID")

    async def __aiter__(self) -> AsyncIterator[Event]:
        try:
            async for event in read_events(self._response.aiter_bytes()):
                yield event
        except httpx2.HTTPError as error:
            raise Dropped("The connection was lost.") from error


class ServerClient:
    """Calls one server with one token.

    Raises, everywhere:
        Unavailable: no server answers there.
        Refused: the server answers with an error.
        Dropped: the connection broke.
    """

    def __init__(self, url: str, token: str | None) -> None:
        self.url = _checked(url)
        self._http = httpx2.AsyncClient(
            base_url=self.url,
            headers={"Authorization": f"Bearer {token}"} if token else {},
            timeout=_TIMES,
            # SSL_CERT_FILE counts for every server; proxies of the environment do not for one of this machine.
            verify=_authorities() if self.url.startswith("https:") else True,
            trust_env=not is_local(self.url),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Let go of the connections."""
        await self._http.aclose()

    async def get(self, path: str, query: Mapping[str, Any] | None = None) -> Any:
        """The JSON at a path."""
        given = {name: value for name, value in (query or {}).items() if value is not None}
        return await self._call("GET", path, params=given)

    async def post(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """What a POST answers."""
        return await self._call("POST", path, json=body)

    def say(self, body: Mapping[str, Any], key: str) -> Any:
        """Send a message and follow its run: `async with client.say(...) as stream`. The same `key` sends it once."""
        headers = {"Idempotency-Key": key, "Content-Type": "application/json"}
        return self._stream("POST", "/v1/chat/stream", headers=headers, content=dumps(body))

    def follow(self, run_id: str, after: str | None) -> Any:
        """A run's events after one of them."""
        headers = {"Last-Event-ID": after} if after else {}
        return self._stream("GET", f"/v1/runs/{run_id}/events", headers=headers)

    async def _call(self, method: str, path: str, **options: Any) -> Any:
        try:
            response = await self._http.request(method, path, **options)
        except httpx2.HTTPError as error:
            raise self._broken(error) from error
        _check(response)
        try:
            return loads(response.content)
        except ValueError:
            raise _stranger(self.url) from None

    @asynccontextmanager
    async def _stream(self, method: str, path: str, **options: Any) -> AsyncGenerator[EventStream]:
        timeout = httpx2.Timeout(_SILENCE_SECONDS, connect=5)
        options["headers"]["Accept"] = "text/event-stream"
        request = self._http.build_request(method, path, timeout=timeout, **options)
        try:
            response = await self._http.send(request, stream=True)
        except httpx2.HTTPError as error:
            raise self._broken(error) from error
        try:
            if response.is_error:
                await response.aread()
                _check(response)
            if not response.headers.get("content-type", "").startswith("text/event-stream"):
                raise _stranger(self.url)
            yield EventStream(response)
        except httpx2.HTTPError as error:
            raise Dropped("The connection was lost.") from error
        finally:
            await response.aclose()

    def _broken(self, error: httpx2.HTTPError) -> PilothouseError:
        if (fault := _tls_fault(error)) is not None:
            return Refused(
                f"The server at {self.url} is not trusted: {fault}. If its certificate is one of your own authority, "
                "name that authority's file in SSL_CERT_FILE.",
                code="not_trusted",
            )
        if isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.UnsupportedProtocol):
            return Unavailable(
                f"No server answers at {self.url}. Start one with `pilothouse demo`, or name it with --url.",
                code="no_server",
            )
        return Dropped("The connection to the server was lost.")


def find_token(url: str, given: str | None) -> str | None:
    """The token given, or, for a server of this machine, the one `pilothouse demo` keeps in its folder."""
    if given or not is_local(url):
        return given
    file = Path(os.environ.get("PILOTHOUSE_DATA_DIR") or ".pilothouse") / DEMO_KEY
    try:
        token = file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeError):
        return None
    say(f"Using the demo's token from {file}.")
    return token or None


def _authorities() -> ssl.SSLContext:
    try:
        return httpx2.create_ssl_context()
    except OSError as error:  # ssl.SSLError too
        raise Refused(f"The authorities in SSL_CERT_FILE or SSL_CERT_DIR can't be read: {error}.") from None


def _tls_fault(error: BaseException | None) -> str | None:
    """What TLS has against a server, if that is why a connection failed."""
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return error.verify_message.rstrip(".")
        if isinstance(error, ssl.SSLError):
            return f"it does not speak TLS as it should ({error.reason})"
        error = error.__cause__ or error.__context__
    return None


def is_local(url: str) -> bool:
    """Whether this address is one of this machine."""
    return (urlsplit(url).hostname or "") in _LOCAL


def _checked(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise Refused(f"{url!r} is not a server's address. Write it as http://127.0.0.1:8420.")
    return url.rstrip("/")


def _check(response: httpx2.Response) -> None:
    if not response.is_error:
        return
    try:
        problem = loads(response.content)
    except ValueError:
        problem = None
    if not isinstance(problem, dict):
        problem = {"detail": f"The server answered with status {response.status_code}."}
    detail = plain(str(problem.get("detail") or problem.get("title") or "The server refused."))  # pyright: ignore[reportUnknownArgumentType, reportUnknownMemberType]
    if response.status_code == 401:
        detail += " Give one with --token or PILOTHOUSE_TOKEN."
    raise Refused(
        detail,
        status=response.status_code,
        code=str(problem.get("code") or "refused"),  # pyright: ignore[reportUnknownArgumentType, reportUnknownMemberType]
        retryable=response.status_code == 503,
    )


def _stranger(url: str) -> Refused:
    return Refused(f"What answers at {url} is not a Pilothouse server.")
