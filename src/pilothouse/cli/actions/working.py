"""Execute runs until a signal."""

import asyncio
import signal

from sqlalchemy import make_url

from pilothouse.app import Pilothouse
from pilothouse.cli.actions.target import load_target
from pilothouse.cli.output import show
from pilothouse.errors import StartupError
from pilothouse.kit.collector import calm_collector


def run_worker(target: str) -> None:
    """Import the application and execute its runs until SIGTERM or SIGINT.

    Raises:
        StartupError: it can't be run as it is configured.
    """
    app = load_target(target)
    if make_url(app.settings.database_url).get_backend_name() == "sqlite":
        raise StartupError(
            "A worker shares a PostgreSQL database with the nodes: set PILOTHOUSE_DATABASE_URL. "
            "On SQLite `pilothouse serve` executes everything itself."
        )
    asyncio.run(_work(app))


async def _work(app: Pilothouse) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    async with app.running():
        with calm_collector():
            show("Working. Ctrl-C stops it in order.")
            await stopping.wait()
