"""The HTTP transport under the provider SDKs: one pool of connections on aiohttp, and the short way of tokens."""

import asyncio
import io
import ssl
from collections.abc import Mapping
from types import TracebackType
from typing import Self

import aiohttp
import httpx2
from yarl import URL

from pilothouse.llm.body import Body, BodyLimits, translated
from pilothouse.llm.bounds import AnswerLimits
from pilothouse.llm.deltas import StreamTrace, current_note, current_trace
from pilothouse.llm.guard import current_guard
from pilothouse.llm.inflate import ACCEPTED_ENCODINGS, inflater_for
from pilothouse.llm.pace import Pace, Watch
from pilothouse.llm.proxies import Proxies
from pilothouse.llm.shortway import ShortWay
from pilothouse.llm.wires import wire_for_path

__all__ = ["AiohttpTransport"]

# Larger ones are handed to the socket in pieces, for one write of megabytes holds the event loop.
_LARGE_BODY = 262_144
_KEEPALIVE_SECONDS = 60
_DNS_SECONDS = 60
_NOT_SENT_ON = frozenset({b"content-length", b"transfer-encoding", b"accept-encoding"})
# A provider's cookies would travel from one tenant's call to the next in the client above.
_NOT_GIVEN_BACK = frozenset({b"set-cookie"})
# The body is given on decoded.
_OF_ENCODED = frozenset({b"content-encoding", b"content-length"})


class AiohttpTransport(httpx2.AsyncBaseTransport):
    """Sends httpx2 requests over one shared aiohttp session, made when first used.

    Args:
        first_byte_seconds: longest wait for the first byte of a traced stream.
        stall_seconds: longest silence in the middle of an event stream.
        limits: how much an answer may hold.
        limit: most connections at once; 0 is no limit.
        verify: a TLS context; the system's and certifi's authorities by default.
        environ: where proxy variables (`HTTPS_PROXY`, `NO_PROXY`, ...) are looked up.
    """

    def __init__(
        self,
        *,
        first_byte_seconds: float = 60,
        stall_seconds: float = 60,
        limits: AnswerLimits | None = None,
        limit: int = 0,
        verify: ssl.SSLContext | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self._first_byte_seconds = first_byte_seconds
        self._stall_seconds = stall_seconds
        self._limits = limits or AnswerLimits()
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
                data=io.BytesIO(body) if len(body) > _LARGE_BODY else body or None,
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
            raise translated(error, request) from error
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
        if response.status == 200 and (note := current_note.get()) is not None:
            note.received = True
        encoding = response.headers.get("Content-Encoding", "")
        try:
            inflater = inflater_for(encoding)
        except ValueError as error:
            response.close()
            raise httpx2.DecodingError(str(error), request=request) from error
        short_way: ShortWay | None = None
        is_stream = response.content_type == "text/event-stream"
        if is_stream:
            read_limit = _least(read_limit, self._stall_seconds)
            wire = wire_for_path(request.url.path)
            if trace is not None and wire is not None and response.status == 200 and inflater is None:
                trace.short_way = True
                short_way = ShortWay(wire, trace)
        body = Body(
            response,
            request,
            watch=self._watch,
            pace=self._pace,
            limits=BodyLimits.of(response, self._limits, is_stream=is_stream),
            inflater=inflater,
            short_way=short_way,
        )
        body.watch(first_limit, read_limit, since=started)
        left_out = _NOT_GIVEN_BACK if inflater is None else _NOT_GIVEN_BACK | _OF_ENCODED
        headers = [(name, value) for name, value in response.raw_headers if name.lower() not in left_out]
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


def _headers(request: httpx2.Request, *, is_stream: bool) -> list[tuple[str, str]]:
    headers = [
        (name.decode("ascii"), value.decode("latin-1"))
        for name, value in request.headers.raw
        if name.lower() not in _NOT_SENT_ON
    ]
    # A compressed stream could not be read on its way; what else comes is decoded here, with a bound.
    headers.append(("Accept-Encoding", "identity" if is_stream else ACCEPTED_ENCODINGS))
    return headers


def _least(*limits: float | None) -> float | None:
    return min((limit for limit in limits if limit is not None), default=None)
