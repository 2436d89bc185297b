"""`pilothouse serve`."""

from typing import Annotated

import typer

from pilothouse.cli.options import DataDir, Host, Port


def serve(  # noqa: PLR0917 - Typer makes options of them
    target: Annotated[
        str,
        typer.Argument(
            metavar="MODULE:APP", help="Your application, as main:app; a function that makes one is called."
        ),
    ],
    host: Host = None,
    port: Port = None,
    data_dir: DataDir = None,
    local: Annotated[
        bool,
        typer.Option("--local", help="Let callers without a token in, as one local person. On this machine only."),
    ] = False,
    no_check: Annotated[
        bool,
        typer.Option(
            "--no-check", help="Don't ask the providers whether they take our keys (PILOTHOUSE_MODELS_CHECK=false)."
        ),
    ] = False,
    reload: Annotated[
        bool, typer.Option("--reload", help="Start anew when a Python file here changes. For development.")
    ] = False,
) -> None:
    """Serve an application you wrote.

    Options win over the environment, which wins over the file .env here. Beyond this machine it listens only where
    callers have to identify themselves: make a key with `pilothouse keys create`, or configure JWTs.

    SIGTERM or Ctrl-C stops in order: no new runs, time for those that run (PILOTHOUSE_SERVER_SHUTDOWN_SECONDS), and
    what is left is continued at the next start. A second signal stops at once; nothing that was accepted is lost.
    """
    from pilothouse.cli.actions.serving import Options, run_target  # noqa: PLC0415 - loaded on use

    run_target(
        Options(target=target, host=host, port=port, data_dir=data_dir, local=local, check=not no_check), reload=reload
    )
