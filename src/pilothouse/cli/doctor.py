"""`pilothouse doctor`."""

from typing import Annotated

import typer


def doctor(
    target: Annotated[
        str | None, typer.Argument(metavar="[MODULE:APP]", help="Check this application's agents too.")
    ] = None,
) -> None:
    """Check whether a server could start here, and say what to do where not.

    Looks at the settings, the data folder, the database and its tables, Redis, the providers' keys, how callers
    identify themselves and whether the identity provider's keys can be fetched, the limit of open files, and the port.
    Changes nothing. A check that can't be made is `skipped`, not `ok`. Ends with 1 where there is a problem.
    """
    from pilothouse.cli.actions.doctor import examine  # noqa: PLC0415 - loaded on use

    raise typer.Exit(examine(target))
