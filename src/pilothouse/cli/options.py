"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

DEFAULT_URL = "http://127.0.0.1:8420"

ServerUrl = Annotated[str, typer.Option("--url", envvar="PILOTHOUSE_URL", help="The server's address.")]
Token = Annotated[
    str | None,
    typer.Option(
        "--token",
        envvar="PILOTHOUSE_TOKEN",
        show_envvar=True,
        help="An API key or a JWT. Left out: the demo's, where there is one in this folder and the server is local.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Host = Annotated[
    str | None,
    typer.Option("--host", envvar="PILOTHOUSE_SERVER_HOST", help="Address to listen on.", show_default="127.0.0.1"),
]
Port = Annotated[
    int | None,
    typer.Option(
        "--port",
        min=0,
        max=65535,
        envvar="PILOTHOUSE_SERVER_PORT",
        help="Port to listen on; 0 picks a free one and prints it.",
        show_default="8420",
    ),
]
DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        envvar="PILOTHOUSE_DATA_DIR",
        file_okay=False,
        help="Folder of the SQLite database and other files.",
        show_default=".pilothouse",
    ),
]
