"""Serve an application: listen, start, and stop in order."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import NoReturn

import uvicorn
from pydantic_ai.exceptions import UserError
from uvicorn.supervisors import ChangeReload

from pilothouse.app import Pilothouse, Services
from pilothouse.cli.actions.listen import bind, refusal, url_of
from pilothouse.cli.actions.target import load_target
from pilothouse.cli.output import complain, say, show
from pilothouse.errors import PilothouseError, StartupError
from pilothouse.server import Server, ServerConfig
from pilothouse.settings import load_settings

_CLOSE_SECONDS = 3
"""How long clients may take for what was already sent to them, after the runs have stopped."""
_RELOAD_SECONDS = 0.5

BeforeListening = Callable[[Services], Awaitable[None]]


@dataclass(frozen=True, kw_only=True)
class Options:
    """What `pilothouse serve` was told."""

    target: str
    host: str | None
    port: int | None
    data_dir: Path | None
    local: bool
    check: bool

    def to_environment(self) -> None:
        """Give them to the application, which reads its settings while it is imported."""
        given = {
            "PILOTHOUSE_SERVER_HOST": self.host,
            "PILOTHOUSE_SERVER_PORT": self.port,
            "PILOTHOUSE_DATA_DIR": self.data_dir,
            "PILOTHOUSE_MODELS_CHECK": None if self.check else "false",
        }
        os.environ.update({name: str(value) for name, value in given.items() if value is not None})


def run_target(options: Options, *, reload: bool) -> None:
    """Import the application and serve it until a signal.

    Raises:
        StartupError: it can't be served as it is configured.
    """
    options.to_environment()
    if reload:
        _run_reloading(options)
    else:
        app = _application(options)
        with bind(options.host or app.settings.server.host, _port(options, app)) as listener:
            run_app(app, listener, host=options.host)


def run_app(
    app: Pilothouse,
    listener: socket.socket,
    *,
    host: str | None = None,
    before: BeforeListening | None = None,
    listening: Callable[[str], None] | None = None,
) -> None:
    """Serve `app` until a signal.

    Args:
        host: what to check and show instead of the host of the settings.
        before: awaited when the application has started and nobody can connect yet.
        listening: called with the server's address once it takes connections; prints it by default.
    """
    config = _config(app)
    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        runner.run(
            _serve(
                app, config, listener, host or app.settings.server.host, before=before, listening=listening or _announce
            )
        )
    _leave_stuck_threads()


async def _serve(
    app: Pilothouse,
    config: ServerConfig,
    listener: socket.socket,
    host: str,
    *,
    before: BeforeListening | None,
    listening: Callable[[str], None],
) -> None:
    # The application is started here and not by uvicorn, which would log what went wrong as a trace.
    async with app.fastapi.router.lifespan_context(app.fastapi):
        if before is not None:
            await before(app.services)
        app.services.identity.check_listen_address(host)
        _warm_up(app)
        server = _Server(config, app, lambda: listening(url_of(listener, host)))
        try:
            await server.serve(sockets=[listener])
        except OSError as error:
            if server.started:
                raise
            raise StartupError(refusal(error, host, listener.getsockname()[1])) from error


class _Server(Server):
    """A server that tells the application before it closes connections."""

    def __init__(self, config: ServerConfig, app: Pilothouse, listening: Callable[[], None]) -> None:
        super().__init__(config)
        self._app = app
        self._listening = listening

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._listening()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await self._app.begin_shutdown()
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - uvicorn's signature
        if self.should_exit:
            say("Stopped at once. What was running is continued at the next start.")
            _exit_now(128 + sig)
        self.should_exit = True
        if sig == signal.SIGINT and sys.stderr.isatty():
            say("\nStopping in order. Press Ctrl-C again to stop at once.")


def _warm_up(app: Pilothouse) -> None:
    """Load the SDKs of the agents' models now, so that no first caller waits for it."""
    for agent in app.agents:
        model = agent.model or app.settings.models.default
        if model is not None:
            with contextlib.suppress(PilothouseError, UserError):  # whoever asks for that model is told
                app.services.gateway.window_tokens(model)


def _config(app: Pilothouse) -> ServerConfig:
    return ServerConfig(app, app.settings.server, lifespan="off", timeout_graceful_shutdown=_CLOSE_SECONDS)


def _announce(url: str) -> None:
    show(f"Listening on {url}")


def _application(options: Options) -> Pilothouse:
    app = load_target(options.target)
    if options.data_dir is not None and app.settings.data.dir != options.data_dir:
        raise StartupError(
            f"--data-dir has no effect: {options.target} sets its data folder itself ({app.settings.data.dir})."
        )
    app.local = app.local or options.local
    return app


def _port(options: Options, app: Pilothouse) -> int:
    return app.settings.server.port if options.port is None else options.port


def _run_reloading(options: Options) -> None:
    os.environ.setdefault("PILOTHOUSE_SERVER_SHUTDOWN_SECONDS", str(_RELOAD_SECONDS))
    settings = load_settings()
    config = uvicorn.Config(options.target, reload=True, log_config=None)
    host = options.host or settings.server.host
    with bind(host, settings.server.port if options.port is None else options.port) as listener:
        ChangeReload(config, target=partial(_serve_in_child, options), sockets=[listener]).run()


def _serve_in_child(options: Options, sockets: list[socket.socket] | None = None) -> None:
    """One life of a reloading server. Where it can't start it says why, and the next change starts another."""
    (listener,) = sockets or []
    try:
        run_app(_application(options), listener, host=options.host)
    except StartupError as error:
        complain(error)
        sys.exit(2)


def _leave_stuck_threads() -> None:
    """A tool's thread that never ends would keep the process: all is written and closed, so leave without it."""
    others = [thread for thread in threading.enumerate() if thread is not threading.main_thread()]
    if any(not thread.daemon for thread in others):
        _exit_now(0)


def _exit_now(code: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
