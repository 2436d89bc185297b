"""(a) The floor: aiohttp passes the request and the answer's bytes through and looks at nothing."""

from collections.abc import AsyncIterator

import aiohttp
from aiohttp import web

_HEADERS = {"Content-Type": "application/json", "Authorization": "Bearer bench"}
_MAX_BODY_BYTES = 4 * 1024 * 1024


def make(provider: str) -> web.Application:
    """An app that forwards `POST /v1/chat/completions` to the provider."""
    url = f"{provider}/v1/chat/completions"
    app = web.Application(client_max_size=_MAX_BODY_BYTES)
    session_key = web.AppKey("session", aiohttp.ClientSession)

    async def session(app: web.Application) -> AsyncIterator[None]:
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None)) as made:
            app[session_key] = made
            yield

    async def forward(request: web.Request) -> web.StreamResponse:
        body = await request.read()
        async with request.app[session_key].post(url, data=body, headers=_HEADERS) as answer:
            if answer.content_length is not None:
                return web.Response(body=await answer.read(), status=answer.status, content_type="application/json")
            response = web.StreamResponse(status=answer.status, headers={"Content-Type": "text/event-stream"})
            await response.prepare(request)
            async for chunk in answer.content.iter_any():
                await response.write(chunk)
            await response.write_eof()
            return response

    app.cleanup_ctx.append(session)
    app.router.add_post("/v1/chat/completions", forward)
    return app
