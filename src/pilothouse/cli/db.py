"""`pilothouse db`."""

import typer

app = typer.Typer(help="Look after the database of the settings.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """Look after the database of the settings (PILOTHOUSE_DATABASE_URL or PILOTHOUSE_DATA_DIR)."""


@app.command("upgrade")
def upgrade() -> None:
    """Bring the tables to what this release needs. A server does so by itself when it starts."""
    from pilothouse.cli.actions.db import upgrade as action  # noqa: PLC0415 - loaded on use

    action()
