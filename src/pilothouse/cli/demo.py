"""`pilothouse demo`."""

from enum import StrEnum
from typing import Annotated

import typer

from pilothouse.cli.options import DataDir, Host, Port


class LogLevel(StrEnum):
    """Least severe log line that is written."""

    debug = "debug"
    info = "info"
    warning = "warning"
    error = "error"


def demo(
    host: Host = None,
    port: Port = None,
    data_dir: DataDir = None,
    log_level: Annotated[
        LogLevel, typer.Option("--log-level", envvar="PILOTHOUSE_LOG_LEVEL", help="Least severe log line written.")
    ] = LogLevel.warning,
) -> None:
    """Try Pilothouse: a support agent of an invented shop, ready to chat.

    Needs no key: without a provider's key in the environment a scripted offline model answers, and says so.
    Everything it keeps is in one folder. Talk to it with `pilothouse chat`, in the console, or with curl.
    """
    from pilothouse.cli.actions.demo import run_demo  # noqa: PLC0415 - loaded on use

    run_demo(host=host, port=port, data_dir=data_dir, log_level=log_level.value)
