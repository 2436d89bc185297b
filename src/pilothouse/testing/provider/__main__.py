"""`python -m pilothouse.testing.provider --script script.yaml`: the scripted provider as a process."""

import argparse
import asyncio
import signal
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from pilothouse.testing.provider.script import Script
from pilothouse.testing.provider.server import ScriptedProvider


def main(arguments: list[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; 0 after a clean stop, 2 when the script or the port is no good."""
    options = _parser().parse_args(arguments)
    try:
        script = Script.load(options.script)
        provider = ScriptedProvider(script, host=options.host, port=options.port, log_path=options.log)
        _run(_serve(provider))
    except (OSError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


async def _serve(provider: ScriptedProvider) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    async with provider:
        sys.stdout.write(f"listening on {provider.url}\n")
        sys.stdout.flush()
        await stopping.wait()


def _run(main_task: Coroutine[Any, Any, None]) -> None:
    try:
        import uvloop  # noqa: PLC0415 - it is not there on every platform
    except ImportError:
        asyncio.run(main_task)
    else:
        uvloop.run(main_task)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pilothouse.testing.provider", description=__doc__)
    parser.add_argument("--script", type=Path, required=True, help="the script, YAML or JSON")
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on")
    parser.add_argument("--port", type=int, default=0, help="the port; 0 takes a free one")
    parser.add_argument("--log", type=Path, help="append a ledger of requests to this file, fsynced line by line")
    return parser


if __name__ == "__main__":
    sys.exit(main())
