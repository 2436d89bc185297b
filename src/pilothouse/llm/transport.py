"""The HTTP transport under the provider SDKs: one pool of connections on aiohttp, and the short way of tokens."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping
from types import TracebackType
from typing import Self

import aiohttp
import httpx2
from yarl import URL

from pilothouse.llm.deltas import StreamTrace, current_trace
from pilothouse.llm.guard import current_guard
from pilothouse.llm.pace import Pace, Watch
from pilothouse.llm.proxies import Proxies
from pilothouse.llm.shortway import ShortWay
from pilothouse.llm.wires import wire_for_path

__all__ = ["AiohttpTransport"]

_KEEPALIVE_SECONDS = 60
_DNS_SECONDS = 60
# After the last event of an answer some servers leave the connection open.
_LINGER_SECONDS = 2.0
_NOT_SENT_ON = frozenset({b"content-length", b"transfer-encoding"})
# A provider's cookies would travel from one tenant's call to the next in the client above.
_NOT_GIVEN_BACK = frozenset({b"set-cookie"})


class AiohttpTransport(httpx2.AsyncBaseTransport):
    """Sends httpx2 requests over one shared aiohttp session, made when first used.

    Args:
        first_byte_seconds: longest wait for the first byte of a traced stream.
        stall_seconds: longest silence in the middle of an event stream.
        limit: most connections at once; 0 is no limit.
        verify: a TLS context; the system's and certifi's authorities by default.
        environ: where proxy variables (`HTTPS_PROXY`, `NO_PROXY`, ...) are looked up.
    """

    def __init__(
        self,
        *,
        first_byte_seconds: float = 60,
        stall_seconds: float = 60,
        limit: int = 0,
        verify: ssl.SSLContext | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self._first_byte_seconds = first_byte_seconds
        self._stall_seconds = stall_seconds
        self._limit = limit
        self._verify = verify
        self._proxies = Proxies(environ or {})
        self._session: aiohttp.ClientSession | None = None
        self._pace = Pace()
        self._watch = Watch(self._pace)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send a request and return once the head of its response is here.

        Raises:
            httpx2.TransportError: of the class that httpx2's own transport would raise.
        """
        trace = current_trace.get()
        body = await request.aread()
        timeouts: Mapping[str, float | None] = request.extensions.get("timeout", {})
        read_limit = timeouts.get("read")
        first_limit = _least(read_limit, self._first_byte_seconds) if trace is not None else read_limit
        started = asyncio.get_running_loop().time()
        # Credentials in the address are in the headers by now.
        url = URL(str(request.url), encoded=True).with_user(None)
        proxy, proxy_headers = self._proxies.proxy_for(url)
        if (guard := current_guard.get()) is not None:
            await guard()
        try:
            response = await self._open_session().request(
                request.method,
                url,
                data=body or None,
                headers=_headers(request, is_stream=trace is not None),
                allow_redirects=False,
                proxy=proxy,
                proxy_headers=proxy_headers,
                skip_auto_headers=("Accept", "Accept-Encoding", "User-Agent", "Content-Type"),
                timeout=aiohttp.ClientTimeout(
                    total=None,
                    connect=timeouts.get("pool"),
                    sock_connect=timeouts.get("connect"),
                    sock_read=first_limit,
                ),
            )
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _translated(error, request) from error
        return self._respond(request, response, trace, limits=(first_limit, read_limit, started))

    async def aclose(self) -> None:
        """Close all connections."""
        self._watch.close()
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(
                limit=self._limit,
                ssl=self._verify or httpx2.create_ssl_context(),
                keepalive_timeout=_KEEPALIVE_SECONDS,
                ttl_dns_cache=_DNS_SECONDS,
            )
            self._session = aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
            )
        return self._session

    def _respond(
        self,
        request: httpx2.Request,
        response: aiohttp.ClientResponse,
        trace: StreamTrace | None,
        *,
        limits: tuple[float | None, float | None, float],
    ) -> httpx2.Response:
        first_limit, read_limit, started = limits
        short_way: ShortWay | None = None
        if response.content_type == "text/event-stream":
            read_limit = _least(read_limit, self._stall_seconds)
            encoding = response.headers.get("Content-Encoding", "identity")
            wire = wire_for_path(request.url.path)
            if trace is not None and wire is not None and response.status == 200 and encoding == "identity":
                trace.short_way = True
                short_way = ShortWay(wire, trace)
        body = _Body(response, request, watch=self._watch, pace=self._pace, short_way=short_way)
        body.watch(first_limit, read_limit, since=started)
        headers = [(name, value) for name, value in response.raw_headers if name.lower() not in _NOT_GIVEN_BACK]
        return httpx2.Response(response.status, headers=headers, stream=body, extensions={"http_version": b"HTTP/1.1"})

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        await self.aclose()


class _Body(httpx2.AsyncByteStream):
    """The body of a response. Iterating it again goes on where the last iteration stopped."""

    def __init__(
        self,
        response: aiohttp.ClientResponse,
        request: httpx2.Request,
        *,
        watch: Watch,
        pace: Pace,
        short_way: ShortWay | None,
    ) -> None:
        self._response = response
        self._content = response.content
        self._request = request
        self._watch = watch
        self._pace = pace
        self._short_way = short_way
        self._is_over = False
        self._later_limit = self.limit = float("inf")
        self._heard_at = 0.0
        self._heard_bytes = 0

    def watch(self, first_limit: float | None, later_limit: float | None, *, since: float) -> None:
        """Bound the wait for the first byte, counted from `since`, and each silence after it, in seconds."""
        connection = self._response.connection
        if connection is None or connection.protocol is None:
            return
        # From here on the watch keeps time; aiohttp would set a timer anew with every packet.
        connection.protocol.read_timeout = None
        self.limit = float("inf") if first_limit is None else first_limit
        self._later_limit = float("inf") if later_limit is None else later_limit
        self._heard_at = since
        self._watch.add(self)

    def look(self, now: float) -> None:
        """Break off a read that has waited for too long."""
        heard = self._content.total_bytes
        if heard != self._heard_bytes:
            self._heard_bytes, self._heard_at = heard, now
            has_ended = self._short_way is not None and self._short_way.ended
            self.limit = _LINGER_SECONDS if has_ended else self._later_limit
        elif now - self._heard_at >= self.limit:
            self._watch.discard(self)
            self._content.set_exception(aiohttp.SocketTimeoutError("silence"))

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._is_over:
            raise StopAsyncIteration
        short_way = self._short_way
        if short_way is None:
            if data := await self._read():
                return data
        else:
            while data := await self._read():
                if given := short_way.feed(data):
                    return given
                if self._pace.delay:
                    await self._rest()
        self._end()
        if short_way is not None:
            given = short_way.finish()
            if not short_way.may_stop:
                raise httpx2.RemoteProtocolError("The stream stopped before its end.", request=self._request)
            if given:
                return given
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """Close the connection at once, unless the body was read to its end."""
        if not self._is_over:
            self._end()
            self._response.close()

    async def _read(self) -> bytes:
        try:
            return await self._content.readany()
        except aiohttp.SocketTimeoutError as error:
            if self._short_way is not None and self._short_way.ended:
                self._response.close()
                return b""
            raise _translated(error, self._request) from error
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _translated(error, self._request) from error

    async def _rest(self) -> None:
        """Leave what arrives in the socket until the next beat, so that one read takes it all."""
        connection = self._response.connection
        protocol = None if connection is None else connection.protocol
        if protocol is None:
            return
        protocol.pause_reading()
        try:
            await self._pace.beat()
        finally:
            protocol.resume_reading()

    def _end(self) -> None:
        self._is_over = True
        self._watch.discard(self)


def _headers(request: httpx2.Request, *, is_stream: bool) -> list[tuple[str, str]]:
    headers = [
        (name.decode("ascii"), value.decode("latin-1"))
        for name, value in request.headers.raw
        if name.lower() not in _NOT_SENT_ON and not (is_stream and name.lower() == b"accept-encoding")
    ]
    if is_stream:
        # A compressed stream could not be read on its way.
        headers.append(("Accept-Encoding", "identity"))
    return headers


def _least(*limits: float | None) -> float | None:
    return min((limit for limit in limits if limit is not None), default=None)


def _translated(error: Exception, request: httpx2.Request) -> httpx2.RequestError:
    """The error that httpx2's own transport would raise; the SDKs and Pydantic AI classify by it."""
    kind: type[httpx2.RequestError] = httpx2.ReadError
    match error:
        case aiohttp.SocketTimeoutError():
            kind = httpx2.ReadTimeout
        case aiohttp.ServerTimeoutError() | TimeoutError():
            kind = httpx2.ConnectTimeout
        case aiohttp.ClientHttpProxyError() | aiohttp.ClientProxyConnectionError():
            kind = httpx2.ProxyError
        case aiohttp.ClientConnectorError() | aiohttp.ServerFingerprintMismatch():
            kind = httpx2.ConnectError
        case aiohttp.ServerDisconnectedError() | aiohttp.ClientPayloadError() | aiohttp.ClientResponseError():
            kind = httpx2.RemoteProtocolError
        case aiohttp.InvalidURL():
            kind = httpx2.UnsupportedProtocol
        case _:
            pass
    return kind(str(error) or type(error).__name__, request=request)
