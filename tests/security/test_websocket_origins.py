"""Which pages may open a WebSocket: the server's own and those that are configured, whatever else Origin holds."""

import aiohttp
import pytest
from tests.support.server import running

CONFIGURED = "https://app.example"


async def status(server, origin: str, **headers: str) -> int:
    try:
        async with server.session.ws_connect("/v1/chat/ws/new", headers={"Origin": origin, **headers}):
            return 101
    except aiohttp.WSServerHandshakeError as refused:
        return refused.status


async def test_an_origin_that_is_none_is_refused_and_never_a_fault_of_the_server(sqlite_url):
    async with running(sqlite_url) as server:
        host = server.url.removeprefix("http://")
        for origin in (
            "http://[x",
            "http://[",
            "null",
            "",
            f"evil://{host}",
            f"http://a@{host}",
            f"http://{host}/",
            "*",
        ):
            assert await status(server, origin) == 403, origin
        assert await status(server, server.url) == 101
        assert await status(server, f"https://{host}") == 101  # behind a proxy that ends TLS


async def test_over_tls_a_page_that_was_loaded_without_it_may_not_open_a_socket(sqlite_url):
    async with running(sqlite_url) as server:
        host = server.url.removeprefix("http://")
        assert await status(server, f"http://{host}", **{"X-Forwarded-Proto": "https"}) == 403
        assert await status(server, f"https://{host}", **{"X-Forwarded-Proto": "https"}) == 101


@pytest.mark.parametrize(("origin", "expected"), [(CONFIGURED, 101), ("http://app.example", 403)])
async def test_a_configured_origin_is_taken_as_it_is_written(sqlite_url, origin, expected):
    async with running(sqlite_url, server={"console": False, "cors_origins": [CONFIGURED]}) as server:
        assert await status(server, origin) == expected
