"""Serves the console's files.

The page is never stored; every other file lives under an address that holds the hash of all of them
(`assets/<hash>/...`) and may be kept for ever. One hash for the whole tree lets modules import each other by plain
relative paths, without a build step, and never mixes two releases.
"""

import gzip
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import PurePosixPath

from fastapi import APIRouter, FastAPI, Request, Response
from starlette.responses import PlainTextResponse

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "font-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

_HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_KEEP = "public, max-age=31536000, immutable"
_FORGET = "no-store"
_PAGE = "index.html"


@dataclass(frozen=True, slots=True)
class _File:
    body: bytes
    packed: bytes
    media_type: str


def mount_console(app: FastAPI, *, prefix: str = "/console") -> None:
    """Serve the console at `prefix` of `app`; its pages call the API at `../v1/` from there."""
    app.include_router(console_router(prefix=prefix))


def console_router(*, prefix: str = "/console") -> APIRouter:
    """The console's routes. Reads its files (about 100 KB) once, here, and serves them from memory.

    Args:
        prefix: where it lives, one path segment, without a slash at the end.
    """
    files = _read_files(resources.files("pilothouse.console") / "static")
    version = _version(files)
    page = _file(_PAGE, _fill_in(files.pop(_PAGE).body.decode(), version, files))
    router = APIRouter(prefix=prefix, include_in_schema=False)
    methods = ["GET", "HEAD"]

    async def enter() -> Response:
        # Relative, so that it holds behind a proxy that adds a path.
        return Response(status_code=307, headers={**_HEADERS, "Location": f"{prefix.rsplit('/', 1)[-1]}/"})

    async def index(request: Request) -> Response:
        return _answer(request, page, _FORGET)

    async def asset(request: Request, wanted: str, path: str) -> Response:
        file = files.get(path) if wanted == version else None
        if file is None:
            return PlainTextResponse(
                "There is no such file in this release of the console. Reload the page.",
                status_code=404,
                headers={**_HEADERS, "Cache-Control": _FORGET},
            )
        return _answer(request, file, _KEEP)

    router.add_api_route("", enter, methods=methods)
    router.add_api_route("/", index, methods=methods)
    router.add_api_route("/assets/{wanted}/{path:path}", asset, methods=methods)
    return router


def _answer(request: Request, file: _File, cache_control: str) -> Response:
    headers = {**_HEADERS, "Cache-Control": cache_control, "Vary": "Accept-Encoding"}
    body = file.body
    if "gzip" in request.headers.get("accept-encoding", ""):
        headers["Content-Encoding"] = "gzip"
        body = file.packed
    return Response(body, media_type=file.media_type, headers=headers)


def _read_files(root: Traversable, folder: str = "") -> dict[str, _File]:
    found: dict[str, _File] = {}
    for entry in sorted(root.iterdir(), key=lambda entry: entry.name):
        path = f"{folder}{entry.name}"
        if entry.is_dir():
            found |= _read_files(entry, f"{path}/")
        elif PurePosixPath(path).suffix in _TYPES:
            found[path] = _file(path, entry.read_bytes())
    return found


def _file(path: str, body: bytes) -> _File:
    return _File(body, gzip.compress(body, 6, mtime=0), _TYPES[PurePosixPath(path).suffix])


def _version(files: Mapping[str, _File]) -> str:
    digest = hashlib.sha256()
    for path, file in files.items():
        digest.update(f"{path}\0{len(file.body)}\0".encode())
        digest.update(file.body)
    return digest.hexdigest()[:16]


def _fill_in(page: str, version: str, files: Mapping[str, _File]) -> bytes:
    """The page with the addresses of its files; all modules are named, so they load at once and not level by level."""
    assets = f"assets/{version}"
    modules = (path for path in files if path.endswith(".js"))
    preloads = "\n  ".join(f'<link rel="modulepreload" href="{assets}/{path}">' for path in modules)
    return page.replace("<!-- preloads -->", preloads).replace("{assets}", assets).encode()
