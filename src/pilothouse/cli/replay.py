"""`pilothouse replay`."""

from enum import StrEnum
from typing import Annotated

import typer

from pilothouse.cli.options import AsJson


class Ignorable(StrEnum):
    """What a replay may leave uncompared."""

    INSTRUCTIONS = "instructions"
    TOOLS = "tools"


def replay(
    run_id: Annotated[str, typer.Argument(metavar="RUN_ID", help="As in `pilothouse runs list`: run_…")],
    target: Annotated[str, typer.Option("--app", metavar="MODULE:APP", help="Your application, as main:app.")],
    ignore: Annotated[
        list[Ignorable] | None,
        typer.Option("--ignore", help="May differ: instructions that hold the time, tools that come and go."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run a recorded run again with your code as it is now, offline, and show the first difference.

    The model's answers and the tools' results are those recorded in the database of the settings: no provider is
    asked and no tool is called. Exits with 1 where there is a difference.
    """
    from pilothouse.cli.actions.replay import replay_run as action  # noqa: PLC0415 - loaded on use

    action(run_id, target, ignore=ignore or [], as_json=as_json)
