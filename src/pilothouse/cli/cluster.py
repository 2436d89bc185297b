"""`pilothouse cluster`."""

from pathlib import Path
from typing import Annotated

import typer


def cluster(
    nodes: Annotated[int, typer.Option("--nodes", min=1, max=32, help="Processes that serve HTTP.")] = 3,
    workers: Annotated[int, typer.Option("--workers", min=0, max=32, help="Processes that only execute.")] = 2,
    data_dir: Annotated[
        Path, typer.Option("--data-dir", file_okay=False, help="Folder of the databases and logs; kept.")
    ] = Path(".pilothouse-cluster"),
    app: Annotated[
        str | None,
        typer.Option("--app", metavar="MODULE:APP", help="Your application.", show_default="the demo"),
    ] = None,
) -> None:
    """Start a whole cluster on this machine, for trying it: PostgreSQL, Valkey, nodes and workers.

    Prints each node's address and a token that all of them take. Nothing is restarted by itself: kill what you like
    and see what the others do. Ctrl-C stops everything. Needs the extra `cluster`.
    """
    from pilothouse.cli.actions.cluster import run_cluster  # noqa: PLC0415 - loaded on use

    run_cluster(nodes=nodes, workers=workers, data_dir=data_dir, app=app)
