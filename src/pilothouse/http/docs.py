"""`/docs`: an API reference that asks no other host for anything and needs no inline script or style."""

import hashlib
import html
from collections.abc import Awaitable, Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.responses import HTMLResponse
from starlette.requests import Request
from starlette.responses import Response

from pilothouse.kit.jsons import dumps

_FOLDER = Path(__file__).with_name("docs_static")
_DAY = "public, max-age=86400"


def install_docs(app: FastAPI) -> None:
    """Serve `app`'s OpenAPI document, and its reference at `/docs`, instead of FastAPI's own pages.

    Those load Swagger UI from a CDN and start it inline, which the content security policy forbids; if the app was
    made with them, they are taken out. Nothing is served where the app has no `openapi_url`.
    """
    theirs = {app.openapi_url, app.docs_url, app.redoc_url, app.swagger_ui_oauth2_redirect_url} - {None}
    app.router.routes[:] = [route for route in app.router.routes if getattr(route, "path", "") not in theirs]
    if app.openapi_url is None:
        return
    script, style = (_FOLDER / "docs.js").read_bytes(), (_FOLDER / "docs.css").read_bytes()
    page = _page(app.title, app.openapi_url, hashlib.sha256(script + style).hexdigest()[:12])

    async def docs() -> HTMLResponse:
        return HTMLResponse(page, headers={"Cache-Control": "no-cache"})

    async def docs_script() -> Response:
        return Response(script, media_type="text/javascript", headers={"Cache-Control": _DAY})

    async def docs_style() -> Response:
        return Response(style, media_type="text/css", headers={"Cache-Control": _DAY})

    app.add_route(app.openapi_url, _document(app), include_in_schema=False)
    app.add_api_route("/docs", docs, include_in_schema=False)
    app.add_api_route("/docs/docs.js", docs_script, include_in_schema=False)
    app.add_api_route("/docs/docs.css", docs_style, include_in_schema=False)


def _document(app: FastAPI) -> Callable[[Request], Awaitable[Response]]:
    """Serves the OpenAPI document. Everybody may ask for it, so it is encoded once for each prefix."""

    @lru_cache(maxsize=8)
    def encode(prefix: str) -> bytes:
        return dumps(_under(app.openapi(), prefix)).encode()

    async def document(request: Request) -> Response:
        return Response(encode(request.scope.get("root_path", "").rstrip("/")), media_type="application/json")

    return document


def _under(document: dict[str, Any], prefix: str) -> dict[str, Any]:
    """The document as it is where the application is mounted under a prefix of the address."""
    servers = document.get("servers", [])
    if not prefix or any(server.get("url") == prefix for server in servers):
        return document
    return {**document, "servers": [{"url": prefix}, *servers]}


def _page(title: str, openapi_url: str, version: str) -> str:
    text = (_FOLDER / "index.html").read_text("utf-8")
    # Relative, so that the page also works below a proxy's path prefix.
    values = {"title": title, "openapi": openapi_url.removeprefix("/"), "version": version}
    for name, value in values.items():
        text = text.replace("{{" + name + "}}", html.escape(value))
    return text
