"""`pilothouse audit`."""

from typing import Annotated

import typer

from pilothouse.cli.options import AsJson


def audit(  # noqa: PLR0917 - Typer makes options of them
    tenant: Annotated[
        str | None,
        typer.Option("--tenant", "-t", help="Only of this tenant.", show_default="all, and what is nobody's"),
    ] = None,
    action: Annotated[str | None, typer.Option(help="Only this action, as key.created.")] = None,
    subject: Annotated[str | None, typer.Option("--subject", "-s", help="Only of this subject.")] = None,
    credential: Annotated[
        str | None, typer.Option("--credential", help="Only with this API key (key_…) or JWT (its jti).")
    ] = None,
    since: Annotated[str | None, typer.Option(help="Only of the last 12h, 90d, 2w or 1y.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="Most records shown.")] = 50,
    as_json: AsJson = False,
) -> None:
    """Show the audit log, newest first: who did what, from where. Works on the database, also while a server runs."""
    from pilothouse.cli.actions.audit import show_audit  # noqa: PLC0415 - loaded on use

    wanted = {"tenant": tenant, "action": action, "subject": subject, "credential": credential, "since": since}
    show_audit(**wanted, limit=limit, as_json=as_json)
