"""`python -m benchmarks.serve KIND`: one of the servers as a process of its own. Started by the harness.

Writes `ready.json` into its folder when it listens. With `--profile` it is profiled from
SIGUSR1 on, and writes `profile.txt` when it stops.
"""

import argparse
import asyncio
import json
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvicorn
import uvloop

from benchmarks.profiling import Profiler, make_profiler

KINDS = ("a", "b", "c", "d", "demo")


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serve", description=__doc__)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--provider", default="", help="address of the scripted provider")
    parser.add_argument("--folder", type=Path, required=True, help="where its files go")
    parser.add_argument("--style", default="handler", help="how (c) streams")
    parser.add_argument("--database", help="address of a database for (d); by default SQLite in the folder")
    parser.add_argument("--redis", help="address of a Redis for (d)")
    parser.add_argument("--seed", default="", help="conversations for (d): lengths and how many, as 10,500x40")
    parser.add_argument("--profile", choices=("pyinstrument", "cprofile"), help="profile it")
    options = parser.parse_args()
    profiler = make_profiler(options.profile, options.folder / "profile.txt")
    if options.kind == "a":
        uvloop.run(_serve_aiohttp(options, profiler))
    else:
        _serve_asgi(options, profiler)


async def _serve_aiohttp(options: argparse.Namespace, profiler: Profiler) -> None:
    from aiohttp import web  # noqa: PLC0415 - each server loads only what it is made of: its memory is measured

    from benchmarks.servers import passthrough  # noqa: PLC0415

    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    runner = web.AppRunner(passthrough.make(options.provider), access_log=None, shutdown_timeout=1)
    await runner.setup()
    listener = _listen()
    await web.SockSite(runner, listener).start()
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, profiler.start)
    _ready(options.folder, listener, {})
    await stopping.wait()
    profiler.stop()
    await runner.cleanup()


def _serve_asgi(options: argparse.Namespace, profiler: Profiler) -> None:
    app, extra = _asgi_app(options)
    listener = _listen()
    config = _config(options.kind, app)
    server = _Server(config, lambda: _ready(options.folder, listener, extra), profiler)
    server.run(sockets=[listener])


def _config(kind: str, app: Any) -> uvicorn.Config:
    common: dict[str, Any] = {"loop": "uvloop", "timeout_graceful_shutdown": 2}
    if kind in {"d", "demo"}:  # with the bounds that `pilothouse serve` has
        from pilothouse.server import ServerConfig  # noqa: PLC0415

        return ServerConfig(app, app.settings.server, **common)
    return uvicorn.Config(
        app,
        http="httptools",
        ws="websockets-sansio",
        access_log=False,
        log_level="warning",
        log_config=None,
        **common,
    )


def _asgi_app(options: argparse.Namespace) -> tuple[Any, dict[str, Any]]:
    if options.kind == "b":
        from benchmarks.servers import openai_sdk  # noqa: PLC0415

        return openai_sdk.make(options.provider), {}
    if options.kind == "c":
        from benchmarks.servers import pydantic_agents  # noqa: PLC0415

        return pydantic_agents.make(options.provider, options.style), {}
    from benchmarks.servers import pilothouse_app  # noqa: PLC0415

    if options.kind == "demo":
        return pilothouse_app.make_demo(options.folder / "data"), {}
    folder = options.folder / "data"
    folder.mkdir(exist_ok=True)
    settings = pilothouse_app.settings(options.provider, folder, options.database, options.redis)
    extra = uvloop.run(pilothouse_app.prepare(settings, _seed(options.seed)))
    return pilothouse_app.make(options.provider, folder, options.database, options.redis), extra


def _seed(text: str) -> Any:
    from benchmarks.servers.pilothouse_app import Seed  # noqa: PLC0415

    if not text:
        return Seed()
    lengths, _, each = text.partition("x")
    return Seed(tuple(int(length) for length in lengths.split(",")), int(each))


class _Server(uvicorn.Server):
    """Says when it is ready."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None], profiler: Profiler) -> None:
        super().__init__(config)
        self._ready = ready
        self._profiler = profiler

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if not self.should_exit:
            asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, self._profiler.start)
            self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._profiler.stop()
        await super().shutdown(sockets)


def _listen() -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", 0))
    listener.listen(2048)
    listener.setblocking(False)
    return listener


def _ready(folder: Path, listener: socket.socket, extra: dict[str, Any]) -> None:
    unfinished = folder / "ready.tmp"
    unfinished.write_text(json.dumps({"port": listener.getsockname()[1], **extra}))
    unfinished.rename(folder / "ready.json")


if __name__ == "__main__":
    main()
