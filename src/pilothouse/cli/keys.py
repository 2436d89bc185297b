"""`pilothouse keys`."""

from typing import Annotated

import typer

from pilothouse.cli.options import AsJson

app = typer.Typer(
    help="Make, list and revoke API keys. Works on the database of the settings, also while a server runs.",
    no_args_is_help=True,
)

Tenant = Annotated[str, typer.Option("--tenant", "-t", help="Whose: the tenant.")]
OnlyTenant = Annotated[str | None, typer.Option("--tenant", "-t", help="Only of this tenant.", show_default="all")]


@app.command("create")
def create(
    name: Annotated[str, typer.Argument(help="What you will know the key by.")],
    subject: Annotated[str, typer.Option("--subject", "-s", help="For whom: what this person makes is theirs alone.")],
    tenant: Tenant = "default",
    scopes: Annotated[
        str | None,
        typer.Option(
            help="What it may do, separated by commas or spaces, as chat,runs:read; * is everything.",
            show_default="what a person needs to chat",
        ),
    ] = None,
    expires: Annotated[
        str | None, typer.Option(help="When it ends: 12h, 90d, or a date as 2030-01-31.", show_default="never")
    ] = None,
) -> None:
    """Make a key. The token goes to stdout, once; it can't be shown again."""
    from pilothouse.cli.actions.keys import create_key  # noqa: PLC0415 - loaded on use

    create_key(name, subject=subject, tenant=tenant, scopes=scopes, expires=expires)


@app.command("list")
def list_keys(tenant: OnlyTenant = None, as_json: AsJson = False) -> None:
    """List the keys of all tenants, newest first."""
    from pilothouse.cli.actions.keys import list_keys as action  # noqa: PLC0415 - loaded on use

    action(tenant, as_json=as_json)


@app.command("revoke")
def revoke(
    key: Annotated[
        str,
        typer.Argument(
            metavar="KEY_ID", help="As in `pilothouse keys list`: key_…, or how its token begins: ph_ and 8 characters."
        ),
    ],
    tenant: OnlyTenant = None,
) -> None:
    """Revoke a key and all keys made with it. Running servers refuse them within five seconds."""
    from pilothouse.cli.actions.keys import revoke_key  # noqa: PLC0415 - loaded on use

    revoke_key(key, tenant=tenant)
