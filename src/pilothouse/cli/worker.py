"""`pilothouse worker`."""

from typing import Annotated

import typer


def worker(
    target: Annotated[
        str,
        typer.Argument(
            metavar="MODULE:APP", help="Your application, as main:app; a function that makes one is called."
        ),
    ],
) -> None:
    """Execute runs of an application without serving HTTP.

    A worker on the database of your nodes takes over what they leave behind: runs of processes that died or were
    replaced. Needs PostgreSQL (PILOTHOUSE_DATABASE_URL). SIGTERM or Ctrl-C stops in order, as `pilothouse serve`.
    """
    from pilothouse.cli.actions.working import run_worker  # noqa: PLC0415 - loaded on use

    run_worker(target)
